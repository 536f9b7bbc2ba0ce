//! Writing the folded state out, so that a restart reads only what came after;
//! and letting go of what no longer needs to be kept.

use super::{Broker, Output, Phase};
use crate::{
    error::StoreError,
    ids::Position,
    log::{self, Base, SyncTicket},
    runtime::{Disk, FileId},
    time::Now,
};

/// How far the next snapshot is.
#[derive(Default)]
pub(super) enum Snapshotting {
    #[default]
    Idle,
    /// Taken, and waiting for the log before it to be durable: a snapshot must
    /// never say more than the log that a power failure leaves.
    Taken { base: Base, payload: Vec<u8>, files: Vec<FileId> },
    /// Written; durable with this sync.
    Saving { base: Base, ticket: SyncTicket },
}

impl<D: Disk> Broker<D> {
    /// Takes the snapshot's next step.
    pub(super) fn advance_snapshot(&mut self, now: Now) -> Result<(), StoreError> {
        let since = self.applied.position.0 - self.snapshot.position.0;
        let due = since >= self.config.snapshot_every && self.phase == Phase::Serving;
        if due && matches!(self.snapshotting, Snapshotting::Idle) {
            let (payload, files) = self.state.snapshot();
            self.snapshotting = Snapshotting::Taken { base: self.applied, payload, files };
        }
        let Snapshotting::Taken { base, .. } = &self.snapshotting else { return Ok(()) };
        if self.replica.is_syncing() {
            return Ok(());
        }
        if base.position > self.replica.log().durable() {
            if let Some((ticket, done)) = self.replica.sync_with(now.mono, &[]) {
                self.outputs.push_back(Output::Sync { ticket, done });
            }
            return Ok(());
        }
        self.save_snapshot(now)
    }

    fn save_snapshot(&mut self, now: Now) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut self.snapshotting);
        let Snapshotting::Taken { base, payload, mut files } = taken else { return Ok(()) };
        let store_id = self.replica.log().store_id();
        let (_, disk) = self.replica.parts();
        match log::snapshot::save(disk, store_id, base, &payload) {
            Ok(file) => files.push(file),
            // The log stays longer, that is all. Not at once again, though.
            Err(StoreError::Full) => {
                self.snapshot = base;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if let Some((ticket, done)) = self.replica.sync_with(now.mono, &files) {
            self.snapshotting = Snapshotting::Saving { base, ticket };
            self.outputs.push_back(Output::Sync { ticket, done });
        }
        Ok(())
    }

    /// A sync finished; if it was the snapshot's, older ones go, and with them
    /// the segments that retention no longer keeps.
    pub(super) fn snapshot_synced(&mut self, synced: SyncTicket) -> Result<(), StoreError> {
        match self.snapshotting {
            Snapshotting::Saving { base, ticket } if ticket == synced => {
                self.snapshotting = Snapshotting::Idle;
                self.snapshot = base;
                self.counters.snapshots += 1;
                let (_, disk) = self.replica.parts();
                log::snapshot::remove_older(disk, base.position)?;
                self.state.saved(disk)?;
                self.retain(base.position)
            }
            _ => Ok(()),
        }
    }

    /// Drops the oldest segments beyond what is to be retained; never what the
    /// durable snapshot still needs for a restart.
    fn retain(&mut self, needed: Position) -> Result<(), StoreError> {
        let Some(keep) = self.config.retain_bytes else { return Ok(()) };
        let end = self.replica.log().end();
        let keep_from = Position(end.0.saturating_sub(keep)).min(needed);
        if self.replica.expire(keep_from)? > 0 {
            let (log, disk) = self.replica.parts();
            let start = log.start();
            self.state.expire(disk, start)?;
        }
        Ok(())
    }
}
