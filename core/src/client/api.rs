//! What a client takes and gives: receipts, deliveries, questions, errors.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Half, Lease, Pop, Popped, SendBack, Unlocked};
use crate::{
    error::Rejected,
    ids::{Name, Shard},
    message::{self, Properties, Record, property},
    wire::{
        RecallHandle,
        body::{ClusterInfo, ClusterStatus, HalfInfo, MemberChange, SubscriptionGroup, TopicRoute},
        code,
        header::Resolution,
    },
};

/// A shard and the broker that holds it: RocketMQ's MessageQueue. Its order is
/// the order in which queues are shared out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageQueue {
    pub topic: Name,
    pub broker: Name,
    pub queue: u32,
}

impl MessageQueue {
    pub fn shard(&self) -> Shard {
        Shard { topic: self.topic.clone(), queue: self.queue }
    }
}

impl fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.broker, self.queue)
    }
}

/// How one send differs from the client's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// This queue and no other. Otherwise the sharding key chooses, or else
    /// the queues take turns.
    pub queue: Option<MessageQueue>,
    /// Start only when earlier ordered sends to the same shard have an outcome
    /// (R3). For messages with a queue or a sharding key.
    pub ordered: bool,
    /// In place of the client's `send_timeout`.
    pub timeout: Option<Duration>,
}

/// How safely a message was stored when its send was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// As safely as the broker's mode promises.
    Ok,
    /// Stored, but the disk did not confirm in time (10).
    FlushDiskTimeout,
    /// Stored, but no replica is there (11).
    ReplicaNotAvailable,
    /// Stored, but the replicas did not confirm in time (12).
    ReplicaTimeout,
}

impl SendStatus {
    /// The status that this response code means; none if it is a refusal.
    pub fn of_code(code: i32) -> Option<SendStatus> {
        match code {
            code::SUCCESS => Some(SendStatus::Ok),
            code::FLUSH_DISK_TIMEOUT => Some(SendStatus::FlushDiskTimeout),
            11 => Some(SendStatus::ReplicaNotAvailable),
            12 => Some(SendStatus::ReplicaTimeout),
            _ => None,
        }
    }
}

/// Where a message, or the first one of a batch, was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    pub shard: Shard,
    pub broker_name: Name,
    pub queue_offset: u64,
    /// The id that the client gave (`UNIQ_KEY`); of a batch, the first one's.
    pub message_id: String,
    /// The id that the broker gave; of a batch, all of them joined by commas.
    pub offset_message_id: String,
    pub status: SendStatus,
    /// Names a delayed message until it is due: a [`RecallHandle`] as text.
    pub recall_handle: Option<String>,
    /// Requests that were sent for it; each but the last may have stored another
    /// copy (D1), unless the producer is idempotent.
    pub tries: u32,
}

/// Why a send has no receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It is not stored and never will be.
    Refused(Rejected),
    /// It may be stored, up to `tries` times, or not: a try was sent and its
    /// answer never came. `u32::MAX` when the client stopped and nobody knows
    /// how many it made.
    Unknown { why: String, tries: u32 },
}

impl SendError {
    /// Whether the same send may succeed later. After `Unknown` a repetition
    /// may store the message twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            SendError::Refused(rejected) => worth_another_try(rejected.code),
            SendError::Unknown { .. } => true,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Refused(rejected) => write!(f, "refused, not stored: {rejected}"),
            SendError::Unknown { why, .. } => write!(f, "unknown whether stored: {why}"),
        }
    }
}

impl std::error::Error for SendError {}

/// Codes after which another try, best on another broker, may succeed.
pub(super) fn worth_another_try(code: i32) -> bool {
    matches!(
        code,
        code::SYSTEM_ERROR
            | code::SYSTEM_BUSY
            | code::SERVICE_NOT_AVAILABLE
            | code::NO_PERMISSION
            | code::TOPIC_NOT_EXIST
            | 204
            | 205
            | 1500
    )
}

