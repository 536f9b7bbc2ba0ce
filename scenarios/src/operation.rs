//! What an operator does to the running cluster, and when.

use std::time::Duration;

use serde::Deserialize;

use crate::value::{DurationRange, duration};

/// One thing that an operator does; repeated until the broker has answered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Since the start of the run; a range is drawn from the seed.
    pub at: DurationRange,
    pub kind: OperationKind,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// A topic gets more queues.
    GrowTopic(GrowTopic),
    /// A group reads a topic again from an earlier time, or skips to now.
    ResetOffset(ResetOffset),
    /// Parked halves are checked again.
    ResumeParked(ResumeParked),
    /// The leader of each replica set hands over.
    TransferLeader(TransferLeader),
    /// A spare broker joins its replica set.
    AddReplica(AddReplica),
    /// A broker leaves its replica set.
    RemoveReplica(RemoveReplica),
    /// A spare broker takes another one's place, in one step.
    ReplaceReplica(ReplaceReplica),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowTopic {
    pub topic: String,
    pub queues: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetOffset {
    pub group: String,
    pub topic: String,
    /// How long ago what it is to read next was stored.
    #[serde(deserialize_with = "duration")]
    pub back: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeParked {}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddReplica {
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveReplica {
    /// An id, or `leader` or `any-follower`: whoever is that then.
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceReplica {
    /// Who leaves: an id, or `leader` or `any-follower`.
    pub node: String,
    pub by: String,
}

impl OperationKind {
    /// As files write it.
    pub fn name(&self) -> &'static str {
        match self {
            OperationKind::GrowTopic(_) => "grow-topic",
            OperationKind::ResetOffset(_) => "reset-offset",
            OperationKind::ResumeParked(_) => "resume-parked",
            OperationKind::TransferLeader(_) => "transfer-leader",
            OperationKind::AddReplica(_) => "add-replica",
            OperationKind::RemoveReplica(_) => "remove-replica",
            OperationKind::ReplaceReplica(_) => "replace-replica",
        }
    }

    /// The words for the broker that joins a replica set, and for the one that
    /// leaves it.
    pub fn joins_and_leaves(&self) -> [Option<&str>; 2] {
        match self {
            OperationKind::AddReplica(add) => [Some(&add.node), None],
            OperationKind::RemoveReplica(remove) => [None, Some(&remove.node)],
            OperationKind::ReplaceReplica(replace) => [Some(&replace.by), Some(&replace.node)],
            _ => [None, None],
        }
    }
}
