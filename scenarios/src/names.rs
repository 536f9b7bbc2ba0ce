//! Words that scenarios may use and records count.

use crate::fault::FaultKind;

/// Faults, as `kind`, `[chaos]`, `[expect]` and records write them.
pub const FAULTS: [&str; 24] = [
    "kill",
    "power-loss",
    "stop",
    "tail-loss",
    "disk-loss",
    "restart",
    "pause",
    "partition",
    "latency",
    "drop-connections",
    "silence-connections",
    "clock-jump",
    "clock-drift",
    "disk-full",
    "disk-slow",
    "disk-read-error",
    "disk-write-error",
    "disk-sync-error",
    "bit-rot",
    "latent-error",
    "misdirected-read",
    "misdirected-write",
    "consumer-stall",
    "consumer-slow",
];

/// What brokers are to their replica set; of the second set: `leader-2`, ...
pub(crate) const ROLE_WORDS: [&str; 5] =
    ["leader", "any-follower", "followers", "majority", "minority"];

/// Kinds of workloads and of operations.
pub(crate) const WORKLOADS: [&str; 5] = ["produce", "transact", "consume", "pull", "pop"];
pub(crate) const OPERATIONS: [&str; 7] = [
    "grow-topic",
    "reset-offset",
    "resume-parked",
    "transfer-leader",
    "add-replica",
    "remove-replica",
    "replace-replica",
];

/// Faults that a run survives whenever they strike; `[chaos]` draws from them.
pub const RECOVERABLE: [&str; 14] = [
    "kill",
    "power-loss",
    "stop",
    "pause",
    "partition",
    "latency",
    "drop-connections",
    "clock-jump",
    "clock-drift",
    "disk-full",
    "disk-slow",
    "disk-sync-error",
    "consumer-stall",
    "consumer-slow",
];

/// What is counted besides faults: what clients saw, by what they did (the
/// first rows), and what happened inside machines (the last four).
#[rustfmt::skip]
pub const MARKS: [&str; 60] = [
    "send-ok", "send-refused", "send-unknown", "idempotent-retry", "delayed", "recall",
    "half", "commit", "rollback", "end-unknown", "end-lost", "end-twice", "end-contrary",
    "end-conflict", "check-back", "check-elsewhere",
    "delivery", "redelivery", "ack", "nack", "retry", "timed-out", "send-back", "send-back-failed",
    "dead-letter", "rebalance", "lock", "lock-lost", "pop", "lease-expiry", "lease-change",
    "late-ack", "offset-reset", "queue-growth", "overload",
    "parked", "resumed", "lock-hand-over", "group-loss", "subscription-conflict", "expiry",
    "broker-start", "recovery", "refused-start", "store-stopped", "sync-failed", "no-room",
    "torn-page", "tail-cut", "segment-roll", "segment-recycle", "licensed-loss",
    "election", "leader-change", "distrusted", "repaired", "snapshot-installed",
    "members-changed", "leadership-transferred", "follower-read",
];

/// The families of failure stories and their last numbers.
pub(crate) const STORIES: [(&str, u32); 7] =
    [("L", 25), ("O", 4), ("D", 8), ("R", 7), ("T", 13), ("N", 7), ("P", 1)];

impl FaultKind {
    /// One of [`FAULTS`].
    pub fn name(&self) -> &'static str {
        match self {
            FaultKind::Kill(_) => "kill",
            FaultKind::PowerLoss(_) => "power-loss",
            FaultKind::Stop(_) => "stop",
            FaultKind::TailLoss(_) => "tail-loss",
            FaultKind::DiskLoss(_) => "disk-loss",
            FaultKind::Restart(_) => "restart",
            FaultKind::Pause(_) => "pause",
            FaultKind::Partition(_) => "partition",
            FaultKind::Latency(_) => "latency",
            FaultKind::DropConnections(_) => "drop-connections",
            FaultKind::SilenceConnections(_) => "silence-connections",
            FaultKind::ClockJump(_) => "clock-jump",
            FaultKind::ClockDrift(_) => "clock-drift",
            FaultKind::DiskFull(_) => "disk-full",
            FaultKind::DiskSlow(_) => "disk-slow",
            FaultKind::DiskReadError(_) => "disk-read-error",
            FaultKind::DiskWriteError(_) => "disk-write-error",
            FaultKind::DiskSyncError(_) => "disk-sync-error",
            FaultKind::BitRot(_) => "bit-rot",
            FaultKind::LatentError(_) => "latent-error",
            FaultKind::MisdirectedRead(_) => "misdirected-read",
            FaultKind::MisdirectedWrite(_) => "misdirected-write",
            FaultKind::ConsumerStall(_) => "consumer-stall",
            FaultKind::ConsumerSlow(_) => "consumer-slow",
        }
    }
}