/// Why a request other than a send failed. These can all be repeated safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The server said no.
    Refused(Rejected),
    /// Nobody answered in time.
    Unavailable { why: String },
    /// The client or the consumer was closed.
    Closed,
}

impl ClientError {
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Refused(rejected) => worth_another_try(rejected.code),
            ClientError::Unavailable { .. } => true,
            ClientError::Closed => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Refused(rejected) => write!(f, "refused: {rejected}"),
            ClientError::Unavailable { why } => write!(f, "unavailable: {why}"),
            ClientError::Closed => f.write_str("the client is closed"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A delivered message: a stored record with what its properties say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub record: Arc<Record>,
    pub shard: Shard,
    pub broker_name: Name,
    /// The topic that it was sent to, also when it comes from its group's
    /// retries.
    pub topic: Name,
    /// Which delivery to its group this is, from 1, as far as the broker and
    /// this member know.
    pub attempts: u32,
    /// The lock under which an orderly member got it; grows with each change
    /// of owner. None from a broker that counts no owners.
    pub lock_epoch: Option<u64>,
}

impl Received {
    /// A record as its queue's broker served it, refused so often since.
    pub(super) fn new(record: Arc<Record>, broker_name: Name, refused: u32) -> Received {
        let shard = Shard { topic: record.topic.as_str().into(), queue: record.queue };
        let origin = Properties(&record.properties).get(property::RETRY_TOPIC);
        let topic = origin.map_or_else(|| shard.topic.clone(), Name::from);
        let before = u32::try_from(record.reconsume_times).unwrap_or(0);
        let attempts = before.saturating_add(refused).saturating_add(1);
        Received { record, shard, broker_name, topic, attempts, lock_epoch: None }
    }

    pub fn body(&self) -> &Bytes {
        &self.record.body
    }

    pub fn queue_offset(&self) -> u64 {
        self.record.queue_offset
    }

    pub fn property(&self, key: &str) -> Option<&str> {
        Properties(&self.record.properties).get(key)
    }

    pub fn tag(&self) -> Option<&str> {
        self.property(property::TAGS)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(property::KEYS).unwrap_or_default().split(' ').filter(|key| !key.is_empty())
    }

    pub fn sharding_key(&self) -> Option<&str> {
        self.property(property::SHARDING_KEY)
    }

    /// The producer's id for the message, or the broker's if it gave none.
    pub fn message_id(&self) -> String {
        match self.property(property::UNIQ_KEY) {
            Some(id) => id.to_owned(),
            None => message::offset_message_id(self.record.store_host, self.record.position),
        }
    }
}

/// How the work of a group's member changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The queues that it owns from here on, all of them, sorted; as a member of
    /// an orderly group, those that it has locked. Told before it asks where to
    /// read new ones.
    Assigned(Vec<MessageQueue>),
    /// It reads this queue from this offset on.
    Reading { queue: MessageQueue, offset: i64, source: OffsetSource },
    /// It owns this queue, as a member of an orderly group; or again, after its
    /// lock had expired. The epoch grows with each change of owner.
    Locked { queue: MessageQueue, epoch: Option<u64> },
    /// It does not own this queue, for now or for good.
    Unlocked { queue: MessageQueue, why: Unlocked },
    /// A message goes back to a broker.
    SendBack { queue: MessageQueue, offset: i64, step: SendBack },
    /// The application took longer than the consume timeout for this message,
    /// which goes back while it may still be worked on (D4).
    TimedOut { queue: MessageQueue, offset: i64 },
}

/// Where the offset comes from at which a member starts to read a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSource {
    /// The group's stored offset, or a broadcasting member's own.
    Committed,
    /// There was none: the first message still there.
    First,
    /// There was none: what is sent from now on.
    Last,
    /// There was none: the first message after a given time.
    Time,
    /// The broker said that the offset is out of range, and gave another.
    Corrected,
    /// An operator set the group to another offset.
    Reset,
}

