//! Letting go of the oldest messages: by the log's length, by their age, or not
//! at all. Whole segments go, and how many messages went with them is counted.
//!
//! What a group has not read, or a producer not decided, stays longer. But not
//! for ever: at `retain_at_most` times the limit it is decided, on record, to go
//! on without them, and counted what each group loses by it; or sends are
//! refused until they have caught up (L13).
//!
//! What goes is gone on record first. Files that were removed may be there again
//! after a power loss, and another replica may still have them. And the log keeps
//! what a timer or a pointer will yet show, longer than it is seen by itself.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Broker,
    command::Command,
    propose::Answer,
    state::{QueueKey, RETRY_PREFIX},
};
use crate::{
    error::StoreError,
    ids::{Name, Position, Shard},
    log::Kind,
    message::Peek,
    pointer::Pointer,
    runtime::Disk,
    time::{Now, Time},
};

/// The decision to let go of the oldest messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Everything before it goes.
    pub to: Position,
    /// How many messages each group loses in which queue.
    pub losses: Vec<(Name, Shard, u64)>,
}

/// What groups have lost so far.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct PassedGroups {
    to: Position,
    losses: BTreeMap<Name, BTreeMap<Shard, u64>>,
}

impl PassedGroups {
    pub fn apply(&mut self, passed: &Passed) {
        self.to = self.to.max(passed.to);
        for (group, shard, lost) in &passed.losses {
            let shards = self.losses.entry(group.clone()).or_default();
            *shards.entry(shard.clone()).or_default() += lost;
        }
    }

    /// Everything before it is gone, whether or not it can be read.
    pub fn to(&self) -> Position {
        self.to
    }

    pub fn losses(&self) -> impl Iterator<Item = (&Name, &Shard, u64)> {
        let groups = self.losses.iter();
        groups.flat_map(|(group, shards)| shards.iter().map(move |(at, lost)| (group, at, *lost)))
    }

    pub fn loss(&self, group: &str, shard: &Shard) -> u64 {
        self.losses.get(group).and_then(|shards| shards.get(shard)).copied().unwrap_or(0)
    }
}

/// How often ages are looked at, at most (RocketMQ); for a short retention a
/// quarter of it.
const SCAN: Duration = Duration::from_secs(10);

pub(super) struct Retention {
    next_scan: Option<Time>,
    /// Segments may go once a snapshot no longer needs them for a restart.
    pub waits_for_snapshot: bool,
    /// A decision is on its way.
    is_deciding: bool,
    /// Sends are refused until those who are behind have caught up.
    pub is_full: bool,
}

impl Retention {
    pub fn new(is_limited: bool) -> Retention {
        let next_scan = is_limited.then_some(Time::ZERO);
        Retention { next_scan, waits_for_snapshot: false, is_deciding: false, is_full: false }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.next_scan
    }
}

impl<D: Disk> Broker<D> {
    pub(super) fn scan_retention(&mut self, now: Now) -> Result<(), StoreError> {
        if self.retention.next_scan.is_none_or(|at| at > now.mono) {
            return Ok(());
        }
        let pause = self.config.retain_for.map_or(SCAN, |keep| SCAN.min(keep / 4));
        self.retention.next_scan = Some(now.mono + pause);
        let may = self.is_serving() || self.is_following();
        if may { self.retain(now) } else { Ok(()) }
    }

