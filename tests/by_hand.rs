//! A broker driven by hand: a plain value on a simulated disk, without a
//! runtime, a network or a clock that moves by itself.

use std::{
    future::Future,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use stormglass_core::{
    broker::{Broker, BrokerConfig, Input, Output, Phase},
    error::StoreError,
    ids::ConnId,
    log::{LogConfig, SyncTicket},
    message::Record,
    peer::Message,
    replication::Flush,
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Fields, Frame, code,
        frame::{self, Packet},
        header::{OffsetReply, PullHeader, PullReply, SendHeader, UpdateOffsetHeader, pull_flag},
        request,
    },
};
use stormglass_sim::{
    disk::{DiskConfig, Drive, NoTime, SimDisk},
    fault::Unsynced,
};

/// A broker and everything around it that a test moves.
pub struct ByHand {
    pub drive: Drive,
    pub broker: Option<Broker<SimDisk>>,
    pub now: Now,
    pub config: BrokerConfig,
    /// What the broker sent, decoded, oldest first.
    pub sent: Vec<(ConnId, Frame)>,
    /// What it sent to the other replicas of its set, oldest first.
    pub to_peers: Vec<Message>,
    /// Name servers that it wants to be connected to, by number, and connections
    /// that it closed.
    pub dialled: Vec<usize>,
    pub closed: Vec<ConnId>,
    /// Why the broker ended, if its store failed.
    pub failed: Option<StoreError>,
    /// Syncs that were begun and do not end; they end at once if absent.
    pub hanging_syncs: Option<Vec<SyncTicket>>,
    /// The disk stops working after this many operations of the next process.
    pub cut_after: Option<u64>,
    /// What the broker draws from.
    pub seed: u64,
    opaque: i32,
}

/// What a send came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Ok {
        queue: u32,
        offset: u64,
    },
    Refused(i32),
    /// No answer: it may be stored or not.
    Unknown,
}

/// The configuration of a small broker, whose segments roll often.
pub fn small_config(flush: Flush) -> BrokerConfig {
    let mut config = BrokerConfig::new("10.0.0.1:10911".parse().expect("an address"));
    config.flush = flush;
    config.log = LogConfig { segment_bytes: 64 << 10, ..LogConfig::default() };
    config.queue.blocks_per_file = 2;
    config.snapshot_every = 48 << 10;
    config
}

impl ByHand {
    pub fn new(flush: Flush) -> ByHand {
        ByHand::with(small_config(flush))
    }

    pub fn with(config: BrokerConfig) -> ByHand {
        ByHand {
            drive: Drive::new(1, DiskConfig::default()),
            broker: None,
            now: Now { mono: Time(1_000_000), wall: 1_700_000_000_000 },
            config,
            sent: Vec::new(),
            to_peers: Vec::new(),
            dialled: Vec::new(),
            closed: Vec::new(),
            failed: None,
            hanging_syncs: None,
            cut_after: None,
            seed: 7,
            opaque: 0,
        }
    }

    /// Starts a process on the disk as it is, and lets it come up.
    pub fn start(&mut self) -> Result<(), StoreError> {
        self.sent.clear();
        self.failed = None;
        let disk = self.drive.attach(Rc::new(NoTime));
        if let Some(operations) = self.cut_after {
            self.drive.cut_power_after(operations);
        }
        self.broker = Some(Broker::open(self.config.clone(), disk, self.seed)?);
        self.settle();
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The process dies; the page cache stays.
    pub fn kill(&mut self) {
        self.broker = None;
        self.drive.detach();
    }

    pub fn power_loss(&mut self) {
        self.power_loss_with(Unsynced::Random);
    }

    pub fn power_loss_with(&mut self, unsynced: Unsynced) {
        self.broker = None;
        self.drive.power_loss(unsynced);
    }

    pub fn is_serving(&self) -> bool {
        self.broker.as_ref().is_some_and(|broker| broker.phase() == Phase::Serving)
    }

    pub fn input(&mut self, input: Input) {
        if let Some(broker) = &mut self.broker {
            broker.handle(self.now, input);
        }
    }

    /// Moves time on, to every deadline on the way.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.mono + time;
        while self.broker.as_ref().is_some_and(|broker| broker.deadline() <= until) {
            let deadline = self.broker.as_ref().map_or(until, Broker::deadline);
            self.move_to(deadline.max(self.now.mono + Duration::from_micros(1)));
            self.settle();
        }
        self.move_to(until);
    }