/// What one pull found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub records: Vec<Record>,
    pub next_offset: i64,
    pub min_offset: i64,
    pub max_offset: i64,
    /// The asked offset does not exist: go on at `next_offset`.
    pub offset_moved: bool,
}

/// A request other than a send; repeated until answered or its time is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Answered with [`Answer::Route`].
    Route { topic: String },
    /// The readable queues of a topic, sorted: [`Answer::Queues`].
    Queues { topic: String },
    /// [`Answer::Cluster`]
    Cluster,
    /// On every broker of the cluster; [`Answer::Done`].
    CreateTopic { cluster: String, topic: String, queues: u32, order: bool },
    /// [`Answer::Members`]
    GroupMembers { group: String, topic: String },
    /// The producer's word on its transaction: [`Answer::Done`] if it stands,
    /// refused if another one stood first.
    EndTransaction { half: Half, resolution: Resolution },
    /// Messages under leases; [`Answer::Popped`].
    Pop(Pop),
    /// The message is processed: [`Answer::Done`]; refused if the lease is over.
    Ack { lease: Lease },
    /// The lease ends so long from now: at once, if the time is zero.
    /// [`Answer::Lease`]: what names it from now on.
    ChangeInvisible { lease: Lease, invisible: Duration },
    /// Sets how often and how late a group gets its messages again, on every
    /// broker of the cluster; [`Answer::Done`].
    ConfigureGroup { cluster: String, group: SubscriptionGroup },
    /// Sets a group back, or forward, to the first messages stored at or after
    /// this wall time (milliseconds since the epoch), on every broker of the
    /// topic; [`Answer::Done`].
    ResetOffset { group: String, topic: String, wall: i64 },
    /// Half messages that a broker gave up checking, the oldest of them:
    /// [`Answer::Halves`]. Any topic tells where the broker is.
    ParkedHalves { topic: String, broker: String },
    /// Has one of them checked again, by its offset message id;
    /// [`Answer::Done`].
    ResumeChecks { topic: String, broker: String, message_id: String },
    /// A replica set's leader hands over to whoever is furthest: [`Answer::Done`]
    /// once it has begun to; refused if nobody else can lead now. Any topic tells
    /// where the leader is.
    TransferLeader { topic: String, broker: String },
    /// Who is in a replica set, and how far, as whoever is believed to lead it
    /// says: [`Answer::Set`].
    SetStatus { topic: String, broker: String },
    /// Changes who is in a replica set: [`Answer::Done`] once that has begun. An
    /// earlier try may be what made it so, or what is in its way.
    ChangeMembers { topic: String, broker: String, change: MemberChange },
    /// Takes a delayed message back: [`Answer::Done`]; refused if it is no
    /// longer delayed.
    Recall { handle: RecallHandle },
    /// Something about one queue.
    Queue { queue: MessageQueue, what: QueueAsk },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueAsk {
    /// [`Answer::Offset`]: of the first message still there.
    MinOffset,
    /// [`Answer::Offset`]: of the next message to come.
    MaxOffset,
    /// [`Answer::Offset`]: of the first message stored at or after this wall
    /// time, in milliseconds since the epoch.
    OffsetAt(i64),
    /// [`Answer::Committed`]
    Committed { group: String },
    /// [`Answer::Done`]
    Commit { group: String, offset: i64 },
    /// [`Answer::Pulled`]; `hold` is how long the broker may wait for a message.
    Pull { group: String, offset: i64, max: u32, expression: String, hold: Duration },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Halves(Vec<HalfInfo>),
    Route(TopicRoute),
    Queues(Vec<MessageQueue>),
    Cluster(ClusterInfo),
    Set(ClusterStatus),
    Members(Vec<String>),
    Offset(i64),
    /// None: the group never committed one.
    Committed(Option<i64>),
    Pulled(Pulled),
    Popped(Vec<Popped>),
    Lease(Lease),
}
