//! What brokers and name servers know, for tests.

use super::*;
use crate::{
    message::{Properties, RETRY_PREFIX, property},
    wire::{
        body::{
            BrokerData, ClusterInfo, ConsumerIds, LockReply, LockRequest, QueueData, TopicRoute,
            perm,
        },
        header::{
            NotLeader, OffsetReply, PullReply, QueryOffsetHeader, QueueHeader, SendBackHeader,
            SendReply, TopicHeader,
        },
    },
};

/// Name server and brokers: tables that a test fills and reads.
#[derive(Default)]
pub struct Tables {
    pub routes: BTreeMap<String, TopicRoute>,
    pub members: Vec<String>,
    /// By broker address and queue.
    pub logs: BTreeMap<(SocketAddr, u32), Vec<Record>>,
    /// What the group stored, by broker address and queue.
    pub offsets: BTreeMap<(SocketAddr, u32), i64>,
    pub min_offsets: BTreeMap<(SocketAddr, u32), i64>,
    /// Who holds the lock of a queue, and under which epoch.
    pub locks: BTreeMap<(SocketAddr, u32), (Option<String>, u64)>,
    /// Positions of messages that were taken back, each with what was asked.
    pub taken: Vec<(SocketAddr, i64, i32, Option<i64>)>,
    /// The epoch and next number of each numbered series, and where each number
    /// of it is.
    pub series: BTreeMap<(SocketAddr, u32, u64), Series>,
    pub held: Vec<(SocketAddr, Frame)>,
    /// Brokers that are replicas of the first of them, and hold what it holds.
    pub set: Vec<SocketAddr>,
    /// Those among them that follow, and what they say of their leader.
    pub following: BTreeMap<SocketAddr, NotLeader>,
    /// The replica to which a replica sends readers.
    pub suggested: BTreeMap<SocketAddr, i64>,
    pub cluster: ClusterInfo,
}

pub type Series = (u32, u64, BTreeMap<u64, u64>);

/// The tables hold one topic's queues, and behind them those of the group's
/// retries.
pub const RETRIES: u32 = 1000;

pub fn slot(topic: &str, queue: u32) -> u32 {
    if topic.starts_with(RETRY_PREFIX) { RETRIES + queue } else { queue }
}

impl Tables {
    pub fn add_topic(&mut self, topic: &str, brokers: &[(u8, u32)]) {
        let route = TopicRoute {
            order_topic_conf: None,
            queues: brokers
                .iter()
                .map(|(n, queues)| QueueData {
                    broker_name: broker_name(*n),
                    read_queues: *queues,
                    write_queues: *queues,
                    perm: perm::READ | perm::WRITE,
                    topic_sys_flag: 0,
                })
                .collect(),
            brokers: brokers
                .iter()
                .map(|(n, _)| BrokerData {
                    cluster: "c".into(),
                    broker_name: broker_name(*n),
                    addrs: [(0, broker(*n).to_string())].into(),
                })
                .collect(),
        };
        self.routes.insert(topic.to_owned(), route);
    }

    /// One set of three replicas, of which name servers believe that the first
    /// leads.
    pub fn add_set(&mut self, topic: &str, queues: u32) {
        self.add_topic(topic, &[(1, queues)]);
        let set = [(0, 1), (2, 2), (3, 3)];
        self.set = set.map(|(_, n)| broker(n)).to_vec();
        self.name(topic, &set);
        self.led_by(1, 1);
    }

    /// What name servers say of the set: broker ids and numbers of brokers.
    pub fn name(&mut self, topic: &str, replicas: &[(i64, u8)]) {
        let addrs = replicas.iter().map(|(id, n)| (*id, broker(*n).to_string()));
        self.routes.get_mut(topic).unwrap().brokers[0].addrs = addrs.collect();
    }

    /// This broker of the set leads it, and the others know.
    pub fn led_by(&mut self, leader: u8, term: u64) {
        self.without_leader(term);
        self.following.remove(&broker(leader));
        self.following.values_mut().for_each(|says| says.leader = Some(leader.into()));
    }

    pub fn without_leader(&mut self, term: u64) {
        let nobody = NotLeader { leader: None, term };
        self.following = self.set.iter().map(|replica| (*replica, nobody.clone())).collect();
    }

    pub fn fill(&mut self, at: SocketAddr, queue: u32, count: u64) {
        let log = self.logs.entry((at, queue)).or_default();
        for _ in 0..count {
            let mut record = progress::tests::record(log.len() as u64, "a");
            record.queue = queue;
            record.position = Position(u64::from(queue) << 32 | record.position.0);
            log.push(record);
        }
    }

