//! Half messages: the undecided ones, and what became of the others. Folded
//! from the committed log alone, so that a restart knows as much (T2, T4).
//!
//! An undecided half takes about 180 bytes of memory, here and in the schedule of
//! its checks together; a settled one two bits, until retention takes its record.

mod fates;

use std::collections::{BTreeMap, btree_map::Entry};

use serde::{Deserialize, Serialize};

use self::fates::Fates;
pub use self::fates::{Fate, FatesSnapshot};
use crate::ids::{Name, Position};

/// What happens to half messages besides that they are held and that a pointer
/// makes them visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    RolledBack(Position),
    /// A member of the producer group received a check of each of these (T5).
    Checked {
        halves: Positions,
        wall: i64,
    },
    /// They were checked too often without an answer; an operator may help.
    Parked(Positions),
    /// They are checked again, from the first check on.
    Resumed {
        half: Position,
        wall: i64,
    },
}

/// Positions in ascending order, each as its distance from the one before: a
/// round of checks costs the log two or three bytes for each half (T12).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions(Vec<u64>);

impl Positions {
    /// `sorted` must ascend.
    pub fn new(sorted: impl IntoIterator<Item = Position>) -> Positions {
        let mut last = 0;
        let distances = sorted.into_iter().map(|at| {
            assert!(at.0 >= last, "positions are given in ascending order");
            at.0 - std::mem::replace(&mut last, at.0)
        });
        Positions(distances.collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = Position> {
        self.0.iter().scan(0u64, |at, distance| {
            *at = at.checked_add(*distance)?;
            Some(Position(*at))
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// An undecided half message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// What END_TRANSACTION has to echo: the place in a half queue that exists
    /// by name only. Never used twice.
    pub number: u64,
    pub producer_group: Name,
    /// When it was stored, or its last check received; milliseconds on the
    /// broker's wall clock (T11).
    pub since: i64,
    /// Milliseconds before the first check, if its producer chose them; zero if
    /// not.
    pub immunity: u32,
    /// Checks that a member received.
    pub checks: u8,
    pub parked: bool,
}

/// How many undecided halves a producer group has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfGroup {
    pub open: u32,
    /// Of these, the parked ones.
    pub parked: u32,
}

/// What became of all halves since the log began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub held: u64,
    pub committed: u64,
    pub rolled_back: u64,
    /// Retention took their records before they were decided.
    pub expired: u64,
    /// Checks received.
    pub checks: u64,
    pub parked: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    open: BTreeMap<Position, Half>,
    groups: BTreeMap<Name, OfGroup>,
    fates: Fates,
    /// Of the next half in the log.
    next_number: u64,
    totals: Totals,
}

impl Halves {
    /// A half message was committed to the log.
    pub fn hold(
        &mut self,
        at: Position,
        number: u64,
        producer_group: &Name,
        immunity: Option<u64>,
        store_wall: i64,
    ) {
        let producer_group = match self.groups.entry(producer_group.clone()) {
            Entry::Occupied(mut known) => {
                known.get_mut().open += 1;
                known.key().clone()
            }
            Entry::Vacant(new) => {
                let name = new.key().clone();
                new.insert(OfGroup { open: 1, parked: 0 });
                name
            }
        };
        let half = Half {
            number,
            producer_group,
            since: store_wall,
            immunity: immunity.map_or(0, |ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            checks: 0,
            parked: false,
        };
        self.open.insert(at, half);
        self.fates.held(number, at);
        self.next_number = self.next_number.max(number + 1);
        self.totals.held += 1;
    }

    /// A pointer made it visible, or deferred it to when it is due.
    pub fn committed(&mut self, at: Position) {
        self.settle(at, Fate::Committed);
    }

    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::RolledBack(at) => self.settle(*at, Fate::RolledBack),
            Change::Checked { halves, wall } => {
                for at in halves.iter() {
                    let Some(half) = self.open.get_mut(&at) else { continue };
                    half.checks = half.checks.saturating_add(1);
                    half.since = *wall;
                    self.totals.checks += 1;
                }
            }
            Change::Parked(halves) => {
                for at in halves.iter() {
                    let Some(half) = self.open.get_mut(&at).filter(|half| !half.parked) else {
                        continue;
                    };
                    half.parked = true;
                    self.totals.parked += 1;
                    count(&mut self.groups, &half.producer_group).parked += 1;
                }
            }
            Change::Resumed { half: at, wall } => {
                let Some(half) = self.open.get_mut(at) else { return };
                if std::mem::take(&mut half.parked) {
                    count(&mut self.groups, &half.producer_group).parked -= 1;
                }
                half.checks = 0;
                half.since = *wall;
            }
        }
    }

    /// Numbers that were given out and may have been lost are not given again.
    pub fn jump(&mut self, by: u64) {
        self.next_number += by;
    }

    /// Forgets what retention took from the front of the log. Undecided halves
    /// among it are gone for good, and counted.
    pub fn expire(&mut self, start: Position) {
        while let Some(oldest) = self.open.first_entry()
            && *oldest.key() < start
        {
            let half = oldest.remove();
            self.leave_group(&half);
            self.totals.expired += 1;
        }
        self.fates.expire(start);
    }

    /// The first decision to reach the log wins; there is no second, because
    /// whoever proposes looks here and at what is on its way.
    fn settle(&mut self, at: Position, fate: Fate) {
        let Some(half) = self.open.remove(&at) else { return };
        self.leave_group(&half);
        self.fates.settle(half.number, fate);
        match fate {
            Fate::Committed => self.totals.committed += 1,
            Fate::RolledBack => self.totals.rolled_back += 1,
        }
    }

    fn leave_group(&mut self, half: &Half) {
        let left = count(&mut self.groups, &half.producer_group);
        left.open -= 1;
        left.parked -= u32::from(half.parked);
        if left.open == 0 {
            self.groups.remove(&half.producer_group);
        }
    }

    pub fn get(&self, at: Position) -> Option<&Half> {
        self.open.get(&at)
    }

    /// What became of the half of this number; none if it is undecided, or if
    /// nobody remembers.
    pub fn fate(&self, number: u64) -> Option<Fate> {
        self.fates.get(number)
    }

    /// Undecided halves, oldest first.
    pub fn open(&self) -> impl Iterator<Item = (Position, &Half)> {
        self.open.iter().map(|(at, half)| (*at, half))
    }

    /// Those behind `after`.
    pub fn open_after(&self, after: Option<Position>) -> impl Iterator<Item = (Position, &Half)> {
        let from = after.map_or(Position(0), |after| Position(after.0.saturating_add(1)));
        self.open.range(from..).map(|(at, half)| (*at, half))
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Producer groups with undecided halves.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, OfGroup)> {
        self.groups.iter().map(|(name, count)| (name, *count))
    }

    pub fn group(&self, name: &str) -> OfGroup {
        self.groups.get(name).copied().unwrap_or_default()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The oldest undecided half: a log that starts behind it has lost it.
    pub fn low_water(&self) -> Option<Position> {
        self.open.first_key_value().map(|(at, _)| *at)
    }

    pub fn snapshot(&self) -> HalvesSnapshot {
        let numbers: BTreeMap<&Name, u32> = self.groups.keys().zip(0..).collect();
        HalvesSnapshot {
            groups: self.groups.keys().cloned().collect(),
            positions: Positions::new(self.open.keys().copied()),
            halves: self.open.values().map(|half| SavedHalf::new(half, &numbers)).collect(),
            fates: self.fates.snapshot(),
            next_number: self.next_number,
            totals: self.totals,
        }
    }

    /// None if the snapshot contradicts itself.
    pub fn restore(snapshot: HalvesSnapshot) -> Option<Halves> {
        if snapshot.positions.len() != snapshot.halves.len() {
            return None;
        }
        let mut halves = Halves {
            fates: Fates::restore(snapshot.fates)?,
            next_number: snapshot.next_number,
            totals: snapshot.totals,
            ..Halves::default()
        };
        for (at, saved) in snapshot.positions.iter().zip(snapshot.halves) {
            // One name for all halves of a group, not one for each.
            let producer_group = snapshot.groups.get(saved.group as usize)?.clone();
            let counted = halves.groups.entry(producer_group.clone()).or_default();
            counted.open += 1;
            counted.parked += u32::from(saved.parked);
            let SavedHalf { number, since, immunity, checks, parked, .. } = saved;
            let half = Half { number, producer_group, since, immunity, checks, parked };
            halves.open.insert(at, half);
        }
        Some(halves)
    }
}

fn count<'a>(groups: &'a mut BTreeMap<Name, OfGroup>, name: &Name) -> &'a mut OfGroup {
    groups.get_mut(name).expect("a group with an undecided half is counted")
}

/// What a snapshot of the broker keeps of half messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HalvesSnapshot {
    groups: Vec<Name>,
    positions: Positions,
    halves: Vec<SavedHalf>,
    fates: FatesSnapshot,
    next_number: u64,
    totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedHalf {
    number: u64,
    group: u32,
    since: i64,
    immunity: u32,
    checks: u8,
    parked: bool,
}

impl SavedHalf {
    fn new(half: &Half, groups: &BTreeMap<&Name, u32>) -> SavedHalf {
        SavedHalf {
            number: half.number,
            group: groups[&half.producer_group],
            since: half.since,
            immunity: half.immunity,
            checks: half.checks,
            parked: half.parked,
        }
    }
}

#[cfg(test)]
mod tests;
