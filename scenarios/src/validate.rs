//! What the types cannot say: plans that cannot happen.

use crate::scenario::Scenario;

/// Names of faults, as `[expect]`, `[chaos]` and records write them.
pub const FAULTS: [&str; 18] = [
    "kill",
    "power-loss",
    "restart",
    "pause",
    "partition",
    "latency",
    "drop-connections",
    "clock-jump",
    "clock-drift",
    "disk-full",
    "disk-slow",
    "disk-read-error",
    "disk-write-error",
    "disk-sync-error",
    "bit-rot",
    "misdirected-read",
    "consumer-stall",
    "consumer-slow",
];

/// What can be counted besides faults: what clients saw, and what brokers did.
pub const MARKS: [&str; 17] = [
    // from the history
    "send-ok",
    "send-refused",
    "send-unknown",
    "delivery",
    "redelivery",
    "ack",
    "nack",
    "rebalance",
    // from the probe
    "broker-start",
    "recovery",
    "refused-start",
    "store-stopped",
    "tail-cut",
    "segment-roll",
    "segment-recycle",
    "expiry",
    "licensed-loss",
];

pub(crate) struct Problem {
    /// The path of the key, with the index of each list: `fault.1.at`.
    pub key: String,
    pub what: String,
}

pub(crate) fn check(_scenario: &Scenario) -> Result<(), Problem> {
    Ok(())
}
