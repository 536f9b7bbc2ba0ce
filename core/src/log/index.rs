//! Which entry lies where, in memory, for a log that is one of several
//! replicas: leaders and followers name entries by index and term.
//!
//! It costs a few bytes for every 64 KiB of log, one item for each term, and
//! the ends of the last entries.

use std::collections::VecDeque;

use super::{Base, Kind, Place};
use crate::ids::{LogIndex, Position, Term};

/// A mark is set at least this far from the one before.
const STRIDE: u64 = 64 << 10;
/// Entries whose ends are at hand; older ones are found from the mark before.
const RECENT: usize = 1 << 16;

pub(super) struct Index {
    /// The entry before the first one here, and where that one is looked for.
    base: Base,
    last: LogIndex,
    /// Where each term begins.
    terms: VecDeque<(LogIndex, Term)>,
    /// Some entries and a boundary from which reading on finds them.
    marks: VecDeque<(LogIndex, Position)>,
    /// The ends of the last entries.
    recent: VecDeque<Position>,
    /// The entries that say who belongs to the group.
    configurations: VecDeque<LogIndex>,
}

impl Index {
    pub fn new(base: Base) -> Index {
        Index {
            base,
            last: base.index,
            terms: VecDeque::new(),
            marks: VecDeque::new(),
            recent: VecDeque::new(),
            configurations: VecDeque::new(),
        }
    }

    /// Takes the next entry; `opens` says that it is its segment's first.
    pub fn push(&mut self, place: Place, kind: Kind, opens: bool) {
        assert_eq!(place.index.0, self.last.0 + 1, "entries come in order");
        self.last = place.index;
        if self.terms.back().map_or(self.base.term, |(_, term)| *term) != place.term {
            self.terms.push_back((place.index, place.term));
        }
        let marked = self.marks.back().map_or(self.base.position, |(_, at)| *at);
        if opens || place.start.0 - marked.0 >= STRIDE {
            self.marks.push_back((place.index, place.start));
        }
        if kind == Kind::Configuration {
            self.configurations.push_back(place.index);
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(place.end);
    }

    /// Extends this index to the front: `older` ends where it begins.
    pub fn prepend(&mut self, mut older: Index) {
        assert_eq!(older.last, self.base.index, "entries come in order");
        let first = LogIndex(self.base.index.0 + 1);
        if older.marks.back().is_none_or(|(index, _)| *index < first) && self.last >= first {
            older.marks.push_back((first, self.base.position));
        }
        let last_term = older.terms.back().map_or(older.base.term, |(_, term)| *term);
        older.terms.extend(self.terms.drain(..).filter(|(_, term)| *term != last_term));
        let known = older.marks.back().map_or(LogIndex(0), |(index, _)| *index);
        older.marks.extend(self.marks.drain(..).filter(|(index, _)| *index > known));
        older.configurations.append(&mut self.configurations);
        older.recent = std::mem::take(&mut self.recent);
        *self = Index { last: self.last, ..older };
    }

    pub fn truncate(&mut self, after: LogIndex) {
        assert!(after >= self.base.index, "what a snapshot holds is not cut off");
        let gone = (self.last.0 - after.0) as usize;
        self.recent.truncate(self.recent.len().saturating_sub(gone));
        self.last = after;
        self.terms.truncate(self.terms.partition_point(|(first, _)| *first <= after));
        self.marks.truncate(self.marks.partition_point(|(index, _)| *index <= after));
        let kept = self.configurations.partition_point(|index| *index <= after);
        self.configurations.truncate(kept);
    }

    /// Forgets what lies before `start`, where a segment begins.
    pub fn expire(&mut self, start: Position) {
        if self.base.position >= start {
            return;
        }
        let gone = self.marks.partition_point(|(_, at)| *at < start);
        // Every segment's first entry is marked.
        let index = self.marks.get(gone).map_or(self.last, |(first, _)| LogIndex(first.0 - 1));
        let term = self.term_at(index).expect("it is still known");
        self.base = Base { position: start, index, term };
        self.marks.drain(..gone);
        let gone = self.configurations.partition_point(|known| *known <= index);
        self.configurations.drain(..gone);
        while self.terms.get(1).is_some_and(|(first, _)| *first <= index) {
            self.terms.pop_front();
        }
    }

    /// The entries from one up to another, which is left out, that say who
    /// belongs to the group.
    pub fn configurations(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = LogIndex> {
        self.configurations.iter().copied().filter(move |index| (from..to).contains(index))
    }

    /// Where the entry before the first one ends, or where that one is looked for.
    pub fn base(&self) -> Position {
        self.base.position
    }

    /// The first entry that can be read.
    pub fn first(&self) -> LogIndex {
        LogIndex(self.base.index.0 + 1)
    }

    /// The term of an entry, or of the one before the first.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        Some(after.checked_sub(1).map_or(self.base.term, |at| self.terms[at].1))
    }

    /// Where an entry ends, if that is at hand.
    pub fn end_of(&self, index: LogIndex) -> Option<Position> {
        if index == self.base.index {
            return Some(self.base.position);
        }
        let back = self.last.0.checked_sub(index.0)? as usize;
        let at = self.recent.len().checked_sub(back + 1)?;
        Some(self.recent[at])
    }

    /// An entry at or before `index` and a boundary from which it is found.
    pub fn before(&self, index: LogIndex) -> (LogIndex, Position) {
        let after = self.marks.partition_point(|(marked, _)| *marked <= index);
        match after.checked_sub(1) {
            Some(at) => self.marks[at],
            None => (self.first(), self.base.position),
        }
    }

    /// An index behind `from`, no later than `to`, up to which there are about
    /// `bytes` bytes.
    pub fn after_bytes(&self, from: LogIndex, to: LogIndex, bytes: u64) -> LogIndex {
        let (_, start) = self.before(from);
        let end = Position(start.0.saturating_add(bytes));
        let fit = self.marks.partition_point(|(_, at)| *at <= end);
        let reaches_the_end = fit == self.marks.len();
        let up_to = match fit.checked_sub(1).map(|at| self.marks[at].0) {
            _ if reaches_the_end => to,
            Some(marked) if marked > from => marked,
            // Not even one stride fits: go as far as the next mark.
            _ => self.marks.get(fit).map_or(to, |(marked, _)| *marked),
        };
        up_to.clamp(LogIndex(from.0 + 1), to)
    }
}
