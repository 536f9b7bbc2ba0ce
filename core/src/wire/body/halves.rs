//! Stormglass's own 20037 and 20038: what operators see of transactions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The body of the answer to 20037.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HalfList {
    /// Undecided ones altogether, and how many of them are parked.
    pub open: u64,
    pub parked: u64,
    /// What became of all others since the broker was made.
    pub committed: u64,
    pub rolled_back: u64,
    /// Retention took them undecided.
    pub expired: u64,
    /// Contrary decisions that were refused since the broker started.
    pub conflicts: u64,
    /// The groups with undecided ones, at most 1000.
    pub groups: Vec<ProducerGroup>,
    pub halves: Vec<HalfInfo>,
    /// The position to go on behind, if there may be more.
    pub next: Option<u64>,
}

/// A producer group with undecided transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerGroup {
    pub group: String,
    pub open: u32,
    pub parked: u32,
    /// Connections of its members.
    pub connections: u32,
    /// It should be asked, and there is nobody to ask.
    pub unreachable: bool,
}

/// How far a half message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HalfState {
    #[default]
    Open,
    /// Checked too often; it waits for an operator.
    Parked,
    Committed,
    RolledBack,
}

/// A half message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HalfInfo {
    /// Its offset message id: what names it in every request.
    pub message_id: String,
    pub position: u64,
    /// What 37 has to echo.
    pub number: u64,
    pub state: HalfState,
    pub producer_group: String,
    pub topic: String,
    pub queue: u32,
    pub unique_key: Option<String>,
    /// Milliseconds since the epoch.
    pub stored_at: i64,
    /// Checks received since it was stored or resumed.
    pub checks: u8,
    /// Milliseconds until the next one, if a member is there to be asked.
    pub next_check_in: Option<u64>,
    /// Bytes of the body.
    pub size: u64,
    /// Only in 20038.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}
