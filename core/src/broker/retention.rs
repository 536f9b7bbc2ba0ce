//! Letting go of the oldest messages: by the log's length, by their age, or not
//! at all. Whole segments go, and how many messages went with them is counted.

use std::time::Duration;

use super::{Broker, Phase};
use crate::{
    error::StoreError,
    ids::Position,
    log::Kind,
    message::Peek,
    pointer::Pointer,
    runtime::Disk,
    time::{Now, Time},
};

/// How often ages are looked at, at most (RocketMQ); for a short retention a
/// quarter of it.
const SCAN: Duration = Duration::from_secs(10);

pub(super) struct Retention {
    next_scan: Option<Time>,
    /// Segments may go once a snapshot no longer needs them for a restart.
    pub waits_for_snapshot: bool,
}

impl Retention {
    pub fn new(is_limited: bool) -> Retention {
        Retention { next_scan: is_limited.then_some(Time::ZERO), waits_for_snapshot: false }
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
        if self.phase == Phase::Serving { self.retain(now) } else { Ok(()) }
    }

    /// Drops the segments that nothing asks to keep; those that a restart still
    /// needs wait for the next snapshot, which this asks for.
    pub(super) fn retain(&mut self, now: Now) -> Result<(), StoreError> {
        let unwanted = self.beyond_length().max(self.beyond_age(now)?);
        // A delay may be longer than the retention: what it will show is kept.
        let awaited = self.state.timers.low_water();
        let unwanted = awaited.map_or(unwanted, |awaited| unwanted.min(awaited));
        let log = self.replica.log();
        let unwanted = self.state.roots.reach(unwanted, |at| log.segment_start(at));
        let start = log.start();
        self.retention.waits_for_snapshot = unwanted > self.snapshot.position.max(start);
        if self.replica.expire(unwanted.min(self.snapshot.position))? > 0 {
            let (log, disk) = self.replica.parts();
            let start = log.start();
            self.state.expire(disk, start)?;
        }
        Ok(())
    }

    fn beyond_length(&self) -> Position {
        let end = self.replica.log().end();
        let keep = self.config.retain_bytes.unwrap_or(u64::MAX);
        Position(end.0.saturating_sub(keep))
    }

    /// The start of the first segment with a message that is young enough: all
    /// segments before it are older as a whole.
    fn beyond_age(&mut self, now: Now) -> Result<Position, StoreError> {
        let Some(keep) = self.config.retain_for else { return Ok(Position(0)) };
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
                    Kind::Command | Kind::Mark => {}
                }
            }
            at = entry.place.end;
        }
        Ok(None)
    }
}
