//! What the replicas of a group say to each other, on a port of their own.
//!
//! Both ends first prove that they know the group's secret ([`handshake`]);
//! nothing that a stranger sends reaches the replica (L6). After that, one
//! connection carries messages in one direction, each in a frame with a length
//! that is checked before anything is allocated and a checksum that also covers
//! the session and the frame's number ([`codec`]).

pub mod codec;
pub mod handshake;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

use crate::{
    ids::{LogIndex, NodeId, Position, Term},
    log::{Base, Entry, Kind},
    time::Time,
};

/// One message of the group's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    /// The sender's term, or the one it asks to be elected for.
    pub term: Term,
    pub body: Body,
}

/// An entry's place in the order of the log, without its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub term: Term,
    pub index: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The leader's log goes on behind `previous` with these entries.
    Append {
        previous: Mark,
        commit: LogIndex,
        /// On the leader's clock; comes back in the answer and says until when
        /// the follower elects nobody else.
        sent: Time,
        entries: Vec<Replicated>,
    },
    /// The log agrees with the leader's up to `index`.
    Appended {
        index: LogIndex,
        commit: LogIndex,
        echo: Echo,
    },
    /// It does not agree at `index`; it may at or before `hint`.
    Rejected {
        index: LogIndex,
        hint: Mark,
        commit: LogIndex,
        echo: Echo,
    },
    Heartbeat {
        commit: LogIndex,
        sent: Time,
    },
    Alive {
        commit: LogIndex,
        echo: Echo,
    },
    /// Asks for a vote; `pre` only asks whether there would be one. `transfer`
    /// says that the leader itself wants this election.
    Canvass {
        pre: bool,
        transfer: bool,
        last: Mark,
        commit: Mark,
    },
    Voted {
        pre: bool,
        granted: bool,
        commit: Mark,
    },
    /// The leader hands over: campaign at once.
    TakeOver,
    /// This life of the follower holds everything that was ever acknowledged: it
    /// has a say again.
    Trust {
        life: u64,
    },
    /// The leader's log no longer has what this follower lacks: it can have the
    /// leader's snapshot and the log around it.
    Offer {
        offer: Offer,
        sent: Time,
    },
    /// What of it the follower wants next.
    Fetch {
        base: LogIndex,
        piece: Piece,
    },
    /// The entries from a position on, as far as the offer reaches.
    LogPiece {
        from: Position,
        entries: Vec<Replicated>,
    },
    /// Bytes of the snapshot at `base`, from an offset on.
    StatePiece {
        base: LogIndex,
        offset: u64,
        bytes: Bytes,
    },
}

/// What an empty replica is to be filled with: the log behind `start`, where a
/// segment begins, and a snapshot of the state after `base`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    pub start: Base,
    pub base: Base,
    /// Length of the snapshot.
    pub state_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Log(Position),
    State(u64),
}

/// What every answer to a leader carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// When the newest of the leader's messages that this answer knows of was
    /// sent.
    pub sent: Time,
    /// Which life of which store: if it changed, what it said before may be gone.
    pub life: u64,
    /// It lost nothing that it had acknowledged, or has caught up since.
    pub is_trusted: bool,
    /// It has no use for entries: it wants a snapshot.
    pub wants_snapshot: bool,
}

/// An entry on its way to another replica: everything but the header that each
/// replica writes for itself. Parts lie at the same positions everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicated {
    pub term: Term,
    pub index: LogIndex,
    /// Where it starts in the sender's log.
    pub start: Position,
    pub kind: Kind,
    pub needs_sync: bool,
    pub parts: Vec<Bytes>,
}

impl From<Entry> for Replicated {
    fn from(entry: Entry) -> Replicated {
        Replicated {
            term: entry.place.term,
            index: entry.place.index,
            start: entry.place.start,
            kind: entry.kind,
            needs_sync: entry.needs_sync,
            parts: entry.parts.into_iter().map(|(_, part)| part).collect(),
        }
    }
}

/// Why a connection between replicas ends. None of these says anything about
/// the replica: it is asked to connect again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// The first bytes are not this protocol's.
    Foreign,
    /// Another version of the protocol; ours is `codec::VERSION`.
    Version(u16),
    /// The other side does not know the group's secret.
    NotAMember,
    /// It is a member, but not of this group, or not the replica dialled, or its
    /// log is laid out in other segments.
    Mismatch(&'static str),
    TooLarge {
        bytes: usize,
        limit: usize,
    },
    /// A frame is damaged, missing or out of order.
    Damaged,
    /// An intact frame makes no sense.
    Malformed(&'static str),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerError::Foreign => f.write_str("this is not a replica's connection"),
            PeerError::Version(other) => {
                write!(f, "protocol version {other}; this replica speaks {}", codec::VERSION)
            }
            PeerError::NotAMember => f.write_str("the other side does not know the secret"),
            PeerError::Mismatch(what) => write!(f, "the other side has another {what}"),
            PeerError::TooLarge { bytes, limit } => {
                write!(f, "a frame of {bytes} bytes; at most {limit} are allowed")
            }
            PeerError::Damaged => f.write_str("a frame is damaged or out of order"),
            PeerError::Malformed(what) => write!(f, "a frame's {what} makes no sense"),
        }
    }
}

impl std::error::Error for PeerError {}
