//! Names and numbers that must not be mixed up.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// An accepted or dialled connection; never reused within a process.
    ConnId(u64)
);
number!(
    /// A replica of a group, as all of its replicas know it; never zero.
    NodeId(u64)
);
number!(
    /// The term of a leader, in Raft's sense. A group of one starts a new term
    /// at every start, so that what an earlier life left behind the torn tail
    /// can never pass for a continuation of the log.
    Term(u64)
);
number!(
    /// The number of an entry in the log, from 1, without gaps.
    LogIndex(u64)
);
number!(
    /// A byte position in the log: RocketMQ's physical offset. Identical on
    /// all replicas.
    Position(u64)
);

/// A topic, a group or a client id: shared, cheap to clone, ordered.
pub type Name = Arc<str>;

/// One queue of one topic: RocketMQ's MessageQueue without the broker's name,
/// and the shard within which order is promised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shard {
    pub topic: Name,
    pub queue: u32,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.queue)
    }
}
