//! What a scenario says, as data. Field names are the keys of the file.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::value::{
    DurationRange, SizeRange, duration, optional_duration, optional_size, probability,
    signed_millis, size,
};

/// One storm: a cluster, who uses it, what strikes it, and what must have
/// happened for the run to prove anything.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Unique among all scenarios; what the command line calls it.
    pub name: String,
    /// The failure stories it recreates, as in `"L3"`.
    #[serde(default)]
    pub story: Vec<String>,
    /// What it is about; the name of its folder unless the file says otherwise.
    #[serde(default)]
    pub area: String,
    /// The seeds that every change must survive.
    pub seeds: Vec<u64>,
    /// How long workloads produce and faults strike, in virtual time.
    #[serde(deserialize_with = "duration")]
    pub run_for: Duration,
    /// Then all is healed, and the cluster must come to rest within this.
    #[serde(deserialize_with = "duration")]
    pub settle: Duration,
    pub cluster: Cluster,
    #[serde(default)]
    pub disk: Disk,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub clock: Vec<Clock>,
    #[serde(default, rename = "workload")]
    pub workloads: Vec<Workload>,
    #[serde(default, rename = "fault")]
    pub faults: Vec<FaultSpec>,
    pub chaos: Option<Chaos>,
    #[serde(default)]
    pub expect: Expect,

    /// The file it was read from, as it was named to `parse`.
    #[serde(skip)]
    pub file: String,
    /// The comment at the top of the file: the story in plain words.
    #[serde(skip)]
    pub about: String,
}

/// The machines and how the brokers store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    pub brokers: u32,
    pub name_servers: u32,
    pub flush: Flush,
    /// With `flush = "async"`: the longest time an acknowledged message waits
    /// for its sync.
    #[serde(deserialize_with = "duration")]
    pub flush_interval: Duration,
    /// Length of a commit log segment in bytes; small, so that runs roll and
    /// recycle them.
    #[serde(deserialize_with = "size")]
    pub segment_bytes: u64,
    /// Length of the log, in bytes, beyond which its oldest segments expire;
    /// nothing does if absent.
    #[serde(deserialize_with = "optional_size")]
    pub retain_bytes: Option<u64>,
    /// Age of a message after which its segment may expire; none does if absent.
    #[serde(deserialize_with = "optional_duration")]
    pub retain_for: Option<Duration>,
    pub topics: Vec<Topic>,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            brokers: 1,
            name_servers: 1,
            flush: Flush::Sync,
            flush_interval: Duration::from_millis(500),
            segment_bytes: 256 << 10,
            retain_bytes: None,
            retain_for: None,
            topics: Vec::new(),
        }
    }
}

/// When a broker answers OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flush {
    /// After the message is on the platter.
    Sync,
    /// After it is in the page cache.
    Async,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    pub name: String,
    #[serde(default = "four")]
    pub queues: u32,
}

fn four() -> u32 {
    4
}

fn one() -> u32 {
    1
}

/// How every broker's disk behaves all the time; its failures are faults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    pub sync_latency: DurationRange,
    /// Whether power loss may lose pages that no sync covered; if not, it
    /// loses nothing.
    pub lose_unsynced: bool,
    /// Whether power loss may tear such pages at 512-byte sectors.
    pub torn: bool,
    #[serde(deserialize_with = "size")]
    pub capacity: u64,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            sync_latency: DurationRange::millis(1, 5),
            lose_unsynced: true,
            torn: true,
            capacity: 1 << 30,
        }
    }
}

/// How the network behaves all the time; its failures are faults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// One way.
    pub latency: DurationRange,
}

impl Default for Network {
    fn default() -> Network {
        Network { latency: DurationRange::millis(1, 3) }
    }
}

/// A node whose clock is wrong from the start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    pub node: String,
    /// How far its wall clock is ahead, in milliseconds; negative if behind.
    #[serde(default, rename = "offset", deserialize_with = "signed_millis")]
    pub offset_ms: i64,
    /// How fast both its clocks run, in parts per million; negative if slow.
    #[serde(default)]
    pub drift_ppm: i64,
}

