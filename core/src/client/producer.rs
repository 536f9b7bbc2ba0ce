//! Sends: each gets one outcome in its time, whatever happens to brokers and
//! links on the way.

mod outcome;
mod turns;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::{
    Done, Message, MessageQueue, SendError, SendOptions, SendReceipt, SendStatus, Ticket,
    api::worth_another_try,
    context::{CallFailed, Context, Purpose, Reply, Timer},
    leaders::not_leader,
    outgoing::{MessageIds, Outgoing},
    routes::News,
    selection::{Avoided, Target},
    series::{End, Numbering},
};
use crate::{
    error::Rejected,
    ids::Name,
    message::tag_hash,
    sequence::Stamp,
    time::Time,
    wire::{code, header::SendHeader, request},
};

use outcome::{outcome, receipt};

/// A try shorter than this proves nothing about the broker.
const SHORTEST_TRY: Duration = Duration::from_millis(50);

pub struct Producer {
    ids: MessageIds,
    sends: BTreeMap<Ticket, Send>,
    /// Sends of topics without a route, oldest first.
    waiting: BTreeMap<Name, Vec<Ticket>>,
    /// Ordered sends of one shard: the first is under way, the others wait (R3).
    lanes: BTreeMap<MessageQueue, VecDeque<Ticket>>,
    /// Of an idempotent producer.
    numbering: Numbering,
    /// Queues of one topic take turns.
    turns: BTreeMap<Name, usize>,
    avoided: Avoided,
}

struct Send {
    outgoing: Outgoing,
    topic: Name,
    target: Target,
    ordered: bool,
    is_numbered: bool,
    kind: Kind,
    deadline: Time,
    /// Tries after the present one that may leave an unknown outcome.
    tries_left: u32,
    /// Requests that left, or may have.
    tries: u32,
    failures: u32,
    state: State,
    /// The queue of the last try; of an ordered send, its lane.
    queue: Option<MessageQueue>,
    /// It is to be numbered, and its queue is settled.
    is_pinned: bool,
    stamp: Option<Stamp>,
    /// Where the last try went.
    addr: Option<SocketAddr>,
    tried_at: Time,
    /// A try went out and was never answered.
    maybe_stored: Option<String>,
    refusal: Rejected,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    OneWay,
    /// Not sent again after a lost answer: two halves of one transaction would
    /// both be committed when they are checked.
    Half,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    WaitsForRoute,
    WaitsForTurn,
    UnderWay,
    WaitsForRetry(Time),
}

impl Producer {
    /// `number` tells idempotent producers apart.
    pub fn new(ids: MessageIds, number: u64) -> Producer {
        Producer {
            numbering: Numbering::new(number),
            ids,
            sends: BTreeMap::new(),
            waiting: BTreeMap::new(),
            lanes: BTreeMap::new(),
            turns: BTreeMap::new(),
            avoided: Avoided::default(),
        }
    }

    pub fn send(
        &mut self,
        cx: &mut Context,
        ticket: Ticket,
        messages: Vec<Message>,
        options: SendOptions,
        kind: Kind,
    ) {
        let outgoing = match self.accept(cx, messages, kind) {
            Ok(outgoing) => outgoing,
            Err(refusal) => {
                let refused = SendError::Refused(refusal);
                let done = outcome(cx, kind, None, Err(refused));
                return cx.complete(ticket, done);
            }
        };
        let target = match (options.queue, &outgoing.sharding_key) {
            (Some(queue), _) => Target::Queue(queue),
            (None, Some(key)) => Target::Key(tag_hash(key)),
            (None, None) => Target::Any,
        };
        let deadline = cx.now.mono + options.timeout.unwrap_or(cx.config.send_timeout);
        let is_numbered = cx.config.idempotent && kind == Kind::Message && !outgoing.is_delayed;
        let send = Send {
            topic: outgoing.topic.as_str().into(),
            ordered: options.ordered && !is_numbered && !matches!(target, Target::Any),
            is_numbered,
            target,
            outgoing,
            kind,
            deadline,
            tries_left: if kind == Kind::OneWay { 0 } else { cx.config.send_retries },
            tries: 0,
            failures: 0,
            state: State::WaitsForRoute,
            queue: None,
            is_pinned: false,
            stamp: None,
            addr: None,
            tried_at: cx.now.mono,
            maybe_stored: None,
            refusal: Rejected::new(code::SERVICE_NOT_AVAILABLE, "no route was found in time"),
        };
        cx.timers.set(deadline, Timer::Send(ticket));
        self.sends.insert(ticket, send);
        self.try_send(cx, ticket);
    }

