//! What a broker folds from its log, as far as the history tells it: topics,
//! offsets, locks, halves, and what retention took.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use stormglass_core::{
    broker::View,
    ids::{Name, Position, Shard},
};

use super::Pen;
use crate::{
    clock,
    disk::SimDisk,
    history::{EventKind, GroupId, LaneId, Mark, MessageId, ShardId},
};

/// What changes rarely and judges nothing to the microsecond is looked at this
/// often, in microseconds.
const TOPICS_EVERY_US: u64 = 100_000;

/// What the history already says of the folded state of a broker, or of the
/// replica of a set that leads.
pub(super) struct Folded {
    pen: Pen,
    /// Of this life.
    applied: Position,
    offsets: Vec<GroupOffset>,
    locks: BTreeMap<(GroupId, ShardId), (Option<LaneId>, u64)>,
    /// Groups whose members want different things.
    disagree: Vec<Name>,
    /// Of all lives.
    start: Position,
    topics: Vec<(Name, u32)>,
    topics_at: u64,
    minima: Vec<(ShardId, u64)>,
    parkings: (u64, u32),
    parked: BTreeSet<Position>,
    /// Messages that retention took from each group, as the broker counts them.
    losses: BTreeMap<(GroupId, ShardId), u64>,
}

struct GroupOffset {
    group_name: Name,
    shard_name: Shard,
    group: GroupId,
    shard: ShardId,
    offset: u64,
}

impl Folded {
    pub fn new(pen: Pen) -> Folded {
        Folded {
            pen,
            applied: Position::default(),
            offsets: Vec::new(),
            locks: BTreeMap::new(),
            disagree: Vec::new(),
            start: Position::default(),
            topics: Vec::new(),
            topics_at: 0,
            minima: Vec::new(),
            parkings: (0, 0),
            parked: BTreeSet::new(),
            losses: BTreeMap::new(),
        }
    }

    /// Somebody folds it anew: offsets and locks are told again.
    pub fn begin_life(&mut self) {
        self.applied = Position::default();
        self.offsets.clear();
        self.locks.clear();
        self.disagree.clear();
        self.topics_at = 0;
    }

    /// What a broker that begins to serve found in its log.
    pub fn recovered(&mut self, view: &View<'_, SimDisk>, log_end: Position) {
        self.topics(view);
        self.offsets(view);
        self.pen.push(EventKind::Recovered { log_end: log_end.0 });
    }

    /// Tells what has changed.
    pub fn observe(&mut self, view: &View<'_, SimDisk>) {
        if self.start != view.start() {
            self.expiry(view);
        }
        if mem::replace(&mut self.applied, view.applied()) != view.applied() {
            self.offsets(view);
            self.locks(view);
            self.parkings(view);
            self.losses(view);
        }
    }

    /// What is looked at now and then.
    pub fn glance(&mut self, view: &View<'_, SimDisk>) {
        if clock::true_now_us() < self.topics_at {
            return;
        }
        self.topics(view);
        let disagree: Vec<Name> = view.disagreements().map(|(group, _)| group.clone()).collect();
        if disagree.iter().any(|group| !self.disagree.contains(group)) {
            self.pen.mark(Mark::SubscriptionConflict);
        }
        self.disagree = disagree;
    }

    fn topics(&mut self, view: &View<'_, SimDisk>) {
        self.topics_at = clock::true_now_us() + TOPICS_EVERY_US;
        let mut topics: Vec<(Name, u32)> = Vec::new();
        for (shard, _) in view.queues() {
            match topics.last_mut() {
                Some((topic, queues)) if *topic == shard.topic => *queues += 1,
                _ => topics.push((shard.topic, 1)),
            }
        }
        for (topic, queues) in &topics {
            if !self.topics.iter().any(|known| known.0 == *topic && known.1 == *queues) {
                let topic = self.pen.recorder.name(|names| names.topic(topic));
                self.pen.push(EventKind::TopicSized { topic, queues: *queues });
            }
        }
        self.topics = topics;
    }

