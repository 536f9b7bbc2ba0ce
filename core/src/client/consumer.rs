//! A member of a consumer group: joins, shares out the queues with the other
//! members, and hands out the messages of its own.

mod membership;
mod queue;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    ClientError, ConsumerConfig, ConsumerId, DeliveryId, MessageQueue, OffsetSource, Output,
    Received, Ticket, Verdict,
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
use queue::Owned;

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
    /// Deliveries without a verdict: of which queue, at which offset.
    outstanding: BTreeMap<u64, (u64, i64)>,
    next_delivery: u64,
    rebalance_at: Time,
    leaving: Option<Leaving>,
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

struct Leaving {
    tickets: Vec<Ticket>,
    owed: usize,
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
            let subscription = Subscription::tags(topic, expression, cx.now.wall);
            let filter = subscription.filter().map_err(ClientError::Refused)?;
            let history = History::Unknown;
            let topic = Name::from(topic.as_str());
            let state =
                Topic { subscription, filter, history, asking_members: false, ask_broker: 0 };
            topics.insert(topic, state);
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
            next_delivery: 0,
            rebalance_at: Time::MAX,
            leaving: None,
        })
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
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
        while self.outstanding.len() < self.config.max_outstanding {
            let after = self.ready.range((Bound::Excluded(self.turn), Bound::Unbounded)).next();
            let Some(number) = after.or_else(|| self.ready.first()).copied() else { return };
            self.turn = number;
            let Some(owned) = self.queues.get_mut(&number) else { return };
            let Some(progress) = &mut owned.progress else { return };
            let Some((offset, record, refused)) = progress.take() else { return };
            let message = Received::new(record, owned.queue.broker.clone(), refused);
            self.next_delivery += 1;
            self.outstanding.insert(self.next_delivery, (number, offset));
            let delivery = DeliveryId { consumer: self.id, number: self.next_delivery };
            cx.outputs.push_back(Output::Deliver { delivery, message });
            self.note_ready(number);
        }
    }

    /// A verdict on a delivery. False if it is stale: the queue has another
    /// owner now, or the verdict was given before.
    pub fn settle(&mut self, cx: &mut Context, delivery: u64, verdict: Verdict) -> bool {
        let Some((number, offset)) = self.outstanding.remove(&delivery) else { return false };
        let progress = self.queues.get_mut(&number).and_then(|owned| owned.progress.as_mut());
        if let Some(progress) = progress {
            match verdict {
                Verdict::Ack => progress.ack(offset),
                Verdict::Nack(delay) => {
                    let due = cx.now.mono + delay;
                    progress.nack(offset, due);
                    cx.timers.set(due, Timer::Queue(self.id, number));
                }
            }
            self.note_ready(number);
            self.step(cx, number);
        }
        self.queues.contains_key(&number)
    }

    fn note_ready(&mut self, number: u64) {
        let progress = self.queues.get(&number).and_then(|owned| owned.progress.as_ref());
        if progress.is_some_and(|progress| progress.has_ready()) {
            self.ready.insert(number);
        } else {
            self.ready.remove(&number);
        }
    }

    pub fn on_commit_timer(&mut self, cx: &mut Context) {
        if self.leaving.is_some() {
            return;
        }
        cx.timers.set(cx.now.mono + self.config.commit_interval, Timer::Commit(self.id));
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
            Call::Commit { queue, offset } => self.on_committed(queue, offset, reply),
        }
    }

    /// The queues that this member owns, sorted.
    pub fn assignment(&self) -> Vec<MessageQueue> {
        self.by_queue.keys().cloned().collect()
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
