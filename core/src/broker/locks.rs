//! 41, 42: one member of an orderly group at a time reads a queue.
//!
//! A grant is a record in the log with an epoch that grows from owner to owner;
//! what a former owner still says under its old one is refused (R1). How long
//! the lease runs is not logged: after a restart every recorded holder keeps its
//! lock for one whole lease. A holder that leaves, or whose connection closes,
//! keeps it as well, as in RocketMQ: only the lease's end, or the holder itself
//! (42), says that it works on nothing any more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Broker, apply::Needed, command::Command, config::limit, propose::Answer, state::QueueKey,
};
use crate::{
    error::Rejected,
    ids::{ConnId, Name, Shard},
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{LockReply, LockRequest, MessageQueue},
        code,
    },
};

/// A change of owners, of several queues at once. Epochs stand beside shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Granted { group: Name, client: Name, locks: Vec<(Shard, u64)> },
    Released { group: Name, locks: Vec<(Shard, u64)> },
}

/// Who owns a queue within a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Of the last grant; kept when the lock is free.
    pub epoch: u64,
    pub client: Option<Name>,
}

/// A queue that was locked at least once.
#[derive(Default)]
struct Lock {
    /// As committed.
    owner: Owner,
    /// As it will be once all that is proposed is committed: requests are judged
    /// by this.
    next: Owner,
    /// The end of the lease, on this process's clock.
    until: Time,
    /// Somebody else asked meanwhile and was refused.
    is_wanted: bool,
}

impl Lock {
    fn holder(&self, now: Time) -> Option<&str> {
        self.next.client.as_deref().filter(|_| self.until > now || self.next != self.owner)
    }
}

/// What a request for one lock comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It holds the lock, and this is on record.
    Holds(u64),
    /// A grant must be recorded first.
    Grant(u64),
    Refused,
}

/// All locks of all groups.
#[derive(Default)]
pub struct Locks {
    groups: BTreeMap<Name, BTreeMap<Shard, Lock>>,
    count: usize,
    /// When the first lease that somebody waits for may end.
    next_expiry: Option<Time>,
}