    pub fn move_to(&mut self, to: Time) {
        self.now.wall += to.since(self.now.mono).as_millis() as i64;
        self.now.mono = self.now.mono.max(to);
    }

    /// Lets the broker do everything that it wants done now; syncs take no time.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(broker) = &mut self.broker else { return };
            broker.advance(self.now);
            let mut is_quiet = true;
            while let Some(output) = self.broker.as_mut().and_then(Broker::poll_output) {
                is_quiet = false;
                self.output(output);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the broker does not come to rest");
    }

    fn output(&mut self, output: Output<SimDisk>) {
        match output {
            Output::Send { conn, packet } => self.sent.push((conn, decode(&packet))),
            Output::Sync { ticket, done } => {
                if let Some(hanging) = &mut self.hanging_syncs {
                    hanging.push(ticket);
                } else if let Some(result) = finish(done) {
                    self.input(Input::Synced { ticket, result });
                }
            }
            Output::Failed(error) => {
                self.failed = Some(error);
                self.broker = None;
            }
            Output::Peer(message) => self.to_peers.push(message),
            Output::Stopped => self.broker = None,
            Output::Close { conn } => self.closed.push(conn),
            Output::Dial { name_server, .. } => self.dialled.push(name_server),
            Output::Peers(_) | Output::Registered => {}
        }
    }

    /// Sends a request on connection 1, settles, and takes its answer.
    pub fn ask(&mut self, code: i32, fields: Fields, body: Vec<u8>) -> Option<Frame> {
        let opaque = self.request(code, fields, body);
        self.settle();
        self.answer(opaque)
    }

    /// Hands a request in without letting the broker do anything about it yet.
    pub fn request(&mut self, code: i32, fields: Fields, body: Vec<u8>) -> i32 {
        let opaque = self.next_opaque();
        let frame = Frame::request(code, opaque, fields, body.into());
        self.input(Input::Frame { conn: ConnId(1), frame });
        opaque
    }

    /// A number for a request that nobody has used.
    pub fn next_opaque(&mut self) -> i32 {
        self.opaque += 1;
        self.opaque
    }

    pub fn answer(&mut self, opaque: i32) -> Option<Frame> {
        let is_it = |frame: &Frame| frame.is_response() && frame.opaque == opaque;
        let at = self.sent.iter().position(|(_, frame)| is_it(frame))?;
        Some(self.sent.remove(at).1)
    }

    pub fn send(&mut self, topic: &str, queue: i32, body: &str) -> Sent {
        let fields = send_fields(topic, queue, "");
        let answer = self.ask(request::SEND_MESSAGE, fields, body.as_bytes().to_vec());
        self.outcome(answer)
    }

    pub fn outcome(&self, answer: Option<Frame>) -> Sent {
        match answer {
            Some(answer) if answer.code == code::SUCCESS => Sent::Ok {
                queue: number(&answer, "queueId") as u32,
                offset: number(&answer, "queueOffset") as u64,
            },
            Some(answer) => Sent::Refused(answer.code),
            None => Sent::Unknown,
        }
    }

    /// Pulls without waiting: the code, where to go on, and the records.
    pub fn pull(&mut self, topic: &str, queue: u32, offset: i64) -> (i32, i64, Vec<Record>) {
        let fields = pull_fields(topic, queue, offset, pull_flag::SUBSCRIPTION, 0);
        let answer =
            self.ask(request::PULL_MESSAGE, fields, Vec::new()).expect("pulls are answered");
        let records = Record::parse_all(&answer.body).expect("records that parse");
        let next = PullReply::parse(&answer.fields).map_or(-1, |reply| reply.next_offset);
        (answer.code, next, records)
    }

