//! What events say, word for word.

use serde::{Deserialize, Serialize};

use super::{FaultId, LaneId, MemberId, TagId, TopicId};

/// What a consumer is, fixed for one incarnation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberStarted {
    pub member: MemberId,
    /// From 1, counted over the restarts of this member.
    pub incarnation: u32,
    pub mode: Mode,
    pub access: Access,
    pub orderly: bool,
    pub from: From,
    pub subscriptions: Vec<Subscription>,
    /// Deliveries of one message to the group, after which it is a dead letter.
    pub max_attempts: Option<u32>,
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

/// How a member gets its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// The client pulls and hands out.
    Push,
    /// It reads and commits offsets itself.
    Pull,
    /// It leases single messages of queues that nobody owns.
    Pop,
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

/// Why a message that was stored is not visible at once. Times are microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Until its transaction is committed.
    Half,
    /// For this long after it was stored.
    For(u64),
    /// Until this time by the world's clock: true if the broker's clock is.
    Until(u64),
}

/// How a transaction ended, in the producer's own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    Commit,
    Rollback,
}

/// What a producer says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    Commit,
    Rollback,
    /// It does not know yet: ask again.
    Unknown,
}

/// What became of a request that is not a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answered {
    /// It took effect.
    Ok,
    /// It has no effect, because something contrary was decided before.
    Conflict,
    /// It has no effect.
    Refused { code: i32 },
    /// Nobody knows.
    Unknown,
}

impl Answered {
    pub fn is_ok(self) -> bool {
        self == Answered::Ok
    }

    /// Whether it surely has no effect.
    pub fn is_refused(self) -> bool {
        matches!(self, Answered::Conflict | Answered::Refused { .. })
    }
}

/// Why a member does not hold a lock any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockEnd {
    /// It gave the lock back, its handlers done.
    Released,
    /// The broker gave it to another member, or said no to a renewal.
    Refused,
    /// It could not renew it in time.
    Expired,
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
    /// Of a replica set: nobody serves as its leader any more.
    Deposed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    pub fault: FaultId,
    pub kind: FaultKind,
    /// The machines and clients it strikes.
    pub lanes: Vec<LaneId>,
    /// Of a partition: so many of these, the first, are on one side.
    pub side: u32,
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
        Stop = "stop",
        TailLoss = "tail-loss",
        DiskLoss = "disk-loss",
        Restart = "restart",
        Pause = "pause",
        Partition = "partition",
        Latency = "latency",
        DropConnections = "drop-connections",
        SilenceConnections = "silence-connections",
        ClockJump = "clock-jump",
        ClockDrift = "clock-drift",
        DiskFull = "disk-full",
        DiskSlow = "disk-slow",
        DiskReadError = "disk-read-error",
        DiskWriteError = "disk-write-error",
        DiskSyncError = "disk-sync-error",
        BitRot = "bit-rot",
        LatentError = "latent-error",
        MisdirectedRead = "misdirected-read",
        MisdirectedWrite = "misdirected-write",
        ConsumerStall = "consumer-stall",
        ConsumerSlow = "consumer-slow",
        /// Producers send more than the cluster can take.
        Overload = "overload",
    }
}

impl FaultKind {
    /// Whether it only makes an application slow, and nothing is broken.
    pub fn is_of_handlers(self) -> bool {
        matches!(self, FaultKind::ConsumerStall | FaultKind::ConsumerSlow)
    }

    /// Whether answers may be lost on their way, or come when nobody listens any
    /// more.
    pub fn loses_answers(self) -> bool {
        matches!(
            self,
            FaultKind::Pause
                | FaultKind::Partition
                | FaultKind::Latency
                | FaultKind::DropConnections
                | FaultKind::SilenceConnections
                | FaultKind::DiskSlow
        )
    }

    /// Whether bytes may be wrong or gone that the disk had taken for good.
    pub fn damages(self) -> bool {
        matches!(
            self,
            FaultKind::BitRot
                | FaultKind::TailLoss
                | FaultKind::DiskLoss
                | FaultKind::LatentError
                | FaultKind::MisdirectedRead
                | FaultKind::MisdirectedWrite
        )
    }
}

named! {
    /// What a replica is to its set.
    Role {
        Leader = "leader",
        Candidate = "candidate",
        Follower = "follower",
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
        /// The members of a group disagree about what they subscribe to.
        SubscriptionConflict = "subscription-conflict",
        /// A replica lost what it had promised to keep, and has no say before it
        /// has caught up.
        Distrusted = "distrusted",
        /// Such a replica has caught up.
        Repaired = "repaired",
        /// A replica got a snapshot in place of the log before it.
        SnapshotInstalled = "snapshot-installed",
        /// An operator was answered that the members of a set are others now, or
        /// that another replica is to lead.
        MembersChanged = "members-changed",
        LeadershipTransferred = "leadership-transferred",
        /// A replica served messages while another one led.
        FollowerRead = "follower-read",
        SegmentRoll = "segment-roll",
        SegmentRecycle = "segment-recycle",
    }
}
