//! One thing that happened, whoever it happened to.

use serde::{Deserialize, Serialize};

use super::*;

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
        /// Why it is not to be visible at once.
        held: Option<Held>,
        /// Repeated requests carry the same sequence number, so that however
        /// many were made, it is to be stored once.
        idempotent: bool,
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
    /// Answered as stored and not visible: a half or a delayed message. Where it
    /// becomes visible, it has a place of its own.
    SendHeld {
        op: OpId,
        /// Where it is to become visible.
        shard: ShardId,
        position: Option<u64>,
        status: Stored,
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

    /// A transactional producer (the lane) comes up as a member of its group,
    /// which may be asked about its messages until the lane's node stops.
    ProducerJoined {
        group: GroupId,
    },
    /// The producer's own database, which survives every crash, says from here
    /// on how this transaction ended. Nobody changes it later.
    Decided {
        message: MessageId,
        decision: Decision,
    },
    /// A producer tells the broker how a transaction ended; recorded before the
    /// first byte leaves. In answer to a check, its listener says so.
    EndBegun {
        end: EndId,
        message: MessageId,
        told: Told,
        check: Option<CheckId>,
        /// On purpose it is never sent.
        lost: bool,
    },
    /// What became of it. Without this event, nobody knows.
    EndAnswered {
        end: EndId,
        answered: Answered,
    },
    /// The broker asks this producer how a transaction ended.
    CheckReceived {
        check: CheckId,
        /// From the body; `None` if no workload wrote it.
        message: Option<MessageId>,
        /// Of the half in the broker's log.
        position: Option<u64>,
    },
    /// A producer takes a delayed message back; recorded before it asks.
    RecallBegun {
        message: MessageId,
    },
    /// With OK it is never delivered.
    RecallAnswered {
        message: MessageId,
        answered: Answered,
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
        /// From 1, as the application is told.
        attempt: u32,
        /// The topic it was sent to, if it comes from the group's retry topic.
        origin: Option<TopicId>,
        /// Of a leased (popped) message: when the lease ends by the broker's
        /// clock, if that were right.
        lease_until: Option<u64>,
    },
    /// The handler is done with it. Of a leased message: before it says so to
    /// the broker.
    Acked {
        delivery: DeliveryId,
    },
    /// What the broker said to the acknowledgement of a leased message. Without
    /// this event, nobody knows.
    AckAnswered {
        delivery: DeliveryId,
        answered: Answered,
    },
    /// The handler wants it again later.
    Nacked {
        delivery: DeliveryId,
        /// Not before this many microseconds; the group's back-off decides if
        /// absent.
        again_after: Option<u64>,
    },
    /// The client wants it again later: its handler takes too long. What the
    /// handler says afterwards counts for nothing.
    TimedOut {
        delivery: DeliveryId,
    },
    /// The handler will never answer, on purpose.
    Forgotten {
        delivery: DeliveryId,
    },
    /// The client sends a message back to the broker for another attempt;
    /// recorded before it asks.
    SendBackBegun {
        delivery: DeliveryId,
        /// As a message of its own: another copy each time it is stored.
        resent: bool,
    },
    /// With OK the broker owes the group another attempt, or a dead letter.
    SendBackAnswered {
        delivery: DeliveryId,
        answered: Answered,
    },
    /// The handler of a leased message wants another lease from now on; recorded
    /// before it asks.
    LeaseAsked {
        delivery: DeliveryId,
        for_us: u64,
    },
    /// With OK: when the new lease ends, as in `Delivered`.
    LeaseAnswered {
        delivery: DeliveryId,
        answered: Answered,
        until: Option<u64>,
    },
    /// A member of an orderly group holds the shard's lock, as far as it knows.
    Locked {
        member: MemberId,
        shard: ShardId,
        /// The fencing epoch, if the broker told it.
        epoch: Option<u64>,
    },
    /// From here on it hands out nothing of the shard until it is locked again.
    Unlocked {
        member: MemberId,
        shard: ShardId,
        why: LockEnd,
    },
    /// Somebody who reads the dead letters of a group finds this one.
    DeadLetter {
        group: GroupId,
        /// Of the dead-letter topic.
        shard: ShardId,
        queue_offset: u64,
        position: u64,
        /// From the body.
        message: Option<MessageId>,
        body_hash: u32,
        /// Attempts that its header counts.
        attempts: u32,
        /// The topic it was sent to, as its properties say.
        origin: Option<TopicId>,
    },
    /// Somebody asks that a group read a topic from another place: from the
    /// first message stored at or after this time.
    ResetBegun {
        group: GroupId,
        topic: TopicId,
        to: u64,
    },
    ResetAnswered {
        group: GroupId,
        topic: TopicId,
        answered: Answered,
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

    /// A node's wall clock is from here on so many microseconds ahead of the
    /// world's, and gains so many millionths. Until told otherwise it is right.
    ClockIs {
        ahead_us: i64,
        drift_ppm: i64,
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
    /// Several brokers are replicas of one set (the lane), and others may become
    /// that. A set's shards live on its own lane; a broker without a set is its own.
    Formed {
        replicas: Box<[LaneId]>,
        spares: Box<[LaneId]>,
    },
    /// Probe: who decides in a set (the lane) from here on, at each change. While it
    /// is under way, those who did `before` decide, too: a majority of each is needed.
    Members {
        voters: Box<[LaneId]>,
        before: Option<Box<[LaneId]>>,
    },
    /// Probe: what a replica (the lane) is, at each change of term or role.
    Role {
        term: u64,
        role: Role,
    },
    /// Probe: a replica's log is committed up to this entry, which ends at `end`.
    Committed {
        index: u64,
        end: u64,
        /// Over every entry so far and what all replicas must hold of it alike:
        /// term, index, kind, bytes. Equal indices have equal digests.
        digest: u64,
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
    /// Probe: who holds the lock of a group's shard, at each change of holder or
    /// epoch and once in each life.
    LockHolder {
        group: GroupId,
        shard: ShardId,
        /// Nobody: it was released or has expired.
        holder: Option<LaneId>,
        epoch: u64,
    },
    /// Probe: a half message was given up on after the last check, or is checked
    /// again because an operator said so.
    HalfParked {
        position: u64,
        /// From its body.
        message: Option<MessageId>,
    },
    HalfResumed {
        position: u64,
        message: Option<MessageId>,
    },
    /// Probe: retention has taken messages of the shard that the group had not
    /// consumed, and the broker counts so many in all.
    GroupLost {
        group: GroupId,
        shard: ShardId,
        messages: u64,
    },
    /// Probe: bytes of messages a node or client holds in memory. Sampled.
    Memory {
        bytes: u64,
    },
    Mark {
        mark: Mark,
    },
}
