//! Brokers of one replica set: the leader serves, the others fold what it
//! committed and are ready to take over.

use super::{Broker, Output, Phase};
use crate::{error::StoreError, runtime::Disk, time::Now};

impl<D: Disk> Broker<D> {
    /// Keeps up with the log while this broker may not serve. True as long as
    /// that is all there is to do; otherwise its opening record is on its way,
    /// behind everything that earlier leaders committed (R5).
    pub(super) fn follow(&mut self, now: Now) -> Result<bool, StoreError> {
        self.replica.write(now.mono)?;
        self.apply_committed(now)?;
        if self.phase != Phase::Recovering {
            return Ok(false);
        }
        self.start_sync(now)?;
        self.register(now);
        Ok(true)
    }

    /// Whether this broker keeps up with a leader, or waits for one.
    pub(super) fn is_following(&self) -> bool {
        self.phase == Phase::Recovering && self.config.replica_set.is_some()
    }

    /// Ends the broker when it may no longer propose. What it had drafted on top
    /// of its log is void, its clients are connected to the wrong place, and its
    /// disk holds all that is true: it is opened again and follows.
    pub(super) fn check_leadership(&mut self) -> Result<(), StoreError> {
        if !self.replica.is_deposed(self.serves_in) {
            return Ok(());
        }
        if self.phase == Phase::Stopping {
            // It handed over, and that was all there was left to do.
            self.phase = Phase::Ended;
            self.outputs.push_back(Output::Stopped);
            return Ok(());
        }
        Err(StoreError::NotLeader)
    }

    pub(super) fn send_to_peers(&mut self) {
        while let Some(message) = self.replica.poll_message() {
            self.outputs.push_back(Output::Peer(message));
        }
    }
}
