//! The commit log: every change to the broker, in one order, on one disk.
//!
//! It is the Raft log at the same time. Entries lie one behind the other in
//! segments of fixed length; a [`Position`] counts bytes through all of them.
//! What can be believed after a crash, and why, is told in [`recovery`].

mod blank;
mod commit_log;
mod identity;
mod index;
mod read;
mod record;
mod recovery;
mod segment;
pub mod snapshot;
mod spares;
#[cfg(test)]
pub(crate) mod test_disk;
#[cfg(test)]
mod tests;
mod truncate;

pub use commit_log::{CommitLog, SyncTicket};
pub use identity::HardState;
pub(crate) use record::Seal;
pub use record::{Draft, Kind, entry_size};
pub use recovery::Recovered;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{LogIndex, Position, Term};

/// How a log lays out its files.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Length of a new segment: a multiple of 4096, at most 2 GiB. An entry
    /// cannot be larger than a segment.
    pub segment_bytes: u64,
    /// Expired segments kept to be written again instead of created, because
    /// syncing a file whose blocks exist takes half the time.
    pub spare_segments: usize,
    /// Drawn at random by the caller; becomes the store's identity if this
    /// `open` finds an empty disk, and is ignored otherwise.
    pub birth_id: u64,
    pub replicas: Replicas,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes: 1 << 30,
            spare_segments: 1,
            birth_id: 0,
            replicas: Replicas::Alone,
        }
    }
}

/// Whether other nodes keep the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// Every open starts a new term, and what is written stays.
    Alone,
    /// Terms come from elections, and a leader may have an uncommitted tail cut
    /// off. Damage is no reason to refuse the disk: the log is cut there and
    /// does not count as trusted until it has caught up. `founding` says that
    /// an empty disk is that of a new group, not one that forgot everything.
    Group { founding: bool },
}

/// The end of what is folded into a snapshot: replay starts here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Where an entry ends.
    pub position: Position,
    /// Index and term of that entry; zero before the first.
    pub index: LogIndex,
    pub term: Term,
}

/// Where an entry went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub index: LogIndex,
    pub term: Term,
    pub start: Position,
    /// Where the next entry may start.
    pub end: Position,
}

/// An entry read back, its checksums verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub place: Place,
    pub kind: Kind,
    /// Commits only when it is durable, in every flush mode.
    pub needs_sync: bool,
    /// Each part with the position of its first byte: what a consume queue and
    /// a message id point to.
    pub parts: Vec<(Position, Bytes)>,
}
