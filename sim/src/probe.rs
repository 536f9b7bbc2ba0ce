//! What the history knows of a machine beyond what clients saw: its lives, the
//! marks of its disk, and, of a broker, how far it says it is.

mod chain;
mod folded;
mod set;

use std::{cell::RefCell, mem, rc::Rc};

use stormglass_core::{
    broker::{Broker, Phase, View},
    ids::{LogIndex, Position, Shard, Term},
    replication::Role,
};

use self::chain::Followed;
pub use self::set::Set;
use crate::{
    clock,
    disk::{DiskEvent, Drive, SimDisk},
    history::{self, EventKind, LaneId, Mark, Recorder, ShardId, Stop},
    world::Watch,
};

/// A new peak of a broker's memory is told if it is so many bytes higher.
const HELD_STEP: u64 = 64 << 10;

/// A broker that is called so often in one instant is called for ever: its
/// deadline has passed, and what it does about it does not move it.
const CALLS_IN_AN_INSTANT: u32 = 100_000;

/// Where the log keeps its segments.
const SEGMENTS: &str = "log/";

/// A lane of the history that somebody writes.
#[derive(Clone)]
struct Pen {
    recorder: Recorder,
    lane: LaneId,
}

impl Pen {
    fn push(&self, kind: EventKind) {
        self.recorder.push(self.lane, kind);
    }

    fn mark(&self, mark: Mark) {
        self.push(EventKind::Mark { mark });
    }

    fn shard(&self, shard: &Shard) -> ShardId {
        self.recorder.name(|names| {
            let topic = names.topic(&shard.topic);
            names.shard(topic, self.lane, shard.queue)
        })
    }
}

/// Writes one machine's part of the history.
pub struct Probe {
    pen: Pen,
    /// The replica set of a broker.
    set: Option<Rc<Set>>,
    seen: RefCell<Seen>,
}

