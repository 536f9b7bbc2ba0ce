//! What comes from other replicas, and what goes to them.

use raft::{StateRole, prelude::MessageType};

use super::{
    super::convert::{from_raft, to_raft},
    BATCH_BYTES, Member, RaftMessage, Role,
};
use crate::{
    error::StoreError,
    ids::{LogIndex, NodeId, Term},
    log::entry_size,
    peer::{Body, Echo, Mark, Message, Replicated, codec},
    runtime::Disk,
    time::Time,
};

impl<D: Disk> Member<D> {
    /// Takes a message from a replica that proved to be one. Call
    /// [`write`](Self::write) after a batch of them.
    pub fn receive(&mut self, now: Time, mut message: Message) -> Result<(), StoreError> {
        let is_mine = message.to == self.id() && self.is_heard(&message);
        if !self.recovered || self.giving_up.is_some() || !is_mine {
            return Ok(());
        }
        self.tick(now)?;
        if !self.may_answer(now, &message.body) {
            return Ok(());
        }
        self.notice(&message);
        match &message.body {
            Body::Fetch { base, piece } => return self.serve(now, message.from, *base, *piece),
            Body::LogPiece { from, entries } => {
                return self.take_log(now, message.from, *from, entries);
            }
            Body::StatePiece { base, offset, bytes } => {
                self.take_state(now, message.from, *base, *offset, bytes);
                return Ok(());
            }
            Body::Append { previous, entries, sent, .. } => {
                if message.term >= self.term() && self.contradicts(*previous, entries) {
                    tracing::error!(id = %self.id(), "committed entries are not the leader's");
                    self.is_contradicted = true;
                }
                if self.is_contradicted || self.is_blank() {
                    message.body = Body::Heartbeat { commit: LogIndex(0), sent: *sent };
                }
            }
            Body::Trust { life } => {
                let from = Role::Follower(Some(message.from));
                let is_current = message.term == self.term() && *life == self.log().life();
                return if is_current && self.role() == from { self.trust() } else { Ok(()) };
            }
            // It has more than there is: one of us lost what was committed.
            Body::Appended { index, .. } if *index > self.log().last_index() => return Ok(()),
            _ => {}
        }
        self.weigh(now, &mut message);
        if let Body::Append { entries, .. } = &mut message.body
            && !self.make_room(entries)?
        {
            return Ok(());
        }
        let last = LogIndex(self.raw.raft.raft_log.last_index());
        // What raft-rs refuses, from whom it does not know, changes nothing.
        let _ = self.raw.step(to_raft(&message, last));
        let received = match &mut message.body {
            Body::Append { entries, .. } => std::mem::take(entries),
            _ => Vec::new(),
        };
        self.note_times(&message);
        match message.body {
            Body::Offer { offer, .. } if message.term == self.term() => {
                self.offered(now, message.from, offer)?;
            }
            _ => {}
        }
        self.absorb(received)
    }

    /// Whether what this replica says counts here. A leader may belong to a
    /// configuration that has not arrived yet.
    fn is_heard(&self, message: &Message) -> bool {
        let leads = matches!(
            message.body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Offer { .. }
        );
        let fills = matches!(message.body, Body::LogPiece { .. } | Body::StatePiece { .. });
        let is_known = self.configuration().contains(message.from);
        is_known || leads && message.from != NodeId(0) || fills && self.is_blank()
    }

