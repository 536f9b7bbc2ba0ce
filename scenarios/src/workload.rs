//! Who uses the cluster, and how.

use std::time::Duration;

use serde::Deserialize;

use crate::value::{DurationRange, SizeRange, duration, four, one, optional_duration, probability};

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
    Transact(Transact),
    Consume(Consume),
    Pull(Pull),
    Pop(Pop),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Produce {
    pub topic: String,
    /// Messages per second and member; the gaps vary by half around the mean.
    #[serde(default = "ten")]
    pub rate: f64,
    /// For a while the rate is another one: more than the cluster can take.
    pub burst: Option<Burst>,
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
    /// How long after it is stored a message may be delivered, to the
    /// millisecond; half of them name the time, the others the length.
    pub delay: Option<DurationRange>,
    /// RocketMQ's delay levels instead, 1 (a second) to 18 (two hours), drawn
    /// evenly.
    #[serde(default)]
    pub delay_levels: Vec<u32>,
    /// The share of delayed messages that the producer takes back, at a random
    /// moment before they are due.
    #[serde(default, deserialize_with = "probability")]
    pub recall: f64,
    /// Whether sends carry sequence numbers, so that a request that is made
    /// again stores nothing twice.
    #[serde(default)]
    pub idempotent: bool,
}

/// A time in which producers send at another rate.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    #[serde(deserialize_with = "duration")]
    pub lasts: Duration,
    /// Messages per second and member.
    pub rate: f64,
}

/// Producers of one group that send halves, decide in their own database, and
/// tell the broker, or do not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transact {
    pub topic: String,
    /// The producer group; `<topic>-producers` unless the file says otherwise.
    pub group: Option<String>,
    /// Transactions per second and member.
    #[serde(default = "five")]
    pub rate: f64,
    /// Keys per member, used in turn; 0: no keys.
    #[serde(default)]
    pub keys: u32,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default = "small_bodies")]
    pub size: SizeRange,
    /// Transactions that a member keeps under way at a time.
    #[serde(default = "sixteen")]
    pub in_flight: u32,
    /// How long the local transaction takes, from the half to its decision.
    #[serde(default = "quick_work")]
    pub work: DurationRange,
    /// The share that the database rolls back.
    #[serde(default = "a_third", deserialize_with = "probability")]
    pub rollback: f64,
    /// The share of local transactions that hang: they are decided when they
    /// have been checked `unknown_rounds` times.
    #[serde(default, deserialize_with = "probability")]
    pub undecided: f64,
    /// How often a listener answers that it does not know yet.
    #[serde(default = "two")]
    pub unknown_rounds: u32,
    /// From the decision to the end's first byte.
    #[serde(default = "at_once")]
    pub linger: DurationRange,
    /// The share of decisions that the broker is never told.
    #[serde(default, deserialize_with = "probability")]
    pub lose_end: f64,
    /// The share that it is told twice.
    #[serde(default, deserialize_with = "probability")]
    pub end_twice: f64,
    /// The share of which it is told the contrary afterwards.
    #[serde(default, deserialize_with = "probability")]
    pub contrary: f64,
    /// How long a listener takes to answer a check.
    #[serde(default = "quick_work")]
    pub answer: DurationRange,
    /// The share of checks that nobody answers.
    #[serde(default, deserialize_with = "probability")]
    pub never_answer: f64,
    /// Halves ask not to be checked before so long has passed, in whole seconds.
    #[serde(default, deserialize_with = "optional_duration")]
    pub immunity: Option<Duration>,
}

fn five() -> f64 {
    5.0
}

fn two() -> u32 {
    2
}

fn sixteen() -> u32 {
    16
}

fn a_third() -> f64 {
    1.0 / 3.0
}

fn at_once() -> DurationRange {
    DurationRange::millis(0, 1)
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
    /// After how long what was handed back comes again.
    #[serde(default = "soon_again")]
    pub again: DurationRange,
    /// The share of deliveries handed back for when the group's back-off says.
    #[serde(default, deserialize_with = "probability")]
    pub retry: f64,
    /// The share of messages that fail at every attempt.
    #[serde(default, deserialize_with = "probability")]
    pub poison: f64,
    /// The share of deliveries that a member forgets: neither ack nor nack.
    #[serde(default, deserialize_with = "probability")]
    pub never_ack: f64,
    /// Deliveries of one message before it becomes a dead letter, if the members
    /// say so; otherwise the group's configuration decides.
    pub max_attempts: Option<u32>,
    /// The client gives a message back by itself whose handler takes longer.
    #[serde(default, deserialize_with = "optional_duration")]
    pub consume_timeout: Option<Duration>,
    /// Orderly members renew their locks this often, and hold a lock that they
    /// could not renew for three halves of it; 20 s if absent.
    #[serde(default, deserialize_with = "optional_duration")]
    pub lock_renewal: Option<Duration>,
}

fn soon_again() -> DurationRange {
    DurationRange::millis(100, 1_000)
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

/// Consumers that lease single messages of all queues: nobody owns a queue.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pop {
    pub group: String,
    pub topic: String,
    #[serde(default = "everything")]
    pub filter: String,
    /// How long a lease lasts.
    #[serde(default = "ten_seconds", deserialize_with = "duration")]
    pub invisible: Duration,
    /// Messages leased at a time, at most.
    #[serde(default = "four")]
    pub batch: u32,
    /// How long the broker may wait for a message.
    #[serde(default = "five_seconds", deserialize_with = "duration")]
    pub wait: Duration,
    /// How long the work on one message takes.
    #[serde(default = "quick_work")]
    pub work: DurationRange,
    /// The share of deliveries that get another lease before they are done.
    #[serde(default, deserialize_with = "probability")]
    pub extend: f64,
    /// The share handed back: its lease is cut to `again`.
    #[serde(default, deserialize_with = "probability")]
    pub nack: f64,
    #[serde(default = "soon_again")]
    pub again: DurationRange,
    /// The share of messages that fail at every attempt.
    #[serde(default, deserialize_with = "probability")]
    pub poison: f64,
    /// The share of deliveries that a member forgets until their lease ends.
    #[serde(default, deserialize_with = "probability")]
    pub never_ack: f64,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
