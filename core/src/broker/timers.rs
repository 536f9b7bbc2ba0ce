//! What is due when. The index knows of each delayed message, retry and the
//! like only when it is due and where the record lies that deferred it: a few
//! bytes, so that millions of them wait in little memory. Everything else is
//! read from the log once they are due.
//!
//! Time is cut into buckets of about a minute, and those whose time comes into
//! buckets of about a second. A bucket is packed, in the order of the log, until
//! it is asked for what is due; then it is opened, in the order of time. So a
//! million timers of one minute are never sorted at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    error::Corrupt,
    ids::Position,
    pointer::{Appearance, Settles},
};

/// Buckets' lengths: what so many bits of milliseconds hold, 16 at most.
const FAR: u32 = 16;
const NEAR: u32 = 10;

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
#[derive(Debug)]
pub struct Timers {
    near: Calendar,
    far: Calendar,
    /// The number of the first far bucket that was not cut into near ones.
    near_until: i64,
    len: usize,
    /// Messages that were taken back in time.
    pub recalled: u64,
    /// Timers whose messages were not there any more.
    pub lost: u64,
}

impl Default for Timers {
    fn default() -> Timers {
        let near = Calendar { bits: NEAR, buckets: BTreeMap::new() };
        let far = Calendar { bits: FAR, buckets: BTreeMap::new() };
        Timers { near, far, near_until: i64::MIN, len: 0, recalled: 0, lost: 0 }
    }
}

