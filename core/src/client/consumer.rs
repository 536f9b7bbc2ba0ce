//! A member of a consumer group: joins, shares out the queues with the other
//! members, and hands out the messages of its own.

mod locks;
mod membership;
mod owned;
mod queue;
mod reader;
mod send_back;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Bound,
    time::Duration,
};

use bytes::Bytes;

pub use locks::Unlocked;
pub use send_back::SendBack;

use super::{
    Change, ClientError, ConsumeMode, ConsumerConfig, ConsumerId, DeliveryId, MessageQueue,
    OffsetSource, Output, Received, Ticket, Verdict,
    context::{Context, Reply, Timer},
};
use crate::{
    error::Rejected,
    ids::Name,
    message::{MAX_GROUP, MAX_TOPIC},
    time::Time,
    wire::{
        body::{ConsumeType, ConsumerData, MessageModel, Subscription, TagFilter},
        code,
    },
};
use owned::Owned;
use send_back::{Fate, Return, retry_topic};

pub struct Consumer {
    id: ConsumerId,
    group: Name,
    config: ConsumerConfig,
    topics: BTreeMap<Name, Topic>,
    /// Owned queues, each under a number of its own that is never used again:
    /// what refers to an earlier ownership finds nothing.
    queues: BTreeMap<u64, Owned>,
    by_queue: BTreeMap<MessageQueue, u64>,
    next_number: u64,
    /// Queues with a message to hand out, taking turns.
    ready: BTreeSet<u64>,
    turn: u64,
    /// Deliveries without a verdict, and those that go back to a broker.
    outstanding: BTreeMap<u64, Handed>,
    returns: BTreeMap<u64, Return>,
    next_delivery: u64,
    rebalance_at: Time,
    renew_at: Time,
    parting: Option<Parting>,
    leaving: Option<Leaving>,
}

/// A message on its way to the application, or in its hands.
struct Handed {
    /// The number of its queue, and its offset there.
    at: (u64, i64),
    taken: Option<Time>,
}

struct Topic {
    subscription: Subscription,
    filter: TagFilter,
    history: History,
    asking_members: bool,
    /// Which broker to ask for the members; another one after a failure.
    ask_broker: usize,
}

/// Whether the group has consumed this topic before (L14).
enum History {
    Unknown,
    /// One queue asks for all: none of those before `at` has a stored offset.
    Asking {
        surveyor: u64,
        queues: Vec<MessageQueue>,
        at: usize,
    },
    /// Only these queues start where the group's configuration says; every
    /// other one starts at its first message.
    Known {
        fresh: BTreeSet<MessageQueue>,
    },
}

/// Before it leaves: until then, what was given back may be taken by a broker.
struct Parting {
    tickets: Vec<Ticket>,
    until: Time,
}

struct Leaving {
    tickets: Vec<Ticket>,
    /// Farewells without an answer.
    owed: usize,
    /// Said once offsets are stored.
    unlocks: Vec<(SocketAddr, Bytes)>,
    unregistered: bool,
}

/// What a consumer's call is about. Queues are named by their number.
#[derive(Clone, Debug)]
pub enum Call {
    Members { topic: Name },
    Stored { queue: u64 },
    Survey { queue: u64 },
    Start { queue: u64, source: OffsetSource },
    Anchor { queue: u64, offset: i64, source: OffsetSource },
    Pull { queue: u64 },
    Commit { queue: u64, offset: i64 },
    Lock { queue: u64, asked_at: Time },
    Renew { queues: Vec<u64>, asked_at: Time },
    LastCommit { queue: u64 },
    Unlock { queue: u64 },
    SendBack { id: u64 },
    Farewell,
}

impl Consumer {
    pub fn new(
        cx: &Context,
        id: ConsumerId,
        mut config: ConsumerConfig,
    ) -> Result<Consumer, ClientError> {
        let refused = |why: &str| ClientError::Refused(Rejected::new(code::INVALID_PARAMETER, why));
        if config.group.is_empty() || config.group.len() > MAX_GROUP {
            return Err(refused("a group's name has 1 to 120 bytes"));
        }
        if config.subscriptions.is_empty() {
            return Err(refused("a consumer needs at least one topic"));
        }
        config.max_outstanding = config.max_outstanding.max(1);
        config.max_cached_messages = config.max_cached_messages.max(1);
        let mut topics = BTreeMap::new();
        for (topic, expression) in &config.subscriptions {
            if topic.is_empty() || topic.len() > MAX_TOPIC {
                return Err(refused("a topic's name has 1 to 127 bytes"));
            }
            topics.insert(Name::from(topic.as_str()), Topic::new(cx, topic, expression)?);
        }
        if config.model == MessageModel::Clustering {
            let retries = retry_topic(&config.group);
            topics.insert(retries.clone(), Topic::new(cx, &retries, "*")?);
        }
        Ok(Consumer {
            id,
            group: config.group.as_str().into(),
            config,
            topics,
            queues: BTreeMap::new(),
            by_queue: BTreeMap::new(),
            next_number: 0,
            ready: BTreeSet::new(),
            turn: 0,
            outstanding: BTreeMap::new(),
            returns: BTreeMap::new(),
            next_delivery: 0,
            rebalance_at: Time::MAX,
            renew_at: Time::MAX,
            parting: None,
            leaving: None,
        })
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some() || self.parting.is_some()
    }

