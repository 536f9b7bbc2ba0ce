//! Requests other than sends: questions and settings that can be repeated, and
//! are, until they are answered or their time is up.

mod requests;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Answer, Ask, ClientError, Done, QueueAsk, Ticket,
    context::{Context, Purpose, Reply, Timer},
    routes::News,
};
use crate::{
    error::Rejected,
    ids::Name,
    time::Time,
    wire::{
        Fields,
        body::perm,
        code,
        header::{CreateTopicHeader, GroupHeader, RecallHeader, TopicHeader},
        request,
    },
};
use requests::{brokers_of, queue_request, read_answer, refusal};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// Unanswered asks of one client.
const MAX_ASKS: usize = 4096;

#[derive(Default)]
pub struct Asks {
    pending: BTreeMap<Ticket, Pending>,
    waiting: BTreeMap<Name, Vec<Ticket>>,
}

struct Pending {
    ask: Ask,
    deadline: Time,
    failures: u32,
    /// Name servers asked so far.
    asked: usize,
    /// Brokers that have yet to create the topic.
    brokers: Vec<SocketAddr>,
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
            brokers: Vec::new(),
            last_failure: "no route was found in time".to_owned(),
        };
        self.pending.insert(ticket, pending);
        self.try_ask(cx, ticket);
    }

    fn try_ask(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let topic: Name = match &pending.ask {
            Ask::Route { topic } => {
                let fields = TopicHeader { topic }.fields();
                return self.ask_name_server(cx, ticket, request::GET_ROUTEINFO_BY_TOPIC, fields);
            }
            Ask::Cluster | Ask::CreateTopic { .. } if pending.brokers.is_empty() => {
                let code = request::GET_BROKER_CLUSTER_INFO;
                return self.ask_name_server(cx, ticket, code, Fields::default());
            }
            Ask::CreateTopic { .. } | Ask::Cluster => return self.create_on_brokers(cx, ticket),
            Ask::Queues { topic } | Ask::GroupMembers { topic, .. } => topic.as_str().into(),
            Ask::Queue { queue, .. } => queue.topic.clone(),
            Ask::EndTransaction { half, resolution } => {
                let route = cx.routes.get(&half.shard.topic);
                let master = route.and_then(|route| route.master(&half.broker_name));
                let addr = master.unwrap_or(half.addr);
                let timeout = pending.time_per_try(cx.now.mono).min(cx.config.request_timeout);
                let (code, fields) = (request::END_TRANSACTION, half.fields(*resolution));
                let purpose = Purpose::Ask(ticket, AskStep::Broker(addr));
                return cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
            }
            Ask::Recall { handle } => handle.topic.as_str().into(),
        };
        let Some(route) = cx.route(&topic, false) else {
            self.waiting.entry(topic).or_default().push(ticket);
            return;
        };
        let timeout = pending.time_per_try(cx.now.mono);
        let (addr, code, fields) = match &pending.ask {
            Ask::Queues { .. } => {
                return self.finish(cx, ticket, Ok(Answer::Queues(route.readable.clone())));
            }
            Ask::GroupMembers { group, .. } => {
                let fields = GroupHeader { group }.fields();
                (route.masters().next(), request::GET_CONSUMER_LIST_BY_GROUP, fields)
            }
            Ask::Queue { queue, what } => {
                let (code, fields) = queue_request(queue, what);
                (route.master(&queue.broker), code, fields)
            }
            Ask::Recall { handle } => {
                let header = RecallHeader {
                    producer_group: Some(&cx.config.producer_group),
                    topic: &topic,
                    recall_handle: &handle.encode(),
                };
                let broker = handle.broker.as_str().into();
                (route.master(&broker), request::RECALL_MESSAGE, header.fields())
            }
            _ => return,
        };
        match addr {
            Some(addr) => {
                let purpose = Purpose::Ask(ticket, AskStep::Broker(addr));
                cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
            }
            None => {
                cx.refresh_route(&topic);
                self.retry_later(cx, ticket, "no broker is there for it".to_owned());
            }
        }
    }

    fn ask_name_server(&mut self, cx: &mut Context, ticket: Ticket, code: i32, fields: Fields) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let timeout = pending.time_per_try(cx.now.mono);
        let Some(server) = cx.name_server(pending.asked) else { return };
        let purpose = Purpose::Ask(ticket, AskStep::NameServer);
        cx.call(server, code, fields, Bytes::new(), timeout, purpose);
    }

    fn create_on_brokers(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(pending) = self.pending.get(&ticket) else { return };
        let Ask::CreateTopic { topic, queues, order, .. } = &pending.ask else { return };
        let Some(addr) = pending.brokers.first().copied() else {
            cx.refresh_route(&topic.as_str().into());
            return self.finish(cx, ticket, Ok(Answer::Done));
        };
        let header = CreateTopicHeader {
            topic,
            read_queues: *queues,
            write_queues: *queues,
            perm: perm::READ | perm::WRITE,
            topic_sys_flag: Some(0),
            order: Some(*order),
        };
        // RocketMQ's brokers insist on two fields that ours do not need.
        let mut fields = Fields::builder();
        header.fields().iter().for_each(|(key, value)| {
            fields.put(key, value);
        });
        let fields = fields.put("defaultTopic", "TBW102").put("topicFilterType", "SINGLE_TAG");
        let timeout = pending.time_per_try(cx.now.mono);
        let purpose = Purpose::Ask(ticket, AskStep::Broker(addr));
        let code = request::UPDATE_AND_CREATE_TOPIC;
        cx.call(addr, code, fields.finish(), Bytes::new(), timeout, purpose);
    }

    pub fn on_reply(&mut self, cx: &mut Context, ticket: Ticket, step: AskStep, reply: Reply) {
        let Some(pending) = self.pending.get_mut(&ticket) else { return };
        let frame = match reply {
            Ok(frame) => frame,
            Err(failed) => {
                pending.asked += 1;
                if let Ask::Queue { queue, .. } = &pending.ask {
                    let topic = queue.topic.clone();
                    cx.refresh_route(&topic);
                }
                return self.retry_later(cx, ticket, failed.why().to_owned());
            }
        };
        match (step, &pending.ask) {
            (AskStep::NameServer, _) if frame.code != code::SUCCESS => {
                pending.asked += 1;
                if pending.asked < cx.config.name_servers.len() {
                    return self.try_ask(cx, ticket);
                }
                self.finish(cx, ticket, Err(refusal(frame)))
            }
            (AskStep::NameServer, Ask::CreateTopic { cluster, .. }) => {
                match brokers_of(&frame.body, cluster) {
                    Ok(brokers) => {
                        pending.brokers = brokers;
                        self.create_on_brokers(cx, ticket);
                    }
                    Err(refusal) => self.finish(cx, ticket, Err(ClientError::Refused(refusal))),
                }
            }
            (AskStep::Broker(addr), Ask::CreateTopic { .. }) if frame.code == code::SUCCESS => {
                pending.brokers.retain(|broker| *broker != addr);
                self.create_on_brokers(cx, ticket);
            }
            (_, Ask::Queue { what: QueueAsk::Commit { .. }, .. })
                if frame.code == code::SUCCESS =>
            {
                self.finish(cx, ticket, Ok(Answer::Done))
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
    fn time_per_try(&self, now: Time) -> Duration {
        let left = self.deadline.since(now);
        match &self.ask {
            Ask::Queue { what: QueueAsk::Pull { .. }, .. } => left,
            _ => left / 2,
        }
    }
}
