//! Faults as plain data: a plan is a list of them, computed before the run
//! from scenario and seed, so that it can be printed, edited, replayed and
//! shrunk. Nodes are named by stable ids (`names-1`, `broker-1`,
//! `producer-orders-1`, `consumer-billing-2`), never by raw draws.

mod apply;
mod casting;
mod chaos;
mod journal;
pub mod plan;
mod text;

pub use apply::{Processes, UnknownNode, apply, can_strike};
pub use casting::{Casting, Stage, planned};
pub use journal::Journal;
use serde::{Deserialize, Serialize};
use stormglass_core::ids::Name;

/// A fault and the moment, in milliseconds of virtual time since the start of
/// the run, at which it strikes. Faults of one moment strike in list order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TimedFault {
    pub at_ms: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

/// Something that happens to the world. Those that last are undone by their
/// counterpart, and in any case when the run heals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// The process dies, its machine lives: connections are closed or reset,
    /// the page cache survives.
    Kill {
        node: Name,
    },
    /// The machine loses power: peers see silence, and pages that no finished
    /// sync covers are lost as `unsynced` says.
    PowerLoss {
        node: Name,
        unsynced: Unsynced,
    },
    /// A server is asked to stop, and does so in order.
    Stop {
        node: Name,
    },
    /// The machine loses power, and what its log wrote in the last `last_ms`
    /// is gone, as if it had never become durable.
    TailLoss {
        node: Name,
        last_ms: u64,
    },
    /// The machine loses power and all files of its disk.
    DiskLoss {
        node: Name,
    },
    /// A node that is down starts again; nothing happens to one that runs,
    /// unless it was asked to stop: then it is killed first.
    Restart {
        node: Name,
    },

    /// The process stops running, as under SIGSTOP; its clocks go on.
    Pause {
        node: Name,
    },
    Resume {
        node: Name,
    },

    /// Nothing passes from `a` to `b` and, unless `one_way`, from `b` to `a`.
    /// Overlapping partitions add up: a link works again once each is healed.
    Partition {
        a: Vec<Name>,
        b: Vec<Name>,
        #[serde(default)]
        one_way: bool,
    },
    /// Undoes a partition with the same sides.
    Heal {
        a: Vec<Name>,
        b: Vec<Name>,
        #[serde(default)]
        one_way: bool,
    },
    /// Each delivery between `a` and `b`, both ways, takes `extra_ms` longer;
    /// zero undoes it.
    Latency {
        a: Vec<Name>,
        b: Vec<Name>,
        extra_ms: u64,
    },
    /// Connections between `a` and `b` are reset; new ones can be made. What
    /// was in flight on them is gone.
    DropConnections {
        a: Vec<Name>,
        b: Vec<Name>,
    },
    /// Connections between `a` and `b` die without a word: neither side hears
    /// anything on them any more, not even that. New ones can be made.
    SilenceConnections {
        a: Vec<Name>,
        b: Vec<Name>,
    },

    /// The node's wall clock steps. Its monotonic clock does not.
    ClockJump {
        node: Name,
        by_ms: i64,
    },
    /// Both clocks of the node run fast (positive) or slow by parts per
    /// million; replaces the earlier drift.
    ClockDrift {
        node: Name,
        ppm: i64,
    },

    /// New files do not fit until `DiskFree`.
    DiskFull {
        node: Name,
    },
    DiskFree {
        node: Name,
    },
    /// Each sync takes this much longer, drawn anew each time; `0..=0` undoes it.
    DiskSlow {
        node: Name,
        min_ms: u64,
        max_ms: u64,
    },
    /// The next reads, writes or syncs fail with EIO. A failed sync marks its
    /// pages clean, so that only power loss shows what it lost (L2).
    DiskReadError {
        node: Name,
        count: u32,
    },
    DiskWriteError {
        node: Name,
        count: u32,
    },
    DiskSyncError {
        node: Name,
        count: u32,
    },
    /// Bits flip in pages that have been durable for at least `older_than_ms`.
    BitRot {
        node: Name,
        flips: u32,
        older_than_ms: u64,
    },
    /// Pages that have been durable for at least `older_than_ms` cannot be read
    /// until they are written again.
    LatentError {
        node: Name,
        pages: u32,
        older_than_ms: u64,
    },
    /// The next writes land a page before or after their place.
    MisdirectedWrite {
        node: Name,
        count: u32,
    },
    /// The next reads of up to a page return a neighbouring page's bytes.
    MisdirectedRead {
        node: Name,
        count: u32,
    },

    /// The consumer's handler does not return before this much time has passed.
    ConsumerStall {
        node: Name,
        for_ms: u64,
    },
    /// The consumer's handler takes this long for each message; zero undoes it.
    ConsumerSlow {
        node: Name,
        handling_ms: u64,
    },
}