    fn expiry(&mut self, view: &View<'_, SimDisk>) {
        self.start = view.start();
        for (shard, queue) in view.queues() {
            let shard = self.pen.shard(&shard);
            let known = self.minima.iter_mut().find(|known| known.0 == shard);
            let from = known.as_ref().map_or(0, |known| known.1);
            match known {
                Some(known) => known.1 = queue.min,
                None => self.minima.push((shard, queue.min)),
            }
            if from < queue.min {
                self.pen.push(EventKind::Expired { shard, from, to: queue.min });
            }
        }
    }

    fn offsets(&mut self, view: &View<'_, SimDisk>) {
        let mut count = 0;
        for (group, shard, offset) in view.offsets() {
            let known = self.offsets.get(count);
            if !known.is_some_and(|k| k.group_name == *group && k.shard_name == *shard) {
                let id = self.pen.recorder.name(|names| names.group(group));
                // A number that no group commits: the first one is a change.
                let new = GroupOffset {
                    group_name: group.clone(),
                    shard_name: shard.clone(),
                    group: id,
                    shard: self.pen.shard(shard),
                    offset: u64::MAX,
                };
                // Both lists are sorted: what is new stands between its neighbours.
                let is_gone =
                    |known: &GroupOffset| (&known.group_name, &known.shard_name) < (group, shard);
                while self.offsets.get(count).is_some_and(is_gone) {
                    self.offsets.remove(count);
                }
                if !self.offsets.get(count).is_some_and(|k| k.group == id && k.shard == new.shard) {
                    self.offsets.insert(count, new);
                }
            }
            let known = &mut self.offsets[count];
            if mem::replace(&mut known.offset, offset) != offset {
                let end = view.queues().find(|(name, _)| name == shard);
                let end = end.map_or(0, |(_, queue)| queue.max);
                let (group, shard) = (known.group, known.shard);
                self.pen.push(EventKind::GroupOffset { group, shard, offset, end });
            }
            count += 1;
        }
        self.offsets.truncate(count);
    }

    fn locks(&mut self, view: &View<'_, SimDisk>) {
        for (group, shard, owner) in view.locks() {
            let shard = self.pen.shard(shard);
            let (group, holder) = self.pen.recorder.name(|names| {
                (names.group(group), owner.client.as_ref().map(|client| names.lane(client)))
            });
            let epoch = owner.epoch;
            if self.locks.insert((group, shard), (holder, epoch)) != Some((holder, epoch)) {
                self.pen.push(EventKind::LockHolder { group, shard, holder, epoch });
            }
        }
    }

    fn parkings(&mut self, view: &View<'_, SimDisk>) {
        if mem::replace(&mut self.parkings, view.parkings()) == view.parkings() {
            return;
        }
        let parked: BTreeSet<Position> = view.parked_halves().collect();
        let before = mem::replace(&mut self.parked, parked);
        for at in self.parked.difference(&before) {
            let (position, message) = (at.0, self.half_at(*at));
            self.pen.push(EventKind::HalfParked { position, message });
        }
        for at in before.difference(&self.parked).filter(|at| view.is_undecided(**at)) {
            let (position, message) = (at.0, self.half_at(*at));
            self.pen.push(EventKind::HalfResumed { position, message });
        }
    }

    fn losses(&mut self, view: &View<'_, SimDisk>) {
        for (group, shard, messages) in view.losses() {
            let shard = self.pen.shard(shard);
            let group = self.pen.recorder.name(|names| names.group(group));
            if self.losses.insert((group, shard), messages) != Some(messages) {
                self.pen.push(EventKind::GroupLost { group, shard, messages });
            }
        }
    }

    /// The half message there, if anybody was told where it is.
    fn half_at(&self, at: Position) -> Option<MessageId> {
        self.pen.recorder.read(|history| {
            history.events.iter().rev().find_map(|event| match event.kind {
                EventKind::CheckReceived { message, position: Some(position), .. }
                    if position == at.0 =>
                {
                    message
                }
                _ => None,
            })
        })
    }
}
