//! Finding the end of the log after any crash.

use crate::ids::{Position, Term};

/// What `open` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// A term that no earlier life of this store has used, for a group of one
    /// to append under.
    pub fresh_term: Term,
    /// Where the log ends.
    pub end: Position,
    /// The last life stopped with [`CommitLog::close`](super::CommitLog::close),
    /// so nothing it handed out is missing.
    pub clean: bool,
}
