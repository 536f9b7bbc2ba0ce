//! The two kinds of error that are not bugs: what is told to a client, and
//! what is found on a disk. Bugs are assertions.

use std::fmt;

use crate::{ids::Position, wire::code};

/// A request that was refused. Nothing of it is stored or visible, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// A RocketMQ response code (`wire::code`), never `SUCCESS`.
    pub code: i32,
    /// What went wrong, naming the field or the thing, for a person.
    pub remark: String,
}

impl Rejected {
    pub fn new(code: i32, remark: impl Into<String>) -> Rejected {
        Rejected { code, remark: remark.into() }
    }

    /// A header or a body that does not say what its code needs.
    pub fn bad_field(field: &str, why: impl fmt::Display) -> Rejected {
        Rejected::new(code::SYSTEM_ERROR, format!("the field {field} {why}"))
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.remark)
    }
}

impl std::error::Error for Rejected {}

/// Damage: something on disk is not what was written there, or cannot be read
/// at all. It is never skipped: whoever meets it refuses to go on with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The file, as the `Disk` names it.
    pub file: String,
    /// Where in the log, if the damage is in the log.
    pub position: Option<Position>,
    pub what: String,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged", self.file)?;
        if let Some(position) = self.position {
            write!(f, " at log position {position}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Corrupt {}

/// Why the store cannot do what was asked.
#[derive(Debug)]
pub enum StoreError {
    /// No room for another segment. Nothing was changed; worth retrying later.
    Full,
    /// The entry is larger than a segment holds. Nothing was changed.
    TooLarge { bytes: usize, limit: usize },
    /// What is on disk is not what was written.
    Corrupt(Corrupt),
    /// The operating system failed a read, a write or a sync. After a failed
    /// write or sync the store is stopped for good (L2): its page cache can no
    /// longer be believed.
    Io { doing: &'static str, file: String, error: std::io::Error },
    /// An earlier failure stopped the store.
    Stopped,
    /// Another replica of the group leads, or nobody does. Nothing was changed.
    NotLeader,
    /// The log was given up, or another replica's was put in its place: what is
    /// in memory is void, and the store must be opened again.
    Replaced,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full => f.write_str("the disk is full"),
            StoreError::TooLarge { bytes, limit } => {
                write!(f, "an entry of {bytes} bytes does not fit: a segment takes {limit}")
            }
            StoreError::Corrupt(corrupt) => corrupt.fmt(f),
            StoreError::Io { doing, file, error } => write!(f, "{doing} {file}: {error}"),
            StoreError::NotLeader => f.write_str("this replica does not lead its group"),
            StoreError::Replaced => f.write_str("the log was replaced: open it again"),
            StoreError::Stopped => f.write_str("the store stopped after an earlier disk failure"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<Corrupt> for StoreError {
    fn from(corrupt: Corrupt) -> StoreError {
        StoreError::Corrupt(corrupt)
    }
}
