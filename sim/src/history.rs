//! What happened in a run: what clients saw, which faults fired, and what the
//! probe saw of the brokers. Plain events in the order in which they happened;
//! everything the oracles, the coverage table and the reports know, they know
//! from here.

mod body;
mod names;
mod story;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use body::{BadBody, Body, body_hash};
pub use names::{
    BatchId, DeliveryId, FaultId, GroupId, KeyId, LaneId, MemberId, MemberName, MessageId, Names,
    OpId, ShardId, ShardName, TagId, TopicId,
};
pub use story::Story;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds of the world's own time: no node's clock, so no skew.
    pub at: u64,
    /// The machine or client it happened to.
    pub lane: LaneId,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A producer (the lane) calls send. Recorded before the first byte leaves.
    /// A one-way send has no further event: its outcome is unknown.
    SendBegun {
        op: OpId,
        message: MessageId,
        topic: TopicId,
        /// The shard, if the caller chose it.
        shard: Option<ShardId>,
        key: Option<KeyId>,
        tag: Option<TagId>,
        body_hash: u32,
        /// Bytes of body.
        size: u32,
        batch: Option<BatchId>,
        one_way: bool,
    },
    /// Answered as stored. For a message of a batch, its own queue offset.
    SendOk {
        op: OpId,
        shard: ShardId,
        queue_offset: u64,
        /// Where in the broker's log, from the offset message id.
        position: Option<u64>,
        status: Stored,
        /// Requests written for this operation: 1 without a retry. Each may
        /// have stored a copy.
        tries: u8,
    },
    /// Every try was answered with a refusal. If one try was not answered, the
    /// operation is unknown, not refused.
    SendRefused {
        op: OpId,
        code: i32,
        tries: u8,
    },
    /// Nobody knows whether it was stored.
    SendUnknown {
        op: OpId,
        why: Unanswered,
        tries: u8,
    },

    /// A consumer joins its group (the lane is its client).
    MemberStarted(Box<MemberStarted>),
    /// It left in an orderly way.
    MemberStopped {
        member: MemberId,
    },
    MemberCrashed {
        member: MemberId,
    },
    /// The workload makes a member's handler slow or stalls it, or lets it go on.
    MemberPaced {
        member: MemberId,
        pace: Pace,
    },
    /// The member's shards from here on, all of them. Recorded before it asks
    /// for the offsets of new ones.
    Assigned {
        member: MemberId,
        shards: Box<[ShardId]>,
    },
    /// The member will read this shard from this offset on.
    OffsetRead {
        member: MemberId,
        shard: ShardId,
        offset: u64,
        source: OffsetSource,
    },
    /// The client hands a message to its handler; again for every retry.
    /// Recorded in the order in which the client hands them over.
    Delivered {
        delivery: DeliveryId,
        member: MemberId,
        shard: ShardId,
        queue_offset: u64,
        /// Where in the broker's log, as the record says.
        position: u64,
        /// From the body; `None` if the body is not what any workload wrote.
        message: Option<MessageId>,
        body_hash: u32,
        key: Option<KeyId>,
        tag: Option<TagId>,
    },
    /// The handler is done with it.
    Acked {
        delivery: DeliveryId,
    },
    /// The handler wants it again later.
    Nacked {
        delivery: DeliveryId,
    },
    /// The handler will never answer, on purpose.
    Forgotten {
        delivery: DeliveryId,
    },

    /// A topic has this many queues on this broker (the lane) from here on.
    TopicSized {
        topic: TopicId,
        queues: u32,
    },
    /// Retention dropped the shard's offsets below `to`, and counted them.
    Expired {
        shard: ShardId,
        from: u64,
        to: u64,
    },

    /// A fault fires. What lasts (a partition, a slow disk) lasts until it is
    /// healed; what does not (a kill, a flipped bit) is healed in the same
    /// instant. Errors of the disk count from when they are armed.
    Fault(Box<Fault>),
    FaultHealed {
        fault: FaultId,
    },
    /// A node (the lane) starts, for the `life`th time, from 1.
    NodeStarted {
        life: u32,
    },
    NodeStopped {
        why: Stop,
    },

    /// No fault is active any more and none will come.
    ChaosEnded,
    /// Everything has come to rest: no send is open, and nothing has moved for
    /// a while. A run that ends without this was not live.
    Quiesced,

    /// Probe: a broker (the lane) has recovered. Everything in its log from
    /// `log_end` on is gone. Comes after the `GroupOffset`s it recovered.
    Recovered {
        log_end: u64,
    },
    /// Probe: all of the log below this position is durable, says the broker.
    /// Recorded at each change, before any client can see its effect.
    Durable {
        position: u64,
    },
    /// Probe: a group's committed offset (the next to consume) as the broker
    /// has it, at each change and once in each life.
    GroupOffset {
        group: GroupId,
        shard: ShardId,
        offset: u64,
        /// One past the last visible offset of the shard.
        end: u64,
    },
    /// Probe: bytes of messages a node or client holds in memory. Sampled.
    Memory {
        bytes: u64,
    },
    Mark {
        mark: Mark,
    },
}

/// What a consumer is, fixed for one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberStarted {
    pub member: MemberId,
    /// From 1, counted over the restarts of this member.
    pub incarnation: u32,
    pub mode: Mode,
    pub orderly: bool,
    pub from: From,
    pub subscriptions: Vec<Subscription>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subscription {
    pub topic: TopicId,
    /// Empty means all messages, with any tag or none.
    pub tags: Vec<TagId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Clustering,
    Broadcasting,
}

/// Where a group starts that has no committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    First,
    Last,
}

