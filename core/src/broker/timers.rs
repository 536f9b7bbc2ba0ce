//! What is due when. The index knows of each delayed message, retry and the
//! like only when it is due and where the record lies that deferred it: a few
//! bytes, so that millions of them wait in little memory. Everything else is
//! read from the log once they are due.
//!
//! Time is cut into buckets of about a minute. A bucket is packed, in the order
//! of the log, until its time comes; then it is opened, in the order of time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    error::Corrupt,
    ids::Position,
    pointer::{Appearance, Settles},
};

/// A bucket's length: what 16 bits of milliseconds hold.
const BUCKET_BITS: u32 = 16;

/// Something deferred: a retry, a dead letter, a committed half message that
/// has a delay. The record that it will show was written before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deferred {
    /// Milliseconds since the epoch on the broker's clock.
    pub due_wall: i64,
    pub shows: Appearance,
    /// What is over as soon as it is deferred; if that is over already, nothing
    /// is deferred a second time.
    pub settles: Settles,
}

/// What the log says about timers, beside the records that carry their own
/// delay and the pointers that end one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Deferred(Deferred),
    /// The sender took a delayed message back before it was due.
    Recalled(Timer),
    /// What it should have shown is no longer in the log.
    Lost(Timer),
}

/// One timer: when it is due, and where the record lies that says what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timer {
    /// Milliseconds since the epoch on the broker's clock.
    pub due_wall: i64,
    pub at: Position,
}

/// All timers that have neither fired nor been recalled.
#[derive(Debug, Default)]
pub struct Timers {
    buckets: BTreeMap<i64, Bucket>,
    len: usize,
    /// Messages that were taken back in time.
    pub recalled: u64,
    /// Timers whose messages were not there any more.
    pub lost: u64,
}

#[derive(Debug)]
struct Bucket {
    /// The lowest position that one of its timers needs, or needed.
    low: Position,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Packed(Packed),
    /// Milliseconds into the bucket, and the record's place.
    Open(BTreeSet<(u16, Position)>),
}

/// For each timer, in the order of their records: milliseconds into the bucket
/// (two bytes), then how far its record lies behind the one before (one to ten).
#[derive(Clone, Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    last: Position,
}

impl Timers {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a timer. `needs` is the lowest position of the log that firing it
    /// takes: the record's own, or that of the record which it shows.
    pub fn insert(&mut self, timer: Timer, needs: Position) {
        let (number, within) = place(timer.due_wall);
        let empty = || Bucket { low: needs, form: Form::Packed(Packed::default()) };
        let bucket = self.buckets.entry(number).or_insert_with(empty);
        bucket.low = bucket.low.min(needs).min(timer.at);
        let is_new = match &mut bucket.form {
            // Logs are applied forwards; only a packed bucket relies on it.
            Form::Packed(packed) if timer.at > packed.last => {
                packed.push(within, timer.at);
                true
            }
            _ => bucket.open().insert((within, timer.at)),
        };
        self.len += usize::from(is_new);
    }

    /// Removes a timer; false if it is not there.
    pub fn remove(&mut self, timer: Timer) -> bool {
        let (number, within) = place(timer.due_wall);
        let Some(bucket) = self.buckets.get_mut(&number) else { return false };
        let timers = bucket.open();
        if !timers.remove(&(within, timer.at)) {
            return false;
        }
        if timers.is_empty() {
            self.buckets.remove(&number);
        }
        self.len -= 1;
        true
    }

    pub fn recall(&mut self, timer: Timer) {
        self.recalled += u64::from(self.remove(timer));
    }

    pub fn lose(&mut self, timer: Timer) {
        self.lost += u64::from(self.remove(timer));
    }

    pub fn contains(&self, timer: Timer) -> bool {
        let (number, within) = place(timer.due_wall);
        self.buckets.get(&number).is_some_and(|bucket| match &bucket.form {
            Form::Packed(packed) => packed.iter().any(|found| found == (within, timer.at)),
            Form::Open(timers) => timers.contains(&(within, timer.at)),
        })
    }

    /// The first `limit` timers that are due and wanted, earliest first. Opens
    /// no more buckets than that takes.
    pub fn due(
        &mut self,
        now_wall: i64,
        limit: usize,
        mut is_wanted: impl FnMut(Timer) -> bool,
    ) -> Vec<Timer> {
        let mut due = Vec::new();
        for (number, bucket) in self.buckets.range_mut(..=place(now_wall).0) {
            for (within, at) in bucket.open().iter() {
                let timer = Timer { due_wall: wall(*number, *within), at: *at };
                if timer.due_wall > now_wall || due.len() == limit {
                    return due;
                }
                if is_wanted(timer) {
                    due.push(timer);
                }
            }
        }
        due
    }

    /// When [`due`](Self::due) should be asked again: no wanted timer is due
    /// before this.
    pub fn next_due(&self, mut is_wanted: impl FnMut(Timer) -> bool) -> Option<i64> {
        self.buckets.iter().find_map(|(number, bucket)| match &bucket.form {
            Form::Packed(_) => Some(wall(*number, 0)),
            Form::Open(timers) => timers.iter().find_map(|(within, at)| {
                let timer = Timer { due_wall: wall(*number, *within), at: *at };
                is_wanted(timer).then_some(timer.due_wall)
            }),
        })
    }

    /// No timer needs what lies before this position of the log.
    pub fn low_water(&self) -> Option<Position> {
        self.buckets.values().map(|bucket| bucket.low).min()
    }

