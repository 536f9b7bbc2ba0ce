//! A member of a consumer group: joins, shares out the queues with the other
//! members, and hands out the messages of its own.

mod queue;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Change, ClientError, ConsumerConfig, ConsumerId, DeliveryId, MessageQueue, OffsetSource,
    Output, Received, Ticket, Verdict,
    context::{Context, Purpose, Reply, Timer},
    rebalance,
};
use crate::{
    error::Rejected,
    ids::Name,
    message::{MAX_GROUP, MAX_TOPIC},
    time::Time,
    wire::{
        body::{ConsumeType, ConsumerData, ConsumerIds, MessageModel, Subscription, TagFilter},
        code,
        header::{GroupHeader, UnregisterHeader},
        request,
    },
};
use queue::{Owned, update_offset};

/// After a change or a failure the members may not agree yet.
const REBALANCE_AGAIN: Duration = Duration::from_secs(1);

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

    fn rebalance_by(&mut self, cx: &mut Context, at: Time) {
        if at < self.rebalance_at {
            self.rebalance_at = at;
            cx.timers.set(at, Timer::Rebalance(self.id));
        }
    }

    /// Routes, members or their subscriptions changed.
    pub fn rebalance_now(&mut self, cx: &mut Context) {
        self.rebalance_by(cx, cx.now.mono);
    }

    pub fn on_topic_changed(&mut self, cx: &mut Context, topic: &Name) {
        if self.topics.contains_key(topic) {
            self.rebalance_now(cx);
        }
    }

    pub fn on_rebalance_timer(&mut self, cx: &mut Context) {
        if self.leaving.is_some() || cx.now.mono < self.rebalance_at {
            return;
        }
        self.rebalance_at = Time::MAX;
        self.rebalance_by(cx, cx.now.mono + self.config.rebalance_interval);
        if self.config.model == MessageModel::Clustering {
            // A broker that forgot us would leave us out of the list.
            self.introduce(cx);
        }
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            let Some(route) = cx.route(&topic, false) else { continue };
            match self.config.model {
                MessageModel::Broadcasting => self.assign(cx, &topic, &route.readable),
                MessageModel::Clustering => self.ask_members(cx, topic),
            }
        }
    }

    fn introduce(&mut self, cx: &mut Context) {
        let mut brokers = BTreeSet::new();
        for topic in self.topics.keys() {
            brokers.extend(cx.routes.get(topic).iter().flat_map(|route| route.masters()));
        }
        for broker in brokers {
            cx.send_heartbeat(broker);
        }
    }

    fn ask_members(&mut self, cx: &mut Context, name: Name) {
        let Some(route) = cx.route(&name, false) else { return };
        let Some(topic) = self.topics.get_mut(&name) else { return };
        let brokers: Vec<_> = route.masters().collect();
        if topic.asking_members || brokers.is_empty() {
            return;
        }
        topic.asking_members = true;
        let broker = brokers[topic.ask_broker % brokers.len()];
        let fields = GroupHeader { group: &self.group }.fields();
        let purpose = Purpose::Consumer(self.id, Call::Members { topic: name });
        let timeout = cx.config.request_timeout;
        let code = request::GET_CONSUMER_LIST_BY_GROUP;
        cx.call(broker, code, fields, Bytes::new(), timeout, purpose);
    }

    fn on_members(&mut self, cx: &mut Context, name: &Name, reply: Reply) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.asking_members = false;
        let answered = reply.ok().filter(|frame| frame.code == code::SUCCESS);
        let Some(ConsumerIds { mut ids }) =
            answered.and_then(|frame| ConsumerIds::parse(&frame.body).ok())
        else {
            // Not knowing the members is no reason to give up any queue.
            topic.ask_broker = topic.ask_broker.wrapping_add(1);
            cx.refresh_route(name);
            return self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        };
        ids.sort();
        ids.dedup();
        let Some(route) = cx.route(name, false) else { return };
        if !ids.contains(&cx.client_id) {
            self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        }
        let mine = rebalance::average(&route.readable, &ids, &cx.client_id);
        self.assign(cx, name, mine);
    }

    fn assign(&mut self, cx: &mut Context, topic: &Name, mine: &[MessageQueue]) {
        let owned = self.by_queue.iter().filter(|(queue, _)| queue.topic == *topic);
        let lost: Vec<u64> = owned
            .filter(|(queue, _)| mine.binary_search(queue).is_err())
            .map(|(_, number)| *number)
            .collect();
        let gained: Vec<MessageQueue> =
            mine.iter().filter(|queue| !self.by_queue.contains_key(queue)).cloned().collect();
        if lost.is_empty() && gained.is_empty() {
            return;
        }
        self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        for number in lost {
            self.lose(cx, number);
        }
        let first_gained = self.next_number + 1;
        for queue in gained {
            self.next_number += 1;
            self.by_queue.insert(queue.clone(), self.next_number);
            self.queues.insert(self.next_number, Owned::new(queue));
        }
        self.tell_assigned(cx);
        for number in first_gained..=self.next_number {
            self.step(cx, number);
        }
    }

    fn tell_assigned(&self, cx: &mut Context) {
        let change = Change::Assigned(self.assignment());
        cx.outputs.push_back(Output::Changed { consumer: self.id, change });
    }

    /// Stores what is processed and no more (L20). Deliveries without a verdict
    /// become stale.
    fn lose(&mut self, cx: &mut Context, number: u64) {
        self.commit(cx, number, true);
        let Some(owned) = self.queues.remove(&number) else { return };
        self.by_queue.remove(&owned.queue);
        self.ready.remove(&number);
        self.pass_on_survey(cx, number, &owned.queue.topic);
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
            let redelivered = refused + u32::try_from(record.reconsume_times).unwrap_or(0);
            let message = Received {
                record,
                shard: owned.queue.shard(),
                broker_name: owned.queue.broker.clone(),
                redelivered,
            };
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

    /// Stores what is processed, then leaves the group.
    pub fn leave(&mut self, cx: &mut Context, ticket: Option<Ticket>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.tickets.extend(ticket);
            return;
        }
        let mut owed = 0;
        for owned in self.queues.values() {
            let Some(offset) = owned.uncommitted() else { continue };
            let queue = &owned.queue;
            if self.config.model == MessageModel::Broadcasting {
                continue;
            }
            let master = cx.routes.get(&queue.topic).and_then(|route| route.master(&queue.broker));
            if let Some(addr) = master {
                let fields = update_offset(&self.group, queue, offset);
                self.say_farewell(cx, addr, request::UPDATE_CONSUMER_OFFSET, fields);
                owed += 1;
            }
        }
        self.queues.clear();
        self.by_queue.clear();
        self.ready.clear();
        self.outstanding.clear();
        self.tell_assigned(cx);
        let tickets = ticket.into_iter().collect();
        self.leaving = Some(Leaving { tickets, owed, unregistered: false });
        if owed == 0 {
            self.unregister(cx);
        }
    }

    fn on_farewell(&mut self, cx: &mut Context) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.owed -= 1;
        if leaving.owed == 0 && !leaving.unregistered {
            self.unregister(cx);
        }
    }

    fn unregister(&mut self, cx: &mut Context) {
        let mut brokers = cx.routes.brokers();
        brokers.retain(|addr| cx.links.is_up(*addr));
        for addr in &brokers {
            let header = UnregisterHeader {
                client_id: &cx.client_id,
                producer_group: None,
                consumer_group: Some(&self.group),
            };
            let fields = header.fields();
            self.say_farewell(cx, *addr, request::UNREGISTER_CLIENT, fields);
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.owed += brokers.len();
            leaving.unregistered = true;
        }
    }

    fn say_farewell(
        &self,
        cx: &mut Context,
        addr: std::net::SocketAddr,
        code: i32,
        fields: crate::wire::Fields,
    ) {
        let (timeout, purpose) =
            (cx.config.request_timeout, Purpose::Consumer(self.id, Call::Farewell));
        cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
    }

    /// Whoever waits for this consumer to have left, once it has.
    pub fn has_left(&mut self) -> Option<Vec<Ticket>> {
        let leaving = self.leaving.as_mut()?;
        (leaving.unregistered && leaving.owed == 0).then(|| std::mem::take(&mut leaving.tickets))
    }
}
