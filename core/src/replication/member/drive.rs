//! Running raft-rs: ticks go in, and what it wants done is done: appended,
//! noted, cut off, committed.

use std::collections::VecDeque;

use raft::{StateRole, prelude::MessageType};

use super::{Member, Persisting, RaftMessage};
use crate::{
    error::StoreError,
    ids::{LogIndex, Term},
    log::{HardState, Kind},
    peer::Replicated,
    replication::ticks::HEARTBEAT,
    runtime::Disk,
    time::Time,
};

impl<D: Disk> Member<D> {
    /// Ticks until something happens by itself; `None` if nothing does.
    pub(super) fn ticks_wanted(&self) -> Option<usize> {
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            return Some(HEARTBEAT.saturating_sub(raft.heartbeat_elapsed()).max(1));
        }
        let left = self.ticks.timeout(self.term()).saturating_sub(raft.election_elapsed);
        (self.recovered && !self.log().is_distrusted()).then_some(left.max(1))
    }

    pub(super) fn tick(&mut self, now: Time) -> Result<(), StoreError> {
        self.hand_in();
        let wanted = self.ticks_wanted();
        let due = self.ticks.due(now, wanted.unwrap_or(0));
        for _ in 0..due {
            let timeout = self.ticks.timeout(self.term());
            self.raw.raft.set_randomized_election_timeout(timeout);
            if self.raw.tick() && self.raw.raft.state != StateRole::Leader {
                self.ticks.campaigned();
            }
        }
        self.resign_if_void();
        self.drive()
    }

    /// Does what raft-rs wants done: appends, notes votes, collects messages.
    pub(super) fn drive(&mut self) -> Result<(), StoreError> {
        self.absorb(Vec::new())
    }

    /// The same, with the entries of the message that raft-rs just took.
    pub(super) fn absorb(&mut self, received: Vec<Replicated>) -> Result<(), StoreError> {
        let mut received = VecDeque::from(received);
        loop {
            self.take_ready(&mut received)?;
            // A configuration that counts now may have raft-rs say something.
            if !self.advance_commit()? {
                return Ok(());
            }
        }
    }

    fn take_ready(&mut self, received: &mut VecDeque<Replicated>) -> Result<(), StoreError> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.unsent.extend(ready.take_messages());
            let mut persisting = Persisting {
                number: ready.number(),
                end: None,
                needs_sync: false,
                vote: None,
                messages: ready.take_persisted_messages(),
            };
            for entry in ready.take_entries() {
                let (index, term) = (LogIndex(entry.index), Term(entry.term));
                while received.front().is_some_and(|next| next.index < index) {
                    received.pop_front();
                }
                let bytes =
                    received.front().filter(|next| (next.index, next.term) == (index, term));
                persisting.needs_sync |= bytes.is_some_and(|entry| entry.needs_sync);
                self.keep(index, term, bytes, &mut persisting)?;
                persisting.end = Some(self.log().end());
            }
            if let Some(state) = ready.hs() {
                let saved = self.log().hard_state();
                if (state.term, state.vote) != (saved.term.0, saved.vote) {
                    let commit = LogIndex(self.raw.raft.raft_log.committed.min(state.commit));
                    let state = HardState { term: Term(state.term), vote: state.vote, commit };
                    let store = self.raw.mut_store();
                    persisting.vote = Some(store.log.save(&mut store.disk, state)?);
                }
            }
            self.say_alive(&mut persisting);
            self.persisting.push_back(persisting);
            let store = self.raw.mut_store();
            store.known = store.log.last_index();
            self.raw.advance_append_async(ready);
        }
        Ok(())
    }

    /// That a follower heard its leader waits for the term in which it did, and for
    /// no entry: a slow disk would end the leader's lease otherwise (L8).
    fn say_alive(&mut self, persisting: &mut Persisting) {
        let log = self.log();
        let is_known = |waiting: &Persisting| waiting.vote.is_none_or(|sync| log.is_synced(sync));
        if self.persisting.iter().all(is_known) && is_known(persisting) {
            let is_alive = |message: &mut RaftMessage| {
                message.get_msg_type() == MessageType::MsgHeartbeatResponse
            };
            self.unsent.extend(persisting.messages.extract_if(.., is_alive));
        }
    }

    /// Sees to it that the log holds this entry: a leader's own is there
    /// already, or is the empty one that opens its term.
    fn keep(
        &mut self,
        index: LogIndex,
        term: Term,
        received: Option<&Replicated>,
        persisting: &mut Persisting,
    ) -> Result<(), StoreError> {
        if self.log().term_at(index) == Some(term) {
            return Ok(());
        }
        if index <= self.log().last_index() {
            self.cut(LogIndex(index.0 - 1), persisting)?;
        }
        let Some(entry) = received else {
            assert_eq!(self.raw.raft.state, StateRole::Leader, "others get their entries");
            self.draft.clear(Kind::Mark);
            let store = self.raw.mut_store();
            let place = store.log.append(&mut store.disk, term, &mut self.draft, |_, _| {})?;
            assert_eq!(place.index, index, "entries come in order");
            return Ok(());
        };
        let place = self.append_received(entry)?;
        assert_eq!(place.index, index, "entries come in order");
        Ok(())
    }

    /// Cuts off what a new leader's log contradicts. Nothing that is still to be
    /// said vouches for it; what waited for it waits for what replaces it.
    fn cut(&mut self, after: LogIndex, replaced_by: &mut Persisting) -> Result<(), StoreError> {
        let store = self.raw.mut_store();
        store.log.truncate(&mut store.disk, after)?;
        let end = store.log.end();
        while let Some(last) = self.persisting.back()
            && last.end.is_some_and(|old| old > end)
        {
            replaced_by.vote = replaced_by.vote.max(last.vote);
            self.persisting.pop_back();
        }
        Ok(())
    }

    /// False if nothing more is committed.
    pub(super) fn advance_commit(&mut self) -> Result<bool, StoreError> {
        let log = &self.raw.raft.raft_log;
        let reached = LogIndex(log.committed.min(log.persisted));
        if reached <= self.committed.0 {
            return Ok(false);
        }
        let (from, to) = (LogIndex(self.committed.0.0 + 1), LogIndex(reached.0 + 1));
        let configurations: Vec<LogIndex> = self.log().configurations(from, to).collect();
        for index in configurations {
            self.follow_configuration(index)?;
        }
        self.raw.advance_apply_to(reached.0);
        let (log, disk) = self.parts();
        let end = log.end_of(disk, reached)?;
        assert!(end <= log.written(), "committed is never ahead of the disk");
        self.committed = (reached, end);
        Ok(true)
    }
}
