//! What stands in the log beside messages: every durable change of the broker's
//! own state is such a record, so that nothing durable lives beside the log
//! (O1, D7).

use serde::{Deserialize, Serialize};

use super::{halves, leases, locks, resets, retention, retry::BackOff, timers};
use crate::{
    error::Corrupt,
    ids::{Name, Position},
    replication::Needs,
    wire::body::OrderList,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    pub name: Name,
    pub read_queues: u32,
    pub write_queues: u32,
    /// Bits of `wire::body::perm`.
    pub perm: u32,
    pub order: bool,
    pub order_list: Option<OrderList>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    pub name: Name,
    /// Queues of the group's retry topic.
    pub retry_queues: u32,
    /// Deliveries again before a message goes to the dead-letter queue.
    pub retry_max: i32,
    pub back_off: BackOff,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetCommit {
    pub group: Name,
    pub topic: Name,
    pub queue: u32,
    /// The next offset that the group wants.
    pub offset: u64,
    /// How often the group had been reset there when this was said; void if it
    /// was reset again since (O4).
    pub resets: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A process began to append, under this kind of flush.
    Started {
        async_flush: bool,
        wall: i64,
    },
    /// Every queue that exists skips this many offsets: under async flush they
    /// may have been handed out and lost.
    Jumped {
        by: u64,
    },
    Topic(TopicConfig),
    Group(GroupConfig),
    Offsets(Vec<OffsetCommit>),
    Reset(resets::Change),
    Passed(retention::Passed),
    Lock(locks::Change),
    Lease(leases::Change),
    Transaction(halves::Change),
    Timer(timers::Change),
}

/// Leads every encoded command; a broker refuses versions it does not know.
const VERSION: u8 = 3;

impl Command {
    /// What has to be so before it counts. What later lives rely on must not
    /// be lost with the power in any mode.
    pub fn needs(&self) -> Needs {
        match self {
            Command::Started { .. }
            | Command::Jumped { .. }
            | Command::Topic(_)
            | Command::Group(_)
            | Command::Lock(_)
            | Command::Reset(_)
            | Command::Passed(_)
            | Command::Lease(leases::Change::Opened { .. }) => Needs::Durable,
            Command::Offsets(_)
            | Command::Transaction(_)
            | Command::Timer(_)
            | Command::Lease(_) => Needs::Flush,
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        let body = postcard::to_allocvec(self).expect("commands have no unencodable parts");
        out.extend_from_slice(&body);
    }

    /// `at` is where the record lies, for the error.
    pub fn decode(bytes: &[u8], at: Position) -> Result<Command, Corrupt> {
        let corrupt = |what: String| Corrupt { file: "log".into(), position: Some(at), what };
        match bytes.split_first() {
            Some((&VERSION, body)) => {
                postcard::from_bytes(body).map_err(|e| corrupt(format!("not a command: {e}")))
            }
            Some((version, _)) => Err(corrupt(format!(
                "a command of version {version}; this broker knows version {VERSION}"
            ))),
            None => Err(corrupt("an empty command".into())),
        }
    }
}