    /// The answer: code, fields, body. None: held.
    pub fn answer(&mut self, addr: SocketAddr, frame: &Frame) -> Option<(i32, Fields, Bytes)> {
        let reads = matches!(frame.code, request::HEART_BEAT | request::PULL_MESSAGE);
        if let Some(says) = self.following.get(&addr).filter(|_| !reads) {
            let is_operators = frame.code == request::TRANSFER_LEADER;
            let code = if is_operators { code::NOT_LEADER } else { code::SYSTEM_BUSY };
            return Some((code, says.fields(), Bytes::new()));
        }
        let suggested = self.suggested.get(&addr).copied().unwrap_or(0);
        let addr = if self.set.contains(&addr) { self.set[0] } else { addr };
        let ok = |fields: Fields| Some((code::SUCCESS, fields, Bytes::new()));
        let offset = |offset: i64| ok(OffsetReply { offset }.fields());
        match frame.code {
            request::GET_ROUTEINFO_BY_TOPIC => {
                let topic = TopicHeader::parse(&frame.fields).unwrap().topic.to_owned();
                match self.routes.get(&topic) {
                    Some(route) => Some((code::SUCCESS, Fields::default(), route.to_bytes())),
                    None => Some((code::TOPIC_NOT_EXIST, Fields::default(), Bytes::new())),
                }
            }
            request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
                let header = SendHeader::parse(&frame.fields).unwrap();
                let slot = slot(header.topic, header.queue as u32);
                let numbered = self.judge_number(addr, slot, &header);
                let log = self.logs.entry((addr, slot)).or_default();
                if let Err(code) = numbered {
                    return Some((code, Fields::default(), Bytes::new()));
                }
                if let Ok(Some(offset)) = numbered {
                    let position = log[offset as usize].position;
                    return ok(send_reply(addr, header.queue as u32, offset, position));
                }
                let mut record = progress::tests::record(log.len() as u64, "a");
                let position = Position(u64::from(slot) << 32 | record.position.0);
                record.position = position;
                record.body = frame.body.clone();
                record.topic = header.topic.to_owned();
                record.queue = header.queue as u32;
                record.reconsume_times = header.reconsume_times.unwrap_or(0);
                record.properties = header.properties.unwrap_or_default().to_owned().into();
                log.push(record);
                let offset = log.len() as u64 - 1;
                ok(send_reply(addr, header.queue as u32, offset, position))
            }
            request::GET_CONSUMER_LIST_BY_GROUP => {
                let body = ConsumerIds { ids: self.members.clone() }.to_bytes();
                Some((code::SUCCESS, Fields::default(), body))
            }
            request::QUERY_CONSUMER_OFFSET => {
                let header = QueryOffsetHeader::parse(&frame.fields).unwrap();
                match self.offsets.get(&(addr, slot(header.topic, header.queue))) {
                    Some(stored) => offset(*stored),
                    None => Some((code::QUERY_NOT_FOUND, Fields::default(), Bytes::new())),
                }
            }
            request::UPDATE_CONSUMER_OFFSET => {
                let header = UpdateOffsetHeader::parse(&frame.fields).unwrap();
                let slot = slot(header.topic, header.queue);
                if header.lock_epoch.is_some_and(|epoch| self.locks[&(addr, slot)].1 != epoch) {
                    return Some((code::FENCED, Fields::default(), Bytes::new()));
                }
                self.offsets.insert((addr, slot), header.commit_offset);
                ok(Fields::default())
            }
            request::GET_MIN_OFFSET => {
                let header = QueueHeader::parse(&frame.fields).unwrap();
                offset(
                    self.min_offsets
                        .get(&(addr, slot(header.topic, header.queue)))
                        .copied()
                        .unwrap_or(0),
                )
            }
            request::GET_MAX_OFFSET => {
                let header = QueueHeader::parse(&frame.fields).unwrap();
                offset(
                    self.logs
                        .get(&(addr, slot(header.topic, header.queue)))
                        .map_or(0, |log| log.len() as i64),
                )
            }
            request::GET_BROKER_CLUSTER_INFO => {
                Some((code::SUCCESS, Fields::default(), self.cluster.to_bytes()))
            }
            request::PULL_MESSAGE => self.pull(addr, frame, suggested),
            request::CONSUMER_SEND_MSG_BACK => {
                self.send_back(addr, frame);
                ok(Fields::default())
            }
            request::LOCK_BATCH_MQ => {
                let body = self.lock(addr, frame).to_bytes();
                Some((code::SUCCESS, Fields::default(), body))
            }
            request::UNLOCK_BATCH_MQ => {
                let request = LockRequest::parse(&frame.body).unwrap();
                for queue in request.queues {
                    let slot = slot(&queue.topic, queue.queue);
                    if let Some((holder, _)) = self.locks.get_mut(&(addr, slot)) {
                        holder.take_if(|holder| *holder == request.client_id);
                    }
                }
                ok(Fields::default())
            }
            request::ACK_MESSAGE
            | request::HEART_BEAT
            | request::UNREGISTER_CLIENT
            | request::UPDATE_AND_CREATE_TOPIC
            | request::TRANSFER_LEADER
            | request::END_TRANSACTION => ok(Fields::default()),
            other => panic!("no table answers {other}"),
        }
    }

    fn pull(
        &mut self,
        addr: SocketAddr,
        frame: &Frame,
        suggest_broker: i64,
    ) -> Option<(i32, Fields, Bytes)> {
        let header = PullHeader::parse(&frame.fields).unwrap();
        let slot = slot(header.topic, header.queue);
        let log = self.logs.entry((addr, slot)).or_default();
        let min = self.min_offsets.get(&(addr, slot)).copied().unwrap_or(0);
        let reply = |next_offset| PullReply {
            suggest_broker,
            next_offset,
            min_offset: min,
            max_offset: log.len() as i64,
        };
        if header.queue_offset < min || header.queue_offset > log.len() as i64 {
            let next = header.queue_offset.clamp(min, log.len() as i64);
            return Some((code::PULL_OFFSET_MOVED, reply(next).fields(), Bytes::new()));
        }
        let from = header.queue_offset as usize;
        if from == log.len() {
            return None;
        }
        let to = (from + header.max_messages as usize).min(log.len());
        let mut body = Vec::new();
        log[from..to].iter().for_each(|record| record.encode(&mut body));
        Some((code::SUCCESS, reply(to as i64).fields(), body.into()))
    }

    /// Where it is already, if it is a repetition.
    fn judge_number(
        &mut self,
        addr: SocketAddr,
        slot: u32,
        header: &SendHeader,
    ) -> Result<Option<u64>, i32> {
        let (Some(producer), Some(epoch), Some(number)) =
            (header.producer_id, header.producer_epoch, header.sequence)
        else {
            return Ok(None);
        };
        let offset = self.logs.get(&(addr, slot)).map_or(0, Vec::len) as u64;
        let series = self.series.entry((addr, slot, producer)).or_default();
        if epoch < series.0 {
            return Err(code::FENCED);
        }
        if epoch > series.0 {
            *series = (epoch, 0, BTreeMap::new());
        }
        if number > series.1 {
            return Err(code::OUT_OF_SEQUENCE);
        }
        if number < series.1 {
            return Ok(Some(series.2[&number]));
        }
        series.1 += 1;
        series.2.insert(number, offset);
        Ok(None)
    }

    /// Appears in the retry topic at once, whatever the delay.
    fn send_back(&mut self, addr: SocketAddr, frame: &Frame) {
        let header = SendBackHeader::parse(&frame.fields).unwrap();
        let all = self.logs.iter().filter(|((at, _), _)| *at == addr);
        let mut records = all.flat_map(|(_, log)| log);
        let found = records.find(|record| record.position.0 as i64 == header.offset);
        let mut record = found.expect("it was served").clone();
        self.taken.push((addr, header.offset, header.delay_level, header.delay_ms));
        let retry_topic = format!("{RETRY_PREFIX}{}", header.group);
        if header.delay_level < 0 || !self.routes.contains_key(&retry_topic) {
            return;
        }
        let mut properties = record.properties.to_vec();
        if Properties(&properties).get(property::RETRY_TOPIC).is_none() {
            Properties::put(&mut properties, property::RETRY_TOPIC, &record.topic);
        }
        let log = self.logs.entry((addr, RETRIES)).or_default();
        record.topic = retry_topic;
        record.queue = 0;
        record.queue_offset = log.len() as u64;
        record.position = Position((u64::from(RETRIES) << 32) | (log.len() as u64 * 100));
        record.reconsume_times += 1;
        record.properties = properties.into();
        log.push(record);
    }

    fn lock(&mut self, addr: SocketAddr, frame: &Frame) -> LockReply {
        let request = LockRequest::parse(&frame.body).unwrap();
        let mut reply = LockReply::default();
        for mut queue in request.queues {
            let slot = slot(&queue.topic, queue.queue);
            let (holder, epoch) = self.locks.entry((addr, slot)).or_insert((None, 0));
            if holder.as_ref().is_some_and(|holder| *holder != request.client_id) {
                continue;
            }
            if holder.is_none() {
                *holder = Some(request.client_id.clone());
                *epoch += 1;
            }
            queue.epoch = Some(*epoch);
            reply.locked.push(queue);
        }
        reply
    }
}

fn send_reply(addr: SocketAddr, queue: u32, offset: u64, position: Position) -> Fields {
    let reply = SendReply {
        message_id: &offset_message_id(addr, position),
        queue,
        queue_offset: offset as i64,
        transaction_id: None,
        region: None,
        trace_on: None,
        recall_handle: None,
    };
    reply.fields()
}