    /// What brokers are told of this member.
    pub fn data(&self) -> ConsumerData {
        ConsumerData {
            group: self.group.to_string(),
            consume_type: ConsumeType::Push,
            message_model: self.config.model,
            consume_from: self.config.start_at.on_wire(),
            subscriptions: self.topics.values().map(|topic| topic.subscription.clone()).collect(),
        }
    }

    pub fn start(&mut self, cx: &mut Context) {
        cx.timers.set(cx.now.mono + self.config.commit_interval, Timer::Commit(self.id));
        self.rebalance_by(cx, cx.now.mono);
    }

    /// Hands out what the application has room for.
    pub fn deliver(&mut self, cx: &mut Context) {
        while self.outstanding.len() < self.config.max_outstanding && !self.is_leaving() {
            let after = self.ready.range((Bound::Excluded(self.turn), Bound::Unbounded)).next();
            let Some(number) = after.or_else(|| self.ready.first()).copied() else { return };
            self.turn = number;
            // A lock may be over since the queue became ready.
            self.note_ready(cx, number);
            if !self.ready.contains(&number) {
                continue;
            }
            let Some(owned) = self.queues.get_mut(&number) else { return };
            let lock_epoch = owned.lock_epoch();
            let Some(progress) = &mut owned.progress else { return };
            let Some((offset, record, refused)) = progress.take() else { return };
            let mut message = Received::new(record, owned.queue.broker.clone(), refused);
            message.lock_epoch = lock_epoch;
            self.next_delivery += 1;
            let handed = Handed { at: (number, offset), taken: None };
            self.outstanding.insert(self.next_delivery, handed);
            let delivery = DeliveryId { consumer: self.id, number: self.next_delivery };
            cx.outputs.push_back(Output::Deliver { delivery, message });
            self.note_ready(cx, number);
        }
    }

    pub fn taken(&mut self, cx: &Context, delivery: u64) {
        if let Some(handed) = self.outstanding.get_mut(&delivery) {
            handed.taken = Some(cx.now.mono);
        }
    }

    /// A verdict on a delivery. False if it is stale: the queue has another
    /// owner now, or the verdict was given before.
    pub fn settle(&mut self, cx: &mut Context, delivery: u64, verdict: Verdict) -> bool {
        let Some(Handed { at, .. }) = self.outstanding.remove(&delivery) else { return false };
        let (number, offset) = at;
        let Some(owned) = self.queues.get(&number) else { return false };
        let Some(progress) = &owned.progress else { return false };
        let orderly = self.config.mode == ConsumeMode::Orderly;
        let tried_enough =
            orderly && self.config.max_retries.is_some_and(|most| progress.attempts(offset) > most);
        let fate = match verdict {
            Verdict::Ack => None,
            Verdict::DeadLetter => Some(Fate::DeadLetter),
            _ if tried_enough => Some(Fate::DeadLetter),
            Verdict::Retry => Some(Fate::Retry),
            Verdict::Nack(delay) => Some(Fate::After(delay)),
        };
        let broadcasting = self.config.model == MessageModel::Broadcasting;
        match fate {
            None => self.finish(cx, number, offset),
            // Its next owner gets it.
            Some(_) if owned.drain_until.is_some() => self.look_if_drained(cx, number),
            Some(Fate::After(delay)) if orderly => self.suspend(cx, number, offset, delay),
            Some(Fate::Retry) if orderly => {
                self.suspend(cx, number, offset, self.config.redelivery_delay);
            }
            Some(_) if broadcasting => self.finish(cx, number, offset),
            Some(fate) => self.give_back(cx, delivery, at, fate),
        }
        true
    }

    /// The message is processed, or a broker has it again.
    fn finish(&mut self, cx: &mut Context, number: u64, offset: i64) {
        let progress = self.queues.get_mut(&number).and_then(|owned| owned.progress.as_mut());
        if let Some(progress) = progress {
            progress.ack(offset);
            self.step(cx, number);
            self.look_if_drained(cx, number);
        }
    }

