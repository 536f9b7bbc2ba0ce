//! Which popped messages are whose for now: the fold of committed leases.
//!
//! A group that pops shares each queue among all who ask: every message that is
//! handed out is under a lease of its own, on record before it leaves, until it
//! is acknowledged or the lease ends. How long a lease still runs is not logged:
//! after a restart it runs anew, never shorter (L19).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{command::TopicConfig, config::limit};
use crate::{
    ids::{Name, Shard},
    time::Time,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The group begins to pop from these queues, each from this offset on.
    Opened {
        group: Name,
        retry: Option<TopicConfig>,
        starts: Vec<(Shard, u64)>,
    },
    Popped {
        taken: Vec<Taken>,
        terms: Terms,
    },
    /// Done: the numbers of shared queues, and offsets.
    Acked(Vec<(u64, u64)>),
    /// The lease on one message runs anew.
    Renewed {
        number: u64,
        offset: u64,
        terms: Terms,
    },
}

/// What one answer to a pop took from one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Of the shared queue.
    pub number: u64,
    /// The queue's `resets` when they were taken.
    pub resets: u32,
    /// One past the last offset that was looked at.
    pub to: u64,
    /// Each with how often it was handed out before, in order.
    pub messages: Vec<(u64, u32)>,
}

/// What holds for all leases of one answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Milliseconds since the epoch: with the offset, it names the lease.
    pub pop_wall: i64,
    /// Milliseconds.
    pub invisible: u64,
    /// Whether nothing else of the queue is handed out meanwhile.
    pub in_order: bool,
    /// Which attempt of which consumer, so that it can be repeated.
    pub attempt: Option<Name>,
}

/// One message handed out and not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub pop_wall: i64,
    pub invisible: u64,
    pub in_order: bool,
    /// How often it was handed out in order before.
    pub attempts: u32,
    /// Its end, on this process's clock.
    #[serde(skip)]
    pub due: Time,
}

/// What was proposed about a lease and is not committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Ack,
    /// A new lease on the same message.
    Renewal,
    /// The message appears again elsewhere.
    Revival,
}

/// A queue from which a group pops.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SharedQueue {
    pub group: Name,
    pub shard: Shard,
    /// Everything before it was handed out, or not wanted.
    popped: u64,
    /// Grows when the group is set elsewhere: what was taken before is void.
    pub resets: u32,
    attempt: Option<Name>,
    leases: BTreeMap<u64, Lease>,
    /// `popped` once all that is proposed is committed.
    #[serde(skip)]
    pub next: u64,
    #[serde(skip)]
    ending: BTreeMap<u64, Ending>,
    /// Somebody asked and has to wait for a lease to end.
    #[serde(skip)]
    pub is_awaited: bool,
}

impl SharedQueue {
    /// The first message that is not done: where the group stands.
    fn low(&self) -> u64 {
        self.leases.first_key_value().map_or(self.popped, |(offset, _)| *offset)
    }

    pub fn leased(&self) -> impl Iterator<Item = u64> {
        self.leases.keys().copied()
    }

    pub fn is_full(&self) -> bool {
        self.leases.len() as u64 + (self.next - self.popped) >= limit::LEASES_OF_QUEUE
    }

    /// What an ordered pop has to hand out first: the messages whose leases have
    /// ended; none if a lease runs or something is on its way.
    pub fn lapsed(&self, now: Time, attempt: Option<&Name>) -> Option<Vec<(u64, u32)>> {
        if self.next != self.popped || !self.ending.is_empty() {
            return None;
        }
        let repeats = attempt.is_some() && attempt == self.attempt.as_ref();
        if !repeats && self.leases.values().any(|lease| lease.due > now) {
            return None;
        }
        let again = |lease: &Lease| lease.attempts + u32::from(!repeats);
        Some(self.leases.iter().map(|(offset, lease)| (*offset, again(lease))).collect())
    }

