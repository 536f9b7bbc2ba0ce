//! The client against a broker made of a few tables, frame by frame.

mod consuming;
mod orderly;
mod popping;
mod replica_sets;
mod retrying;
mod sending;
mod storms;
mod tables;
mod transactions;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{
    ids::Position,
    message::{Record, offset_message_id},
    time::{Now, Time},
    wire::{
        Fields, code, frame,
        header::{GroupHeader, PullHeader, SendHeader, UpdateOffsetHeader},
        request,
    },
};
use tables::Tables;

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

    pub fn take(&mut self, delivery: DeliveryId) {
        self.input(Input::Taken { delivery });
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
