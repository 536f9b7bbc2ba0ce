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

impl OperationKind {
    /// As files write it.
    pub fn name(&self) -> &'static str {
        match self {
            OperationKind::GrowTopic(_) => "grow-topic",
            OperationKind::ResetOffset(_) => "reset-offset",
            OperationKind::ResumeParked(_) => "resume-parked",
            OperationKind::TransferLeader(_) => "transfer-leader",
        }
    }
}