    /// The lease that a receipt names, unless its end is on its way in another
    /// manner than this one.
    pub fn lease(&self, offset: u64, pop_wall: i64, for_what: Ending) -> Option<&Lease> {
        let lease = self.leases.get(&offset).filter(|lease| lease.pop_wall == pop_wall)?;
        match self.ending.get(&offset) {
            None => Some(lease),
            Some(Ending::Ack) if for_what == Ending::Ack => Some(lease),
            Some(_) => None,
        }
    }
}

/// All queues from which some group pops.
#[derive(Default)]
pub struct Leases {
    numbers: BTreeMap<Name, BTreeMap<Shard, u64>>,
    queues: Vec<SharedQueue>,
    /// The ends of leases, with the queue's number and the offset.
    due: BTreeSet<(Time, u64, u64)>,
    count: usize,
    /// Queues where a lease ended that somebody waits for.
    freed: BTreeSet<u64>,
}

impl Leases {
    /// Folds a change; returns the queues in which the group may stand
    /// elsewhere now.
    pub fn apply(&mut self, change: &Change) -> Vec<u64> {
        match change {
            Change::Opened { group, starts, .. } => {
                let opened = starts.iter().map(|(shard, start)| self.open(group, shard, *start));
                opened.collect()
            }
            Change::Popped { taken, terms } => {
                taken.iter().for_each(|taken| self.popped(taken, terms));
                taken.iter().map(|taken| taken.number).collect()
            }
            Change::Acked(done) => {
                done.iter().for_each(|(number, offset)| self.end(*number, *offset));
                done.iter()
                    .map(|(number, _)| *number)
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect()
            }
            Change::Renewed { number, offset, terms } => {
                self.renewed(*number, *offset, terms);
                Vec::new()
            }
        }
    }

    fn open(&mut self, group: &Name, shard: &Shard, start: u64) -> u64 {
        let shards = self.numbers.entry(group.clone()).or_default();
        if let Some(number) = shards.get(shard) {
            return *number;
        }
        let number = self.queues.len() as u64;
        shards.insert(shard.clone(), number);
        self.queues.push(SharedQueue {
            group: group.clone(),
            shard: shard.clone(),
            popped: start,
            resets: 0,
            attempt: None,
            leases: BTreeMap::new(),
            next: start,
            ending: BTreeMap::new(),
            is_awaited: false,
        });
        number
    }

    fn popped(&mut self, taken: &Taken, terms: &Terms) {
        let Some(queue) = self.queues.get_mut(taken.number as usize) else { return };
        if taken.resets != queue.resets {
            return;
        }
        queue.popped = queue.popped.max(taken.to);
        queue.next = queue.next.max(queue.popped);
        queue.attempt = terms.attempt.clone();
        for (offset, attempts) in &taken.messages {
            queue.ending.remove(offset);
            let lease = Lease {
                pop_wall: terms.pop_wall,
                invisible: terms.invisible,
                in_order: terms.in_order,
                attempts: *attempts,
                due: Time::MAX,
            };
            match queue.leases.insert(*offset, lease) {
                Some(before) => drop(self.due.remove(&(before.due, taken.number, *offset))),
                None => self.count += 1,
            }
        }
    }

    fn renewed(&mut self, number: u64, offset: u64, terms: &Terms) {
        let Some(queue) = self.queues.get_mut(number as usize) else { return };
        queue.ending.remove(&offset);
        let Some(lease) = queue.leases.get_mut(&offset) else { return };
        self.due.remove(&(lease.due, number, offset));
        (lease.pop_wall, lease.invisible, lease.due) = (terms.pop_wall, terms.invisible, Time::MAX);
    }

    /// The message is done, or appears again elsewhere.
    pub fn end(&mut self, number: u64, offset: u64) {
        let Some(queue) = self.queues.get_mut(number as usize) else { return };
        queue.ending.remove(&offset);
        let Some(lease) = queue.leases.remove(&offset) else { return };
        self.due.remove(&(lease.due, number, offset));
        self.count -= 1;
        if std::mem::take(&mut queue.is_awaited) {
            self.freed.insert(number);
        }
    }

