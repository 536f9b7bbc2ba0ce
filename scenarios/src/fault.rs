//! What strikes, and when.

use std::time::Duration;

use serde::Deserialize;

use crate::value::{DurationRange, duration, one, signed_millis};

/// A fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Since the start of the run; a range is drawn from the seed.
    pub at: DurationRange,
    /// Strikes again this long after it last struck.
    pub every: Option<DurationRange>,
    /// How often in all; without it, `every` goes on until `run_for`.
    pub times: Option<u32>,
    pub kind: FaultKind,
}

/// What strikes. A lasting fault without `for` or `restart_after` lasts until
/// all is healed at `run_for`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    Kill(Stop),
    PowerLoss(Stop),
    /// A server is asked to stop and does so in order; a leader hands over first.
    Stop(Stop),
    /// A replica's machine loses power, and with it the end of its log, as if
    /// its disk had lied about the last syncs.
    TailLoss(TailLoss),
    /// A replica's disk is replaced by an empty one.
    DiskLoss(Stop),
    /// Starts a node that an earlier fault without `restart_after` stopped, or
    /// one that gave up after a disk failure, before the machine is turned off.
    Restart(OneNode),
    Pause(Lasting),
    Partition(Partition),
    Latency(ExtraLatency),
    DropConnections(Between),
    /// They die without a word to either side.
    SilenceConnections(Between),
    ClockJump(ClockJump),
    ClockDrift(ClockDrift),
    DiskFull(Lasting),
    DiskSlow(DiskSlow),
    DiskReadError(Counted),
    DiskWriteError(StoreFailure),
    DiskSyncError(StoreFailure),
    BitRot(BitRot),
    LatentError(LatentError),
    MisdirectedRead(Counted),
    MisdirectedWrite(Counted),
    ConsumerStall(Lasting),
    ConsumerSlow(ConsumerSlow),
}

impl FaultKind {
    /// The node that it stops, if nothing of it starts that again.
    pub(crate) fn stops_for_good(&self) -> Option<&String> {
        match self {
            FaultKind::Kill(stop)
            | FaultKind::PowerLoss(stop)
            | FaultKind::Stop(stop)
            | FaultKind::DiskLoss(stop) => stop.restart_after.is_none().then_some(&stop.node),
            FaultKind::TailLoss(loss) => loss.restart_after.is_none().then_some(&loss.node),
            // The process gives up at once; the machine is turned off later.
            FaultKind::DiskWriteError(error) | FaultKind::DiskSyncError(error) => Some(&error.node),
            _ => None,
        }
    }
}

/// `node` everywhere: a node's id; `broker`, or `any-` and a set:
/// `any-consumer`, `any-producer`, `any-client`, `any-consumer-billing`; a whole
/// set, of which all are struck at once; or what replicas are to their set when
/// it strikes: `leader`, `any-follower`, `followers`, `majority`, `minority`,
/// with `-2` those of the second set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    pub node: String,
    pub restart_after: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailLoss {
    pub node: String,
    /// What became durable in so long before.
    #[serde(default = "a_second", deserialize_with = "duration")]
    pub last: Duration,
    pub restart_after: Option<DurationRange>,
}

fn a_second() -> Duration {
    Duration::from_secs(1)
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneNode {
    pub node: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lasting {
    pub node: String,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Nodes or whole sets: `brokers`, `names`, `producers`, `consumers`,
    /// `clients`, or a workload's nodes, as in `consumer-billing`.
    pub a: Vec<String>,
    pub b: Vec<String>,
    /// Only what `a` sends to `b` is lost.
    #[serde(default)]
    pub one_way: bool,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraLatency {
    pub a: Vec<String>,
    pub b: Vec<String>,
    pub extra: DurationRange,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    pub a: Vec<String>,
    pub b: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockJump {
    pub node: String,
    #[serde(rename = "by", deserialize_with = "signed_millis")]
    pub by_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockDrift {
    pub node: String,
    pub ppm: i64,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSlow {
    pub node: String,
    /// Added to each sync.
    pub extra: DurationRange,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    pub node: String,
    #[serde(default = "one")]
    pub count: u32,
}

/// A failed write or sync stops the store for good (L2), so somebody has to
/// turn the machine off and on again.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreFailure {
    pub node: String,
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default = "soon")]
    pub reboot_after: DurationRange,
}

fn soon() -> DurationRange {
    DurationRange::millis(1_000, 3_000)
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitRot {
    pub node: String,
    #[serde(default = "one")]
    pub flips: u32,
    #[serde(default, deserialize_with = "duration")]
    pub older_than: Duration,
}

/// Pages that cannot be read any more, until somebody writes them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentError {
    pub node: String,
    #[serde(default = "one")]
    pub pages: u32,
    #[serde(default, deserialize_with = "duration")]
    pub older_than: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerSlow {
    pub node: String,
    /// What the work on each message takes while it is slow, drawn once.
    pub work: DurationRange,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}
