//! Cutting off an uncommitted tail that a new leader's log contradicts.
//!
//! What is cut stays on the disk until something is written over it, and it
//! may look like a continuation of what the new leader writes: same indices,
//! even higher terms. So each truncation starts a new *life*. The `store` file
//! says from where on only entries of that life count, and until this is
//! durable nothing new is written. A crash before that brings the old tail
//! back, which is what this replica had told everybody so far.

use super::{CommitLog, HardState, commit_log::Phase};
use crate::{
    error::StoreError,
    ids::{LogIndex, Position},
    runtime::Disk,
};

impl CommitLog {
    /// Forgets all entries after this one, written and durable or not. None of
    /// them may be committed. [`write`](Self::write) holds new entries back
    /// until the next sync that begins has finished, if any was written.
    pub fn truncate<D: Disk>(&mut self, disk: &mut D, after: LogIndex) -> Result<(), StoreError> {
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        assert!(after >= self.identity.1.commit, "what is committed is not cut off");
        assert!(after < self.last.0, "there is something to cut off");
        let cut = self.end_of(disk, after)?;
        let term = self.term_at(after).expect("what lies before a cut is known");
        // What was never written needs no cut on the disk.
        if cut < self.written {
            let settled = self.phase == Phase::Running;
            let identity = &mut self.identity.1;
            identity.cut(cut, settled);
            identity.durable = self.durable.min(cut);
            self.store_identity(disk)?;
            self.phase = Phase::Repairing { sync: self.syncs.begun + 1 };
            self.syncs.ceiling = cut;
        }
        self.staged.cut(cut);
        while self.segments.len() > 1 && self.active().start > cut {
            let empty = self.segments.pop_back().expect("more than one");
            self.syncs.dirty.retain(|file| *file != empty.file);
            if let Some(farther) = self.next.replace(empty) {
                self.doomed.push(farther);
            }
        }
        self.index.as_mut().expect("only replicas of a group are cut").truncate(after);
        self.last = (after, term);
        self.end = cut;
        self.written = self.written.min(cut);
        self.durable = self.durable.min(cut);
        Ok(())
    }

    /// What the `store` file says, durable or not.
    pub fn hard_state(&self) -> HardState {
        self.identity.1.hard_state()
    }

    /// Writes the hard state down. It is durable with the sync of the number
    /// returned: see [`is_synced`](Self::is_synced).
    pub fn save<D: Disk>(&mut self, disk: &mut D, state: HardState) -> Result<u64, StoreError> {
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        let identity = &mut self.identity.1;
        assert!(state.term >= identity.term, "terms never decrease");
        identity.term = state.term;
        identity.vote = state.vote;
        identity.commit = identity.commit.max(state.commit);
        self.store_identity(disk)?;
        Ok(self.syncs.begun + 1)
    }

    /// Notes how far the log is durable, so that recovery can tell rot in its
    /// last entries from a torn tail. Counts after the next sync.
    pub fn vouch<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        if self.phase == Phase::Running && self.identity.1.durable < self.durable {
            self.identity.1.durable = self.durable;
            self.store_identity(disk)?;
        }
        Ok(())
    }

    /// What the `store` file says is durable.
    pub fn vouched(&self) -> Position {
        self.identity.1.durable
    }

    /// Notes that the log holds again whatever it may have acknowledged.
    pub fn trust<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        self.identity.1.is_distrusted = false;
        self.store_identity(disk)
    }

    /// Whether this log lacks what it may have acknowledged, so that its replica
    /// must not have a say in elections.
    pub fn is_distrusted(&self) -> bool {
        self.identity.1.is_distrusted || self.identity.1.is_blank
    }

    /// Whether the sync of this number has finished.
    pub fn is_synced(&self, number: u64) -> bool {
        self.syncs.finished >= number
    }

    /// Whether new entries are held back until a sync has finished.
    pub fn is_repairing(&self) -> bool {
        matches!(self.phase, Phase::Repairing { .. })
    }

    /// Another number after every start and truncation of this replica's log,
    /// and on every other disk.
    pub fn life(&self) -> u64 {
        self.seal.store_id.wrapping_add(u64::from(self.identity.1.life()))
    }

    pub(super) fn store_identity<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        let (file, identity) = &mut self.identity;
        if let Err(error) = identity.store(disk, *file) {
            self.phase = Phase::Stopped;
            return Err(error);
        }
        self.syncs.touch(*file);
        self.copy_after = (identity.life() > 0).then_some(self.syncs.begun + 1);
        Ok(())
    }
}