    /// The group is set to another offset: all leases on the queue are void.
    pub fn reset(&mut self, group: &str, shard: &Shard, to: u64) {
        let Some(number) = self.number(group, shard) else { return };
        let queue = &mut self.queues[number as usize];
        for (offset, lease) in std::mem::take(&mut queue.leases) {
            self.due.remove(&(lease.due, number, offset));
            self.count -= 1;
        }
        queue.ending.clear();
        (queue.popped, queue.next) = (to, to);
        queue.resets += 1;
        self.freed.insert(number);
    }

    pub fn number(&self, group: &str, shard: &Shard) -> Option<u64> {
        self.numbers.get(group)?.get(shard).copied()
    }

    pub fn queue(&self, number: u64) -> &SharedQueue {
        &self.queues[number as usize]
    }

    pub fn queue_mut(&mut self, number: u64) -> &mut SharedQueue {
        &mut self.queues[number as usize]
    }

    pub fn queues(&self) -> impl Iterator<Item = &SharedQueue> {
        self.queues.iter()
    }

    /// Messages handed out and not done.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn standing(&self, number: u64) -> (&SharedQueue, u64) {
        let queue = &self.queues[number as usize];
        (queue, queue.low())
    }

    /// The leases on these messages run from now on.
    pub fn begin(&mut self, now: Time, number: u64, offsets: impl Iterator<Item = u64>) {
        let Some(queue) = self.queues.get_mut(number as usize) else { return };
        for offset in offsets {
            let Some(lease) = queue.leases.get_mut(&offset) else { continue };
            self.due.remove(&(lease.due, number, offset));
            lease.due = now + std::time::Duration::from_millis(lease.invisible);
            self.due.insert((lease.due, number, offset));
        }
    }

    /// Every lease on record runs from now on, as a whole.
    pub fn begin_all(&mut self, now: Time) {
        for number in 0..self.queues.len() as u64 {
            let offsets: Vec<u64> = self.queue(number).leases.keys().copied().collect();
            self.begin(now, number, offsets.into_iter());
        }
    }

    /// What happens to this lease is on its way: it does not end by itself.
    pub fn ends(&mut self, number: u64, offset: u64, how: Ending) {
        let queue = &mut self.queues[number as usize];
        queue.ending.insert(offset, how);
        if let Some(lease) = queue.leases.get(&offset) {
            self.due.remove(&(lease.due, number, offset));
        }
    }

    /// It could not be put on its way, or is not worth it yet.
    pub fn ends_later(&mut self, number: u64, offset: u64, due: Time) {
        let queue = &mut self.queues[number as usize];
        queue.ending.remove(&offset);
        if let Some(lease) = queue.leases.get_mut(&offset) {
            self.due.remove(&(lease.due, number, offset));
            lease.due = due;
            self.due.insert((due, number, offset));
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// A lease that ended by itself: the caller sees to what becomes of it.
    pub fn take_due(&mut self, now: Time) -> Option<(u64, u64, Lease)> {
        let (at, number, offset) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        let queue = &mut self.queues[number as usize];
        if queue.is_awaited && queue.leases.get(&offset).is_some_and(|lease| lease.in_order) {
            queue.is_awaited = false;
            self.freed.insert(number);
        }
        let lease = queue.leases.get(&offset).expect("what is due is there").clone();
        Some((number, offset, lease))
    }

    /// Queues where somebody who waits may find something now.
    pub fn take_freed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.freed)
    }

    pub fn snapshot(&self) -> Vec<SharedQueue> {
        self.queues.clone()
    }

    pub fn restore(saved: Vec<SharedQueue>) -> Leases {
        let mut leases = Leases::default();
        for mut queue in saved {
            queue.next = queue.popped;
            leases.count += queue.leases.len();
            let number = leases.queues.len() as u64;
            let shards = leases.numbers.entry(queue.group.clone()).or_default();
            shards.insert(queue.shard.clone(), number);
            leases.queues.push(queue);
        }
        for queue in &mut leases.queues {
            queue.leases.values_mut().for_each(|lease| lease.due = Time::MAX);
        }
        leases
    }
}