    /// The message stays here and comes again.
    fn suspend(&mut self, cx: &mut Context, number: u64, offset: i64, delay: Duration) {
        let progress = self.queues.get_mut(&number).and_then(|owned| owned.progress.as_mut());
        if let Some(progress) = progress {
            let due = cx.now.mono + delay;
            progress.nack(offset, due);
            cx.timers.set(due, Timer::Queue(self.id, number));
            self.step(cx, number);
        }
    }

    fn note_ready(&mut self, cx: &Context, number: u64) {
        let is_ready = self.queues.get(&number).is_some_and(|owned| {
            owned.drain_until.is_none()
                && owned.progress.as_ref().is_some_and(|progress| progress.has_ready())
                && self.holds(owned, cx.now.mono)
        });
        match is_ready {
            true => self.ready.insert(number),
            false => self.ready.remove(&number),
        };
    }

    /// Takes back what the application has had in hand for too long: the oldest
    /// first, because deliveries are taken in turn.
    fn look_for_overdue(&mut self, cx: &mut Context) {
        if self.config.mode == ConsumeMode::Orderly {
            return;
        }
        let timeout = self.config.consume_timeout;
        while let Some((delivery, handed)) = self.outstanding.first_key_value()
            && handed.taken.is_some_and(|taken| taken + timeout <= cx.now.mono)
        {
            let (delivery, (number, offset)) = (*delivery, handed.at);
            if let Some(owned) = self.queues.get(&number) {
                let queue = owned.queue.clone();
                self.tell(cx, Change::TimedOut { queue, offset });
            }
            self.settle(cx, delivery, Verdict::Retry);
        }
    }

    fn tell(&self, cx: &mut Context, change: Change) {
        cx.outputs.push_back(Output::Changed { consumer: self.id, change });
    }

    pub fn on_commit_timer(&mut self, cx: &mut Context) {
        if self.is_leaving() {
            return self.part(cx);
        }
        cx.timers.set(cx.now.mono + self.config.commit_interval, Timer::Commit(self.id));
        self.look_for_overdue(cx);
        for number in self.queues.keys().copied().collect::<Vec<_>>() {
            self.commit(cx, number, false);
        }
    }

    pub fn on_reply(&mut self, cx: &mut Context, call: Call, reply: Reply) {
        match call {
            Call::Farewell => self.on_farewell(cx),
            _ if self.leaving.is_some() => {}
            Call::Members { topic } => self.on_members(cx, &topic, reply),
            Call::Stored { queue } => self.on_stored(cx, queue, reply),
            Call::Survey { queue } => self.on_survey(cx, queue, reply),
            Call::Start { queue, source } => self.on_start(cx, queue, source, reply),
            Call::Anchor { queue, offset, source } => {
                self.on_anchor(cx, queue, offset, source, reply)
            }
            Call::Pull { queue } => self.on_pulled(cx, queue, reply),
            Call::Commit { queue, offset } => self.on_committed(cx, queue, offset, reply),
            Call::Lock { queue, asked_at } => self.on_locked(cx, queue, asked_at, reply),
            Call::Renew { queues, asked_at } => self.on_renewed(cx, &queues, asked_at, reply),
            Call::LastCommit { queue } | Call::Unlock { queue } => {
                self.on_last_step(cx, queue, reply)
            }
            Call::SendBack { id } => self.on_sent_back(cx, id, reply),
        }
    }

    /// The queues that this member owns, sorted.
    pub fn assignment(&self) -> Vec<MessageQueue> {
        let owns = |number: &u64| {
            let owned = self.queues.get(number);
            !self.needs_locks()
                || owned.is_some_and(|owned| owned.lock.is_some() && !owned.is_released())
        };
        let queues = self.by_queue.iter().filter(|(_, number)| owns(number));
        queues.map(|(queue, _)| queue.clone()).collect()
    }

    /// Up to where each owned queue is processed.
    pub fn offsets(&self) -> BTreeMap<MessageQueue, i64> {
        let mut offsets = match self.config.model {
            MessageModel::Broadcasting => self.config.local_offsets.clone(),
            MessageModel::Clustering => BTreeMap::new(),
        };
        for owned in self.queues.values() {
            if let Some(progress) = &owned.progress {
                offsets.insert(owned.queue.clone(), progress.processed());
            }
        }
        offsets
    }
}

impl Topic {
    fn new(cx: &Context, topic: &str, expression: &str) -> Result<Topic, ClientError> {
        let subscription = Subscription::tags(topic, expression, cx.now.wall);
        let filter = subscription.filter().map_err(ClientError::Refused)?;
        let history = History::Unknown;
        Ok(Topic { subscription, filter, history, asking_members: false, ask_broker: 0 })
    }
}
