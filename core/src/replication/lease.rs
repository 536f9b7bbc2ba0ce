//! Until when a leader may answer from what it knows: as long as a majority has
//! promised to elect nobody else (L8, N6).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    ids::{NodeId, Term},
    time::Time,
};

#[derive(Default)]
pub(super) struct Lease {
    term: Term,
    /// For each follower, when the newest message that it answered was sent.
    answered: BTreeMap<NodeId, Time>,
    /// The leader asked somebody to take over: followers elect at any time.
    is_void: bool,
}

impl Lease {
    pub fn answered(&mut self, term: Term, by: NodeId, sent: Time) {
        if term != self.term {
            *self = Lease { term, ..Lease::default() };
        }
        let newest = self.answered.entry(by).or_default();
        *newest = sent.max(*newest);
    }

    pub fn revoke(&mut self, term: Term) {
        *self = Lease { term, answered: BTreeMap::new(), is_void: true };
    }

    pub fn is_void(&self, term: Term) -> bool {
        self.term == term && self.is_void
    }

    /// The end of the lease of `term`, on which a majority of each of these sets
    /// of voters has to agree.
    pub fn until(
        &self,
        term: Term,
        me: NodeId,
        voters: &[BTreeSet<NodeId>],
        length: Duration,
    ) -> Time {
        let ends = voters.iter().map(|voters| {
            let others = voters.len() / 2 + 1 - usize::from(voters.contains(&me));
            if others == 0 {
                return Time::MAX;
            }
            if term != self.term || self.is_void {
                return Time::ZERO;
            }
            let answers = self.answered.iter().filter(|(id, _)| voters.contains(id));
            let mut answered: Vec<Time> = answers.map(|(_, sent)| *sent).collect();
            answered.sort_unstable_by(|a, b| b.cmp(a));
            match answered.get(others - 1) {
                Some(&sent) if sent > Time::ZERO => sent + length,
                _ => Time::ZERO,
            }
        });
        ends.min().unwrap_or(Time::ZERO)
    }
}
