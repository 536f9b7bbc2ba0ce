//! When which undecided half message is checked, and over which connection. All
//! of it is memory: a restart makes the schedule anew from what the log says.
//!
//! A check counts once it is received (T5, T13): a Stormglass client says so at
//! once; of any other, an answer says so, or, should there be none, any sign of
//! life over the connection that the check took. A check whose connection
//! closed or fell silent counts for nothing and is repeated over another one.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    iter,
    time::Duration,
};

use crate::{
    ids::{ConnId, Name, Position},
    time::Time,
};

use crate::broker::halves::Half;

/// When and how often the broker asks what became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckBack {
    /// Before the first check, unless the producer chose otherwise.
    pub first: Duration,
    /// Before the second check, and before a check that was lost is repeated;
    /// doubled from check to check.
    pub every: Duration,
    /// The longest time between two checks.
    pub longest: Duration,
    /// Received checks before a half is parked.
    pub at_most: u8,
    /// Checks of all halves together, in a second.
    pub per_second: u32,
}

impl Default for CheckBack {
    /// RocketMQ's 6 s, 30 s and 15, and our own doubling: the last check comes
    /// 2.5 hours after the first.
    fn default() -> CheckBack {
        CheckBack {
            first: Duration::from_secs(6),
            every: Duration::from_secs(30),
            longest: Duration::from_secs(16 * 60),
            at_most: 15,
            per_second: 1000,
        }
    }
}

impl CheckBack {
    /// How long a half waits for its next check after so many received ones.
    pub fn wait(&self, half: &Half, checks: u8) -> Duration {
        match checks {
            0 if half.immunity > 0 => Duration::from_millis(half.immunity.into()),
            0 => self.first,
            _ => {
                let doubled = 1u32.checked_shl(u32::from(checks) - 1).unwrap_or(u32::MAX);
                self.every.saturating_mul(doubled).min(self.longest.max(self.every))
            }
        }
    }

    /// The same, counted from now for a half that the log tells of. The wall
    /// clock may have been set meanwhile: it is believed within these bounds.
    pub fn remaining(&self, half: &Half, wall: i64) -> Duration {
        let wait = self.wait(half, half.checks);
        let waited = u64::try_from(wall.saturating_sub(half.since)).unwrap_or(0);
        wait.saturating_sub(Duration::from_millis(waited))
    }
}

/// A share of `CheckBack::per_second` is spent in each of these.
const SLICE: Duration = Duration::from_millis(100);
/// A frame that arrives so long after a check was sent is a sign that its peer
/// lived to get it: no network keeps a frame for longer without losing it.
const ALIVE_AFTER: Duration = Duration::from_secs(1);
/// Checks, and bytes of them, on their way to a peer of whom nothing has been
/// heard since.
const UNHEARD: u32 = 1024;
const UNHEARD_BYTES: usize = 16 << 20;
/// Bytes of the checks in one slice, give or take a message.
const SLICE_BYTES: usize = 4 << 20;
/// Before a group is tried again whose connections all have so many.
const SNOOZE: Duration = Duration::from_secs(1);
/// Before received checks are written down, and the most in one command.
const NOTE_AFTER: Duration = Duration::from_secs(1);
const NOTED_AT_ONCE: usize = 4096;

#[derive(Default)]
pub(super) struct Checks {
    /// Producer groups with scheduled halves.
    lines: BTreeMap<Name, Line>,
    /// The groups whose turn it is, by when; among equals the one that waits
    /// longest, so that none can keep the others from being checked (T8).
    turns: BTreeMap<(Time, u64), Name>,
    next_turn: u64,
    due: BTreeMap<Position, Time>,
    /// Checks whose receipt is not known yet.
    sent: BTreeMap<Position, Sent>,
    links: BTreeMap<ConnId, Link>,
    /// Received and not yet proposed, or not yet applied: how many of each.
    received: BTreeMap<Position, u8>,
    noted: BTreeMap<Position, u8>,
    /// To be parked with the next note.
    exhausted: BTreeSet<Position>,
    note_at: Option<Time>,
    slice: Slice,
}

/// The halves of one producer group.
#[derive(Default)]
struct Line {
    due: BTreeSet<(Time, Position)>,
    /// Its place in `Checks::turns`; none while no member is connected.
    turn: Option<(Time, u64)>,
    /// The connection that got the last check.
    last: Option<ConnId>,
}

#[derive(Clone, Copy)]
struct Sent {
    conn: ConnId,
    at: Time,
    /// Its peer said that it cannot take it.
    refused: bool,
}

/// A connection that checks were sent over.
#[derive(Clone, Copy, Default)]
struct Link {
    heard: Option<Time>,
    /// Checks since then, and their bytes.
    unheard: u32,
    unheard_bytes: usize,
    /// One of them was lost.
    lost: bool,
}

impl Link {
    fn has_room(&self) -> bool {
        self.unheard < UNHEARD && self.unheard_bytes < UNHEARD_BYTES
    }
}

