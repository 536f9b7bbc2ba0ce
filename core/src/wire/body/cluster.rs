//! Stormglass's own 20040 and 20041: what operators see of a replica set, and
//! how they change it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The body of the answer to 20040. Any replica answers; only the leader knows
/// how far the others are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The set's name: RocketMQ's brokerName.
    pub set: String,
    pub term: u64,
    /// The replica that leads, as far as the one that answers knows.
    pub leader: Option<u64>,
    /// A change of members is on its way: a majority of the old ones and one of
    /// the new ones decide together.
    pub changing: bool,
    pub replicas: Vec<ReplicaStatus>,
    /// The replica that answers.
    pub own: OwnStatus,
}

/// One replica, as the one that answers knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    pub id: u64,
    /// Where it listens for the other replicas.
    pub address: SocketAddr,
    pub role: ReplicaRole,
    /// Only the leader says this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ReplicaProgress>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaRole {
    #[default]
    Voter,
    /// It catches up, and becomes a voter by itself then.
    Learner,
    /// A voter that the change on its way adds, or removes.
    Incoming,
    Outgoing,
}

/// How far a replica is, seen from the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaProgress {
    /// The last entry that it is known to have persisted.
    pub matched: u64,
    /// Bytes of the leader's log behind that entry.
    pub bytes_behind: u64,
    /// Whether it was heard within the last election timeout.
    pub recently_active: bool,
    /// False once it said that it lost what it had acknowledged, until it has
    /// caught up: it has no say in elections.
    pub trusted: bool,
    /// It is sent a snapshot and the log around it.
    pub installing: bool,
}

/// What a replica says of itself. Positions are bytes in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnStatus {
    pub id: u64,
    pub serving: bool,
    pub commit_index: u64,
    /// The first position that is kept.
    pub start: u64,
    pub committed: u64,
    pub applied: u64,
    pub durable: u64,
    pub trusted: bool,
    /// The set went on without this replica.
    pub removed: bool,
}

/// The body of 20041. The answer comes once the change is committed as far as
/// it can be at once: an added replica is a learner first, and becomes a voter
/// when it has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum MemberChange {
    Add {
        id: u64,
        /// Where it listens for the other replicas.
        address: SocketAddr,
    },
    Remove {
        id: u64,
    },
    /// `id` leaves in the same step in which `by` becomes a voter.
    Replace {
        id: u64,
        by: u64,
        address: SocketAddr,
    },
}