impl Locks {
    pub fn apply(&mut self, change: &Change) {
        let (group, locks, client) = match change {
            Change::Granted { group, client, locks } => (group, locks, Some(client)),
            Change::Released { group, locks } => (group, locks, None),
        };
        for (shard, epoch) in locks {
            let owner = Owner { epoch: *epoch, client: client.cloned() };
            let lock = self.lock_mut(group, shard);
            // Unless something newer is on its way.
            if lock.next == lock.owner {
                lock.next = owner.clone();
            }
            lock.owner = owner;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Shard, &Owner)> {
        self.groups.iter().flat_map(|(group, shards)| {
            shards.iter().map(move |(shard, lock)| (group, shard, &lock.owner))
        })
    }

    pub fn snapshot(&self) -> Vec<(Name, Shard, Owner)> {
        self.iter()
            .map(|(group, shard, owner)| (group.clone(), shard.clone(), owner.clone()))
            .collect()
    }

    pub fn restore(saved: Vec<(Name, Shard, Owner)>) -> Locks {
        let mut locks = Locks::default();
        for (group, shard, owner) in saved {
            let lock = locks.lock_mut(&group, &shard);
            lock.next = owner.clone();
            lock.owner = owner;
        }
        locks
    }

    pub fn deadline(&self) -> Option<Time> {
        self.next_expiry
    }

    /// Whether a member of the group works in order at the moment.
    pub fn is_orderly(&self, group: &str, now: Time) -> bool {
        let locks = self.groups.get(group).into_iter().flat_map(BTreeMap::values);
        locks.into_iter().any(|lock| lock.holder(now).is_some())
    }

    /// Every recorded holder keeps its locks until then.
    pub fn hold_all(&mut self, until: Time) {
        for lock in self.groups.values_mut().flat_map(BTreeMap::values_mut) {
            lock.until = until;
        }
    }

    /// The lease of this lock runs until then.
    fn renew(&mut self, group: &Name, shard: &Shard, until: Time) {
        let lock = self.lock_mut(group, shard);
        lock.until = until;
        if lock.is_wanted {
            self.expires(until);
        }
    }

    fn expires(&mut self, at: Time) {
        self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at)));
    }

    /// Whether the group locks queues.
    pub fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    fn find(&self, group: &str, shard: &Shard) -> Option<&Lock> {
        self.groups.get(group)?.get(shard)
    }

    fn lock_mut(&mut self, group: &Name, shard: &Shard) -> &mut Lock {
        let count = &mut self.count;
        let shards = self.groups.entry(group.clone()).or_default();
        shards.entry(shard.clone()).or_insert_with(|| {
            *count += 1;
            Lock::default()
        })
    }

    /// Judges a request of `client`, and counts it as granted if it is: the
    /// caller records it, or takes it back with [`withdraw`](Self::withdraw).
    fn ask(&mut self, now: Time, group: &Name, shard: &Shard, client: &Name) -> Verdict {
        if self.count >= limit::LOCKS && self.find(group, shard).is_none() {
            return Verdict::Refused;
        }
        let lock = self.lock_mut(group, shard);
        if lock.next.client.as_ref() == Some(client) {
            let epoch = lock.next.epoch;
            return if lock.next == lock.owner {
                Verdict::Holds(epoch)
            } else {
                Verdict::Grant(epoch)
            };
        }
        if lock.holder(now).is_some() {
            lock.is_wanted = true;
            let until = lock.until;
            if lock.next == lock.owner {
                self.expires(until);
            }
            return Verdict::Refused;
        }
        lock.next = Owner { epoch: lock.next.epoch + 1, client: Some(client.clone()) };
        Verdict::Grant(lock.next.epoch)
    }

    /// The epoch under which `client` holds the lock, which counts as free from
    /// here on.
    fn give_up(&mut self, group: &str, shard: &Shard, client: &str) -> Option<u64> {
        let lock = self.groups.get_mut(group)?.get_mut(shard)?;
        if lock.next.client.as_deref() != Some(client) {
            return None;
        }
        lock.next.client = None;
        Some(lock.next.epoch)
    }

    /// What was judged could not be recorded.
    fn withdraw(&mut self, group: &Name, locks: &[(Shard, u64)]) {
        for (shard, _) in locks {
            let lock = self.lock_mut(group, shard);
            lock.next = lock.owner.clone();
        }
    }

    /// Groups in which a lock came free that somebody was refused.
    fn freed(&mut self, now: Time) -> BTreeSet<Name> {
        if self.next_expiry.is_none_or(|at| at > now) {
            return BTreeSet::new();
        }
        let mut freed = BTreeSet::new();
        let mut next = None;
        for (group, shards) in &mut self.groups {
            for lock in shards.values_mut().filter(|lock| lock.is_wanted) {
                if lock.holder(now).is_none() {
                    lock.is_wanted = false;
                    freed.insert(group.clone());
                } else if lock.until > now {
                    next = Some(next.map_or(lock.until, |at: Time| at.min(lock.until)));
                }
            }
        }
        self.next_expiry = next;
        freed
    }
}

impl<D: Disk> Broker<D> {
    pub(super) fn lock_queues(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let request = parse(&frame)?;
        if self.state.group(&request.group).is_none() {
            let group = self.implied_group(&request.group)?;
            let needed = Needed::Group(group.name.clone());
            return self.await_creation(conn, frame, needed, Command::Group(group));
        }
        let (group, client): (Name, Name) =
            (request.group.as_str().into(), request.client_id.as_str().into());
        let until = now.mono + self.config.lock_lease;
        let (mut reply, mut grants) = (LockReply::default(), Vec::new());
        for mut queue in request.queues {
            if self.state.find_queue(&queue.topic, queue.queue).is_none() {
                continue;
            }
            let shard = shard_of(&queue);
            let epoch = match self.state.locks.ask(now.mono, &group, &shard, &client) {
                Verdict::Holds(epoch) => {
                    self.state.locks.renew(&group, &shard, until);
                    epoch
                }
                Verdict::Grant(epoch) => {
                    grants.push((shard, epoch));
                    epoch
                }
                Verdict::Refused => continue,
            };
            queue.epoch = Some(epoch);
            reply.locked.push(queue);
        }
        let body = vec![reply.to_bytes()];
        let answer = Answer::with_body(conn, frame.reply_to(), Fields::default(), body);
        if grants.is_empty() {
            self.answer(answer);
            return Ok(());
        }
        let change = Change::Granted { group, client, locks: grants };
        self.propose_owners(change, answer)
    }