/// What kind of stored an answer meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// As the mode promises.
    AsPromised,
    /// Stored, without the promise (FLUSH_DISK_TIMEOUT and its like).
    Weakly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unanswered {
    TimedOut,
    ConnectionLost,
    /// The producer died first.
    ProducerGone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    Normal,
    Slow,
    Stalled,
}

/// Where a start offset came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffsetSource {
    /// The group's committed offset.
    Committed,
    /// There was none: from the first message, or past the last one.
    First,
    Last,
    /// The broker said that the offset was out of range and gave another.
    Corrected,
    /// A person or the workload moved it.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// It was asked to.
    Graceful,
    /// The process died; the page cache lives on.
    Killed,
    /// The machine lost power: what was not synced may be gone.
    PowerLost,
    /// It gave up by itself, for example after a failed sync.
    GaveUp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    pub fault: FaultId,
    pub kind: FaultKind,
    /// The machines and clients it strikes.
    pub lanes: Vec<LaneId>,
    /// For people: "partition broker-1 from consumer-2".
    pub text: String,
}

macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($(#[$of:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $kind {
            $($(#[$of])* #[serde(rename = $name)] $variant,)*
        }

        impl $kind {
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)*];

            /// As scenarios, records and reports write it.
            pub fn name(self) -> &'static str {
                match self { $($kind::$variant => $name,)* }
            }

            pub fn named(name: &str) -> Option<$kind> {
                match name { $($name => Some($kind::$variant),)* _ => None }
            }
        }
    };
}

named! {
    /// What kinds of faults there are, under the plan's names.
    FaultKind {
        Kill = "kill",
        PowerLoss = "power-loss",
        Restart = "restart",
        Pause = "pause",
        Partition = "partition",
        Latency = "latency",
        DropConnections = "drop-connections",
        ClockJump = "clock-jump",
        ClockDrift = "clock-drift",
        DiskFull = "disk-full",
        DiskSlow = "disk-slow",
        DiskReadError = "disk-read-error",
        DiskWriteError = "disk-write-error",
        DiskSyncError = "disk-sync-error",
        BitRot = "bit-rot",
        MisdirectedRead = "misdirected-read",
        ConsumerStall = "consumer-stall",
        ConsumerSlow = "consumer-slow",
    }
}

impl FaultKind {
    /// Whether it only makes an application slow, and nothing is broken.
    pub fn is_of_handlers(self) -> bool {
        matches!(self, FaultKind::ConsumerStall | FaultKind::ConsumerSlow)
    }
}

named! {
    /// What happened inside a machine, seen by its disk or by the probe.
    Mark {
        /// The disk answered a sync with an error.
        SyncFailed = "sync-failed",
        /// The disk had no room for a new file.
        NoRoom = "no-room",
        /// A power failure left a page of which only a part was written.
        TornPage = "torn-page",
        /// Recovery cut what did not reach the platter whole.
        TailCut = "tail-cut",
        /// The broker refused to start from a damaged disk.
        RefusedStart = "refused-start",
        /// The store stopped after a disk failure.
        StoreStopped = "store-stopped",
        SegmentRoll = "segment-roll",
        SegmentRecycle = "segment-recycle",
    }
}

/// All events of a run, with the names they mention.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub struct History {
    pub names: Names,
    pub events: Vec<Event>,
}

impl History {
    /// The event as a person tells it.
    pub fn tell<'a>(&'a self, event: &'a Event) -> Story<'a> {
        Story { names: &self.names, event }
    }
}

/// Where everybody writes the run's history. Clones write to the same one.
#[derive(Clone)]
pub struct Recorder {
    now: Arc<dyn Fn() -> u64 + Send + Sync>,
    tape: Arc<Mutex<Tape>>,
}

#[derive(Default)]
struct Tape {
    history: History,
    messages: usize,
    ops: usize,
    batches: usize,
    deliveries: usize,
    faults: usize,
}

impl Recorder {
    /// `now` is the world's own time in microseconds since the run's start.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Recorder {
        Recorder { now: Arc::new(now), tape: Arc::default() }
    }

    /// Times never run backwards along the history: within a step of turmoil
    /// each machine has a time of its own, but what is told later was later.
    pub fn push(&self, lane: LaneId, kind: EventKind) {
        let mut tape = self.tape();
        let events = &mut tape.history.events;
        let at = (self.now)().max(events.last().map_or(0, |last| last.at));
        events.push(Event { at, lane, kind });
    }

    /// Interns names: `recorder.name(|names| names.topic("orders"))`.
    pub fn name<T>(&self, intern: impl FnOnce(&mut Names) -> T) -> T {
        intern(&mut self.tape().history.names)
    }

    pub fn next_message(&self) -> MessageId {
        MessageId::at(count(&mut self.tape().messages))
    }

    pub fn next_op(&self) -> OpId {
        OpId::at(count(&mut self.tape().ops))
    }

    pub fn next_batch(&self) -> BatchId {
        BatchId::at(count(&mut self.tape().batches))
    }

    pub fn next_delivery(&self) -> DeliveryId {
        DeliveryId::at(count(&mut self.tape().deliveries))
    }

    pub fn next_fault(&self) -> FaultId {
        FaultId::at(count(&mut self.tape().faults))
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.tape().history.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the history so far.
    pub fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.tape().history)
    }

    /// Takes the history out, leaving an empty one.
    pub fn take(&self) -> History {
        std::mem::take(&mut self.tape().history)
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        // A panic elsewhere leaves the events before it; they tell its story.
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &mut usize) -> usize {
    *counter += 1;
    *counter - 1
}
