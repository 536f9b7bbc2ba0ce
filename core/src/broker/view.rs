//! What the simulator's probe and an operator may look at. Reading only.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{Broker, Counters, Phase, halves::Totals, locks::Owner, subscriptions::Disagreement};
use crate::{
    ids::{LogIndex, Name, NodeId, Position, Shard, Term},
    log::CommitLog,
    replication::{Progress, Replica, Role},
    runtime::Disk,
};

/// A broker looked at from outside.
pub struct View<'a, D: Disk>(&'a Broker<D>);

/// A queue as consumers may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueView {
    pub min: u64,
    /// One past the last visible message.
    pub max: u64,
    /// One past the last proposed message.
    pub next: u64,
}

impl<D: Disk> Broker<D> {
    pub fn view(&self) -> View<'_, D> {
        View(self)
    }
}

impl<'a, D: Disk> View<'a, D> {
    pub fn phase(&self) -> Phase {
        self.0.phase
    }

    /// Everything before it survives a power failure.
    pub fn durable(&self) -> Position {
        self.0.replica.log().durable()
    }

    /// Everything before it survives a killed process.
    pub fn written(&self) -> Position {
        self.0.replica.log().written()
    }

    pub fn committed(&self) -> Position {
        self.0.replica.committed()
    }

    /// What it is to its replica set, in which term, and the last entry that it
    /// knows to be committed; none if it is alone.
    pub fn membership(&self) -> Option<(Role, Term, LogIndex)> {
        match &self.0.replica {
            Replica::Alone(_) => None,
            Replica::Member(this) => Some((this.role(), this.term(), this.committed_index())),
        }
    }

    /// Who decides in its replica set if an entry after `known` says so, and which:
    /// those who vote, and as long as that changes those who did before.
    pub fn voters_after(&self, known: LogIndex) -> Option<(LogIndex, [BTreeSet<NodeId>; 2])> {
        let Replica::Member(this) = &self.0.replica else { return None };
        let configuration = this.configuration();
        (configuration.since > known).then(|| (configuration.since, configuration.voters()))
    }

    /// Whether this replica has a vote in its set, as far as it knows.
    pub fn is_voter(&self) -> bool {
        match &self.0.replica {
            Replica::Alone(_) => true,
            Replica::Member(this) => this.configuration().voters()[0].contains(&this.id()),
        }
    }

