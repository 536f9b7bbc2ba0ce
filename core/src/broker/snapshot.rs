//! Writing the folded state out, so that a restart reads only what came after.

use super::{Broker, Output};
use crate::{
    error::StoreError,
    ids::LogIndex,
    log::{self, Base, SyncTicket, snapshot::Unpublished},
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
    /// Its payload is in this sync, with the queue files that it relies on.
    Saving { base: Base, saved: Unpublished, ticket: SyncTicket },
    /// Its header is written, and waits for a sync to join.
    Published { base: Base, file: FileId },
    /// Durable with this sync.
    Confirming { base: Base, ticket: SyncTicket },
}

impl<D: Disk> Broker<D> {
    /// Takes the snapshot's next step.
    pub(super) fn advance_snapshot(&mut self, now: Now) -> Result<(), StoreError> {
        let since = self.applied.position.0 - self.snapshot.position.0;
        let is_due = since >= self.config.snapshot_every || self.retention.waits_for_snapshot;
        // A set's first one says who belongs to it, whatever its nodes are told
        // at their next start.
        let is_first = self.snapshot.index == LogIndex(0) && self.config.replica_set.is_some();
        let may = self.is_serving() || self.is_following();
        if (is_due || is_first)
            && since > 0
            && may
            && matches!(self.snapshotting, Snapshotting::Idle)
        {
            let (payload, files) = self.state.snapshot(self.replica.configuration());
            self.snapshotting = Snapshotting::Taken { base: self.applied, payload, files };
        }
        if self.replica.is_syncing() {
            return Ok(());
        }
        if let Snapshotting::Published { base, file } = self.snapshotting
            && let Some((ticket, done)) = self.replica.sync_with(now.mono, &[file])
        {
            self.snapshotting = Snapshotting::Confirming { base, ticket };
            self.outputs.push_back(Output::Sync { ticket, done });
        }
        let Snapshotting::Taken { base, .. } = &self.snapshotting else { return Ok(()) };
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
        let saved = match log::snapshot::save(disk, store_id, base, &payload) {
            Ok(saved) => saved,
            // The log stays longer, that is all. Not at once again, though.
            Err(StoreError::Full) => {
                self.snapshot = base;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        files.push(saved.file());
        if let Some((ticket, done)) = self.replica.sync_with(now.mono, &files) {
            self.snapshotting = Snapshotting::Saving { base, saved, ticket };
            self.outputs.push_back(Output::Sync { ticket, done });
        }
        Ok(())
    }

    /// A sync finished; if it completed the snapshot, older ones go, and with
    /// them the segments that retention no longer keeps.
    pub(super) fn snapshot_synced(
        &mut self,
        now: Now,
        synced: SyncTicket,
    ) -> Result<(), StoreError> {
        match std::mem::take(&mut self.snapshotting) {
            Snapshotting::Saving { base, saved, ticket } if ticket == synced => {
                let file = saved.file();
                let (_, disk) = self.replica.parts();
                saved.publish(disk)?;
                self.snapshotting = Snapshotting::Published { base, file };
                Ok(())
            }
            Snapshotting::Confirming { base, ticket } if ticket == synced => {
                self.snapshot = base;
                self.counters.snapshots += 1;
                let (_, disk) = self.replica.parts();
                log::snapshot::remove_older(disk, base.position)?;
                self.state.saved(disk)?;
                self.retain(now)
            }
            other => {
                self.snapshotting = other;
                Ok(())
            }
        }
    }
}
