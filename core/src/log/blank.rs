//! A replica that cannot use what is on its disk, and how it gets another one's
//! log and snapshot in its place.
//!
//! The disk is *blank* as long as the `store` file says so: whatever else lies
//! there does not count, and the next start removes it. It says so, durably,
//! before anything is removed, and stops saying it once a whole snapshot and
//! the log up to it are durable. A crash in between leaves a blank disk.

use std::io;

use super::{
    Base, CommitLog, LogConfig,
    commit_log::{Phase, Staged},
    identity::Identity,
    index::Index,
    segment::Segment,
    snapshot::{self, Unpublished},
};
use crate::{
    error::StoreError,
    ids::LogIndex,
    runtime::{Disk, FileId},
};

const STORE: &str = "store";
/// Where files go that cannot be believed, until the replica is repaired.
const DAMAGED: &str = "damaged/";

impl CommitLog {
    /// Whether nothing counts that is on this disk, until another replica's log
    /// has been installed on it.
    pub fn is_blank(&self) -> bool {
        self.identity.1.is_blank
    }

    /// Whether something here could not be read as it was written.
    pub fn is_damaged(&self) -> bool {
        self.identity.1.is_damaged
    }

    /// Remembers, from the next sync on, that something here is not what was
    /// written.
    pub fn note_damage<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        if self.identity.1.is_damaged {
            return Ok(());
        }
        self.identity.1.is_damaged = true;
        self.store_identity(disk)
    }

    /// Gives up all that is on this disk: open it again once the sync of the
    /// number returned has finished. A crash before that changes nothing. Nothing
    /// is lost once the log has been installed up to what it holds now.
    pub fn give_up<D: Disk>(&mut self, disk: &mut D) -> Result<u64, StoreError> {
        let identity = &mut self.identity.1;
        identity.is_blank = true;
        identity.owes = self.last.0;
        self.store_identity(disk)?;
        Ok(self.syncs.begun + 1)
    }

    /// Makes a blank log one that begins behind `base`, where a segment starts.
    /// `Full` if there is no room for that segment.
    pub fn begin_at<D: Disk>(&mut self, disk: &mut D, base: Base) -> Result<(), StoreError> {
        assert!(self.is_blank(), "only a blank log begins anew");
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        self.staged = Staged::default();
        let old = self.segments.drain(..).chain(self.next.take()).chain(self.doomed.drain(..));
        for segment in old.collect::<Vec<_>>() {
            self.syncs.dirty.retain(|file| *file != segment.file);
            segment.remove(disk)?;
        }
        self.segments.push_back(Segment::create(disk, base.position, self.config.segment_bytes)?);
        self.index = Some(Index::new(base));
        self.last = (base.index, base.term);
        self.end = base.position;
        self.written = base.position;
        self.durable = base.position;
        // A sync that runs is about files that are gone.
        self.syncs.ceiling = base.position;
        let identity = &mut self.identity.1;
        identity.begins = base.position;
        identity.durable = base.position;
        self.store_identity(disk)?;
        self.phase = Phase::Repairing { sync: self.syncs.begun + 1 };
        Ok(())
    }

    /// Saves another replica's snapshot of the state after `base`, up to which
    /// this log is durable. Counts once it is synced and published.
    pub fn receive_snapshot<D: Disk>(
        &mut self,
        disk: &mut D,
        base: Base,
        payload: &[u8],
    ) -> Result<Unpublished, StoreError> {
        assert!(self.durable >= base.position, "the log comes first");
        snapshot::save_received(disk, self.seal.store_id, base, payload)
    }

    /// Has the next sync include this file, and returns its number.
    pub fn sync_along(&mut self, file: FileId) -> u64 {
        self.syncs.touch(file);
        self.syncs.begun + 1
    }

    /// The disk counts again from the sync of the number returned on: it holds
    /// a snapshot up to `commit` and the log before it. Open it again then.
    pub fn installed<D: Disk>(
        &mut self,
        disk: &mut D,
        commit: LogIndex,
    ) -> Result<u64, StoreError> {
        let identity = &mut self.identity.1;
        identity.is_blank = false;
        identity.is_distrusted |= commit < identity.owes;
        identity.commit = commit;
        identity.durable = self.durable;
        self.store_identity(disk)?;
        remove_all(disk, |name| name.starts_with(DAMAGED))?;
        Ok(self.syncs.begun + 1)
    }
}

/// Removes what does not count on a blank disk.
pub(super) fn wipe<D: Disk>(disk: &mut D) -> Result<(), StoreError> {
    remove_all(disk, |name| name != STORE && !name.starts_with(DAMAGED))
}

/// Moves everything away that is on a disk whose log cannot be opened, and
/// makes it a blank one. What the replica voted stays, if it is legible.
pub(super) fn set_aside<D: Disk>(disk: &mut D, config: &mut LogConfig) -> Result<(), StoreError> {
    config.replicas = super::Replicas::Group { founding: false };
    let known = Identity::load(disk).ok().flatten();
    remove_all(disk, |name| name.starts_with(DAMAGED))?;
    for (name, _) in list(disk)? {
        if name != STORE || known.is_none() {
            let (file, _) = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
            let aside = format!("{DAMAGED}{name}");
            disk.rename(file, &aside).map_err(|error| failed("renaming", &name, error))?;
        }
    }
    if let Some((file, mut identity)) = known {
        identity.is_blank = true;
        identity.is_distrusted = true;
        identity.store(disk, file)?;
    }
    Ok(())
}

fn remove_all<D: Disk>(disk: &mut D, which: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    for (name, _) in list(disk)?.into_iter().filter(|(name, _)| which(name)) {
        let (file, _) = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
        disk.remove(file).map_err(|error| failed("removing", &name, error))?;
    }
    Ok(())
}

fn list<D: Disk>(disk: &mut D) -> Result<Vec<(String, u64)>, StoreError> {
    disk.list().map_err(|error| failed("listing", STORE, error))
}

fn failed(doing: &'static str, file: &str, error: io::Error) -> StoreError {
    StoreError::Io { doing, file: file.to_owned(), error }
}