    /// Forgets the timers whose records are not in the log (L22): they would
    /// never fire, and never be over. Returns how many that were.
    pub fn clamp(&mut self, start: Position, end: Position) -> usize {
        let before = self.len;
        self.buckets.retain(|_, bucket| {
            let is_inside = |at: Position| start <= at && at < end;
            let all = match &bucket.form {
                Form::Packed(packed) => is_inside(bucket.low) && is_inside(packed.last),
                Form::Open(timers) => timers.iter().all(|(_, at)| is_inside(*at)),
            };
            if all {
                return true;
            }
            let timers = bucket.open();
            let found = timers.len();
            timers.retain(|(_, at)| is_inside(*at));
            bucket.low = bucket.low.max(start);
            self.len -= found - bucket.open().len();
            !bucket.open().is_empty()
        });
        let lost = before - self.len;
        self.lost += lost as u64;
        lost
    }

    /// Bytes of memory that the timers take, as far as they can be known.
    pub fn footprint(&self) -> usize {
        // A B-tree's nodes are two thirds full on average.
        let node = |entry: usize| entry * 3 / 2;
        let held = self.buckets.values().map(|bucket| match &bucket.form {
            Form::Packed(packed) => packed.bytes.capacity(),
            Form::Open(timers) => timers.len() * node(size_of::<(u16, Position)>()),
        });
        held.sum::<usize>() + self.buckets.len() * node(size_of::<(i64, Bucket)>())
    }

    pub fn snapshot(&self) -> Snapshot {
        let packed = |(number, bucket): (&i64, &Bucket)| {
            let packed = match &bucket.form {
                Form::Packed(packed) => packed.clone(),
                Form::Open(timers) => Packed::from_open(timers),
            };
            (*number, bucket.low, Raw(packed.bytes))
        };
        let buckets = self.buckets.iter().map(packed).collect();
        Snapshot { buckets, recalled: self.recalled, lost: self.lost }
    }

    /// Checks everything, so that nothing later has to.
    pub fn restore(snapshot: Snapshot) -> Result<Timers, Corrupt> {
        let Snapshot { recalled, lost, .. } = snapshot;
        let mut timers = Timers { recalled, lost, ..Timers::default() };
        for (number, low, Raw(bytes)) in snapshot.buckets {
            let corrupt = || Corrupt {
                file: "snapshot".into(),
                position: None,
                what: format!("the timers of bucket {number} make no sense"),
            };
            let mut packed = Packed { bytes, last: Position(0) };
            let mut iter = packed.iter();
            let mut last = Position(0);
            for (_, at) in iter.by_ref() {
                if at <= last {
                    return Err(corrupt());
                }
                last = at;
                timers.len += 1;
            }
            if !iter.rest.is_empty() || last == Position(0) {
                return Err(corrupt());
            }
            packed.last = last;
            timers.buckets.insert(number, Bucket { low, form: Form::Packed(packed) });
        }
        Ok(timers)
    }
}

impl Bucket {
    /// Its timers in the order of time.
    fn open(&mut self) -> &mut BTreeSet<(u16, Position)> {
        if let Form::Packed(packed) = &self.form {
            self.form = Form::Open(packed.iter().collect());
        }
        match &mut self.form {
            Form::Open(timers) => timers,
            Form::Packed(_) => unreachable!("it was opened above"),
        }
    }
}

impl Packed {
    fn from_open(timers: &BTreeSet<(u16, Position)>) -> Packed {
        let mut by_position: Vec<_> = timers.iter().copied().collect();
        by_position.sort_unstable_by_key(|(within, at)| (*at, *within));
        let mut packed = Packed::default();
        by_position.into_iter().for_each(|(within, at)| packed.push(within, at));
        packed
    }

    fn push(&mut self, within: u16, at: Position) {
        self.bytes.extend_from_slice(&within.to_le_bytes());
        let mut ahead = at.0 - self.last.0;
        while ahead >= 0x80 {
            self.bytes.push(ahead as u8 | 0x80);
            ahead >>= 7;
        }
        self.bytes.push(ahead as u8);
        self.last = at;
    }

    fn iter(&self) -> Unpacked<'_> {
        Unpacked { rest: &self.bytes, last: Position(0) }
    }
}

/// Stops at the end, or before what cannot be read.
struct Unpacked<'a> {
    rest: &'a [u8],
    last: Position,
}

impl Iterator for Unpacked<'_> {
    type Item = (u16, Position);

    fn next(&mut self) -> Option<(u16, Position)> {
        let (within, rest) = self.rest.split_first_chunk()?;
        let len = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
        let (ahead, rest) = rest.split_at(len);
        let ahead = ahead.iter().rev().fold(0u64, |n, byte| n << 7 | u64::from(byte & 0x7f));
        self.last = Position(self.last.0.checked_add(ahead)?);
        self.rest = rest;
        Some((u16::from_le_bytes(*within), self.last))
    }
}

/// The bucket of a time, and how far into it.
fn place(due_wall: i64) -> (i64, u16) {
    (due_wall >> BUCKET_BITS, due_wall as u16)
}

fn wall(number: i64, within: u16) -> i64 {
    number << BUCKET_BITS | i64::from(within)
}

/// The timers within a snapshot of the state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    buckets: Vec<(i64, Position, Raw)>,
    recalled: u64,
    lost: u64,
}

/// Bytes that are written as such, not one by one.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        let bytes: &[u8] = Deserialize::deserialize(deserializer)?;
        Ok(Raw(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests;
