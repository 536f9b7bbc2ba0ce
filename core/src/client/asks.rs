//! Requests other than sends: questions and settings that can be repeated, and
//! are, until they are answered or their time is up.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Answer, Ask, ClientError, Done, MessageQueue, Pulled, QueueAsk, Ticket,
    context::{Context, Purpose, Reply, Timer},
    routes::News,
};
use crate::{
    error::Rejected,
    ids::Name,
    message::{Properties, Record, property},
    time::Time,
    wire::{
        Fields, Frame,
        body::{ClusterInfo, ConsumerIds, TagFilter, TopicRoute, perm},
        code,
        header::{
            CreateTopicHeader, GroupHeader, OffsetReply, PullHeader, PullReply, QueryOffsetHeader,
            QueueHeader, SearchOffsetHeader, TopicHeader, UpdateOffsetHeader, pull_flag,
        },
        request,
    },
};

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
        let hold = match &ask {
            Ask::Queue { what: QueueAsk::Pull { hold, .. }, .. } => *hold,
            _ => Duration::ZERO,
        };
        let deadline = cx.now.mono + hold + cx.config.request_timeout;
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

fn queue_request(queue: &MessageQueue, what: &QueueAsk) -> (i32, Fields) {
    let (topic, queue) = (&*queue.topic, queue.queue);
    match what {
        QueueAsk::MinOffset => (request::GET_MIN_OFFSET, QueueHeader { topic, queue }.fields()),
        QueueAsk::MaxOffset => (request::GET_MAX_OFFSET, QueueHeader { topic, queue }.fields()),
        QueueAsk::OffsetAt(timestamp) => {
            let header = SearchOffsetHeader { topic, queue, timestamp: *timestamp };
            (request::SEARCH_OFFSET_BY_TIMESTAMP, header.fields())
        }
        QueueAsk::Committed { group } => {
            let header =
                QueryOffsetHeader { group, topic, queue, set_zero_if_not_found: Some(false) };
            (request::QUERY_CONSUMER_OFFSET, header.fields())
        }
        QueueAsk::Commit { group, offset } => {
            let header = UpdateOffsetHeader {
                group,
                topic,
                queue,
                commit_offset: *offset,
                lock_epoch: None,
                reset_epoch: None,
            };
            (request::UPDATE_CONSUMER_OFFSET, header.fields())
        }
        QueueAsk::Pull { group, offset, max, expression, hold } => {
            let header = PullHeader {
                group,
                topic,
                queue,
                queue_offset: *offset,
                max_messages: i32::try_from(*max).unwrap_or(i32::MAX),
                sys_flag: pull_flag::SUSPEND | pull_flag::SUBSCRIPTION,
                commit_offset: -1,
                suspend_timeout: hold.as_millis() as i64,
                subscription: Some(expression),
                sub_version: 0,
                expression_type: Some("TAG"),
                max_bytes: None,
                lock_epoch: None,
                reset_epoch: None,
            };
            (request::PULL_MESSAGE, header.fields())
        }
    }
}

fn read_answer(ask: &Ask, frame: Frame) -> Result<Answer, ClientError> {
    let unusable = ClientError::Refused;
    match ask {
        Ask::Queue { what: QueueAsk::Committed { .. }, .. }
            if frame.code == code::QUERY_NOT_FOUND =>
        {
            Ok(Answer::Committed(None))
        }
        Ask::Queue { what: QueueAsk::Pull { expression, .. }, .. }
            if matches!(
                frame.code,
                code::PULL_NOT_FOUND | code::PULL_RETRY_IMMEDIATELY | code::PULL_OFFSET_MOVED
            ) || frame.code == code::SUCCESS =>
        {
            read_pulled(&frame, expression).map(Answer::Pulled).map_err(unusable)
        }
        _ if frame.code != code::SUCCESS => Err(refusal(frame)),
        Ask::Route { .. } => TopicRoute::parse(&frame.body).map(Answer::Route).map_err(unusable),
        Ask::Cluster => ClusterInfo::parse(&frame.body).map(Answer::Cluster).map_err(unusable),
        Ask::GroupMembers { .. } => ConsumerIds::parse(&frame.body)
            .map(|members| Answer::Members(members.ids))
            .map_err(unusable),
        Ask::Queue { what, .. } => {
            let offset = OffsetReply::parse(&frame.fields).map_err(unusable)?.offset;
            match what {
                QueueAsk::Committed { .. } => Ok(Answer::Committed(Some(offset))),
                _ => Ok(Answer::Offset(offset)),
            }
        }
        Ask::Queues { .. } | Ask::CreateTopic { .. } => Ok(Answer::Done),
    }
}

fn read_pulled(frame: &Frame, expression: &str) -> Result<Pulled, Rejected> {
    let reply = PullReply::parse(&frame.fields)?;
    let filter = TagFilter::parse(expression, None)?;
    let mut records = if frame.code == code::SUCCESS {
        Record::parse_all(&frame.body)
            .map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))?
    } else {
        Vec::new()
    };
    records.retain(|record| filter.matches_tag(Properties(&record.properties).get(property::TAGS)));
    Ok(Pulled {
        records,
        next_offset: reply.next_offset,
        min_offset: reply.min_offset,
        max_offset: reply.max_offset,
        offset_moved: frame.code == code::PULL_OFFSET_MOVED,
    })
}

fn refusal(frame: Frame) -> ClientError {
    ClientError::Refused(Rejected::new(frame.code, frame.remark))
}

/// The masters of a cluster.
fn brokers_of(body: &[u8], cluster: &str) -> Result<Vec<SocketAddr>, Rejected> {
    let info = ClusterInfo::parse(body)?;
    let missing = |what: String| Rejected::new(code::SYSTEM_ERROR, what);
    let names = info
        .clusters
        .get(cluster)
        .ok_or_else(|| missing(format!("there is no cluster {cluster:.60?}")))?;
    let masters: Vec<SocketAddr> = names
        .iter()
        .filter_map(|name| info.brokers.get(name)?.addrs.get(&0)?.parse().ok())
        .collect();
    match masters.is_empty() {
        true => Err(missing(format!("no broker of cluster {cluster:.60?} is there"))),
        false => Ok(masters),
    }
}