    /// Drops the segments that nothing asks to keep; those that a restart still
    /// needs wait for the next snapshot, which this asks for.
    pub(super) fn retain(&mut self, now: Now) -> Result<(), StoreError> {
        let start = self.replica.log().start();
        self.retention.waits_for_snapshot = false;
        self.retention.is_full = false;
        let limit = self.beyond_age(now, 1)?.max(self.beyond_length(1));
        let unwanted = self.segment_start(limit);
        if unwanted <= start {
            return Ok(());
        }
        let needed = self.needed()?;
        let mut to = self.segment_start(limit.min(needed));
        if to < unwanted {
            let most = self.config.retain_at_most.max(1);
            let limit = self.beyond_age(now, most)?.max(self.beyond_length(most));
            let too_much = self.segment_start(limit);
            if too_much > to && self.config.retain_or_refuse {
                self.retention.is_full = true;
            } else {
                to = to.max(too_much);
            }
        }
        self.retention.waits_for_snapshot = to > self.snapshot.position.max(start);
        to = self.segment_start(to.min(self.snapshot.position));
        let decided = self.state.passed.to;
        if to <= decided || self.is_following() {
            return self.drop_what_is_gone();
        }
        if self.retention.is_deciding {
            return Ok(());
        }
        let losses = if to > needed { self.losses(to)? } else { Vec::new() };
        if to > needed && losses.is_empty() {
            tracing::warn!(%to, "retention takes messages that nobody has decided");
        }
        let passed = Command::Passed(Passed { to, losses });
        match self.propose_command(passed, Answer::Nothing) {
            Ok(_) => {
                self.retention.is_deciding = true;
                Ok(())
            }
            // Nobody loses by it, and it makes room.
            Err(StoreError::Full) if to <= needed => self.drop_before(self.reach(to)),
            Err(StoreError::Full | StoreError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Of what is gone on record, the log keeps what is still to be shown.
    fn drop_what_is_gone(&mut self) -> Result<(), StoreError> {
        let gone = self.state.passed.to.min(self.snapshot.position);
        let (awaited, shown) = (self.state.timers.low_water(), self.state.roots.shown_from(gone));
        let to = [awaited, shown].into_iter().flatten().fold(gone, Position::min);
        self.drop_before(self.segment_start(to))
    }

    fn drop_before(&mut self, to: Position) -> Result<(), StoreError> {
        if self.replica.expire(to)? > 0 { self.forget_expired() } else { Ok(()) }
    }

    fn forget_expired(&mut self) -> Result<(), StoreError> {
        let (log, disk) = self.replica.parts();
        self.state.expire(disk, log)
    }

    /// It is on record: so be it.
    pub(super) fn groups_passed(&mut self, passed: &Passed) {
        self.retention.is_deciding = false;
        for (group, shard, lost) in &passed.losses {
            tracing::warn!(%group, %shard, lost, "retention takes messages that were not read");
        }
        if let Err(error) = self.forget_expired().and_then(|()| self.drop_what_is_gone()) {
            self.fail(error);
        }
    }

    fn segment_start(&self, at: Position) -> Position {
        self.replica.log().segment_start(at)
    }

    /// How much can go without a record, by which pointers would go as well: whole
    /// segments, and nothing that a timer or a pointer in those that stay shows.
    fn reach(&self, unwanted: Position) -> Position {
        let awaited = self.state.timers.low_water();
        let unwanted = awaited.map_or(unwanted, |awaited| unwanted.min(awaited));
        let log = self.replica.log();
        self.state.roots.reach(unwanted, |at| log.segment_start(at))
    }

    /// Nobody needs what lies before this.
    fn needed(&mut self) -> Result<Position, StoreError> {
        let end = self.replica.log().end();
        let mut needed = self.state.halves.low_water().unwrap_or(end);
        for (_, key, offset) in self.unread() {
            let mut entries = Vec::new();
            let (log, disk) = self.replica.parts();
            self.state.queue_mut(key).index.read(disk, log, offset, 1, &mut entries)?;
            needed = entries.first().map_or(needed, |(_, entry)| needed.min(entry.position));
        }
        Ok(needed)
    }

    /// What each group would lose.
    fn losses(&mut self, to: Position) -> Result<Vec<(Name, Shard, u64)>, StoreError> {
        let mut losses = Vec::new();
        for (group, key, offset) in self.unread() {
            let (log, disk) = self.replica.parts();
            let index = &mut self.state.queue_mut(key).index;
            let kept = index.find_by(disk, log, |_, entry| Ok(entry.position >= to))?;
            let lost = kept.saturating_sub(offset.max(index.min()));
            if lost > 0 {
                losses.push((group, self.state.shard(key), lost));
            }
        }
        Ok(losses)
    }

    /// Which queues each group reads, and from where on it has not. Its own
    /// retries it reads from the beginning, even if it has not begun.
    fn unread(&self) -> Vec<(Name, QueueKey, u64)> {
        let mut unread = Vec::new();
        for (group, shard, offset) in self.state.offsets() {
            if let Some(key) = self.state.find_queue(&shard.topic, shard.queue) {
                unread.push((group.clone(), key, offset));
            }
        }
        for group in self.state.groups() {
            let topic = format!("{RETRY_PREFIX}{}", group.name);
            let Some((number, topic)) = self.state.topic(&topic) else { continue };
            for queue in 0..topic.queues.len() as u32 {
                let key = QueueKey { topic: number, queue };
                if self.state.offset(&group.name, &self.state.shard(key)).is_none() {
                    unread.push((group.name.clone(), key, 0));
                }
            }
        }
        unread
    }

    fn beyond_length(&self, times: u32) -> Position {
        let end = self.replica.log().end();
        let keep = self.config.retain_bytes.map(|keep| keep.saturating_mul(u64::from(times)));
        Position(end.0.saturating_sub(keep.unwrap_or(u64::MAX)))
    }

    /// The start of the first segment with a message that is young enough: all
    /// segments before it are older as a whole.
    fn beyond_age(&mut self, now: Now, times: u32) -> Result<Position, StoreError> {
        let Some(keep) = self.config.retain_for else { return Ok(Position(0)) };
        let keep = keep.saturating_mul(times);
        let oldest = now.wall.saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let starts: Vec<Position> = self.replica.log().segment_starts().skip(1).collect();
        let mut unwanted = Position(0);
        for start in starts {
            match self.first_stored(start)? {
                Some(wall) if wall <= oldest => unwanted = start,
                _ => break,
            }
        }
        Ok(unwanted)
    }

    /// When the first message at or after a segment's start was stored.
    fn first_stored(&mut self, start: Position) -> Result<Option<i64>, StoreError> {
        let mut at = start;
        // Commands come between messages; a long run of them is no reason to
        // read a whole segment.
        for _ in 0..256 {
            let Some(entry) = self.replica.entry_at(at)? else { break };
            if let Some((position, part)) = entry.parts.first() {
                match entry.kind {
                    Kind::Messages | Kind::Held => return Ok(Peek(part).store_wall()),
                    Kind::Pointers => {
                        return Ok(Some(Pointer::decode(part, *position)?.store_wall));
                    }
                    Kind::Command | Kind::Mark | Kind::Configuration => {}
                }
            }
            at = entry.place.end;
        }
        Ok(None)
    }
}
