//! Histories written by hand: short enough to read, complete enough to judge.

mod later;
mod set;

use stormglass_sim::{
    history::{
        Access, DeliveryId, Event, EventKind, Fault, FaultId, FaultKind, From, GroupId, Held,
        History, LaneId, Mark, MemberId, MemberStarted, MessageId, Mode, OffsetSource, OpId, Pace,
        ShardId, Stop, Stored, Subscription, TagId, TopicId, Unanswered,
    },
    oracle::{Context, Violation, judge},
};

pub use set::SetTale;

/// A run being told. Each event comes a millisecond after the one before it.
/// There is one broker with the topic `orders`; messages are plain numbers from
/// one, and a message's body hash is its number.
#[derive(Clone)]
pub struct Tale {
    history: History,
    now: u64,
    pub context: Context,
    pub broker: LaneId,
    pub topic: TopicId,
    ops: usize,
    deliveries: usize,
    faults: usize,
    ends: usize,
    checks: usize,
    lives: u32,
}

/// What a delivery says besides its slot.
#[derive(Clone, Copy)]
pub struct Got {
    pub message: Option<u32>,
    pub body_hash: u32,
    pub tag: Option<&'static str>,
}

/// Message `number` as it was sent.
pub fn sent(number: u32) -> Got {
    Got { message: Some(number), body_hash: number, tag: None }
}

fn id(number: u32) -> MessageId {
    MessageId::at(number as usize - 1)
}

/// Where a slot of queue `queue` lies in the log. The shards take turns.
pub fn position(queue: u32, offset: u64) -> u64 {
    offset * 100 + u64::from(queue) * 10
}

impl Tale {
    pub fn new() -> Tale {
        let mut tale = Tale::with_lane("broker-1");
        tale.start_broker();
        tale.push(tale.broker, EventKind::TopicSized { topic: tale.topic, queues: 2 });
        tale
    }

    /// The shards are on this lane, and nobody has started yet.
    fn with_lane(name: &str) -> Tale {
        let mut history = History::default();
        let broker = history.names.lane(name);
        let topic = history.names.topic("orders");
        let context = Context::default();
        Tale {
            history,
            now: 0,
            context,
            broker,
            topic,
            ops: 0,
            deliveries: 0,
            faults: 0,
            ends: 0,
            checks: 0,
            lives: 0,
        }
    }

    pub fn async_flush() -> Tale {
        let mut tale = Tale::new();
        tale.context.sync_flush = false;
        tale
    }

    pub fn push(&mut self, lane: LaneId, kind: EventKind) {
        self.now += 1_000;
        self.history.events.push(Event { at: self.now, lane, kind });
    }

    pub fn wait_secs(&mut self, secs: u64) {
        self.now += secs * 1_000_000;
    }

    pub fn wait_millis(&mut self, millis: u64) {
        self.now += millis * 1_000;
    }

    /// Of queue 0, if every send so far was stored there.
    pub fn next_offset(&self) -> u64 {
        self.ops as u64
    }

    pub fn lane(&mut self, name: &str) -> LaneId {
        self.history.names.lane(name)
    }

    pub fn group(&mut self, name: &str) -> GroupId {
        self.history.names.group(name)
    }

    pub fn tag(&mut self, name: &str) -> TagId {
        self.history.names.tag(name)
    }

    pub fn shard(&mut self, queue: u32) -> ShardId {
        self.history.names.shard(self.topic, self.broker, queue)
    }

    // Producing, always by the one producer.

    pub fn begin(&mut self, message: u32) -> OpId {
        self.begin_tagged(message, None)
    }

    pub fn begin_tagged(&mut self, message: u32, tag: Option<&str>) -> OpId {
        self.begin_in(message, 0, tag)
    }

    pub fn begin_to(&mut self, message: u32, queue: u32) -> OpId {
        self.begin_in(message, queue, None)
    }

    fn begin_in(&mut self, message: u32, queue: u32, tag: Option<&str>) -> OpId {
        let tag = tag.map(|tag| self.tag(tag));
        self.begin_as(message, queue, |begun| {
            if let EventKind::SendBegun { tag: sent, .. } = begun {
                *sent = tag;
            }
        })
    }

    /// To be held: a half, or delayed.
    pub fn begin_held(&mut self, message: u32, why: Held) -> OpId {
        self.begin_as(message, 0, |begun| {
            if let EventKind::SendBegun { held, .. } = begun {
                *held = Some(why);
            }
        })
    }

    /// However often it is requested, it is to be stored once.
    pub fn begin_idempotent(&mut self, message: u32) -> OpId {
        self.begin_as(message, 0, |begun| {
            if let EventKind::SendBegun { idempotent, .. } = begun {
                *idempotent = true;
            }
        })
    }

