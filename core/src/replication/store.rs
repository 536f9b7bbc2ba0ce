//! The commit log as raft-rs sees it: indices and terms. The bytes of entries
//! never pass through raft-rs; they go from log to log.

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    prelude::{ConfState, Entry, HardState, Snapshot},
};

use crate::{
    ids::{LogIndex, NodeId, Term},
    log::CommitLog,
    runtime::Disk,
};

pub(super) struct Store<D: Disk> {
    pub disk: D,
    pub log: CommitLog,
    pub voters: Vec<NodeId>,
    /// What the snapshot holds that this process started from: committed.
    pub folded: LogIndex,
    /// The last entry that raft-rs has given away. A leader's newest ones are in
    /// the log before.
    pub known: LogIndex,
}

impl<D: Disk> Storage for Store<D> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let saved = self.log.hard_state();
        let hard_state = HardState {
            term: saved.term.0,
            vote: saved.vote,
            commit: saved.commit.max(self.folded).min(self.log.last_index()).0,
            ..HardState::default()
        };
        let voters: Vec<u64> = self.voters.iter().map(|voter| voter.0).collect();
        Ok(RaftState::new(hard_state, ConfState::from((voters, Vec::new()))))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.log.first_index().0 {
            return Err(StorageError::Compacted.into());
        }
        // Only what is sent is bounded by its size.
        let high = match max_size.into() {
            Some(bytes) if context.can_async() && low < high => {
                self.log.batch_end(LogIndex(low), LogIndex(high), bytes).0
            }
            _ => high,
        };
        (low..high).map(|index| Ok(stub(Term(self.term(index)?), LogIndex(index)))).collect()
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.log.term_at(LogIndex(index)) {
            Some(term) => Ok(term.0),
            None if index > self.known.0 => Err(StorageError::Unavailable.into()),
            None => Err(StorageError::Compacted.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first_index().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.known.0)
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// An entry as far as raft-rs needs it.
pub(super) fn stub(term: Term, index: LogIndex) -> Entry {
    Entry { term: term.0, index: index.0, ..Entry::default() }
}
