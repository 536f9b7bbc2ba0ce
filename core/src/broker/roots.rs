//! What the pointers in the log show, segment by segment: retention takes
//! whole segments from the front, and must not take a message from under a
//! pointer that it keeps. Else what was delayed for longer than the log is
//! kept would be seen for a moment only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Position;

/// For each segment with pointers to records before it: the first of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots(BTreeMap<Position, Position>);

impl Roots {
    /// A pointer in the segment that starts at `segment` shows a record.
    pub fn note(&mut self, segment: Position, record: Position) {
        if record < segment {
            let first = self.0.entry(segment).or_insert(record);
            *first = record.min(*first);
        }
    }

    /// The log is kept from here on.
    pub fn expire(&mut self, start: Position) {
        self.0 = self.0.split_off(&start);
    }

    /// The first record that pointers show which are in segments from here on.
    pub fn shown_from(&self, segment: Position) -> Option<Position> {
        self.0.range(segment..).map(|(_, first)| *first).min()
    }

    /// How much may go if nobody wants what lies before `unwanted`: every
    /// segment that stays keeps what it shows. `segment_of` is the start of the
    /// segment that holds a position.
    pub fn reach(&self, unwanted: Position, segment_of: impl Fn(Position) -> Position) -> Position {
        let mut keep_from = segment_of(unwanted);
        for (segment, first) in self.0.iter().rev() {
            if *segment >= keep_from {
                keep_from = keep_from.min(segment_of(*first));
            }
        }
        keep_from
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Segments of ten bytes, and pointers to any place before them.
        #[test]
        fn nothing_is_taken_from_under_what_is_kept(
            shown in prop::collection::vec((1u64..20, 0u64..200), 0..20), unwanted in 0u64..200,
        ) {
            let segment_of = |at: Position| Position(at.0 / 10 * 10);
            let mut roots = Roots::default();
            let pointers: Vec<_> = shown
                .into_iter()
                .map(|(segment, record)| (Position(segment * 10), Position(record)))
                .filter(|(segment, record)| record < segment)
                .collect();
            pointers.iter().for_each(|(segment, record)| roots.note(*segment, *record));
            let reach = roots.reach(Position(unwanted), segment_of);
            let kept = pointers.iter().filter(|(segment, _)| *segment >= reach);
            prop_assert!(kept.clone().all(|(_, record)| *record >= reach));
            // No more is kept than that takes.
            let mut least = segment_of(Position(unwanted));
            for _ in 0..20 {
                let kept = pointers.iter().filter(|(segment, _)| *segment >= least);
                least = kept.map(|(_, record)| segment_of(*record)).min().unwrap_or(least).min(least);
            }
            prop_assert_eq!(reach, least);
        }
    }
}
