//! What the history knows of a machine beyond what clients saw: its lives, the
//! marks of its disk, and, of a broker, how far it says it is.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    mem,
};

use stormglass_core::{
    broker::{Broker, Phase, View},
    ids::{Name, Position, Shard},
};

use crate::{
    clock,
    disk::{DiskEvent, Drive, SimDisk},
    history::{EventKind, GroupId, LaneId, Mark, MessageId, Recorder, ShardId, Stop},
    world::Watch,
};

/// What changes rarely and judges nothing to the microsecond is looked at this
/// often, in microseconds.
const TOPICS_EVERY_US: u64 = 100_000;

/// A new peak of a broker's memory is told if it is so many bytes higher.
const HELD_STEP: u64 = 64 << 10;

/// A broker that is called so often in one instant is called for ever: its
/// deadline has passed, and what it does about it does not move it.
const CALLS_IN_AN_INSTANT: u32 = 100_000;

/// Where the log keeps its segments.
const SEGMENTS: &str = "log/";

/// Writes one machine's part of the history.
pub struct Probe {
    recorder: Recorder,
    lane: LaneId,
    seen: RefCell<Seen>,
}

/// What the history already says of a broker.
#[derive(Default)]
struct Seen {
    /// Of this life.
    log_end: Option<Position>,
    recovered: bool,
    durable: Position,
    applied: Position,
    offsets: Vec<GroupOffset>,
    locks: BTreeMap<(GroupId, ShardId), (Option<LaneId>, u64)>,
    /// Groups whose members want different things.
    disagree: Vec<Name>,
    /// Of all lives.
    written: Position,
    start: Position,
    topics: Vec<(Name, u32)>,
    minima: Vec<(ShardId, u64)>,
    topics_at: u64,
    parkings: (u64, u32),
    parked: BTreeSet<Position>,
    /// Messages that retention took from each group, as the broker counts them.
    losses: BTreeMap<(GroupId, ShardId), u64>,
    /// The most bytes of messages that this life held in memory.
    held: u64,
    /// The instant of the last look, and how many there were in it.
    instant: (u64, u32),
}

struct GroupOffset {
    group_name: Name,
    shard_name: Shard,
    group: GroupId,
    shard: ShardId,
    offset: u64,
}

impl Seen {
    fn note_call(&mut self, now_us: u64) {
        let (instant, calls) = self.instant;
        let calls = if instant == now_us { calls + 1 } else { 0 };
        assert!(calls < CALLS_IN_AN_INSTANT, "the broker wants to be called again and again");
        self.instant = (now_us, calls);
    }
}

impl Probe {
    pub fn new(recorder: Recorder, name: &str) -> Probe {
        let lane = recorder.name(|names| names.lane(name));
        Probe { recorder, lane, seen: RefCell::default() }
    }

    fn push(&self, kind: EventKind) {
        self.recorder.push(self.lane, kind);
    }

    fn mark(&self, mark: Mark) {
        self.push(EventKind::Mark { mark });
    }

    /// Writes down what happened to the machine's disk.
    pub fn disk(&self, drive: &Drive) {
        for event in drive.take_events() {
            match event {
                DiskEvent::SyncFailed => self.mark(Mark::SyncFailed),
                DiskEvent::NoRoom => self.mark(Mark::NoRoom),
                DiskEvent::TornPages(_) => self.mark(Mark::TornPage),
                DiskEvent::Created(name) if name.starts_with(SEGMENTS) => {
                    self.mark(Mark::SegmentRoll);
                }
                DiskEvent::Renamed(name) if name.starts_with(SEGMENTS) => {
                    self.mark(Mark::SegmentRoll);
                    self.mark(Mark::SegmentRecycle);
                }
                DiskEvent::Created(_) | DiskEvent::Renamed(_) => {}
            }
        }
    }

    /// A broker could not open its store, or its store failed.
    pub fn failed(&self, mark: Mark) {
        self.mark(mark);
    }

    fn shard(&self, shard: &Shard) -> ShardId {
        self.recorder.name(|names| {
            let topic = names.topic(&shard.topic);
            names.shard(topic, self.lane, shard.queue)
        })
    }

    fn recovery(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        let log_end = *seen.log_end.get_or_insert(view.written());
        if !matches!(view.phase(), Phase::Starting | Phase::Full | Phase::Serving) {
            return;
        }
        if seen.written > log_end {
            self.mark(Mark::TailCut);
        }
        seen.recovered = true;
        self.topics(seen, view);
        self.offsets(seen, view);
        self.push(EventKind::Recovered { log_end: log_end.0 });
    }

    fn topics(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        seen.topics_at = clock::true_now_us() + TOPICS_EVERY_US;
        let mut topics: Vec<(Name, u32)> = Vec::new();
        for (shard, _) in view.queues() {
            match topics.last_mut() {
                Some((topic, queues)) if *topic == shard.topic => *queues += 1,
                _ => topics.push((shard.topic, 1)),
            }
        }
        for (topic, queues) in &topics {
            if !seen.topics.iter().any(|known| known.0 == *topic && known.1 == *queues) {
                let topic = self.recorder.name(|names| names.topic(topic));
                self.push(EventKind::TopicSized { topic, queues: *queues });
            }
        }
        seen.topics = topics;
    }

    fn expiry(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        seen.start = view.start();
        for (shard, queue) in view.queues() {
            let shard = self.shard(&shard);
            let known = seen.minima.iter_mut().find(|known| known.0 == shard);
            let from = known.as_ref().map_or(0, |known| known.1);
            match known {
                Some(known) => known.1 = queue.min,
                None => seen.minima.push((shard, queue.min)),
            }
            if from < queue.min {
                self.push(EventKind::Expired { shard, from, to: queue.min });
            }
        }
    }

