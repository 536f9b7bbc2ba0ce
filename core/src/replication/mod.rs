//! The way of an entry from proposed to committed: proposed → written →
//! durable → committed. A group of one commits by itself, others by majority;
//! the broker above sees what is committed, and learns when it may lead.

mod alone;
pub mod configuration;
mod convert;
mod lease;
mod member;
mod store;
#[cfg(test)]
mod tests;
mod ticks;

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    ids::{LogIndex, NodeId, Position, Term},
    log::{Base, CommitLog, Draft, Entry, LogConfig, Place, SyncTicket},
    peer::Message,
    runtime::{Disk, FileId},
    time::Time,
};

use alone::Alone;
use configuration::{Change, Configuration, Refused};
pub use member::{Member, Progress, ReplicaSet, Role};

/// What an acknowledgement promises. See the durability contract in
/// ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flush {
    /// Acknowledged means durable: nothing but the loss of the disk takes it.
    Sync,
    /// Acknowledged means written to the operating system, which syncs at this
    /// interval: a power failure may take that much, a killed process nothing.
    Async { interval: Duration },
}

/// Under async flush at most this many messages are acknowledged ahead of the
/// disk. After an unclean start every queue skips as many offsets, so that none
/// that a power failure took back is ever given to another message.
pub const ASYNC_WINDOW: u64 = 1 << 20;

/// What an entry needs to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// What the flush mode promises.
    Flush,
    /// To be durable in every mode: if power loss took a new queue, or the jump
    /// over lost offsets, the next life would use its offsets again.
    Durable,
}

/// An idle log writes down how far it is durable after this pause, so that
/// recovery can tell rot in its last entries from a torn tail.
const MARK_AFTER: Duration = Duration::from_millis(10);

/// What the snapshot says that a process starts from.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    pub base: Base,
    /// Who belonged to the group there; the founders if there is no snapshot.
    pub configuration: Option<Configuration>,
}

/// This node's replica of the log.
pub enum Replica<D: Disk> {
    Alone(Box<Alone<D>>),
    Member(Box<Member<D>>),
}

/// The same of either kind.
macro_rules! either {
    ($replica:expr, $this:ident => $what:expr) => {
        match $replica {
            Replica::Alone($this) => $what,
            Replica::Member($this) => $what,
        }
    };
}

impl<D: Disk> Replica<D> {
    /// Opens the log, as the only replica or as one of a set. Nothing is
    /// committed before the first sync has finished: what a killed process left
    /// in the page cache must be durable before a consumer sees it (L3). Returns
    /// from where on the log is to be applied: from the beginning if nothing on
    /// the disk counts.
    pub fn open(
        disk: D,
        log: LogConfig,
        flush: Flush,
        folded: Folded,
        set: Option<&ReplicaSet>,
        seed: u64,
    ) -> Result<(Replica<D>, Base), StoreError> {
        let Some(set) = set else {
            let alone = Alone::open(disk, log, flush, folded.base)?;
            return Ok((Replica::Alone(Box::new(alone)), folded.base));
        };
        let (member, found) = Member::open(disk, log, flush, folded, set, seed)?;
        if let Some(damage) = found.damage {
            tracing::error!(%damage, "this replica is repaired from the others");
        }
        Ok((Replica::Member(Box::new(member)), found.base))
    }

    pub fn term(&self) -> Term {
        either!(self, this => this.term())
    }

    pub fn log(&self) -> &CommitLog {
        either!(self, this => this.log())
    }

    /// Everything before this position may be applied and shown.
    pub fn committed(&self) -> Position {
        either!(self, this => this.committed())
    }

    /// The log and the disk under it, for those who read records and keep
    /// derived files.
    pub fn parts(&mut self) -> (&CommitLog, &mut D) {
        either!(self, this => this.parts())
    }

    /// The next entry at or after `at`, if it is written.
    pub fn entry_at(&mut self, at: Position) -> Result<Option<Entry>, StoreError> {
        either!(self, this => this.entry_at(at))
    }

    /// Appends an entry in memory; `places` learns where each part will lie.
    /// `NotLeader` if another replica leads, or is about to.
    pub fn propose(
        &mut self,
        draft: &mut Draft,
        needs: Needs,
        places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        either!(self, this => this.propose(draft, needs, places))
    }

    /// Bytes appended and not yet durable here.
    pub fn undurable(&self) -> u64 {
        either!(self, this => this.undurable())
    }

    /// Once per batch of inputs: one write for all that was appended, and what
    /// that commits.
    pub fn write(&mut self, now: Time) -> Result<(), StoreError> {
        either!(self, this => this.write(now))
    }

    /// Starts a sync if one is due: group commit, no timer under sync flush.
    pub fn begin_sync(&mut self, now: Time) -> Option<(SyncTicket, D::Sync)> {
        either!(self, this => this.begin_sync(now))
    }

    pub fn is_syncing(&self) -> bool {
        either!(self, this => this.is_syncing())
    }

    /// Starts a sync that also makes `files` durable, due or not; none while one
    /// runs or if there is nothing to sync.
    pub fn sync_with(&mut self, now: Time, files: &[FileId]) -> Option<(SyncTicket, D::Sync)> {
        either!(self, this => this.sync_with(now, files))
    }