/// Buckets of one length, by their numbers.
#[derive(Debug)]
struct Calendar {
    bits: u32,
    buckets: BTreeMap<i64, Bucket>,
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
        let is_new = self.calendar_mut(timer.due_wall).insert(timer, needs.min(timer.at));
        self.len += usize::from(is_new);
    }

    /// Removes a timer; false if it is not there.
    pub fn remove(&mut self, timer: Timer) -> bool {
        let was_there = self.calendar_mut(timer.due_wall).remove(timer);
        self.len -= usize::from(was_there);
        was_there
    }

    pub fn recall(&mut self, timer: Timer) {
        self.recalled += u64::from(self.remove(timer));
    }

    pub fn lose(&mut self, timer: Timer) {
        self.lost += u64::from(self.remove(timer));
    }

    pub fn contains(&self, timer: Timer) -> bool {
        self.calendar(timer.due_wall).contains(timer)
    }

    /// The first `limit` timers that are due and wanted, earliest first. Opens
    /// no more buckets than that takes.
    pub fn due(
        &mut self,
        now_wall: i64,
        limit: usize,
        mut is_wanted: impl FnMut(Timer) -> bool,
    ) -> Vec<Timer> {
        self.come_near(now_wall);
        let mut due = Vec::new();
        let last = self.near.place(now_wall).0;
        for (number, bucket) in self.near.buckets.range_mut(..=last) {
            for (within, at) in bucket.open().iter() {
                let timer = Timer { due_wall: wall(*number, NEAR, *within), at: *at };
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
        self.calendars().into_iter().find_map(|calendar| calendar.next_due(&mut is_wanted))
    }

    /// No timer needs what lies before this position of the log.
    pub fn low_water(&self) -> Option<Position> {
        let buckets = self.calendars().into_iter().flat_map(|calendar| calendar.buckets.values());
        buckets.map(|bucket| bucket.low).min()
    }

    /// Forgets the timers whose records are not in the log (L22): they would
    /// never fire, and never be over. Returns how many that were.
    pub fn clamp(&mut self, start: Position, end: Position) -> usize {
        let lost = self.near.clamp(start, end) + self.far.clamp(start, end);
        self.len -= lost;
        self.lost += lost as u64;
        lost
    }

    /// Cuts the far buckets whose time has come into near ones.
    fn come_near(&mut self, now_wall: i64) {
        let until = self.far.place(now_wall).0.saturating_add(1);
        if until <= self.near_until {
            return;
        }
        self.near_until = until;
        let later = self.far.buckets.split_off(&until);
        for (number, bucket) in std::mem::replace(&mut self.far.buckets, later) {
            let mut put = |within: u16, at: Position| {
                let timer = Timer { due_wall: wall(number, FAR, within), at };
                self.near.insert(timer, bucket.low);
            };
            match &bucket.form {
                Form::Packed(packed) => packed.iter().for_each(|(within, at)| put(within, at)),
                Form::Open(timers) => timers.iter().for_each(|(within, at)| put(*within, *at)),
            }
        }
    }

    /// In the order of time.
    fn calendars(&self) -> [&Calendar; 2] {
        [&self.near, &self.far]
    }

    fn calendar(&self, due_wall: i64) -> &Calendar {
        if self.far.place(due_wall).0 < self.near_until { &self.near } else { &self.far }
    }

    fn calendar_mut(&mut self, due_wall: i64) -> &mut Calendar {
        if self.far.place(due_wall).0 < self.near_until { &mut self.near } else { &mut self.far }
    }

    /// Bytes of memory that the timers take, as far as they can be known.
    pub fn footprint(&self) -> usize {
        self.calendars().into_iter().map(Calendar::footprint).sum()
    }

    pub fn snapshot(&self) -> Snapshot {
        let [near, far] = self.calendars().map(Calendar::snapshot);
        let Timers { near_until, recalled, lost, .. } = *self;
        Snapshot { near, far, near_until, recalled, lost }
    }

    /// Checks everything, so that nothing later has to.
    pub fn restore(snapshot: Snapshot) -> Result<Timers, Corrupt> {
        let Snapshot { near, far, near_until, recalled, lost } = snapshot;
        let mut timers = Timers { near_until, recalled, lost, ..Timers::default() };
        timers.len = timers.near.restore(near)? + timers.far.restore(far)?;
        Ok(timers)
    }
}

impl Calendar {
    /// The bucket of a time, and how far into it.
    fn place(&self, due_wall: i64) -> (i64, u16) {
        (due_wall >> self.bits, (due_wall & ((1 << self.bits) - 1)) as u16)
    }

    /// False if it is there already.
    fn insert(&mut self, timer: Timer, low: Position) -> bool {
        let (number, within) = self.place(timer.due_wall);
        let empty = || Bucket { low, form: Form::Packed(Packed::default()) };
        let bucket = self.buckets.entry(number).or_insert_with(empty);
        bucket.low = bucket.low.min(low);
        match &mut bucket.form {
            // Logs are applied forwards; only a packed bucket relies on it.
            Form::Packed(packed) if timer.at > packed.last => {
                packed.push(within, timer.at);
                true
            }
            _ => bucket.open().insert((within, timer.at)),
        }
    }

    fn remove(&mut self, timer: Timer) -> bool {
        let (number, within) = self.place(timer.due_wall);
        let Some(bucket) = self.buckets.get_mut(&number) else { return false };
        let timers = bucket.open();
        let was_there = timers.remove(&(within, timer.at));
        if timers.is_empty() {
            self.buckets.remove(&number);
        }
        was_there
    }

    fn contains(&self, timer: Timer) -> bool {
        let (number, within) = self.place(timer.due_wall);
        self.buckets.get(&number).is_some_and(|bucket| match &bucket.form {
            Form::Packed(packed) => packed.iter().any(|found| found == (within, timer.at)),
            Form::Open(timers) => timers.contains(&(within, timer.at)),
        })
    }

    fn next_due(&self, mut is_wanted: impl FnMut(Timer) -> bool) -> Option<i64> {
        self.buckets.iter().find_map(|(number, bucket)| match &bucket.form {
            Form::Packed(_) => Some(wall(*number, self.bits, 0)),
            Form::Open(timers) => timers.iter().find_map(|(within, at)| {
                let timer = Timer { due_wall: wall(*number, self.bits, *within), at: *at };
                is_wanted(timer).then_some(timer.due_wall)
            }),
        })
    }

    fn clamp(&mut self, start: Position, end: Position) -> usize {
        let mut lost = 0;
        self.buckets.retain(|_, bucket| {
            let is_inside = |at: Position| start <= at && at < end;
            let all = match &bucket.form {
                Form::Packed(packed) => is_inside(bucket.low) && is_inside(packed.last),
                Form::Open(timers) => timers.iter().all(|(_, at)| is_inside(*at)),
            };
            if !all {
                let timers = bucket.open();
                let found = timers.len();
                timers.retain(|(_, at)| is_inside(*at));
                lost += found - timers.len();
                bucket.low = bucket.low.max(start);
            }
            all || !bucket.open().is_empty()
        });
        lost
    }

    fn footprint(&self) -> usize {
        // A B-tree's nodes are two thirds full on average.
        let node = |entry: usize| entry * 3 / 2;
        let held = self.buckets.values().map(|bucket| match &bucket.form {
            Form::Packed(packed) => packed.bytes.capacity(),
            Form::Open(timers) => timers.len() * node(size_of::<(u16, Position)>()),
        });
        held.sum::<usize>() + self.buckets.len() * node(size_of::<(i64, Bucket)>())
    }

    fn snapshot(&self) -> SavedBuckets {
        let packed = |(number, bucket): (&i64, &Bucket)| {
            let packed = match &bucket.form {
                Form::Packed(packed) => packed.clone(),
                Form::Open(timers) => Packed::from_open(timers),
            };
            (*number, bucket.low, Raw(packed.bytes))
        };
        self.buckets.iter().map(packed).collect()
    }

    /// Returns how many timers there are.
    fn restore(&mut self, saved: SavedBuckets) -> Result<usize, Corrupt> {
        let mut count = 0;
        for (number, low, Raw(bytes)) in saved {
            let corrupt = || Corrupt {
                file: "snapshot".into(),
                position: None,
                what: format!("the timers of bucket {number} make no sense"),
            };
            let mut packed = Packed { bytes, last: Position(0) };
            let mut iter = packed.iter();
            let mut last = Position(0);
            for (within, at) in iter.by_ref() {
                if at <= last || u32::from(within) >= 1 << self.bits {
                    return Err(corrupt());
                }
                last = at;
                count += 1;
            }
            if !iter.rest.is_empty() || last == Position(0) {
                return Err(corrupt());
            }
            packed.last = last;
            self.buckets.insert(number, Bucket { low, form: Form::Packed(packed) });
        }
        Ok(count)
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

fn wall(number: i64, bits: u32, within: u16) -> i64 {
    number << bits | i64::from(within)
}

type SavedBuckets = Vec<(i64, Position, Raw)>;

/// The timers within a snapshot of the state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    near: SavedBuckets,
    far: SavedBuckets,
    near_until: i64,
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