    fn offsets(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        let mut count = 0;
        for (group, shard, offset) in view.offsets() {
            let known = seen.offsets.get(count);
            if !known.is_some_and(|k| k.group_name == *group && k.shard_name == *shard) {
                let id = self.recorder.name(|names| names.group(group));
                // A number that no group commits: the first one is a change.
                let new = GroupOffset {
                    group_name: group.clone(),
                    shard_name: shard.clone(),
                    group: id,
                    shard: self.shard(shard),
                    offset: u64::MAX,
                };
                // Both lists are sorted: what is new stands between its neighbours.
                let is_gone =
                    |known: &GroupOffset| (&known.group_name, &known.shard_name) < (group, shard);
                while seen.offsets.get(count).is_some_and(is_gone) {
                    seen.offsets.remove(count);
                }
                if !seen.offsets.get(count).is_some_and(|k| k.group == id && k.shard == new.shard) {
                    seen.offsets.insert(count, new);
                }
            }
            let known = &mut seen.offsets[count];
            if mem::replace(&mut known.offset, offset) != offset {
                let end = view.queues().find(|(name, _)| name == shard);
                let end = end.map_or(0, |(_, queue)| queue.max);
                let (group, shard) = (known.group, known.shard);
                self.push(EventKind::GroupOffset { group, shard, offset, end });
            }
            count += 1;
        }
        seen.offsets.truncate(count);
    }

    fn locks(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        for (group, shard, owner) in view.locks() {
            let shard = self.shard(shard);
            let (group, holder) = self.recorder.name(|names| {
                (names.group(group), owner.client.as_ref().map(|client| names.lane(client)))
            });
            let epoch = owner.epoch;
            if seen.locks.insert((group, shard), (holder, epoch)) != Some((holder, epoch)) {
                self.push(EventKind::LockHolder { group, shard, holder, epoch });
            }
        }
    }

    fn parkings(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        if mem::replace(&mut seen.parkings, view.parkings()) == view.parkings() {
            return;
        }
        let parked: BTreeSet<Position> = view.parked_halves().collect();
        let before = mem::replace(&mut seen.parked, parked);
        for at in seen.parked.difference(&before) {
            let (position, message) = (at.0, self.half_at(*at));
            self.push(EventKind::HalfParked { position, message });
        }
        for at in before.difference(&seen.parked).filter(|at| view.is_undecided(**at)) {
            let (position, message) = (at.0, self.half_at(*at));
            self.push(EventKind::HalfResumed { position, message });
        }
    }

    fn losses(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        for (group, shard, messages) in view.losses() {
            let shard = self.shard(shard);
            let group = self.recorder.name(|names| names.group(group));
            if seen.losses.insert((group, shard), messages) != Some(messages) {
                self.push(EventKind::GroupLost { group, shard, messages });
            }
        }
    }

    /// The half message there, if anybody was told where it is.
    fn half_at(&self, at: Position) -> Option<MessageId> {
        self.recorder.read(|history| {
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

impl Watch for Probe {
    fn started(&self, life: u32) {
        let seen = &mut *self.seen.borrow_mut();
        *seen = Seen {
            written: seen.written,
            start: seen.start,
            topics: mem::take(&mut seen.topics),
            minima: mem::take(&mut seen.minima),
            parkings: seen.parkings,
            parked: mem::take(&mut seen.parked),
            losses: mem::take(&mut seen.losses),
            ..Seen::default()
        };
        self.push(EventKind::NodeStarted { life });
    }

    fn stopped(&self, why: Stop, drive: &Drive) {
        self.push(EventKind::NodeStopped { why });
        self.disk(drive);
    }

    fn observe(
        &self,
        _life: u32,
        broker: &Broker<SimDisk>,
        unsent: &dyn Fn() -> usize,
        drive: &Drive,
    ) {
        let seen = &mut *self.seen.borrow_mut();
        seen.note_call(clock::true_now_us());
        let view = broker.view();
        self.disk(drive);
        if !seen.recovered {
            self.recovery(seen, &view);
            if !seen.recovered {
                return;
            }
        }
        if mem::replace(&mut seen.durable, view.durable()) != view.durable() {
            self.push(EventKind::Durable { position: view.durable().0 });
        }
        seen.written = view.written();
        if seen.start != view.start() {
            self.expiry(seen, &view);
        }
        if mem::replace(&mut seen.applied, view.applied()) != view.applied() {
            self.offsets(seen, &view);
            self.locks(seen, &view);
            self.parkings(seen, &view);
            self.losses(seen, &view);
        }
        let held = view.unwritten() + unsent() as u64;
        if held > seen.held + HELD_STEP {
            seen.held = held;
            self.push(EventKind::Memory { bytes: held });
        }
        if clock::true_now_us() >= seen.topics_at {
            self.topics(seen, &view);
            let disagree: Vec<Name> =
                view.disagreements().map(|(group, _)| group.clone()).collect();
            if disagree.iter().any(|group| !seen.disagree.contains(group)) {
                self.mark(Mark::SubscriptionConflict);
            }
            seen.disagree = disagree;
        }
    }
}

/// Watches a machine that the history does not mention.
pub struct Unwatched;

impl Watch for Unwatched {
    fn started(&self, _life: u32) {}
    fn stopped(&self, _why: Stop, _drive: &Drive) {}
}