/// Clients of one kind that do the same thing, each on its own node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Distinguishes its nodes from others; by default the topic it produces
    /// to, or the group it consumes in.
    pub name: Option<String>,
    #[serde(default = "one")]
    pub members: u32,
    /// When the first member starts; `stop_at` is when all stop in good order.
    #[serde(default, deserialize_with = "duration")]
    pub start_at: Duration,
    /// Producers stop when the chaos ends, consumers when the run does, unless
    /// this says earlier.
    #[serde(default, deserialize_with = "optional_duration")]
    pub stop_at: Option<Duration>,
    /// The time from the start of one member to the start of the next.
    #[serde(default, deserialize_with = "duration")]
    pub stagger: Duration,
    pub kind: WorkloadKind,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadKind {
    Produce(Produce),
    Consume(Consume),
    Pull(Pull),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Produce {
    pub topic: String,
    /// Messages per second and member; the gaps vary by half around the mean.
    #[serde(default = "ten")]
    pub rate: f64,
    /// Messages per send; above 1 they travel as one atomic batch.
    #[serde(default = "one")]
    pub batch: u32,
    /// Keys per member, used in turn; one key stays on one shard. 0: no keys.
    #[serde(default)]
    pub keys: u32,
    /// Each message carries one of these, drawn evenly.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Bytes of a body.
    #[serde(default = "small_bodies")]
    pub size: SizeRange,
    /// The share of sends that wait for no answer.
    #[serde(default, deserialize_with = "probability")]
    pub one_way: f64,
    /// Sends that a member keeps under way at a time; 1 keeps its order.
    #[serde(default = "one")]
    pub in_flight: u32,
}

fn ten() -> f64 {
    10.0
}

fn small_bodies() -> SizeRange {
    SizeRange { min: 32, max: 512 }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consume {
    pub group: String,
    pub topics: Vec<String>,
    /// A tag expression, as in `"red || blue"`; `"*"` takes all.
    #[serde(default = "everything")]
    pub filter: String,
    #[serde(default)]
    pub model: Model,
    /// One message of a shard at a time, in log order.
    #[serde(default)]
    pub orderly: bool,
    /// Where a new group starts on a queue older than itself.
    #[serde(default)]
    pub from: From,
    /// Messages that a member works on at a time.
    #[serde(default = "four")]
    pub concurrency: u32,
    /// How long the work on one message takes.
    #[serde(default = "quick_work")]
    pub work: DurationRange,
    /// The share of deliveries handed back for another attempt.
    #[serde(default, deserialize_with = "probability")]
    pub nack: f64,
    /// The share of deliveries that a member forgets: neither ack nor nack.
    #[serde(default, deserialize_with = "probability")]
    pub never_ack: f64,
}

fn everything() -> String {
    "*".to_owned()
}

fn quick_work() -> DurationRange {
    DurationRange::millis(1, 5)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// Members share the messages.
    #[default]
    Clustering,
    /// Every member gets every message.
    Broadcasting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    #[default]
    First,
    Last,
}

/// A client that asks for messages itself and commits its own offsets.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    pub group: String,
    pub topic: String,
    #[serde(default = "everything")]
    pub filter: String,
    /// The pause between rounds over all queues.
    #[serde(default = "poll_pause")]
    pub every: DurationRange,
    /// Messages per pull, at most.
    #[serde(default = "thirty_two")]
    pub batch: u32,
}

fn poll_pause() -> DurationRange {
    DurationRange::millis(50, 150)
}

fn thirty_two() -> u32 {
    32
}

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
    /// Starts a node that an earlier fault without `restart_after` stopped.
    Restart(OneNode),
    Pause(Lasting),
    Partition(Partition),
    Latency(ExtraLatency),
    DropConnections(Between),
    ClockJump(ClockJump),
    ClockDrift(ClockDrift),
    DiskFull(Lasting),
    DiskSlow(DiskSlow),
    DiskReadError(Counted),
    DiskWriteError(StoreFailure),
    DiskSyncError(StoreFailure),
    BitRot(BitRot),
    MisdirectedRead(Counted),
    ConsumerStall(Lasting),
    ConsumerSlow(ConsumerSlow),
}

/// `node` everywhere: a node's id, `leader`, `broker`, or `any-` and a set:
/// `any-consumer`, `any-producer`, `any-client`, `any-consumer-billing`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    pub node: String,
    pub restart_after: Option<DurationRange>,
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

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerSlow {
    pub node: String,
    /// What the work on each message takes while it is slow, drawn once.
    pub work: DurationRange,
    #[serde(rename = "for")]
    pub lasts: Option<DurationRange>,
}

/// Random faults drawn from the seed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chaos {
    /// Kinds to draw from, evenly; naming one twice doubles its share.
    pub kinds: Vec<String>,
    /// The pause between two faults.
    pub every: DurationRange,
    /// How long a lasting one lasts, and how long a stopped node is down.
    #[serde(rename = "for")]
    pub lasts: DurationRange,
    /// Faults in all, at most.
    #[serde(default = "chaos_budget")]
    pub budget: u32,
    #[serde(default, deserialize_with = "duration")]
    pub start_at: Duration,
}

fn chaos_budget() -> u32 {
    100
}

/// What the run must show, and what it may cost.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Faults by kind and [`MARKS`](crate::MARKS), and how often each must
    /// have happened: a run in which nothing happened proves nothing.
    pub at_least: BTreeMap<String, u64>,
    pub may_lose: MayLose,
    /// Whether the cluster serves again once healed. Without it, damage must
    /// be refused rather than survived, and nobody waits for liveness.
    pub recovers: bool,
    /// How many times higher the latency of a healthy group may be beside a
    /// slow or stalled one.
    pub isolation_factor: f64,
}

impl Default for Expect {
    fn default() -> Expect {
        Expect {
            at_least: BTreeMap::new(),
            may_lose: MayLose::Contract,
            recovers: true,
            isolation_factor: 3.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MayLose {
    /// What the durability mode and the faults that struck allow.
    Contract,
    /// Nothing that was acknowledged.
    Nothing,
}
