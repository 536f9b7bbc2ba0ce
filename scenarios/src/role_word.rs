//! Words for brokers by what they are to their replica set at the moment a
//! fault strikes.

use crate::{node::ReplicaSet, scenario::Scenario};

/// What a broker, or some of them, are to their set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Leader,
    /// One of the followers, drawn.
    AnyFollower,
    Followers,
    /// So many that the set works with them, and not without them: drawn.
    Majority,
    /// As many as the set can do without: drawn.
    Minority,
    All,
}

/// `leader` of the first set, `leader-2` of the second; `set-1` is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleWord {
    pub part: Part,
    /// From 0.
    pub set: usize,
}

const PARTS: [(&str, Part); 6] = [
    ("leader", Part::Leader),
    ("any-follower", Part::AnyFollower),
    ("followers", Part::Followers),
    ("majority", Part::Majority),
    ("minority", Part::Minority),
    ("set", Part::All),
];

impl RoleWord {
    pub fn parse(word: &str) -> Option<RoleWord> {
        PARTS.into_iter().find_map(|(name, part)| {
            let number = match word.strip_prefix(name)? {
                "" => 1,
                rest => rest.strip_prefix('-')?.parse::<usize>().ok()?,
            };
            Some(RoleWord { part, set: number.checked_sub(1)? })
        })
    }

    /// How many of so many replicas it means.
    pub fn count(self, replicas: usize) -> usize {
        match self.part {
            Part::Leader => 1,
            Part::AnyFollower => 1.min(replicas - 1),
            Part::Followers => replicas - 1,
            Part::Majority => replicas / 2 + 1,
            Part::Minority => (replicas - 1) / 2,
            Part::All => replicas,
        }
    }
}

impl Scenario {
    /// What a word in a fault says of a replica set, and of which; none if it is
    /// no such word, or if there are no replicas to tell apart.
    pub fn role_word(&self, word: &str) -> Option<(RoleWord, ReplicaSet)> {
        let role = RoleWord::parse(word)?;
        let set = self.sets().into_iter().nth(role.set)?;
        (set.brokers.len() > 1).then_some((role, set))
    }
}
