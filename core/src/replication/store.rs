//! The commit log as raft-rs sees it: indices and terms. The bytes of entries
//! never pass through raft-rs; they go from log to log.

use std::{cell::RefCell, collections::BTreeSet};

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    prelude::{Entry, EntryType, HardState, Snapshot},
};

use super::configuration::Configuration;
use crate::{
    ids::{LogIndex, NodeId, Term},
    log::{CommitLog, Kind},
    runtime::Disk,
};

pub(super) struct Store<D: Disk> {
    pub disk: D,
    pub log: CommitLog,
    /// The newest committed one; of a blank replica, none.
    pub configuration: Configuration,
    /// What the snapshot holds that this process started from: committed.
    pub folded: LogIndex,
    /// The last entry that raft-rs has given away. A leader's newest ones are in
    /// the log before.
    pub known: LogIndex,
    /// Who lacks entries that are not kept any more.
    pub starving: RefCell<BTreeSet<NodeId>>,
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
        Ok(RaftState::new(hard_state, self.configuration.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first_index()? {
            return Err(StorageError::Compacted.into());
        }
        // Only what is sent is bounded by its size.
        let high = match max_size.into() {
            Some(bytes) if context.can_async() && low < high => {
                self.log.batch_end(LogIndex(low), LogIndex(high), bytes).0
            }
            _ => high,
        };
        let (from, to) = (LogIndex(low), LogIndex(high));
        let changes: Vec<LogIndex> = self.log.configurations(from, to).collect();
        let entry = |index| {
            let kind = match changes.contains(&LogIndex(index)) {
                true => Kind::Configuration,
                false => Kind::Mark,
            };
            Ok(stub(Term(self.term(index)?), LogIndex(index), kind))
        };
        (low..high).map(entry).collect()
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.log.term_at(LogIndex(index)) {
            _ if index == 0 => Ok(0),
            Some(term) => Ok(term.0),
            None if index > self.known.0 => Err(StorageError::Unavailable.into()),
            None => Err(StorageError::Compacted.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        // raft-rs does not see how a blank replica is filled.
        Ok(self.log.first_index().0.min(self.known.0 + 1))
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.known.0)
    }

    /// Members see to snapshots by themselves.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        self.starving.borrow_mut().insert(NodeId(to));
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// An entry as far as raft-rs needs it.
pub(super) fn stub(term: Term, index: LogIndex, kind: Kind) -> Entry {
    let mut entry = Entry { term: term.0, index: index.0, ..Entry::default() };
    if kind == Kind::Configuration {
        entry.set_entry_type(EntryType::EntryConfChangeV2);
    }
    entry
}