/// What the history already says of a broker.
#[derive(Default)]
struct Seen {
    /// Of this life. Of one of several: where its log ended when it last did not
    /// lead.
    log_end: Option<Position>,
    recovered: bool,
    durable: Option<Position>,
    role: Option<(Term, history::Role)>,
    committed: LogIndex,
    followed: Option<Followed>,
    is_distrusted: bool,
    /// Messages that this life served while another replica led.
    served_following: u64,
    /// The most bytes of messages that this life held in memory.
    held: u64,
    /// The instant of the last look, and how many there were in it.
    instant: (u64, u32),
    /// Of all lives.
    written: Position,
    told: LogIndex,
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
        Probe { pen: Pen { recorder, lane }, set: None, seen: RefCell::default() }
    }

    pub fn of_broker(recorder: Recorder, name: &str, set: Rc<Set>) -> Probe {
        Probe { set: Some(set), ..Probe::new(recorder, name) }
    }

    /// Writes down what happened to the machine's disk.
    pub fn disk(&self, drive: &Drive) {
        for event in drive.take_events() {
            match event {
                DiskEvent::SyncFailed => self.pen.mark(Mark::SyncFailed),
                DiskEvent::NoRoom => self.pen.mark(Mark::NoRoom),
                DiskEvent::TornPages(_) => self.pen.mark(Mark::TornPage),
                DiskEvent::Created(name) if name.starts_with(SEGMENTS) => {
                    self.pen.mark(Mark::SegmentRoll);
                }
                DiskEvent::Renamed(name) if name.starts_with(SEGMENTS) => {
                    self.pen.mark(Mark::SegmentRoll);
                    self.pen.mark(Mark::SegmentRecycle);
                }
                DiskEvent::Created(_) | DiskEvent::Renamed(_) => {}
            }
        }
    }

    /// A broker could not open its store, or its store failed.
    pub fn failed(&self, mark: Mark) {
        self.pen.mark(mark);
    }

    /// A broker without replicas has recovered when it begins to serve.
    fn alone(&self, seen: &mut Seen, set: &Set, view: &View<'_, SimDisk>) {
        let folded = &mut *set.folded.borrow_mut();
        if !seen.recovered {
            let log_end = *seen.log_end.get_or_insert(view.written());
            if !matches!(view.phase(), Phase::Starting | Phase::Full | Phase::Serving) {
                return;
            }
            if seen.written > log_end {
                self.pen.mark(Mark::TailCut);
            }
            seen.recovered = true;
            folded.recovered(view, log_end);
        }
        self.durable(seen, view);
        seen.written = view.written();
        folded.observe(view);
        folded.glance(view);
    }

    /// One of several tells all along what it has; what it has made of it counts
    /// while it leads.
    fn replica(&self, seen: &mut Seen, set: &Set, view: &View<'_, SimDisk>, drive: &Drive) {
        let Some((role, term, committed)) = view.membership() else { return };
        if !mem::replace(&mut seen.recovered, true) {
            self.pen.push(EventKind::Recovered { log_end: view.written().0 });
        }
        if view.start() > seen.written {
            self.pen.mark(Mark::SnapshotInstalled);
        } else if view.written() < seen.written {
            self.pen.mark(Mark::TailCut);
        }
        seen.written = view.written();
        if !view.log().is_distrusted() && mem::replace(&mut seen.is_distrusted, false) {
            self.pen.mark(Mark::Repaired);
        } else if view.log().is_distrusted() && !mem::replace(&mut seen.is_distrusted, true) {
            self.pen.mark(Mark::Distrusted);
        }
        let served = view.counters().served_following;
        if mem::replace(&mut seen.served_following, served) < served {
            self.pen.mark(Mark::FollowerRead);
        }
        set.is_decided_by(view);
        let leads = self.leads(seen, role, term);
        if !leads {
            seen.log_end = Some(view.written());
        }
        self.durable(seen, view);
        let disk = &mut drive.look_into();
        for link in set.chain.borrow_mut().follow(&mut seen.followed, view, committed, disk) {
            // What an earlier life has told is vouched for by the newest link.
            let is_news = link.index == committed || seen.told < link.index;
            if seen.committed < link.index && is_news {
                (seen.committed, seen.told) = (link.index, seen.told.max(link.index));
                let (index, end, digest) = (link.index.0, link.end.0, link.digest);
                self.pen.push(EventKind::Committed { index, end, digest });
            }
        }
        match view.phase() {
            Phase::Starting | Phase::Full | Phase::Serving | Phase::Stopping if leads => {
                let log_end = seen.log_end.unwrap_or(view.written());
                set.is_served_by(self.pen.lane, term, view, log_end);
            }
            _ => set.is_not_served_by(self.pen.lane),
        }
    }

    /// Whether it leads; tells what it is, if that is new.
    fn leads(&self, seen: &mut Seen, role: Role, term: Term) -> bool {
        let role = match role {
            Role::Leader => history::Role::Leader,
            Role::Candidate => history::Role::Candidate,
            Role::Follower(_) => history::Role::Follower,
        };
        if seen.role.replace((term, role)) != Some((term, role)) {
            self.pen.push(EventKind::Role { term: term.0, role });
        }
        role == history::Role::Leader
    }

    fn durable(&self, seen: &mut Seen, view: &View<'_, SimDisk>) {
        if seen.durable.replace(view.durable()) != Some(view.durable()) {
            self.pen.push(EventKind::Durable { position: view.durable().0 });
        }
    }

    fn memory(&self, seen: &mut Seen, held: u64) {
        if held > seen.held + HELD_STEP {
            seen.held = held;
            self.pen.push(EventKind::Memory { bytes: held });
        }
    }
}

impl Watch for Probe {
    fn started(&self, life: u32) {
        let seen = &mut *self.seen.borrow_mut();
        *seen = Seen { written: seen.written, told: seen.told, ..Seen::default() };
        if let Some(alone) = self.set.as_ref().filter(|set| set.is_alone()) {
            alone.folded.borrow_mut().begin_life();
        }
        self.pen.push(EventKind::NodeStarted { life });
    }

    fn stopped(&self, why: Stop, drive: &Drive) {
        self.pen.push(EventKind::NodeStopped { why });
        self.disk(drive);
        if let Some(set) = &self.set {
            set.is_not_served_by(self.pen.lane);
        }
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
        self.disk(drive);
        let view = broker.view();
        match &self.set {
            Some(set) if set.is_alone() => self.alone(seen, set, &view),
            Some(set) => self.replica(seen, set, &view, drive),
            None => return,
        }
        self.memory(seen, view.unwritten() + unsent() as u64);
    }
}

/// Watches a machine that the history does not mention.
pub struct Unwatched;

impl Watch for Unwatched {
    fn started(&self, _life: u32) {}
    fn stopped(&self, _why: Stop, _drive: &Drive) {}
}