#[derive(Default)]
struct Slice {
    end: Time,
    left: u32,
    bytes: usize,
}

/// What is known of the check that was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// None is on its way.
    None,
    /// It was received, the wait after it counts from this time.
    Received(Time),
    /// This connection took it, and nobody knows where to.
    Lost(ConnId),
}

/// Halves that are written down together, in order; one that received two
/// checks comes twice.
pub(super) enum Note {
    Received(Vec<Position>),
    Exhausted(Vec<Position>),
}

impl Checks {
    /// The half is looked at again then, and not before.
    pub fn schedule(&mut self, group: &Name, at: Position, due: Time) {
        let before = self.due.insert(at, due);
        let line = self.lines.entry(group.clone()).or_default();
        let is_new = line.due.is_empty();
        if let Some(before) = before {
            line.due.remove(&(before, at));
        }
        line.due.insert((due, at));
        // A group that sleeps for want of members goes on sleeping.
        if is_new || line.turn.is_some_and(|(turn, _)| due < turn) {
            self.set_turn(group, due);
        }
    }

    /// The half is settled.
    pub fn forget(&mut self, group: &Name, at: Position) {
        self.sent.remove(&at);
        self.received.remove(&at);
        self.noted.remove(&at);
        self.exhausted.remove(&at);
        self.unschedule(group, at);
    }

    fn unschedule(&mut self, group: &Name, at: Position) {
        let Some(due) = self.due.remove(&at) else { return };
        let Some(line) = self.lines.get_mut(group) else { return };
        line.due.remove(&(due, at));
        if line.due.is_empty() {
            if let Some(turn) = line.turn {
                self.turns.remove(&turn);
            }
            self.lines.remove(group);
        }
    }

    /// Gives the group its turn at this time, behind all that have theirs then.
    fn set_turn(&mut self, group: &Name, at: Time) {
        let Some(line) = self.lines.get_mut(group) else { return };
        if let Some(turn) = line.turn {
            self.turns.remove(&turn);
        }
        self.next_turn += 1;
        line.turn = Some((at, self.next_turn));
        self.turns.insert((at, self.next_turn), group.clone());
    }

    /// A member of the group is connected.
    pub fn wake(&mut self, group: &str) {
        let Some((name, line)) = self.lines.get_key_value(group) else { return };
        if let (None, Some((first, _))) = (line.turn, line.due.first()) {
            let (name, first) = (name.clone(), *first);
            self.set_turn(&name, first);
        }
    }

    /// The group's halves wait until a member comes.
    pub fn sleep(&mut self, group: &Name) {
        if let Some(turn) = self.lines.get_mut(group).and_then(|line| line.turn.take()) {
            self.turns.remove(&turn);
        }
    }

    /// All members have more checks on their way than they have shown to take.
    pub fn snooze(&mut self, group: &Name, now: Time) {
        self.set_turn(group, now + SNOOZE);
    }

    /// Groups that have due halves and no member to ask.
    pub fn asleep(&self) -> impl Iterator<Item = &Name> {
        self.lines.iter().filter(|(_, line)| line.turn.is_none()).map(|(name, _)| name)
    }

    pub fn is_asleep(&self, group: &str) -> bool {
        self.lines.get(group).is_some_and(|line| line.turn.is_none())
    }

    /// When the half is looked at next, if its group is awake.
    pub fn due(&self, at: Position) -> Option<Time> {
        self.due.get(&at).copied()
    }

    pub fn deadline(&self) -> Option<Time> {
        let turn = self.turns.first_key_value().map(|((at, _), _)| *at);
        let turn = turn.map(|at| if self.slice.left == 0 { at.max(self.slice.end) } else { at });
        [turn, self.note_at].into_iter().flatten().min()
    }

    /// The next half that is due, of the group that waits longest; none once
    /// the slice's checks are spent.
    pub fn next(&mut self, now: Time, per_second: u32) -> Option<(Name, Position)> {
        if now >= self.slice.end {
            let slices = (Duration::from_secs(1).as_millis() / SLICE.as_millis()) as u32;
            self.slice = Slice { end: now + SLICE, left: (per_second / slices).max(1), bytes: 0 };
        }
        if self.slice.left == 0 {
            return None;
        }
        loop {
            let ((turn, _), group) = self.turns.first_key_value()?;
            if *turn > now {
                return None;
            }
            let group = group.clone();
            let (due, at) = *self.lines.get(&group)?.due.first()?;
            if due <= now {
                return Some((group, at));
            }
            // The half that it was for is settled.
            self.set_turn(&group, due);
        }
    }

    /// What is known by now of the half's last check.
    pub fn last(&mut self, at: Position) -> Last {
        let Some(sent) = self.sent.remove(&at) else { return Last::None };
        let link = self.links.get_mut(&sent.conn).filter(|_| !sent.refused);
        let Some(link) = link else { return Last::Lost(sent.conn) };
        if link.heard.is_some_and(|heard| heard >= sent.at + ALIVE_AFTER) {
            *self.received.entry(at).or_default() += 1;
            return Last::Received(sent.at);
        }
        link.lost = true;
        Last::Lost(sent.conn)
    }