    /// The next message for another replica. They may be lost, but those to one
    /// replica should arrive in this order.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.outbox.pop_front()
    }

    /// A replica whose log lost what it had promised has no say in elections,
    /// and neither has one that may have promised its vote to a leader's lease
    /// just before it restarted.
    fn may_answer(&self, now: Time, body: &Body) -> bool {
        match body {
            Body::Canvass { transfer, .. } => {
                !self.log().is_distrusted() && (*transfer || now >= self.quiet_until)
            }
            Body::TakeOver => !self.log().is_distrusted(),
            _ => true,
        }
    }

    /// A follower that lives again may have lost what it acknowledged, through
    /// damage or under async flush: the leader asks it anew what it has.
    fn notice(&mut self, message: &Message) {
        let Some(echo) = echo(&message.body) else { return };
        let is_leader = self.raw.raft.state == StateRole::Leader;
        if is_leader && echo.wants_snapshot {
            self.needy.insert(message.from);
        }
        let before = self.followers.insert(message.from, echo);
        if before.is_some_and(|before| before.life == echo.life) || !is_leader {
            return;
        }
        let last = self.log().last_index();
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(message.from.0) {
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = last.0 + 1;
        }
    }

    /// What a replica acknowledges that forgot what it had acknowledged before
    /// commits nothing: together with a leader that was deposed meanwhile it
    /// would overrule those who remember. It is trusted again once it has all
    /// that is committed, on the word of a leader that is sure to be one.
    fn weigh(&mut self, now: Time, message: &mut Message) {
        let committed = self.committed_index();
        let is_sure = self.is_established() && now < self.lease_until();
        if let Body::Appended { index, echo, .. } = &mut message.body
            && !echo.is_trusted
        {
            if is_sure && *index >= committed && message.term == self.term() {
                let life = echo.life;
                self.tell(message.from, Body::Trust { life });
            }
            *index = committed.min(*index);
        }
    }

    fn trust(&mut self) -> Result<(), StoreError> {
        if self.is_blank() {
            return Ok(());
        }
        let store = self.raw.mut_store();
        store.log.trust(&mut store.disk)
    }

    /// Whether the leader has other entries than are committed here: under async
    /// flush a majority lost them to power failures.
    fn contradicts(&self, previous: Mark, entries: &[Replicated]) -> bool {
        let known = LogIndex(self.raw.raft.raft_log.committed);
        let differs = |index: LogIndex, term: Term| {
            index <= known && self.log().term_at(index).is_some_and(|ours| ours != term)
        };
        differs(previous.index, previous.term)
            || entries.iter().any(|entry| differs(entry.index, entry.term))
    }

    /// Drops the entries for which the disk has no room. False if none is left.
    fn make_room(&mut self, entries: &mut Vec<Replicated>) -> Result<bool, StoreError> {
        let store = self.raw.mut_store();
        let missing = |entry: &Replicated| store.log.term_at(entry.index) != Some(entry.term);
        let known = entries.iter().position(missing).unwrap_or(entries.len());
        let sizes =
            entries[known..].iter().map(|entry| entry_size(entry.parts.iter().map(|p| p.len())));
        let sizes: Vec<u64> = sizes.collect();
        let fitting = known + store.log.make_room(&mut store.disk, sizes.into_iter())?;
        let refused = fitting == 0 && !entries.is_empty();
        entries.truncate(fitting);
        Ok(!refused)
    }

    fn note_times(&mut self, message: &Message) {
        if message.term != self.term() {
            return;
        }
        match &message.body {
            Body::Append { sent, .. } | Body::Heartbeat { sent, .. } => {
                let newest = if self.heard.0 == message.term { self.heard.1 } else { Time::ZERO };
                self.heard = (message.term, newest.max(*sent));
            }
            body => {
                if let Some(echo) = echo(body).filter(|echo| echo.is_trusted) {
                    self.lease.answered(message.term, message.from, echo.sent);
                }
            }
        }
    }

    /// Turns raft-rs's messages into ours, once what they speak of is written.
    pub(super) fn dispatch(&mut self, now: Time) -> Result<(), StoreError> {
        for (leaving, previous) in std::mem::take(&mut self.farewells) {
            let commit = previous.index;
            self.tell(leaving, Body::Append { previous, commit, sent: now, entries: Vec::new() });
        }
        while let Some(message) = self.unsent.pop_front() {
            let heard = if self.heard.0 == self.term() { self.heard.1 } else { Time::ZERO };
            let log = self.log();
            let echo = Echo {
                sent: heard,
                life: log.life(),
                is_trusted: !log.is_distrusted(),
                wants_snapshot: self.wants_snapshot(),
            };
            if message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty() {
                if !self.send_entries(now, &message)? {
                    self.unsent.push_front(message);
                    return Ok(());
                }
            } else if let Some(ours) = from_raft(&message, now, echo) {
                self.outbox.push_back(ours);
            }
        }
        Ok(())
    }

    /// Sends an append, in pieces if it is long. False if it must wait.
    fn send_entries(&mut self, now: Time, message: &RaftMessage) -> Result<bool, StoreError> {
        let (first, last) = (&message.entries[0], &message.entries[message.entries.len() - 1]);
        let mut previous = Mark { term: Term(message.log_term), index: LogIndex(message.index) };
        let log = self.log();
        let same = |index: u64, term: u64| log.term_at(LogIndex(index)) == Some(Term(term));
        if !same(message.index, message.log_term) || !same(last.index, last.term) {
            // No longer what this replica would say.
            return Ok(true);
        }
        let (mut next, end) = (LogIndex(first.index), LogIndex(last.index + 1));
        let (log, disk) = self.parts();
        if log.end_of(disk, LogIndex(last.index))? > log.written() {
            return Ok(false);
        }
        while next < end {
            let to = LogIndex(end.0.min(next.0 + codec::MAX_ENTRIES as u64));
            let (log, disk) = self.parts();
            let entries = log.entries(disk, next, to, BATCH_BYTES)?;
            let entries: Vec<Replicated> = entries.into_iter().map(Replicated::from).collect();
            let newest = entries.last().expect("written entries are there");
            let behind = Mark { term: newest.term, index: newest.index };
            next = LogIndex(behind.index.0 + 1);
            let commit = LogIndex(message.commit);
            let body = Body::Append { previous, commit, sent: now, entries };
            let (from, to, term) = (NodeId(message.from), NodeId(message.to), Term(message.term));
            self.outbox.push_back(Message { from, to, term, body });
            previous = behind;
        }
        Ok(true)
    }
}

/// What an answer to a leader says about the one who answers.
fn echo(body: &Body) -> Option<Echo> {
    match body {
        Body::Appended { echo, .. } | Body::Rejected { echo, .. } | Body::Alive { echo, .. } => {
            Some(*echo)
        }
        _ => None,
    }
}
