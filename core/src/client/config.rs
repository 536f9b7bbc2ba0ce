//! What a client and its consumers are told at the start.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::MessageQueue;
use crate::wire::body::{ConsumeFrom, MessageModel};

/// One client: the connections of a producer and any number of consumers.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Asked in turn; they share nothing, so any one will do.
    pub name_servers: Vec<SocketAddr>,
    /// Unique among all clients; drawn from the client's seed if absent.
    pub client_id: Option<String>,
    pub producer_group: String,
    /// For a send with all its retries.
    pub send_timeout: Duration,
    /// Tries after the first, within `send_timeout`.
    pub send_retries: u32,
    /// Numbers sends, so that their broker stores each once, in order, however
    /// often it is repeated: a lost answer makes no second copy (D1), and sends
    /// to one shard may be under way together and still keep their order (R3).
    /// A repetition stays with its shard. Stormglass's own: other brokers ignore
    /// the numbers. Halves, delayed and one-way messages have none.
    pub idempotent: bool,
    /// Sends without an outcome; one more waits (in the handle) or is refused
    /// (by the value).
    pub max_unresolved_sends: usize,
    /// Routes are asked for under this name when the topic has none, so that
    /// the broker creates it; `None` turns that off.
    pub default_topic: Option<String>,
    /// Queues of a topic created that way, at most.
    pub default_topic_queues: u32,
    /// For every request other than sends and pulls.
    pub request_timeout: Duration,
    /// How long the decision of a transaction is repeated until it is answered.
    /// Later its broker asks for it.
    pub end_transaction_timeout: Duration,
    pub route_refresh: Duration,
    pub heartbeat_interval: Duration,
    /// A link that owes an answer and says nothing for this long is probed,
    /// and given up when it does not answer the probe either.
    pub link_silence: Duration,
}

impl ClientConfig {
    pub fn new(name_servers: Vec<SocketAddr>) -> ClientConfig {
        ClientConfig {
            name_servers,
            client_id: None,
            producer_group: "DEFAULT_PRODUCER".to_owned(),
            send_timeout: Duration::from_secs(3),
            send_retries: 2,
            idempotent: false,
            max_unresolved_sends: 4096,
            default_topic: Some("TBW102".to_owned()),
            default_topic_queues: 4,
            request_timeout: Duration::from_secs(3),
            end_transaction_timeout: Duration::from_secs(10),
            route_refresh: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
            link_silence: Duration::from_secs(2),
        }
    }
}

/// Where a group starts that never committed an offset. A queue added later
/// always starts at its first message (L14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// Only what is sent from now on.
    #[default]
    Last,
    First,
    /// The first message stored at or after this wall time, in milliseconds
    /// since the epoch.
    Time(i64),
}

impl StartAt {
    pub fn on_wire(self) -> ConsumeFrom {
        match self {
            StartAt::Last => ConsumeFrom::Last,
            StartAt::First => ConsumeFrom::First,
            StartAt::Time(_) => ConsumeFrom::Timestamp,
        }
    }
}

/// How the messages of one shard reach the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeMode {
    /// Many at once, each acknowledged by itself.
    #[default]
    Concurrent,
    /// The next one only after the previous one was acknowledged; a refused one
    /// is delivered again before any other.
    Orderly,
}

/// One member of a consumer group.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub group: String,
    /// Topic and expression (`*`, or tags joined by `||`).
    pub subscriptions: Vec<(String, String)>,
    pub model: MessageModel,
    pub mode: ConsumeMode,
    pub start_at: StartAt,
    /// Deliveries handed out and not yet settled, over all queues.
    pub max_outstanding: usize,
    /// Messages held per queue before pulling stops.
    pub max_cached_messages: usize,
    /// Bytes held per queue before pulling stops; one answer may exceed it.
    pub max_cached_bytes: usize,
    /// Distance from the oldest unfinished message to the newest, per queue,
    /// before pulling stops: bounds what a crash delivers again (D3).
    pub max_span: u64,
    /// Messages asked for at once; brokers cap it at 32 or below.
    pub pull_batch: u32,
    /// How long a broker may hold an empty pull.
    pub pull_hold: Duration,
    pub pull_timeout: Duration,
    pub rebalance_interval: Duration,
    /// How often offsets of processed messages are stored.
    pub commit_interval: Duration,
    /// When a delivery that is dropped without a verdict comes again; in an
    /// orderly group, also one that is to be retried.
    pub redelivery_delay: Duration,
    /// Deliveries after the first before a message goes to the dead letters.
    /// None: as the broker has it configured for the group (16 by default); an
    /// orderly group retries for ever.
    pub max_retries: Option<u32>,
    /// A message without a verdict for this long after the application took it
    /// goes back to the broker (D4); not in an orderly group.
    pub consume_timeout: Duration,
    /// How often the locks of an orderly group's queues are renewed, and how
    /// long a lock counts that could not be renewed: less than its lease in the
    /// broker, 60 s.
    pub lock_renewal: Duration,
    pub lock_validity: Duration,
    /// How long a queue that is to be handed over waits for the message in hand.
    pub drain_timeout: Duration,
    /// Where a broadcasting member goes on: what [`Command::Offsets`] returned
    /// in its earlier life. Unused in clustering, where brokers keep offsets.
    ///
    /// [`Command::Offsets`]: super::Command::Offsets
    pub local_offsets: BTreeMap<MessageQueue, i64>,
}

impl ConsumerConfig {
    /// A clustering, concurrent member; subscribe with [`topic`](Self::topic).
    pub fn new(group: impl Into<String>) -> ConsumerConfig {
        ConsumerConfig {
            group: group.into(),
            subscriptions: Vec::new(),
            model: MessageModel::Clustering,
            mode: ConsumeMode::Concurrent,
            start_at: StartAt::Last,
            max_outstanding: 1024,
            max_cached_messages: 1000,
            max_cached_bytes: 16 << 20,
            max_span: 2000,
            pull_batch: 32,
            pull_hold: Duration::from_secs(15),
            pull_timeout: Duration::from_secs(30),
            rebalance_interval: Duration::from_secs(20),
            commit_interval: Duration::from_secs(5),
            redelivery_delay: Duration::from_secs(1),
            max_retries: None,
            consume_timeout: Duration::from_secs(15 * 60),
            lock_renewal: Duration::from_secs(20),
            lock_validity: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            local_offsets: BTreeMap::new(),
        }
    }

    pub fn topic(mut self, topic: impl Into<String>, expression: impl Into<String>) -> Self {
        self.subscriptions.push((topic.into(), expression.into()));
        self
    }

    pub fn orderly(mut self) -> Self {
        self.mode = ConsumeMode::Orderly;
        self
    }

    pub fn broadcasting(mut self) -> Self {
        self.model = MessageModel::Broadcasting;
        self
    }

    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.start_at = start_at;
        self
    }
}
