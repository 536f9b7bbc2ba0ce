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
        match self.apply_committed(now) {
            // Repaired from the others, and not fit to lead before.
            Err(StoreError::Corrupt(damage)) if self.is_following() => {
                tracing::error!(%damage, "this replica cannot follow its own log");
                self.replica.note_damage()?;
            }
            done => done?,
        }
        self.tell_peers();
        if self.phase != Phase::Recovering {
            return Ok(false);
        }
        self.scan_retention(now)?;
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

    /// Whether a successor is being asked to lead: nothing can be proposed.
    pub(super) fn is_handing_over(&self) -> bool {
        self.replica.is_handing_over()
    }

    /// Meanwhile, what is committed is still applied and answered.
    pub(super) fn hands_over(&mut self, now: Now) -> Result<bool, StoreError> {
        if !self.is_handing_over() {
            return Ok(false);
        }
        self.replica.write(now.mono)?;
        self.apply_committed(now)?;
        self.check_leadership()?;
        self.start_sync(now)?;
        Ok(true)
    }

    /// Reads that failed are noted once per batch: the disk needs repair.
    pub(super) fn note_damage(&mut self) -> Result<(), StoreError> {
        if self.counters.corrupt_reads == self.damage_noted {
            return Ok(());
        }
        self.damage_noted = self.counters.corrupt_reads;
        self.replica.note_damage()
    }

    /// Where the other replicas are, whenever that changes.
    pub(super) fn tell_peers(&mut self) {
        let since = self.replica.members_since();
        if self.peers_told != since {
            self.peers_told = since;
            let addresses = self.replica.configuration().addresses();
            if !addresses.is_empty() {
                self.outputs.push_back(Output::Peers(addresses));
            }
        }
    }

    pub(super) fn send_to_peers(&mut self) {
        while let Some(message) = self.replica.poll_message() {
            self.outputs.push_back(Output::Peer(message));
        }
    }
}
