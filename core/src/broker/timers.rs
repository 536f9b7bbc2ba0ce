//! What is due when. The index knows of each delayed message, retry and the
//! like only when it is due and where the record lies that deferred it: a few
//! bytes, so that millions of them wait in little memory. Everything else is
//! read from the log once they are due.
//!
//! Time is cut into buckets of about a minute, and those whose time comes into
//! buckets of about a second. A bucket is packed, in the order of the log, until
//! it is asked for what is due; then it is opened, in the order of time. Both
//! happens in steps of bounded size, so that a million timers of one second hold
//! nobody up.

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
    /// The number of the first far bucket that was not wholly cut into near ones.
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
    /// Milliseconds into the bucket, and the record's place.
    open: BTreeSet<(u16, Position)>,
    packed: Packed,
}

/// For each timer, in the order of their records: milliseconds into the bucket
/// (two bytes), then how far its record lies behind the one before (one to ten).
#[derive(Clone, Debug, Default)]
struct Packed {
    bytes: Vec<u8>,
    /// How many of the bytes were taken out, and the last position taken.
    taken: (usize, Position),
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
        let was_there = self.near.remove(timer) || self.far.remove(timer);
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
        self.calendars().into_iter().any(|calendar| calendar.contains(timer))
    }

    /// The first `limit` timers that are due and wanted, earliest first. Opens
    /// no more buckets than that takes, and no more timers than `budget`: if there
    /// are more to open, there may be fewer of them this time.
    pub fn due(
        &mut self,
        now_wall: i64,
        limit: usize,
        mut budget: usize,
        mut is_wanted: impl FnMut(Timer) -> bool,
    ) -> Vec<Timer> {
        let mut due = Vec::new();
        if !self.come_near(now_wall, &mut budget) {
            return due;
        }
        let last = self.near.place(now_wall).0;
        for (number, bucket) in self.near.buckets.range_mut(..=last) {
            if !bucket.open(&mut budget) {
                return due;
            }
            for (within, at) in &bucket.open {
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
        self.calendars().into_iter().filter_map(|all| all.next_due(&mut is_wanted)).min()
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

    /// Cuts the far buckets whose time has come into near ones; false if there is
    /// more to cut than the budget allows.
    fn come_near(&mut self, now_wall: i64, budget: &mut usize) -> bool {
        let until = self.far.place(now_wall).0.saturating_add(1);
        while let Some(mut first) = self.far.buckets.first_entry()
            && *first.key() < until
        {
            let (number, bucket) = (*first.key(), first.get_mut());
            let low = bucket.low;
            while !bucket.is_empty() {
                if *budget == 0 {
                    return false;
                }
                *budget -= 1;
                let Some((within, at)) = bucket.take() else { break };
                self.near.insert(Timer { due_wall: wall(number, FAR, within), at }, low);
            }
            first.remove();
        }
        self.near_until = self.near_until.max(until);
        true
    }

    /// In the order of time.
    fn calendars(&self) -> [&Calendar; 2] {
        [&self.near, &self.far]
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
        let bucket = self.buckets.entry(number).or_insert_with(|| Bucket::new(low));
        bucket.low = bucket.low.min(low);
        // Logs are applied forwards; only what is packed relies on it.
        if timer.at > bucket.packed.last {
            bucket.packed.push(within, timer.at);
            return true;
        }
        bucket.open_all();
        bucket.open.insert((within, timer.at))
    }

    fn remove(&mut self, timer: Timer) -> bool {
        let (number, within) = self.place(timer.due_wall);
        let Some(bucket) = self.buckets.get_mut(&number) else { return false };
        let mut was_there = bucket.open.remove(&(within, timer.at));
        if !was_there {
            bucket.open_all();
            was_there = bucket.open.remove(&(within, timer.at));
        }
        if bucket.is_empty() {
            self.buckets.remove(&number);
        }
        was_there
    }

    fn contains(&self, timer: Timer) -> bool {
        let (number, within) = self.place(timer.due_wall);
        self.buckets.get(&number).is_some_and(|bucket| {
            bucket.open.contains(&(within, timer.at)) || bucket.packed.contains(within, timer.at)
        })
    }

    fn next_due(&self, mut is_wanted: impl FnMut(Timer) -> bool) -> Option<i64> {
        self.buckets.iter().find_map(|(number, bucket)| {
            if !bucket.packed.is_empty() {
                return Some(wall(*number, self.bits, 0));
            }
            bucket.open.iter().find_map(|(within, at)| {
                let timer = Timer { due_wall: wall(*number, self.bits, *within), at: *at };
                is_wanted(timer).then_some(timer.due_wall)
            })
        })
    }

    fn clamp(&mut self, start: Position, end: Position) -> usize {
        let mut lost = 0;
        self.buckets.retain(|_, bucket| {
            let is_inside = |at: Position| start <= at && at < end;
            let is_whole = is_inside(bucket.low)
                && (bucket.packed.is_empty() || is_inside(bucket.packed.last))
                && bucket.open.iter().all(|(_, at)| is_inside(*at));
            if !is_whole {
                bucket.open_all();
                let found = bucket.open.len();
                bucket.open.retain(|(_, at)| is_inside(*at));
                lost += found - bucket.open.len();
                bucket.low = bucket.low.max(start);
            }
            !bucket.is_empty()
        });
        lost
    }

    fn footprint(&self) -> usize {
        // A B-tree's nodes are two thirds full on average.
        let node = |entry: usize| entry * 3 / 2;
        let held = self.buckets.values().map(|bucket| {
            bucket.packed.bytes.capacity() + bucket.open.len() * node(size_of::<(u16, Position)>())
        });
        held.sum::<usize>() + self.buckets.len() * node(size_of::<(i64, Bucket)>())
    }

    fn snapshot(&self) -> SavedBuckets {
        let saved = |(number, bucket): (&i64, &Bucket)| (*number, bucket.low, Raw(bucket.bytes()));
        self.buckets.iter().map(saved).collect()
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
            let mut packed = Packed { bytes, ..Packed::default() };
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
            self.buckets.insert(number, Bucket { packed, ..Bucket::new(low) });
        }
        Ok(count)
    }
}

impl Bucket {
    fn new(low: Position) -> Bucket {
        Bucket { low, open: BTreeSet::new(), packed: Packed::default() }
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.packed.is_empty()
    }

    /// Puts its timers in the order of time; false if there are more of them than
    /// the budget allows.
    fn open(&mut self, budget: &mut usize) -> bool {
        while *budget > 0
            && let Some(timer) = self.packed.take()
        {
            self.open.insert(timer);
            *budget -= 1;
        }
        self.packed.is_empty()
    }

    fn open_all(&mut self) {
        self.open.extend(self.packed.iter());
        self.packed.clear();
    }

    /// Takes any timer out.
    fn take(&mut self) -> Option<(u16, Position)> {
        self.packed.take().or_else(|| self.open.pop_first())
    }

    /// All its timers, packed.
    fn bytes(&self) -> Vec<u8> {
        if self.open.is_empty() && self.packed.taken == Default::default() {
            return self.packed.bytes.clone();
        }
        let mut by_position: Vec<_> = self.open.iter().copied().chain(self.packed.iter()).collect();
        by_position.sort_unstable_by_key(|(within, at)| (*at, *within));
        let mut packed = Packed::default();
        by_position.into_iter().for_each(|(within, at)| packed.push(within, at));
        packed.bytes
    }
}

impl Packed {
    fn is_empty(&self) -> bool {
        self.taken.0 == self.bytes.len()
    }

    fn contains(&self, within: u16, at: Position) -> bool {
        at <= self.last && self.iter().any(|found| found == (within, at))
    }

    /// Takes the first one out.
    fn take(&mut self) -> Option<(u16, Position)> {
        let mut rest = self.iter();
        let first = rest.next()?;
        self.taken = (self.bytes.len() - rest.rest.len(), first.1);
        if self.is_empty() {
            self.clear();
        }
        Some(first)
    }

    fn clear(&mut self) {
        self.bytes = Vec::new();
        self.taken = (0, self.last);
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
        let (taken, last) = self.taken;
        Unpacked { rest: &self.bytes[taken..], last }
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