    fn accept(
        &mut self,
        cx: &Context,
        mut messages: Vec<Message>,
        kind: Kind,
    ) -> Result<Outgoing, Rejected> {
        if self.sends.len() >= cx.config.max_unresolved_sends {
            return Err(Rejected::new(code::SYSTEM_BUSY, "too many sends without an outcome"));
        }
        let (ids, wall) = (&mut self.ids, cx.now.wall);
        match (kind, messages.pop()) {
            (Kind::Half, Some(message)) => {
                Outgoing::half(message, &cx.config.producer_group, ids, wall)
            }
            (_, last) => {
                messages.extend(last);
                Outgoing::new(messages, ids, wall)
            }
        }
    }

    /// Makes the next try, or waits for what it needs.
    fn try_send(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        if cx.now.mono >= send.deadline {
            return self.give_up(cx, ticket);
        }
        let Some(route) = cx.route(&send.topic, true) else {
            send.state = State::WaitsForRoute;
            self.waiting.entry(send.topic.clone()).or_default().push(ticket);
            return;
        };
        if send.ordered && send.queue.is_none() {
            let Some(queue) = send.target.shard(&route) else {
                return self.retry_later(cx, ticket, "the topic has no queue for it");
            };
            send.queue = Some(queue.clone());
            let lane = self.lanes.entry(queue).or_default();
            lane.push_back(ticket);
            if lane.len() > 1 {
                send.state = State::WaitsForTurn;
                let why = "earlier sends to its shard took all its time";
                send.refusal = Rejected::new(code::SYSTEM_BUSY, why);
                return;
            }
        }
        let queue = match &send.target {
            _ if send.is_pinned => send.queue.clone(),
            Target::Any => {
                let turn = self.turns.entry(send.topic.clone()).or_default();
                let failed = send.queue.as_ref().filter(|_| send.failures > 0);
                self.avoided.take_turn(cx.now.mono, turn, &route.writable, failed)
            }
            // A retry goes where the first try went, whatever the route says now.
            target => send.queue.clone().or_else(|| target.shard(&route)),
        };
        let place = queue.and_then(|queue| Some((route.master(&queue.broker)?, queue)));
        let Some((addr, queue)) = place else {
            cx.refresh_route(&send.topic);
            return self.retry_later(cx, ticket, "no broker is there for its shard");
        };
        if send.is_numbered && send.stamp.is_none() {
            (send.is_pinned, send.queue) = (true, Some(queue.clone()));
            send.stamp = self.numbering.number(&queue, ticket, send.outgoing.count);
            if send.stamp.is_none() {
                send.state = State::WaitsForTurn;
                return;
            }
        }
        send.state = State::UnderWay;
        send.tried_at = cx.now.mono;
        let header = SendHeader {
            producer_group: &cx.config.producer_group,
            topic: &send.topic,
            default_topic: Some(cx.config.default_topic.as_deref().unwrap_or("TBW102")),
            default_topic_queues: Some(cx.config.default_topic_queues),
            queue: queue.queue as i32,
            sys_flag: send.outgoing.sys_flag,
            born_wall: cx.now.wall,
            flag: send.outgoing.flag,
            properties: Some(&send.outgoing.properties),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(send.outgoing.is_batch),
            producer_id: send.stamp.map(|stamp| stamp.producer),
            producer_epoch: send.stamp.map(|stamp| stamp.epoch),
            sequence: send.stamp.map(|stamp| stamp.sequence),
        };
        let (fields, body) = (header.short_fields(), send.outgoing.body.clone());
        let request = match send.outgoing.is_batch {
            true => request::SEND_BATCH_MESSAGE,
            false => request::SEND_MESSAGE_V2,
        };
        send.queue = Some(queue);
        send.addr = Some(addr);
        send.tries += 1;
        if send.kind == Kind::OneWay {
            cx.call_one_way(addr, request, fields, body);
            return self.finish_one_way(cx, ticket);
        }
        // Each try leaves as much time for every further one (N1).
        let left = send.deadline.since(cx.now.mono);
        let timeout = (left / (send.tries_left + 1)).max(SHORTEST_TRY.min(left));
        cx.call(addr, request, fields, body, timeout, Purpose::Send(ticket));
    }