    /// A sync finished. A failed one stops the store for good (L2).
    pub fn synced(
        &mut self,
        now: Time,
        ticket: SyncTicket,
        result: io::Result<()>,
    ) -> Result<(), StoreError> {
        either!(self, this => this.synced(now, ticket, result))
    }

    /// Whether a broker that has applied everything committed knows all that was
    /// ever acknowledged, and may propose (R5).
    pub fn may_lead(&self) -> bool {
        match self {
            Replica::Alone(alone) => alone.has_recovered(),
            Replica::Member(member) => member.is_established(),
        }
    }

    /// Whether somebody else may propose by now who could not in `term`: what
    /// was proposed here and is not committed has an unknown outcome.
    pub fn is_deposed(&self, term: Term) -> bool {
        match self {
            Replica::Alone(_) => false,
            Replica::Member(member) => member.role() != Role::Leader || member.term() != term,
        }
    }

    /// Until when nobody else can have become the leader: what is known here is
    /// the newest there is.
    pub fn lease_until(&self) -> Time {
        match self {
            Replica::Alone(_) => Time::MAX,
            Replica::Member(member) => member.lease_until(),
        }
    }

    /// Whether this replica leads, or is about to.
    pub fn leads(&self) -> bool {
        match self {
            Replica::Alone(_) => true,
            Replica::Member(member) => member.role() == Role::Leader,
        }
    }

    /// Who leads, if it is another replica and known.
    pub fn leader(&self) -> Option<NodeId> {
        match self {
            Replica::Member(member) => match member.role() {
                Role::Follower(leader) => leader,
                Role::Leader | Role::Candidate => None,
            },
            Replica::Alone(_) => None,
        }
    }

    /// The followers that no commit waits for, if this replica leads.
    pub fn spare_followers(&self) -> Vec<NodeId> {
        match self {
            Replica::Alone(_) => Vec::new(),
            Replica::Member(member) => member.spare_followers(),
        }
    }

    /// Hands over to another replica, if this one leads and somebody can lead.
    pub fn hand_over(&mut self, to: Option<NodeId>) -> bool {
        match self {
            Replica::Member(member) => member.hand_over(to),
            Replica::Alone(_) => false,
        }
    }

    /// A read found that something on the disk is not what was written: it is
    /// repaired from the other replicas, if there are any.
    pub fn note_damage(&mut self) -> Result<(), StoreError> {
        match self {
            Replica::Member(member) => member.note_damage(),
            Replica::Alone(_) => Ok(()),
        }
    }

    /// The entry that says who belongs to the set.
    pub fn members_since(&self) -> Option<LogIndex> {
        match self {
            Replica::Member(member) => Some(member.configuration().since),
            Replica::Alone(_) => None,
        }
    }

    /// Begins a change of members.
    pub fn change(&mut self, change: Change) -> Result<Result<Place, Refused>, StoreError> {
        match self {
            Replica::Member(member) => member.change(change),
            Replica::Alone(_) => Ok(Err(Refused::NotLeader)),
        }
    }

    /// Who belongs to the set; nobody of whom a single replica knows.
    pub fn configuration(&self) -> Configuration {
        match self {
            Replica::Member(member) => member.configuration().clone(),
            Replica::Alone(_) => Configuration::default(),
        }
    }

    /// Whether the set went on without this replica.
    pub fn is_removed(&self) -> bool {
        matches!(self, Replica::Member(member) if member.is_removed())
    }

    /// Whether another replica is about to lead. Ends after an election timeout.
    pub fn is_handing_over(&self) -> bool {
        matches!(self, Replica::Member(member) if member.is_handing_over())
    }

    /// The disk, for the next life.
    pub fn into_disk(self) -> D {
        either!(self, this => this.into_disk())
    }

    /// Takes a message from another replica.
    pub fn receive(&mut self, now: Time, message: Message) -> Result<(), StoreError> {
        match self {
            Replica::Alone(_) => Ok(()),
            Replica::Member(member) => member.receive(now, message),
        }
    }

    /// The connection to another replica ended: what was sent may be lost.
    pub fn unreachable(&mut self, peer: NodeId) {
        if let Replica::Member(member) = self {
            member.unreachable(peer);
        }
    }

    /// The next message for another replica.
    pub fn poll_message(&mut self) -> Option<Message> {
        match self {
            Replica::Alone(_) => None,
            Replica::Member(member) => member.poll_message(),
        }
    }

    /// Whether the last process to use this log stopped in order, so that
    /// nothing it handed out is missing. Of other replicas nobody knows.
    pub fn was_clean(&self) -> bool {
        matches!(self, Replica::Alone(alone) if alone.was_clean())
    }

    /// Notes an orderly stop once everything is durable; the note itself is
    /// durable with the next sync.
    pub fn close(&mut self) -> Result<(), StoreError> {
        either!(self, this => this.close())
    }

    /// When `write` and `begin_sync` want to be called again.
    pub fn deadline(&self) -> Option<Time> {
        either!(self, this => this.deadline())
    }

    /// Makes the next segment ready ahead of need.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        either!(self, this => this.prepare())
    }

    /// Drops whole segments before `keep_from`; returns how many bytes went.
    pub fn expire(&mut self, keep_from: Position) -> Result<u64, StoreError> {
        either!(self, this => this.expire(keep_from))
    }
}
