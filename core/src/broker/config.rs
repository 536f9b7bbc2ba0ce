//! What a broker is told when it starts.

use std::{net::SocketAddr, time::Duration};

use super::CheckBack;
use crate::{
    log::LogConfig,
    queue::QueueConfig,
    replication::{Flush, ReplicaSet},
};

#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// RocketMQ's brokerName: the name of the replica set.
    pub name: String,
    pub cluster: String,
    /// The address that clients are told, and that message ids carry.
    pub host: SocketAddr,
    /// Name servers on other nodes; the one on the same node needs no address.
    pub name_servers: Vec<SocketAddr>,
    pub flush: Flush,
    /// Which replica of which set this broker is; alone if none.
    pub replica_set: Option<ReplicaSet>,
    /// A reader that has more bytes of the log before it is sent to a follower,
    /// if there is one. RocketMQ: 40 % of the memory.
    pub far_behind: u64,
    pub log: LogConfig,
    pub queue: QueueConfig,
    /// A snapshot is due after this many bytes of log; it bounds what a restart
    /// has to read.
    pub snapshot_every: u64,
    /// Whole segments are dropped once the log is longer, in bytes, and nobody
    /// needs them: a group that has not read them, an undecided transaction, a
    /// delayed message.
    pub retain_bytes: Option<u64>,
    /// Whole segments are dropped once all their messages are older, and nobody
    /// needs them. RocketMQ keeps 72 hours by default; we keep everything unless
    /// told otherwise.
    pub retain_for: Option<Duration>,
    /// How often as long, or as old, as that the log may become for those who
    /// need it; then it goes on without them, and counts what they lose (L13).
    pub retain_at_most: u32,
    /// Whether sends are refused instead from there on.
    pub retain_or_refuse: bool,
    /// How long a member of an orderly group owns a queue without asking again
    /// (RocketMQ: 60 s, and its clients ask every 20 s).
    pub lock_lease: Duration,
    /// Whether a send to an unknown topic creates it, as RocketMQ does by default.
    pub auto_create_topics: bool,
    /// Queues of such a topic; RocketMQ's default is 4.
    pub default_queues: u32,
    /// How producers are asked about transactions that they left undecided.
    pub check_back: CheckBack,
}

impl BrokerConfig {
    pub fn new(host: SocketAddr) -> BrokerConfig {
        BrokerConfig {
            name: "broker-a".into(),
            cluster: "DefaultCluster".into(),
            host,
            name_servers: Vec::new(),
            flush: Flush::Sync,
            replica_set: None,
            far_behind: limit::AT_HAND,
            log: LogConfig::default(),
            queue: QueueConfig::default(),
            snapshot_every: 64 << 20,
            retain_bytes: None,
            retain_for: None,
            retain_at_most: 2,
            retain_or_refuse: false,
            lock_lease: Duration::from_secs(60),
            auto_create_topics: true,
            default_queues: 4,
            check_back: CheckBack::default(),
        }
    }
}

/// Bounds and clocks of a broker. RocketMQ's defaults where it has one.
pub mod limit {
    use super::Duration;

    /// Bytes appended and not yet durable before sends are refused as busy: they
    /// lie in the page cache, and a disk that is so far behind will not catch up.
    pub const UNDURABLE: u64 = 1 << 30;
    /// Bytes appended and not yet durable from which on a leader counts as
    /// loaded, and sends readers away that are an eighth as far behind.
    pub const LOADED: u64 = 64 << 20;
    /// Held pulls on one connection.
    pub const PARKED_PER_CONNECTION: usize = 4096;
    /// Requests of all connections that wait for a topic or group to be created.
    pub const AWAITING: usize = 4096;
    /// Bytes and messages of one pull answer, and queue entries looked at for it.
    pub const PULL_BYTES: usize = 1 << 20;
    pub const PULL_MESSAGES: usize = 1024;
    pub const PULL_SCAN: usize = 16 << 10;
    /// The longest that a pull is held.
    pub const PULL_HOLD: Duration = Duration::from_secs(30);
    /// Offsets that travel in pulls are written to the log this often at most.
    pub const OFFSET_FLUSH: Duration = Duration::from_secs(1);
    /// Twice the groups that one connection may belong to: what it repeats every
    /// 30 seconds counts again.
    pub const MEMBERSHIPS: usize = 8192;
    /// Topics of one group.
    pub const SUBSCRIPTIONS: usize = 4096;
    /// A message this close to the log's end counts as at hand, in bytes.
    pub const AT_HAND: u64 = 1 << 30;
    /// Producers and queues whose numbered sends are remembered, and the last
    /// requests (and messages) of each.
    pub const SERIES: usize = 4096;
    pub const RECEIPTS: usize = 256;
    /// The longest that a popped message stays invisible.
    pub const INVISIBLE: Duration = Duration::from_secs(3 * 24 * 3600);
    /// Messages of one answer to a pop (RocketMQ).
    pub const POP_MESSAGES: usize = 32;
    /// Messages under lease: of one group in one queue, and of all.
    pub const LEASES_OF_QUEUE: u64 = 10_000;
    pub const LEASES: usize = 1 << 20;
    /// Messages of one batch of acks.
    pub const ACKS_AT_ONCE: usize = 1 << 16;
    /// Messages that come again in one entry of the log, and the pause before
    /// another try if they cannot.
    pub const REVIVED_AT_ONCE: usize = 512;
    pub const REVIVE_AGAIN: Duration = Duration::from_millis(100);
    /// Queues in one request for locks, and locks of all groups.
    pub const LOCKS_AT_ONCE: usize = 4096;
    pub const LOCKS: usize = 1 << 20;
    /// The longest client id that is kept, in bytes.
    pub const CLIENT_ID: usize = 512;
    /// The longest delay of a message, as in RocketMQ.
    pub const DELAY: Duration = Duration::from_secs(3 * 24 * 3600);
    /// Delayed messages that become visible with one entry of the log, and the
    /// bytes of their records that are read for it.
    pub const FIRED_AT_ONCE: usize = 256;
    pub const FIRED_BYTES: usize = 1 << 20;
    /// Timers whose time has come that are put in order before others have a
    /// turn: about a millisecond.
    pub const TIMERS_SORTED: usize = 8192;
    /// Deliveries to a group from one queue that it sent back and has not
    /// passed: about as many as its members may have in hand.
    pub const SENT_BACK: usize = 4096;
    /// Steps of a group's back-off.
    pub const BACK_OFF_STEPS: usize = 64;
    /// Dead letters that one request makes visible again.
    pub const REPLAYED_AT_ONCE: usize = 256;
    /// Queues of one topic.
    pub const QUEUES: u32 = 4096;
    /// Topics, and consumer groups.
    pub const TOPICS: usize = 100_000;
}
