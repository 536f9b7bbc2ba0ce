//! Requests other than sends: questions and settings that can be repeated, and
//! are, until they are answered or their time is up.

mod requests;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Answer, Ask, ClientError, Done, QueueAsk, Ticket,
    context::{Context, Purpose, Reply, Timer},
    leaders::not_leader,
    pop::read_popped,
    routes::News,
};
use crate::{
    error::Rejected,
    ids::Name,
    time::Time,
    wire::{Fields, body::OrderList, code, request},
};
use requests::{Whom, brokers_of, read_answer, refusal, request_of, whom};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// Unanswered asks of one client.
const MAX_ASKS: usize = 4096;

#[derive(Default)]
pub struct Asks {
    pending: BTreeMap<Ticket, Pending>,
    waiting: BTreeMap<Name, Vec<Ticket>>,
    /// Brokers of a topic take turns.
    turn: usize,
}

struct Pending {
    ask: Ask,
    deadline: Time,
    failures: u32,
    /// Name servers asked so far.
    asked: usize,
    /// The broker that was asked: no route may know it any more when it answers.
    broker: Name,
    /// Brokers that have yet to be told, once it is known which, and where they
    /// are, if they are.
    untold: Option<BTreeMap<Name, Option<SocketAddr>>>,
    /// Where they are must be asked again.
    is_outdated: bool,
    /// The queues of an ordered topic that is being created, as all its brokers
    /// are to keep it.
    order_list: Option<OrderList>,
    last_failure: String,
}

/// Which part of an ask a reply is for.
#[derive(Clone, Copy, Debug)]
pub enum AskStep {
    NameServer,
    Broker(SocketAddr),
}

impl Asks {
    pub fn ask(&mut self, cx: &mut Context, ticket: Ticket, ask: Ask) {
        if self.pending.len() >= MAX_ASKS {
            let busy = Rejected::new(code::SYSTEM_BUSY, "too many unanswered requests");
            return cx.complete(ticket, Done::Answered(Err(ClientError::Refused(busy))));
        }
        let time = match &ask {
            Ask::Queue { what: QueueAsk::Pull { hold, .. }, .. } => {
                *hold + cx.config.request_timeout
            }
            Ask::Pop(pop) => pop.hold + cx.config.request_timeout,
            Ask::EndTransaction { .. } => cx.config.end_transaction_timeout,
            _ => cx.config.request_timeout,
        };
        let deadline = cx.now.mono + time;
        cx.timers.set(deadline, Timer::Ask(ticket));
        let pending = Pending {
            ask,
            deadline,
            failures: 0,
            asked: 0,
            broker: "".into(),
            untold: None,
            is_outdated: false,
            order_list: None,
            last_failure: "no route was found in time".to_owned(),
        };
        self.pending.insert(ticket, pending);
        self.try_ask(cx, ticket);
    }

    fn try_ask(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let whom = whom(&pending.ask);
        let topic: Name = match whom {
            Whom::NameServer => {
                let (code, fields, _) = request_of(cx, &pending.ask, None);
                return self.ask_name_server(cx, ticket, code, fields);
            }
            Whom::EveryoneIn(_) if pending.untold.is_none() || pending.is_outdated => {
                let code = request::GET_BROKER_CLUSTER_INFO;
                return self.ask_name_server(cx, ticket, code, Fields::default());
            }
            Whom::EveryoneIn(_) => return self.tell_next(cx, ticket),
            Whom::EveryoneOf(_) if pending.untold.is_some() && !pending.is_outdated => {
                return self.tell_next(cx, ticket);
            }
            Whom::MasterNear(half) => {
                // It need not be a topic of ours.
                let route = cx.routes.get(&half.shard.topic);
                let master = route.and_then(|route| route.master(&half.broker_name));
                return self.ask_broker(cx, ticket, master.unwrap_or(half.addr));
            }
            Whom::EveryoneOf(topic) | Whom::AnyOf(topic) | Whom::NobodyOf(topic) => topic.into(),
            Whom::Master(topic, _) => topic.into(),
        };
        let Some(route) = cx.route(&topic, false) else {
            self.waiting.entry(topic).or_default().push(ticket);
            return;
        };
        let found = match whom {
            Whom::NobodyOf(_) => {
                return self.finish(cx, ticket, Ok(Answer::Queues(route.readable.clone())));
            }
            Whom::EveryoneOf(_) => {
                let masters = route.masters.iter().map(|(name, addr)| (name.clone(), Some(*addr)));
                let masters = masters.collect();
                return self.tell_all(cx, ticket, masters);
            }
            Whom::Master(_, broker) => route.masters.get_key_value(&Name::from(broker)),
            // Each time another one.
            _ => {
                self.turn = self.turn.wrapping_add(1);
                let nth = self.turn.checked_rem(route.masters.len());
                nth.and_then(|nth| route.masters.iter().nth(nth))
            }
        };
        match found {
            Some((name, addr)) => {
                if let Some(pending) = self.pending.get_mut(&ticket) {
                    pending.broker = name.clone();
                }
                self.ask_broker(cx, ticket, *addr)
            }
            None => {
                cx.refresh_route(&topic);
                self.retry_later(cx, ticket, "no broker is there for it".to_owned());
            }
        }
    }

