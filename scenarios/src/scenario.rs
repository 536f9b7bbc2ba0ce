//! What a scenario says, as data. Field names are the keys of the file.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    fault::FaultSpec,
    operation::Operation,
    value::{
        DurationRange, duration, durations, four, optional_duration, optional_size, signed_millis,
        size,
    },
    workload::Workload,
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
    #[serde(default, rename = "operation")]
    pub operations: Vec<Operation>,
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
    /// Brokers that keep the same log: 1, 3 or 5. The first so many are one
    /// set, the next ones another.
    pub replicas: u32,
    /// Beside each set, brokers that start empty and belong to it once an
    /// operator says so; numbered after all others, set by set.
    pub spares: u32,
    /// The shortest silence of a leader after which its set elects another one;
    /// the longest is twice that.
    #[serde(deserialize_with = "duration")]
    pub election_timeout: Duration,
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
    /// A reader with more bytes of the log before it is sent to a follower.
    #[serde(deserialize_with = "optional_size")]
    pub far_behind: Option<u64>,
    pub topics: Vec<Topic>,
    /// Consumer groups that are to be configured; others have the defaults.
    pub groups: Vec<Group>,
    pub checks: Checks,
    /// How long a lock of an orderly group's shard lasts if nobody renews it.
    #[serde(deserialize_with = "duration")]
    pub lock_lease: Duration,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            brokers: 1,
            replicas: 1,
            spares: 0,
            election_timeout: Duration::from_millis(500),
            name_servers: 1,
            flush: Flush::Sync,
            flush_interval: Duration::from_millis(500),
            segment_bytes: 256 << 10,
            retain_bytes: None,
            retain_for: None,
            far_behind: None,
            topics: Vec::new(),
            groups: Vec::new(),
            checks: Checks::default(),
            lock_lease: Duration::from_secs(60),
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

/// What a consumer group is told about messages that are sent back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    /// Deliveries of one message before it becomes a dead letter.
    #[serde(default = "seventeen")]
    pub max_attempts: u32,
    /// How long it waits for its second, third, ... attempt; the last one stays.
    /// Absent: RocketMQ's delay levels, from ten seconds on.
    #[serde(default, deserialize_with = "durations")]
    pub back_off: Vec<Duration>,
}

fn seventeen() -> u32 {
    17
}

/// When brokers ask how a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checks {
    /// Age of a half at its first check.
    #[serde(deserialize_with = "duration")]
    pub after: Duration,
    /// From the first check to the second; it doubles from check to check.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// The longest time between two checks.
    #[serde(deserialize_with = "duration")]
    pub longest: Duration,
    /// Checks that reached a producer, after which a half is parked.
    pub at_most: u8,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks {
            after: Duration::from_secs(6),
            every: Duration::from_secs(30),
            longest: Duration::from_secs(960),
            at_most: 15,
        }
    }
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