/// What a power loss does to pages that no finished sync covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsynced {
    /// Each page on its own is kept or lost, and one in four is torn into
    /// kept and lost 512-byte sectors.
    #[default]
    Random,
    /// As written back by nobody: all are lost.
    Lost,
    /// As written back in time: all are kept.
    Kept,
    /// Every page is torn into kept and lost sectors.
    Torn,
}

/// The nodes that a fault names.
pub(crate) enum Struck<'a> {
    Node(&'a mut Name),
    /// All links between one side and the other.
    Links(&'a mut Vec<Name>, &'a mut Vec<Name>),
}

impl Fault {
    pub(crate) fn struck(&mut self) -> Struck<'_> {
        match self {
            Fault::Kill { node }
            | Fault::PowerLoss { node, .. }
            | Fault::Stop { node }
            | Fault::TailLoss { node, .. }
            | Fault::DiskLoss { node }
            | Fault::Restart { node }
            | Fault::Pause { node }
            | Fault::Resume { node }
            | Fault::ClockJump { node, .. }
            | Fault::ClockDrift { node, .. }
            | Fault::DiskFull { node }
            | Fault::DiskFree { node }
            | Fault::DiskSlow { node, .. }
            | Fault::DiskReadError { node, .. }
            | Fault::DiskWriteError { node, .. }
            | Fault::DiskSyncError { node, .. }
            | Fault::BitRot { node, .. }
            | Fault::LatentError { node, .. }
            | Fault::MisdirectedRead { node, .. }
            | Fault::MisdirectedWrite { node, .. }
            | Fault::ConsumerStall { node, .. }
            | Fault::ConsumerSlow { node, .. } => Struck::Node(node),
            Fault::Partition { a, b, .. }
            | Fault::Heal { a, b, .. }
            | Fault::Latency { a, b, .. }
            | Fault::DropConnections { a, b }
            | Fault::SilenceConnections { a, b } => Struck::Links(a, b),
        }
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<Name> {
        match self.clone().struck() {
            Struck::Node(node) => vec![node.clone()],
            Struck::Links(a, b) => a.iter().chain(&*b).cloned().collect(),
        }
    }

    /// The same, for another node.
    pub(crate) fn on(&self, other: Name) -> Fault {
        let mut fault = self.clone();
        if let Struck::Node(node) = fault.struck() {
            *node = other;
        }
        fault
    }

    /// Whether it only ends what another one began.
    pub(crate) fn is_an_end(&self) -> bool {
        matches!(self, Fault::Restart { .. }) || self.history_kind().is_none()
    }

    /// The name of its kind, as scenarios and reports write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill { .. } => "kill",
            Fault::PowerLoss { .. } => "power-loss",
            Fault::Stop { .. } => "stop",
            Fault::TailLoss { .. } => "tail-loss",
            Fault::DiskLoss { .. } => "disk-loss",
            Fault::Restart { .. } => "restart",
            Fault::Pause { .. } => "pause",
            Fault::Resume { .. } => "resume",
            Fault::Partition { .. } => "partition",
            Fault::Heal { .. } => "heal",
            Fault::Latency { .. } => "latency",
            Fault::DropConnections { .. } => "drop-connections",
            Fault::SilenceConnections { .. } => "silence-connections",
            Fault::ClockJump { .. } => "clock-jump",
            Fault::ClockDrift { .. } => "clock-drift",
            Fault::DiskFull { .. } => "disk-full",
            Fault::DiskFree { .. } => "disk-free",
            Fault::DiskSlow { .. } => "disk-slow",
            Fault::DiskReadError { .. } => "disk-read-error",
            Fault::DiskWriteError { .. } => "disk-write-error",
            Fault::DiskSyncError { .. } => "disk-sync-error",
            Fault::BitRot { .. } => "bit-rot",
            Fault::LatentError { .. } => "latent-error",
            Fault::MisdirectedRead { .. } => "misdirected-read",
            Fault::MisdirectedWrite { .. } => "misdirected-write",
            Fault::ConsumerStall { .. } => "consumer-stall",
            Fault::ConsumerSlow { .. } => "consumer-slow",
        }
    }
}