    fn begin_as(&mut self, message: u32, queue: u32, change: impl FnOnce(&mut EventKind)) -> OpId {
        let op = OpId::at(self.ops);
        self.ops += 1;
        let (lane, shard) = (self.lane("producer-1"), self.shard(queue));
        let mut begun = EventKind::SendBegun {
            op,
            message: id(message),
            topic: self.topic,
            shard: Some(shard),
            key: None,
            tag: None,
            body_hash: message,
            size: 100,
            batch: None,
            one_way: false,
            held: None,
            idempotent: false,
        };
        change(&mut begun);
        self.push(lane, begun);
        op
    }

    pub fn stored(&mut self, op: OpId, offset: u64) {
        self.stored_in(op, 0, offset);
    }

    pub fn stored_in(&mut self, op: OpId, queue: u32, offset: u64) {
        self.stored_after(op, queue, offset, 1);
    }

    /// In answer to the last one of so many requests.
    pub fn stored_after(&mut self, op: OpId, queue: u32, offset: u64, tries: u8) {
        let (lane, shard) = (self.lane("producer-1"), self.shard(queue));
        let position = Some(position(queue, offset));
        let status = Stored::AsPromised;
        let queue_offset = offset;
        self.push(lane, EventKind::SendOk { op, shard, queue_offset, position, status, tries });
    }

    pub fn refused(&mut self, op: OpId) {
        let lane = self.lane("producer-1");
        self.push(lane, EventKind::SendRefused { op, code: 14, tries: 1 });
    }

    pub fn unknown(&mut self, op: OpId) {
        let lane = self.lane("producer-1");
        self.push(lane, EventKind::SendUnknown { op, why: Unanswered::TimedOut, tries: 1 });
    }

    /// Sent to queue 0 and answered OK.
    pub fn send(&mut self, message: u32, offset: u64) {
        let op = self.begin(message);
        self.stored(op, offset);
    }

    pub fn send_tagged(&mut self, message: u32, offset: u64, tag: &str) {
        let op = self.begin_tagged(message, Some(tag));
        self.stored(op, offset);
    }

    // Consuming.

    /// A member that starts from the first message, with all tags.
    pub fn join(&mut self, group: &str, client: &str) -> MemberId {
        self.join_as(group, client, |_| {})
    }

    pub fn join_as(
        &mut self,
        group: &str,
        client: &str,
        change: impl FnOnce(&mut MemberStarted),
    ) -> MemberId {
        let (lane, group) = (self.lane(client), self.group(group));
        let member = self.history.names.member(group, lane);
        let mut started = MemberStarted {
            member,
            incarnation: 1,
            mode: Mode::Clustering,
            access: Access::Push,
            orderly: false,
            from: From::First,
            subscriptions: vec![Subscription { topic: self.topic, tags: Vec::new() }],
            max_attempts: None,
        };
        change(&mut started);
        self.push(lane, EventKind::MemberStarted(Box::new(started)));
        member
    }

    /// Owns queue 0, and reads it from `offset` on.
    pub fn own(&mut self, member: MemberId, offset: u64, source: OffsetSource) {
        self.assign(member, &[0]);
        self.read_from(member, offset, source);
    }

    pub fn assign(&mut self, member: MemberId, queues: &[u32]) {
        let lane = self.history.names.of_member(member).client;
        let shards = queues.iter().map(|queue| self.shard(*queue)).collect();
        self.push(lane, EventKind::Assigned { member, shards });
    }

    pub fn read_from(&mut self, member: MemberId, offset: u64, source: OffsetSource) {
        let lane = self.history.names.of_member(member).client;
        let shard = self.shard(0);
        self.push(lane, EventKind::OffsetRead { member, shard, offset, source });
    }

    /// A member that joins alone and owns queue 0 from its first message on.
    pub fn consumer(&mut self, group: &str, client: &str) -> MemberId {
        let member = self.join(group, client);
        self.own(member, 0, OffsetSource::First);
        member
    }

    pub fn deliver(&mut self, member: MemberId, message: u32, offset: u64) -> DeliveryId {
        self.deliver_as(member, offset, sent(message))
    }

    pub fn deliver_as(&mut self, member: MemberId, offset: u64, got: Got) -> DeliveryId {
        let shard = self.shard(0);
        self.deliver_in(member, shard, offset, got, |_| {})
    }

    fn deliver_in(
        &mut self,
        member: MemberId,
        shard: ShardId,
        offset: u64,
        got: Got,
        change: impl FnOnce(&mut EventKind),
    ) -> DeliveryId {
        let delivery = DeliveryId::at(self.deliveries);
        self.deliveries += 1;
        let lane = self.history.names.of_member(member).client;
        let tag = got.tag.map(|tag| self.tag(tag));
        let mut delivered = EventKind::Delivered {
            delivery,
            member,
            shard,
            queue_offset: offset,
            position: position(0, offset),
            message: got.message.map(id),
            body_hash: got.body_hash,
            key: None,
            tag,
            attempt: 1,
            origin: None,
            lease_until: None,
        };
        change(&mut delivered);
        self.push(lane, delivered);
        delivery
    }