    /// The bodies of everything in a queue, with their offsets.
    pub fn contents(&mut self, topic: &str, queue: u32) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let (_, next, records) = self.pull(topic, queue, at);
            for record in &records {
                let body = String::from_utf8(record.body.to_vec()).expect("text");
                found.push((record.queue_offset, body));
            }
            if next <= at {
                return found;
            }
            at = next;
        }
    }

    /// Whether there is such a topic.
    pub fn contents_exist(&mut self, topic: &str) -> bool {
        let view = self.broker.as_ref().map(Broker::view);
        view.is_some_and(|view| view.queues().any(|(shard, _)| &*shard.topic == topic))
    }

    pub fn commit(&mut self, group: &str, topic: &str, queue: u32, offset: i64) -> Option<i32> {
        let fields = progress(group, topic, queue, offset);
        Some(self.ask(request::UPDATE_CONSUMER_OFFSET, fields, Vec::new())?.code)
    }

    /// The same without waiting: the number of the request.
    pub fn commit_later(&mut self, group: &str, topic: &str, queue: u32, offset: i64) -> i32 {
        let fields = progress(group, topic, queue, offset);
        self.request(request::UPDATE_CONSUMER_OFFSET, fields, Vec::new())
    }

    pub fn committed(&mut self, group: &str, topic: &str, queue: u32) -> Option<i64> {
        let fields = Fields::builder()
            .put("consumerGroup", group)
            .put("topic", topic)
            .put("queueId", queue)
            .finish();
        let answer = self.ask(request::QUERY_CONSUMER_OFFSET, fields, Vec::new())?;
        OffsetReply::parse(&answer.fields).ok().map(|reply| reply.offset)
    }
}

pub fn send_fields(topic: &str, queue: i32, properties: &str) -> Fields {
    SendHeader {
        producer_group: "producers",
        topic,
        default_topic: Some("TBW102"),
        default_topic_queues: Some(4),
        queue,
        sys_flag: 0,
        born_wall: 1_700_000_000_000,
        flag: 0,
        properties: Some(properties),
        reconsume_times: None,
        unit_mode: None,
        max_reconsume_times: None,
        batch: None,
        producer_id: None,
        producer_epoch: None,
        sequence: None,
    }
    .fields()
}

/// A pull by the group `readers`, of everything. `hold` is in milliseconds.
pub fn pull_fields(topic: &str, queue: u32, offset: i64, flags: i32, hold: i64) -> Fields {
    PullHeader {
        group: "readers",
        topic,
        queue,
        queue_offset: offset,
        max_messages: 32,
        sys_flag: flags,
        commit_offset: -1,
        suspend_timeout: hold,
        subscription: Some("*"),
        sub_version: 0,
        expression_type: Some("TAG"),
        max_bytes: None,
        lock_epoch: None,
        reset_epoch: None,
    }
    .fields()
}

fn number(answer: &Frame, field: &str) -> i64 {
    answer.fields.get(field).and_then(|value| value.parse().ok()).unwrap_or(-1)
}

pub fn decode(packet: &Packet) -> Frame {
    let mut bytes = BytesMut::from(&packet.to_bytes()[..]);
    frame::decode(&mut bytes, frame::MAX_FRAME).expect("our own frames").expect("whole")
}

fn finish(sync: <SimDisk as Disk>::Sync) -> Option<std::io::Result<()>> {
    let mut sync = std::pin::pin!(sync);
    match sync.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn progress(group: &str, topic: &str, queue: u32, commit_offset: i64) -> Fields {
    let (lock_epoch, reset_epoch) = (None, None);
    UpdateOffsetHeader { group, topic, queue, commit_offset, lock_epoch, reset_epoch }.fields()
}
