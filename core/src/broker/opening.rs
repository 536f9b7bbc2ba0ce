//! From a recovered log to a broker that serves: the record that opens this
//! process's own term, and what is done while the disk has no room for it.

use std::time::Duration;

use super::{Broker, Phase, command::Command, propose::Answer};
use crate::{
    error::StoreError,
    replication::ASYNC_WINDOW,
    runtime::Disk,
    time::{Now, Time},
};

const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// What has to be on record before anything else is.
#[derive(Default)]
pub(super) struct Opening {
    /// That offsets are jumped over which clients may know and the log may not.
    jumps: bool,
    /// There was no room for it; when to look again.
    again: Option<Time>,
}

impl Opening {
    pub fn deadline(&self) -> Option<Time> {
        self.again
    }
}

impl<D: Disk> Broker<D> {
    /// The log's tail is durable and applied: open this process's own term.
    pub(super) fn recovered(&mut self, now: Now) -> Result<(), StoreError> {
        let (log, disk) = self.replica.parts();
        let (start, end) = (log.start(), log.end());
        self.state.expire(disk, log)?;
        let lost = self.state.timers.clamp(start, end);
        if lost > 0 {
            tracing::error!(lost, "delayed messages are not in the log any more");
        }
        self.serves_in = self.replica.term();
        self.opening.jumps = self.state.was_async() && !self.replica.was_clean();
        self.open_term(now)?;
        if self.phase == Phase::Full {
            tracing::warn!("the disk is full: what is stored can be read, and nothing is taken");
            self.hold_all(now);
        }
        Ok(())
    }

    /// Tries once more what found no room.
    pub(super) fn look_for_room(&mut self, now: Now) -> Result<(), StoreError> {
        match self.opening.again.is_some_and(|again| again <= now.mono) {
            true => self.open_term(now),
            false => Ok(()),
        }
    }

    fn open_term(&mut self, now: Now) -> Result<(), StoreError> {
        self.phase = Phase::Starting;
        self.opening.again = None;
        match self.propose_opening(now) {
            Err(StoreError::Full) => {
                self.phase = Phase::Full;
                self.opening.again = Some(now.mono + LOOK_FOR_ROOM);
                Ok(())
            }
            proposed => proposed,
        }
    }

    fn propose_opening(&mut self, now: Now) -> Result<(), StoreError> {
        if self.opening.jumps {
            self.propose_command(Command::Jumped { by: ASYNC_WINDOW }, Answer::Nothing)?;
            self.opening.jumps = false;
        }
        let started = Command::Started { async_flush: self.is_async(), wall: now.wall };
        self.propose_command(started, Answer::Nothing).map(drop)
    }

    /// The opening record is committed.
    pub(super) fn started(&mut self, now: Now) {
        self.phase = Phase::Serving;
        self.hold_all(now);
        self.schedule_checks(now);
    }

    /// Every lease and every lock on record runs from now on, as a whole.
    fn hold_all(&mut self, now: Now) {
        self.state.leases.begin_all(now.mono);
        self.state.locks.hold_all(now.mono + self.config.lock_lease);
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Full)
    }

    /// Nothing comes before the opening record.
    pub(super) fn may_propose(&self) -> Result<(), StoreError> {
        if self.phase == Phase::Full { Err(StoreError::Full) } else { Ok(()) }
    }
}