    pub(super) fn unlock_queues(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let request = parse(frame)?;
        let mut locks = Vec::new();
        for queue in &request.queues {
            let shard = shard_of(queue);
            let freed = self.state.locks.give_up(&request.group, &shard, &request.client_id);
            locks.extend(freed.map(|epoch| (shard, epoch)));
        }
        let answer = Answer::ok(conn, frame.reply_to());
        if locks.is_empty() {
            self.answer(answer);
            return Ok(());
        }
        self.propose_owners(Change::Released { group: request.group.into(), locks }, answer)
    }

    fn propose_owners(&mut self, change: Change, answer: Answer) -> Result<(), Rejected> {
        let Err(error) = self.propose_command(Command::Lock(change.clone()), answer) else {
            return Ok(());
        };
        let (Change::Granted { group, locks, .. } | Change::Released { group, locks }) = &change;
        self.state.locks.withdraw(group, locks);
        Err(self.refused_or_failed(error))
    }

    /// A grant counts from when it is committed; a lock that came free is worth
    /// telling those who were refused.
    pub(super) fn owners_changed(&mut self, now: Now, change: &Change) {
        match change {
            Change::Granted { group, locks, .. } => {
                let until = now.mono + self.config.lock_lease;
                for (shard, _) in locks {
                    self.state.locks.renew(group, shard, until);
                }
            }
            Change::Released { .. } => self.state.locks.expires(now.mono),
        }
    }

    /// Members that were refused a lock share out queues again once it is free.
    pub(super) fn offer_freed_locks(&mut self, now: Now) {
        let freed = self.state.locks.freed(now.mono);
        self.notify(freed);
    }

    /// Refuses the pull of a member that does not own the queue. One that is no
    /// member, such as a tool, may read.
    pub(super) fn check_reader(
        &self,
        now: Now,
        conn: ConnId,
        group: &str,
        to: QueueKey,
        epoch: Option<u64>,
    ) -> Result<(), Rejected> {
        let is_plain = epoch.is_none();
        if is_plain && !(self.state.locks.has(group) && self.members.has_member(conn, group)) {
            return Ok(());
        }
        self.check_lock(now, conn, group, &self.state.shard(to), epoch)
    }

    /// Refuses what somebody says about a queue that another member owns: by the
    /// epoch of its lock if it names one, else by whether the holder speaks
    /// through its connection.
    pub(super) fn check_lock(
        &self,
        now: Now,
        conn: ConnId,
        group: &str,
        shard: &Shard,
        epoch: Option<u64>,
    ) -> Result<(), Rejected> {
        let lock = self.state.locks.find(group, shard);
        let fenced = match (epoch, lock) {
            (None, None) => false,
            (Some(epoch), lock) => lock.is_none_or(|lock| lock.next.epoch != epoch),
            (None, Some(lock)) => lock
                .holder(now.mono)
                .is_some_and(|holder| !self.members.is_member(conn, group, holder)),
        };
        if !fenced {
            return Ok(());
        }
        let owner = lock.map(|lock| lock.next.clone()).unwrap_or_default();
        let holder = owner.client.as_deref().unwrap_or("nobody");
        let remark = format!(
            "{shard} is locked for {group} by {holder} since epoch {}: this one is over",
            owner.epoch
        );
        Err(Rejected::new(code::FENCED, remark))
    }
}

fn parse(frame: &Frame) -> Result<LockRequest, Rejected> {
    let request = LockRequest::parse(&frame.body)?;
    if request.queues.len() > limit::LOCKS_AT_ONCE {
        let why = format!("names more than {} queues", limit::LOCKS_AT_ONCE);
        return Err(Rejected::bad_field("mqSet", why));
    }
    if request.client_id.is_empty() || request.client_id.len() > limit::CLIENT_ID {
        let why = format!("has 1 to {} characters", limit::CLIENT_ID);
        return Err(Rejected::bad_field("clientId", why));
    }
    Ok(request)
}

fn shard_of(queue: &MessageQueue) -> Shard {
    Shard { topic: queue.topic.as_str().into(), queue: queue.queue }
}