    fn ask_name_server(&mut self, cx: &mut Context, ticket: Ticket, code: i32, fields: Fields) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let timeout = pending.time_per_try(cx);
        let Some(server) = cx.name_server(pending.asked) else { return };
        let purpose = Purpose::Ask(ticket, AskStep::NameServer);
        cx.call(server, code, fields, Bytes::new(), timeout, purpose);
    }

    fn ask_broker(&mut self, cx: &mut Context, ticket: Ticket, addr: SocketAddr) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let (code, fields, body) = request_of(cx, &pending.ask, pending.order_list.as_ref());
        let timeout = pending.time_per_try(cx);
        let purpose = Purpose::Ask(ticket, AskStep::Broker(addr));
        cx.call(addr, code, fields, body, timeout, purpose);
    }

    /// It is known who is to be told, or, of those who were not told yet, where
    /// they are now.
    fn tell_all(
        &mut self,
        cx: &mut Context,
        ticket: Ticket,
        brokers: BTreeMap<Name, Option<SocketAddr>>,
    ) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        pending.is_outdated = false;
        match &mut pending.untold {
            None => {
                if let Ask::CreateTopic { queues, order: true, .. } = &pending.ask {
                    let names = brokers.keys().map(|name| &**name);
                    pending.order_list = Some(OrderList::over(names, *queues, cx.now.wall));
                }
                pending.untold = Some(brokers);
            }
            Some(untold) => {
                for (name, addr) in untold {
                    *addr = brokers.get(name).copied().flatten();
                }
            }
        }
        self.tell_next(cx, ticket);
    }

    /// One broker after the other; done when the last one has answered.
    fn tell_next(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        match pending.untold.as_ref().and_then(BTreeMap::first_key_value) {
            Some((_, Some(addr))) => {
                let addr = *addr;
                return self.ask_broker(cx, ticket, addr);
            }
            Some((name, None)) => {
                let why = format!("nobody leads {name}");
                pending.is_outdated = true;
                return self.retry_later(cx, ticket, why);
            }
            None => {}
        }
        if let Ask::CreateTopic { topic, .. } = &pending.ask {
            cx.refresh_route(&topic.as_str().into());
        }
        self.finish(cx, ticket, Ok(Answer::Done));
    }

    pub fn on_reply(&mut self, cx: &mut Context, ticket: Ticket, step: AskStep, reply: Reply) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let frame = match reply {
            Ok(frame) => frame,
            Err(failed) => {
                pending.asked += 1;
                return self.find_again(cx, ticket, failed.why().to_owned());
            }
        };
        match (step, &pending.ask) {
            _ if not_leader(&frame).is_some() => self.find_again(cx, ticket, frame.remark),
            (AskStep::NameServer, _) if frame.code != code::SUCCESS => {
                pending.asked += 1;
                if pending.asked < cx.config.name_servers.len() {
                    return self.try_ask(cx, ticket);
                }
                self.finish(cx, ticket, Err(refusal(frame)))
            }
            (AskStep::NameServer, ask) if let Whom::EveryoneIn(cluster) = whom(ask) => {
                match brokers_of(&frame.body, cluster) {
                    Ok(brokers) => self.tell_all(cx, ticket, brokers),
                    Err(refusal) => self.finish(cx, ticket, Err(ClientError::Refused(refusal))),
                }
            }
            (AskStep::Broker(told), _)
                if frame.code == code::SUCCESS && pending.untold.is_some() =>
            {
                pending.untold.iter_mut().for_each(|all| all.retain(|_, at| *at != Some(told)));
                self.tell_next(cx, ticket);
            }
            (AskStep::Broker(addr), Ask::Pop(pop)) => {
                let popped = read_popped(cx, pop, (&pending.broker, addr), frame);
                self.finish(cx, ticket, popped);
            }
            // An earlier try may have been what ended the lease.
            (_, Ask::Ack { .. } | Ask::ChangeInvisible { .. })
                if frame.code == code::NO_MESSAGE && pending.failures > 0 =>
            {
                self.finish(cx, ticket, Err(ClientError::Unavailable { why: frame.remark }))
            }
            // An earlier try may have been what took the message back.
            (_, Ask::Recall { .. }) if frame.code != code::SUCCESS && pending.failures > 0 => {
                self.finish(cx, ticket, Err(ClientError::Unavailable { why: frame.remark }))
            }
            (_, Ask::EndTransaction { .. })
                if matches!(frame.code, code::SYSTEM_BUSY | code::SERVICE_NOT_AVAILABLE) =>
            {
                self.retry_later(cx, ticket, frame.remark)
            }
            (_, ask) => {
                let answer = read_answer(ask, frame);
                self.finish(cx, ticket, answer);
            }
        }
    }

    /// Whoever was asked is not there, or not the one to ask.
    fn find_again(&mut self, cx: &mut Context, ticket: Ticket, why: String) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        pending.is_outdated = true;
        match whom(&pending.ask) {
            Whom::Master(topic, _) | Whom::AnyOf(topic) | Whom::EveryoneOf(topic) => {
                cx.refresh_route(&topic.into());
            }
            Whom::MasterNear(half) => cx.refresh_route(&half.shard.topic),
            Whom::NameServer | Whom::EveryoneIn(_) | Whom::NobodyOf(_) => {}
        }
        self.retry_later(cx, ticket, why);
    }

    fn retry_later(&mut self, cx: &mut Context, ticket: Ticket, why: String) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        pending.last_failure = why;
        pending.failures += 1;
        let delay = cx.backoff(FIRST_RETRY, pending.failures - 1, LAST_RETRY);
        cx.timers.set(cx.now.mono + delay, Timer::Ask(ticket));
    }

    pub fn on_timer(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        if cx.now.mono >= pending.deadline {
            let why = pending.last_failure.clone();
            self.finish(cx, ticket, Err(ClientError::Unavailable { why }));
        } else {
            self.try_ask(cx, ticket);
        }
    }

    pub fn on_news(&mut self, cx: &mut Context, topic: &Name, news: &News) {
        if matches!(news, News::Failed(_)) {
            return;
        }
        for ticket in self.waiting.remove(topic).unwrap_or_default() {
            if *news == News::Missing {
                let why = format!("no name server knows the topic {topic}");
                let refusal = Rejected::new(code::TOPIC_NOT_EXIST, why);
                self.finish(cx, ticket, Err(ClientError::Refused(refusal)));
            } else {
                self.try_ask(cx, ticket);
            }
        }
    }

    pub fn close(&mut self, cx: &mut Context) {
        for ticket in self.pending.keys().copied().collect::<Vec<_>>() {
            self.finish(cx, ticket, Err(ClientError::Closed));
        }
    }

    fn finish(&mut self, cx: &mut Context, ticket: Ticket, result: Result<Answer, ClientError>) {
        let Some(pending) = self.pending.remove(&ticket) else { return };
        cx.timers.cancel(pending.deadline, Timer::Ask(ticket));
        self.waiting.values_mut().for_each(|waiting| waiting.retain(|other| *other != ticket));
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        cx.complete(ticket, Done::Answered(result));
    }
}

impl Pending {
    /// Leaves time for a second try, except where the broker may hold the answer.
    fn time_per_try(&self, cx: &Context) -> Duration {
        let left = self.deadline.since(cx.now.mono);
        match &self.ask {
            Ask::Queue { what: QueueAsk::Pull { .. }, .. } | Ask::Pop(_) => left,
            _ => (left / 2).min(cx.config.request_timeout),
        }
    }
}