    pub fn on_reply(&mut self, cx: &mut Context, ticket: Ticket, reply: Reply) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        let Some(queue) = send.queue.clone() else { return };
        let broker = queue.broker.clone();
        let frame = match reply {
            Ok(frame) => frame,
            Err(failed) => {
                self.avoided.on_failure(broker, cx.now.mono);
                cx.refresh_route(&send.topic);
                return match failed {
                    CallFailed::NotSent(why) => {
                        send.tries -= 1;
                        self.retry_later(cx, ticket, &why)
                    }
                    CallFailed::Lost(why) => {
                        send.maybe_stored = Some(why);
                        if send.kind == Kind::Half {
                            return self.give_up(cx, ticket);
                        }
                        self.retry_or_give_up(cx, ticket)
                    }
                };
            }
        };
        if not_leader(&frame).is_some() {
            self.avoided.on_failure(broker, cx.now.mono);
            cx.refresh_route(&send.topic);
            return self.retry_elsewhere(cx, ticket, Rejected::new(frame.code, frame.remark));
        }
        self.avoided.on_answer(broker, cx.now.mono, cx.now.mono.since(send.tried_at));
        if let Some(status) = SendStatus::of_code(frame.code) {
            let result = match receipt(send, &queue, status, &frame.fields) {
                Ok(receipt) => Ok(receipt),
                Err(error) => {
                    let why = format!("an unusable answer: {error}");
                    Err(SendError::Unknown { why, tries: send.tries })
                }
            };
            return self.finish(cx, ticket, result);
        }
        if frame.code == code::OUT_OF_SEQUENCE && send.stamp.is_some() {
            return self.on_gap(cx, ticket, &queue, frame.remark);
        }
        let retry = worth_another_try(frame.code);
        if frame.code == code::TOPIC_NOT_EXIST || frame.code == code::NO_PERMISSION {
            cx.refresh_route(&send.topic);
        }
        send.refusal = Rejected::new(frame.code, frame.remark);
        match retry {
            true => self.retry_or_give_up(cx, ticket),
            false => self.give_up(cx, ticket),
        }
    }

    pub fn on_timer(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.sends.get(&ticket) else { return };
        if cx.now.mono >= send.deadline {
            // A try that is under way ends by its own deadline, which is now.
            if send.state != State::UnderWay {
                self.give_up(cx, ticket);
            }
        } else if matches!(send.state, State::WaitsForRetry(at) if at <= cx.now.mono) {
            self.try_send(cx, ticket);
        }
    }

    pub fn on_news(&mut self, cx: &mut Context, topic: &Name, news: &News) {
        if matches!(news, News::Failed(_)) {
            // Name servers may come back before the sends' time is up.
            return;
        }
        for ticket in self.waiting.remove(topic).unwrap_or_default() {
            let Some(send) = self.sends.get_mut(&ticket) else { continue };
            if *news == News::Missing {
                let why = format!("no name server knows the topic {topic}");
                send.refusal = Rejected::new(code::TOPIC_NOT_EXIST, why);
                self.give_up(cx, ticket);
            } else {
                self.try_send(cx, ticket);
            }
        }
        if *news == News::Found {
            self.hurry(cx, topic);
        }
    }

    /// Ends every send without an outcome.
    pub fn close(&mut self, cx: &mut Context) {
        // Nobody's turn comes any more.
        self.lanes.clear();
        self.numbering.clear();
        for ticket in self.sends.keys().copied().collect::<Vec<_>>() {
            let Some(send) = self.sends.get_mut(&ticket) else { continue };
            let why = "the client was closed";
            if send.state == State::UnderWay {
                send.maybe_stored = Some(why.to_owned());
            }
            send.refusal = Rejected::new(code::SERVICE_NOT_AVAILABLE, why);
            self.give_up(cx, ticket);
        }
    }

    fn give_up(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        // One unanswered try is enough: a later refusal says nothing about it.
        let error = match send.maybe_stored.take() {
            Some(why) => SendError::Unknown { why, tries: send.tries },
            None => SendError::Refused(send.refusal.clone()),
        };
        self.finish(cx, ticket, Err(error));
    }

    fn finish_one_way(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.forget(cx, ticket) else { return };
        cx.complete(ticket, Done::HandedOver(Ok(())));
        self.next_in_lane(cx, ticket, send);
    }

    fn finish(&mut self, cx: &mut Context, ticket: Ticket, result: Result<SendReceipt, SendError>) {
        let Some(send) = self.forget(cx, ticket) else { return };
        let end = if result.is_ok() { End::Stored } else { End::GivenUp };
        let done = outcome(cx, send.kind, send.addr, result);
        cx.complete(ticket, done);
        if let Some(queue) = send.queue.as_ref().filter(|_| send.is_pinned) {
            self.numbering.end(queue, ticket, end);
            self.next_in_series(cx, queue);
        }
        self.next_in_lane(cx, ticket, send);
    }

    fn forget(&mut self, cx: &mut Context, ticket: Ticket) -> Option<Send> {
        let send = self.sends.remove(&ticket)?;
        cx.timers.cancel(send.deadline, Timer::Send(ticket));
        if let State::WaitsForRetry(at) = send.state {
            cx.timers.cancel(at, Timer::Send(ticket));
        }
        if send.state == State::WaitsForRoute
            && let Some(waiting) = self.waiting.get_mut(&send.topic)
        {
            waiting.retain(|other| *other != ticket);
        }
        Some(send)
    }
}