    /// Received checks of the half that its state does not count yet.
    pub fn uncounted(&self, at: Position) -> u8 {
        let count = |of: &BTreeMap<Position, u8>| of.get(&at).copied().unwrap_or(0);
        count(&self.received).saturating_add(count(&self.noted))
    }

    /// The connection to ask over: each in turn. One that lost a check, and the
    /// one that this half's last check took, only if there is no other (T13);
    /// none if all are full.
    pub fn pick(
        &mut self,
        group: &Name,
        conns: &BTreeSet<ConnId>,
        avoid: Option<ConnId>,
    ) -> Option<ConnId> {
        let line = self.lines.get_mut(group)?;
        let after = line.last.map_or(0, |last| last.0 + 1);
        let ring = conns.range(ConnId(after)..).chain(conns.range(..ConnId(after)));
        let link = |conn: &ConnId| self.links.get(conn).copied().unwrap_or_default();
        let usable: Vec<ConnId> = ring.filter(|conn| link(conn).has_room()).copied().collect();
        let good = usable.iter().find(|conn| !link(conn).lost && Some(**conn) != avoid);
        let picked = good.or(usable.first()).copied()?;
        line.last = Some(picked);
        Some(picked)
    }

    /// A check of so many bytes goes out.
    pub fn sent(&mut self, at: Position, conn: ConnId, now: Time, bytes: usize) {
        self.slice.bytes += bytes;
        let is_spent = self.slice.bytes >= SLICE_BYTES;
        self.slice.left = if is_spent { 0 } else { self.slice.left.saturating_sub(1) };
        self.sent.insert(at, Sent { conn, at: now, refused: false });
        let link = self.links.entry(conn).or_default();
        link.unheard += 1;
        link.unheard_bytes += bytes;
    }

    /// Looks at the half again then, and lets other groups go first.
    pub fn postpone(&mut self, group: &Name, at: Position, now: Time, due: Time) {
        self.schedule(group, at, due);
        let first = self.lines.get(group).and_then(|line| line.due.first());
        if let Some((first, _)) = first.copied() {
            self.set_turn(group, first.max(now));
        }
    }

    /// The member at the other end has the check, or answered it.
    pub fn receive(&mut self, at: Position, over: Option<ConnId>) -> Option<Time> {
        let sent = *self.sent.get(&at)?;
        if over.is_some_and(|over| over != sent.conn) {
            return None;
        }
        self.sent.remove(&at);
        *self.received.entry(at).or_default() += 1;
        Some(sent.at)
    }

    /// The member at the other end is too busy, or answers no checks.
    pub fn refuse(&mut self, at: Position, conn: ConnId) {
        if let Some(sent) = self.sent.get_mut(&at).filter(|sent| sent.conn == conn) {
            sent.refused = true;
        }
    }

    /// Something arrived over this connection.
    pub fn heard(&mut self, conn: ConnId, now: Time) {
        if let Some(link) = self.links.get_mut(&conn) {
            *link = Link { heard: Some(now), ..Link::default() };
        }
    }

    pub fn closed(&mut self, conn: ConnId) {
        self.links.remove(&conn);
    }

    /// Enough checks without an answer: to be parked.
    pub fn exhaust(&mut self, group: &Name, at: Position) {
        self.unschedule(group, at);
        self.exhausted.insert(at);
    }

    /// What is to be written down next, if it is time. The caller says with
    /// `noted` that it is proposed, or with `note_failed` that it could not be.
    pub fn note(&mut self, now: Time) -> Option<Note> {
        let waiting = self.received.len() + self.exhausted.len();
        if waiting == 0 {
            self.note_at = None;
            return None;
        }
        let at = *self.note_at.get_or_insert(now + NOTE_AFTER);
        if now < at && waiting < NOTED_AT_ONCE {
            return None;
        }
        if self.received.is_empty() {
            let some = self.exhausted.iter().take(NOTED_AT_ONCE);
            return Some(Note::Exhausted(some.copied().collect()));
        }
        let all = self.received.iter().take(NOTED_AT_ONCE);
        let all = all.flat_map(|(at, count)| iter::repeat_n(*at, usize::from(*count)));
        Some(Note::Received(all.collect()))
    }

    pub fn noted(&mut self, note: Note) {
        match note {
            Note::Received(halves) => {
                for at in halves {
                    self.received.remove(&at);
                    *self.noted.entry(at).or_default() += 1;
                }
            }
            Note::Exhausted(halves) => {
                for at in halves {
                    self.exhausted.remove(&at);
                }
            }
        }
    }

    pub fn note_failed(&mut self, now: Time) {
        self.note_at = Some(now + NOTE_AFTER);
    }

    /// The state counts these now.
    pub fn counted(&mut self, halves: impl Iterator<Item = Position>) {
        for at in halves {
            if let Entry::Occupied(mut count) = self.noted.entry(at) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
