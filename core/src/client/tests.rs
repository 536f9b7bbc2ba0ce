//! The client against a broker made of a few tables, frame by frame.

mod consuming;
mod sending;
mod storms;
mod transactions;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{
    ids::Position,
    message::{Record, offset_message_id},
    time::{Now, Time},
    wire::{
        Fields,
        body::{BrokerData, ConsumerIds, QueueData, TopicRoute, perm},
        code, frame,
        header::{
            GroupHeader, OffsetReply, PullHeader, PullReply, QueryOffsetHeader, QueueHeader,
            SendHeader, SendReply, TopicHeader, UpdateOffsetHeader,
        },
        request,
    },
};

pub const ME: &str = "me";

pub fn name_server() -> SocketAddr {
    "10.0.0.100:9876".parse().unwrap()
}

pub fn broker(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 10911))
}

pub fn broker_name(n: u8) -> String {
    format!("broker-{n}")
}

/// What a test does with one request instead of the tables' answer.
pub enum Fate {
    Answer,
    /// It never arrives.
    Silence,
    /// It takes effect, and the answer never arrives.
    LoseReply,
    Refuse(i32),
    LinkDown,
}

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
    held: Vec<(SocketAddr, Frame)>,
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

    pub fn fill(&mut self, at: SocketAddr, queue: u32, count: u64) {
        let log = self.logs.entry((at, queue)).or_default();
        for _ in 0..count {
            let mut record = progress::tests::record(log.len() as u64, "a");
            record.queue = queue;
            log.push(record);
        }
    }

    /// The answer: code, fields, body. None: held.
    fn answer(&mut self, addr: SocketAddr, frame: &Frame) -> Option<(i32, Fields, Bytes)> {
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
                let log = self.logs.entry((addr, header.queue as u32)).or_default();
                let mut record = progress::tests::record(log.len() as u64, "a");
                record.body = frame.body.clone();
                record.topic = header.topic.to_owned();
                log.push(record);
                let position = Position(log.len() as u64 * 100);
                let reply = SendReply {
                    message_id: &offset_message_id(addr, position),
                    queue: header.queue as u32,
                    queue_offset: log.len() as i64 - 1,
                    transaction_id: None,
                    region: None,
                    trace_on: None,
                    recall_handle: None,
                };
                ok(reply.fields())
            }
            request::GET_CONSUMER_LIST_BY_GROUP => {
                let body = ConsumerIds { ids: self.members.clone() }.to_bytes();
                Some((code::SUCCESS, Fields::default(), body))
            }
            request::QUERY_CONSUMER_OFFSET => {
                let header = QueryOffsetHeader::parse(&frame.fields).unwrap();
                match self.offsets.get(&(addr, header.queue)) {
                    Some(stored) => offset(*stored),
                    None => Some((code::QUERY_NOT_FOUND, Fields::default(), Bytes::new())),
                }
            }
            request::UPDATE_CONSUMER_OFFSET => {
                let header = UpdateOffsetHeader::parse(&frame.fields).unwrap();
                self.offsets.insert((addr, header.queue), header.commit_offset);
                ok(Fields::default())
            }
            request::GET_MIN_OFFSET => {
                let header = QueueHeader::parse(&frame.fields).unwrap();
                offset(self.min_offsets.get(&(addr, header.queue)).copied().unwrap_or(0))
            }
            request::GET_MAX_OFFSET => {
                let header = QueueHeader::parse(&frame.fields).unwrap();
                offset(self.logs.get(&(addr, header.queue)).map_or(0, |log| log.len() as i64))
            }
            request::PULL_MESSAGE => self.pull(addr, frame),
            request::HEART_BEAT | request::UNREGISTER_CLIENT | request::END_TRANSACTION => {
                ok(Fields::default())
            }
            other => panic!("no table answers {other}"),
        }
    }

    fn pull(&mut self, addr: SocketAddr, frame: &Frame) -> Option<(i32, Fields, Bytes)> {
        let header = PullHeader::parse(&frame.fields).unwrap();
        let log = self.logs.entry((addr, header.queue)).or_default();
        let min = self.min_offsets.get(&(addr, header.queue)).copied().unwrap_or(0);
        let reply = |next_offset| PullReply {
            suggest_broker: 0,
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
}

type Meddle = Box<dyn FnMut(SocketAddr, &Frame) -> Fate>;

/// A client and its surroundings at one point in time.
pub struct Rig {
    pub core: ClientCore,
    pub tables: Tables,
    pub now: Time,
    pub meddle: Meddle,
    /// Every request that the client sent.
    pub requests: Vec<(Time, SocketAddr, Frame)>,
    pub done: Vec<(Time, Ticket, Done)>,
    pub delivered: VecDeque<(DeliveryId, Received)>,
    pub changes: Vec<Change>,
    pub checks: Vec<Check>,
    pub closed_links: Vec<(Time, SocketAddr)>,
    /// What the client answered to brokers' requests.
    pub answers: Vec<(SocketAddr, Frame)>,
    up: Vec<SocketAddr>,
    next_ticket: Ticket,
}

impl Rig {
    pub fn new() -> Rig {
        let mut config = ClientConfig::new(vec![name_server()]);
        config.client_id = Some(ME.to_owned());
        Rig::with(config)
    }

    pub fn with(config: ClientConfig) -> Rig {
        Rig {
            core: ClientCore::new(config, 7),
            tables: Tables { members: vec![ME.to_owned()], ..Tables::default() },
            now: Time(1_000_000),
            meddle: Box::new(|_, _| Fate::Answer),
            requests: Vec::new(),
            done: Vec::new(),
            delivered: VecDeque::new(),
            changes: Vec::new(),
            checks: Vec::new(),
            closed_links: Vec::new(),
            answers: Vec::new(),
            up: Vec::new(),
            next_ticket: 0,
        }
    }

    fn input(&mut self, input: Input) {
        let wall = 1_795_000_000_000 + (self.now.0 / 1000) as i64;
        self.core.handle(Now { mono: self.now, wall }, input);
    }

    pub fn command(&mut self, command: Command) -> Ticket {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.input(Input::Command { ticket, command });
        self.settle_down();
        ticket
    }

    pub fn settle(&mut self, delivery: DeliveryId, verdict: Verdict) {
        self.input(Input::Settle { delivery, verdict });
        self.settle_down();
    }

    /// Lets everything happen that takes no time.
    pub fn settle_down(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { addr, packet } => self.on_packet(addr, &packet.to_bytes()),
                Output::Close { addr } => {
                    self.up.retain(|up| *up != addr);
                    self.tables.held.retain(|(from, _)| *from != addr);
                    self.closed_links.push((self.now, addr));
                }
                Output::Complete { ticket, done } => self.done.push((self.now, ticket, done)),
                Output::Deliver { delivery, message } => {
                    self.delivered.push_back((delivery, message));
                }
                Output::Check(check) => self.checks.push(*check),
                Output::Changed { change, .. } => self.changes.push(change),
                Output::Left { .. } => {}
            }
        }
    }

    fn on_packet(&mut self, addr: SocketAddr, bytes: &[u8]) {
        let frame = frame::decode(&mut BytesMut::from(bytes), frame::MAX_FRAME).unwrap().unwrap();
        if frame.is_response() {
            return self.answers.push((addr, frame));
        }
        self.requests.push((self.now, addr, frame.clone()));
        match (self.meddle)(addr, &frame) {
            Fate::Silence => self.link_up(addr),
            Fate::LoseReply => {
                self.link_up(addr);
                self.tables.answer(addr, &frame);
            }
            Fate::LinkDown => {
                self.up.retain(|up| *up != addr);
                self.tables.held.retain(|(from, _)| *from != addr);
                self.input(Input::LinkDown { addr, why: "refused".to_owned() });
            }
            Fate::Refuse(code) => {
                self.link_up(addr);
                self.reply(addr, &frame, (code, Fields::default(), Bytes::new()));
            }
            Fate::Answer => {
                self.link_up(addr);
                match self.tables.answer(addr, &frame) {
                    Some(answer) => self.reply(addr, &frame, answer),
                    None => self.tables.held.push((addr, frame)),
                }
            }
        }
    }

    pub fn link_down(&mut self, addr: SocketAddr) {
        self.up.retain(|up| *up != addr);
        self.tables.held.retain(|(from, _)| *from != addr);
        self.input(Input::LinkDown { addr, why: "cut".to_owned() });
        self.settle_down();
    }

    /// A broker asks this client something.
    pub fn request(&mut self, addr: SocketAddr, frame: Frame) {
        self.input(Input::Frame { addr, frame });
        self.settle_down();
    }

    fn link_up(&mut self, addr: SocketAddr) {
        if !self.up.contains(&addr) {
            self.up.push(addr);
            self.input(Input::LinkUp { addr });
        }
    }

    pub fn reply(&mut self, addr: SocketAddr, to: &Frame, answer: (i32, Fields, Bytes)) {
        if to.is_one_way() {
            return;
        }
        let (code, fields, body) = answer;
        let packet = to.reply_to().answer(code, "said the table", fields, vec![body]);
        let mut bytes = BytesMut::from(&packet.to_bytes()[..]);
        let frame = frame::decode(&mut bytes, frame::MAX_FRAME).unwrap().unwrap();
        self.input(Input::Frame { addr, frame });
    }

    /// Answers the held pulls that now find something.
    pub fn wake_held(&mut self) {
        for (addr, frame) in std::mem::take(&mut self.tables.held) {
            match self.tables.answer(addr, &frame) {
                Some(answer) => self.reply(addr, &frame, answer),
                None => self.tables.held.push((addr, frame)),
            }
        }
        self.settle_down();
    }

    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle_down();
        while let Some(at) = self.core.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.input(Input::Tick);
            self.settle_down();
        }
        self.now = end;
    }

    pub fn notify_members_changed(&mut self, group: &str) {
        let fields = GroupHeader { group }.fields();
        let code = request::NOTIFY_CONSUMER_IDS_CHANGED;
        self.request(broker(1), Frame::request(code, 1, fields, Bytes::new()).one_way());
    }

    pub fn outcome(&self, ticket: Ticket) -> Option<(Time, &Done)> {
        self.done.iter().find(|(_, t, _)| *t == ticket).map(|(at, _, done)| (*at, done))
    }

    /// The requests of one code so far.
    pub fn requests_of(&self, code: i32) -> Vec<&Frame> {
        let of_code = self.requests.iter().filter(|(_, _, frame)| frame.code == code);
        of_code.map(|(_, _, frame)| frame).collect()
    }
}