    /// How far the other replicas are; only a leader knows.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, Progress)> {
        let member = match &self.0.replica {
            Replica::Alone(_) => None,
            Replica::Member(this) => Some(this),
        };
        member.into_iter().flat_map(|this| {
            let others = this.configuration().seats.keys().filter(|id| **id != this.id());
            others.filter_map(|id| Some((*id, this.progress(*id)?)))
        })
    }

    /// The log that everything else is folded from.
    pub fn log(&self) -> &'a CommitLog {
        self.0.replica.log()
    }

    pub fn applied(&self) -> Position {
        self.0.applied.position
    }

    /// Everything before it is gone, though the log may still have some of it.
    pub fn start(&self) -> Position {
        self.0.replica.log().start().max(self.0.state.passed.to())
    }

    /// Topics and consumer groups on record.
    pub fn counts(&self) -> (usize, usize) {
        self.0.state.counts()
    }

    pub fn queues(&self) -> impl Iterator<Item = (Shard, QueueView)> + 'a {
        self.0.state.topics().flat_map(|topic| {
            (0..).zip(&topic.queues).map(|(number, queue)| {
                let shard = Shard { topic: topic.config.name.clone(), queue: number };
                let (min, max) = (queue.index.min(), queue.index.max());
                (shard, QueueView { min, max, next: queue.next })
            })
        })
    }

    /// Applied offsets: the next message that each group wants.
    pub fn offsets(&self) -> impl Iterator<Item = (&'a Name, &'a Shard, u64)> {
        self.0.state.offsets()
    }

    /// Locks on record: who owns which queue within which group, and the epoch
    /// of its last grant.
    pub fn locks(&self) -> impl Iterator<Item = (&'a Name, &'a Shard, &'a Owner)> {
        self.0.state.locks.iter()
    }

    /// Groups whose members want different things, and who wants what (L15).
    pub fn disagreements(&self) -> impl Iterator<Item = (&'a Name, &'a [Disagreement])> {
        self.0.members.disagreements().filter(|(_, all)| !all.is_empty())
    }

    /// How often halves were given up checking, and how many are.
    pub fn parkings(&self) -> (u64, u32) {
        let halves = &self.0.state.halves;
        (halves.totals().parked, halves.groups().map(|(_, group)| group.parked).sum())
    }

    /// Whether a half lies there that nobody has decided.
    pub fn is_undecided(&self, at: Position) -> bool {
        self.0.state.halves.get(at).is_some()
    }

    /// Where the halves lie that were given up checking.
    pub fn parked_halves(&self) -> impl Iterator<Item = Position> {
        self.0.state.halves.open().filter(|(_, half)| half.parked).map(|(at, _)| at)
    }

    /// Messages that retention took from groups which had not read them (L13).
    pub fn losses(&self) -> impl Iterator<Item = (&'a Name, &'a Shard, u64)> {
        self.0.state.passed.losses()
    }

    /// Messages under lease: group, queue, offset.
    pub fn leases(&self) -> impl Iterator<Item = (&'a Name, &'a Shard, u64)> {
        let queues = self.0.state.leases.queues();
        queues.flat_map(|queue| queue.leased().map(move |at| (&queue.group, &queue.shard, at)))
    }

    /// How many messages of each queue that is popped from are under lease.
    pub fn leased(&self) -> impl Iterator<Item = (&'a Name, &'a Shard, usize)> {
        let queues = self.0.state.leases.queues();
        // A map knows its length: nothing is walked.
        queues.map(|queue| (&queue.group, &queue.shard, queue.leased().size_hint().0))
    }

    /// Consumer groups with at least one member, and their client ids.
    pub fn groups(&self) -> impl Iterator<Item = (&'a Name, impl Iterator<Item = &'a str>)> {
        self.0.members.consumers()
    }

    /// Bytes of messages in memory: appended and not yet given to the disk.
    pub fn unwritten(&self) -> u64 {
        self.0.replica.log().end().0 - self.written().0
    }

    pub fn parked_pulls(&self) -> usize {
        self.0.parked.len()
    }

    pub fn connections(&self) -> usize {
        self.0.sessions.len()
    }

    /// The other ends of the open connections.
    pub fn peers(&self) -> impl Iterator<Item = SocketAddr> {
        let sessions = &self.0.sessions;
        sessions.ids().filter_map(|conn| sessions.peer(conn))
    }

    /// Delayed messages and retries that wait, and the bytes of memory that they
    /// take.
    pub fn timers(&self) -> (usize, usize) {
        (self.0.state.timers.len(), self.0.state.timers.footprint())
    }

    /// Delayed messages that were taken back, that are not in the log any more,
    /// and that cannot be read at the moment.
    pub fn undelivered(&self) -> (u64, u64, usize) {
        let timers = &self.0.state.timers;
        (timers.recalled, timers.lost, self.0.firing.unreadable())
    }

    /// Whether sends are refused until groups have read what retention would take.
    pub fn waits_for_groups(&self) -> bool {
        self.0.retention.is_full
    }

    /// Messages that retention took.
    pub fn expired(&self) -> u64 {
        self.0.state.expired
    }

    /// Undecided half messages, and what became of the others.
    pub fn transactions(&self) -> (usize, Totals) {
        (self.0.state.halves.len(), self.0.state.halves.totals())
    }

    /// Producer groups with undecided halves: how many, and how many of them were
    /// given up checking.
    pub fn producers(&self) -> impl Iterator<Item = (&'a Name, u32, u32)> {
        let groups = self.0.state.halves.groups();
        groups.map(|(name, halves)| (name, halves.open, halves.parked))
    }

    /// Producer groups that should be asked about transactions, and have no
    /// member to ask, with their undecided halves.
    pub fn unreachable_producers(&self) -> impl Iterator<Item = (&'a Name, u32)> {
        let halves = &self.0.state.halves;
        self.0.transactions.unreachable().map(|group| (group, halves.group(group).open))
    }

    pub fn counters(&self) -> Counters {
        self.0.counters
    }
}