    pub fn ack(&mut self, delivery: DeliveryId) {
        let lane = self.lane("consumer");
        self.push(lane, EventKind::Acked { delivery });
    }

    pub fn nack(&mut self, delivery: DeliveryId) {
        let lane = self.lane("consumer");
        self.push(lane, EventKind::Nacked { delivery, again_after: None });
    }

    pub fn forget(&mut self, delivery: DeliveryId) {
        let lane = self.lane("consumer");
        self.push(lane, EventKind::Forgotten { delivery });
    }

    /// Delivered and acknowledged.
    pub fn consume(&mut self, member: MemberId, message: u32, offset: u64) {
        let delivery = self.deliver(member, message, offset);
        self.ack(delivery);
    }

    pub fn crash(&mut self, member: MemberId) {
        let lane = self.history.names.of_member(member).client;
        self.push(lane, EventKind::MemberCrashed { member });
    }

    pub fn pace(&mut self, member: MemberId, pace: Pace) {
        let lane = self.history.names.of_member(member).client;
        self.push(lane, EventKind::MemberPaced { member, pace });
    }

    // The broker, and what strikes it.

    pub fn start_broker(&mut self) {
        self.lives += 1;
        self.push(self.broker, EventKind::NodeStarted { life: self.lives });
    }

    pub fn stop_broker(&mut self, why: Stop) {
        self.push(self.broker, EventKind::NodeStopped { why });
    }

    /// Dies, starts again, and finds its log up to this slot of queue 0.
    pub fn restart(&mut self, why: Stop, first_lost: u64) {
        self.stop_broker(why);
        self.start_broker();
        self.recover(first_lost);
    }

    pub fn recover(&mut self, first_lost: u64) {
        self.push(self.broker, EventKind::Recovered { log_end: position(0, first_lost) });
    }

    /// Everything before this slot of queue 0 is durable.
    pub fn durable(&mut self, offset: u64) {
        self.push(self.broker, EventKind::Durable { position: position(0, offset) });
    }

    pub fn committed(&mut self, group: &str, offset: u64, end: u64) {
        let (group, shard) = (self.group(group), self.shard(0));
        self.push(self.broker, EventKind::GroupOffset { group, shard, offset, end });
    }

    pub fn expired(&mut self, to: u64) {
        let shard = self.shard(0);
        self.push(self.broker, EventKind::Expired { shard, from: 0, to });
    }

    pub fn mark(&mut self, mark: Mark) {
        self.push(self.broker, EventKind::Mark { mark });
    }

    pub fn fault(&mut self, kind: FaultKind) -> FaultId {
        self.fault_at(self.broker, kind)
    }

    pub fn fault_at(&mut self, lane: LaneId, kind: FaultKind) -> FaultId {
        self.fault_between(&[lane], &[], kind)
    }

    pub fn fault_between(&mut self, a: &[LaneId], b: &[LaneId], kind: FaultKind) -> FaultId {
        let fault = FaultId::at(self.faults);
        self.faults += 1;
        let (lanes, side, text) = ([a, b].concat(), a.len() as u32, kind.name().to_owned());
        self.push(a[0], EventKind::Fault(Box::new(Fault { fault, kind, lanes, side, text })));
        fault
    }

    // The end.

    pub fn chaos_ends(&mut self) {
        self.push(self.broker, EventKind::ChaosEnded);
    }

    pub fn comes_to_rest(&mut self) {
        self.chaos_ends();
        self.push(self.broker, EventKind::Quiesced);
    }

    pub fn judged(&self) -> Vec<Violation> {
        judge(&self.history, self.context.clone())
    }

    /// The verdict as people read it.
    pub fn told(&self) -> String {
        let mut text = String::new();
        for violation in self.judged() {
            let name = violation.promise().name;
            text += &format!("{name}: {}\n", violation.tell(&self.history.names));
            for cited in violation.cites {
                text += &format!("  {}\n", self.history.tell(&self.history.events[cited as usize]));
            }
        }
        text
    }
}

/// No promise is broken.
#[macro_export]
macro_rules! holds {
    ($tale:expr) => {{
        let mut tale = $tale.clone();
        tale.comes_to_rest();
        assert!(tale.judged().is_empty(), "a good run was condemned:\n{}", tale.told());
    }};
}

/// This promise is broken in this way, and no other promise is.
#[macro_export]
macro_rules! breaks {
    ($tale:expr, $($pattern:tt)+) => {{
        let mut tale = $tale.clone();
        tale.comes_to_rest();
        $crate::breaks_unfinished!(tale, $($pattern)+);
    }};
}

/// The same, of a run that never comes to rest.
#[macro_export]
macro_rules! breaks_unfinished {
    ($tale:expr, $($pattern:tt)+) => {{
        let tale = &$tale;
        match tale.judged().as_slice() {
            [one] => assert!(matches!(&one.breach, $($pattern)+), "{one:?}\n{}", tale.told()),
            _ => panic!("exactly one promise should break:\n{}", tale.told()),
        }
    }};
}
