//! What a consumer records: that it is a member, which shards it owns, and
//! each message from its delivery to the answer.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use stormglass_core::{
    client::{Change, MessageQueue, OffsetSource, Received, SendBack, Unlocked},
    ids::Name,
    message::{Properties, Record, property},
    runtime::Runtime,
    shell::client::Delivery,
};
use stormglass_scenarios::tags_of;

use super::{Stage, draft::shard_of};
use crate::history::{
    Access, Answered, Body, DeliveryId, EventKind, From, LockEnd, MemberId, MemberStarted, Mode,
    OffsetSource as Source, ShardId, Subscription, body_hash,
};

/// One incarnation of a group's member.
pub struct Member<R> {
    stage: Stage<R>,
    id: MemberId,
    /// Forgotten messages: to drop them would be to hand them back.
    kept: RefCell<Vec<Delivery>>,
    /// The latest delivery of each slot.
    latest: RefCell<BTreeMap<(ShardId, u64), DeliveryId>>,
}

/// What a member asks its group for.
pub struct Joining<'a> {
    pub group: &'a str,
    pub topics: &'a [String],
    pub filter: &'a str,
    pub mode: Mode,
    pub access: Access,
    pub orderly: bool,
    pub from: From,
    pub max_attempts: Option<u32>,
}

impl<R: Runtime> Member<R> {
    /// Recorded before anything can be assigned to it.
    pub fn start(stage: &Stage<R>, joining: &Joining) -> Member<R> {
        let machine = stage.machine();
        let recorder = &stage.shared.recorder;
        let (id, subscriptions) = recorder.name(|names| {
            let group = names.group(joining.group);
            let tags: Vec<_> =
                tags_of(joining.filter).into_iter().map(|tag| names.tag(tag)).collect();
            let subscribe =
                |topic: &String| Subscription { topic: names.topic(topic), tags: tags.clone() };
            let subscriptions = joining.topics.iter().map(subscribe).collect();
            (names.member(group, machine.lane), subscriptions)
        });
        machine.incarnations.set(machine.incarnations.get() + 1);
        machine.joined.set(Some(id));
        stage.push(EventKind::MemberStarted(Box::new(MemberStarted {
            member: id,
            incarnation: machine.incarnations.get(),
            mode: joining.mode,
            access: joining.access,
            orderly: joining.orderly,
            from: joining.from,
            subscriptions,
            max_attempts: joining.max_attempts,
        })));
        Member { stage: stage.clone(), id, kept: RefCell::default(), latest: RefCell::default() }
    }

    pub fn changed(&self, change: Change) {
        match change {
            Change::Assigned(queues) => {
                let shards = queues.iter().map(|queue| self.shard(queue)).collect();
                self.stage.push(EventKind::Assigned { member: self.id, shards });
            }
            Change::Reading { queue, offset, source } => {
                let source = match source {
                    OffsetSource::Committed => Source::Committed,
                    OffsetSource::First | OffsetSource::Time => Source::First,
                    OffsetSource::Last => Source::Last,
                    OffsetSource::Corrected => Source::Corrected,
                    OffsetSource::Reset => Source::Reset,
                };
                let (shard, offset) = (self.shard(&queue), offset.max(0) as u64);
                self.stage.push(EventKind::OffsetRead { member: self.id, shard, offset, source });
            }
            Change::Locked { queue, epoch } => {
                let shard = self.shard(&queue);
                self.stage.push(EventKind::Locked { member: self.id, shard, epoch });
            }
            Change::Unlocked { queue, why } => {
                let (member, shard) = (self.id, self.shard(&queue));
                let why = match why {
                    Unlocked::Released => LockEnd::Released,
                    Unlocked::Refused => LockEnd::Refused,
                    Unlocked::Expired => LockEnd::Expired,
                };
                self.stage.push(EventKind::Unlocked { member, shard, why });
            }
            Change::SendBack { queue, offset, step } => {
                let Some(delivery) = self.latest(&queue, offset) else { return };
                let answered = match step {
                    SendBack::Begun { resent } => {
                        return self.stage.push(EventKind::SendBackBegun { delivery, resent });
                    }
                    SendBack::Taken => Answered::Ok,
                    SendBack::Refused { code } => Answered::Refused { code },
                    SendBack::Lost => Answered::Unknown,
                };
                self.stage.push(EventKind::SendBackAnswered { delivery, answered });
            }
            Change::TimedOut { queue, offset } => {
                if let Some(delivery) = self.latest(&queue, offset) {
                    self.stage.push(EventKind::TimedOut { delivery });
                }
            }
        }
    }

    pub fn delivered(&self, broker: &Name, record: &Record) -> DeliveryId {
        self.got(broker, record, 1, None, None)
    }

    /// By the client that users link: with what it makes of the record.
    pub fn received(&self, received: &Received) -> DeliveryId {
        let Received { broker_name, record, attempts, .. } = received;
        self.got(broker_name, record, *attempts, Some(&received.topic), None)
    }

    /// Under a lease that ends at this time of the broker's clock.
    pub fn leased(&self, received: &Received, until: u64) -> DeliveryId {
        let Received { broker_name, record, attempts, .. } = received;
        self.got(broker_name, record, *attempts, Some(&received.topic), Some(until))
    }

    fn got(
        &self,
        broker: &Name,
        record: &Record,
        attempt: u32,
        origin: Option<&str>,
        lease_until: Option<u64>,
    ) -> DeliveryId {
        let shared = &self.stage.shared;
        let message = Body::decode(&record.body).ok().map(|body| body.message);
        let properties = Properties(&record.properties);
        let shard = shard_of(&self.stage, broker, &record.topic, record.queue);
        let (key, tag, origin) = shared.recorder.name(|names| {
            let key = properties.get(property::SHARDING_KEY).map(|key| names.key(key));
            let tag = properties.get(property::TAGS).map(|tag| names.tag(tag));
            let origin = origin.filter(|origin| **origin != *record.topic);
            (key, tag, origin.map(|origin| names.topic(origin)))
        });
        let delivery = shared.recorder.next_delivery();
        self.latest.borrow_mut().insert((shard, record.queue_offset), delivery);
        self.stage.push(EventKind::Delivered {
            delivery,
            member: self.id,
            shard,
            queue_offset: record.queue_offset,
            position: record.position.0,
            message,
            body_hash: body_hash(&record.body),
            key,
            tag,
            attempt,
            origin,
            lease_until,
        });
        delivery
    }

    pub fn acked(&self, delivery: DeliveryId) {
        self.stage.push(EventKind::Acked { delivery });
    }

    pub fn nacked(&self, delivery: DeliveryId, again_after: Option<Duration>) {
        let again_after = again_after.map(|after| after.as_micros() as u64);
        self.stage.push(EventKind::Nacked { delivery, again_after });
    }

    pub fn forgot(&self, delivery: DeliveryId, message: Delivery) {
        self.stage.push(EventKind::Forgotten { delivery });
        self.kept.borrow_mut().push(message);
    }

    /// In good order: nothing is in hand any more.
    pub fn stopped(&self) {
        self.stage.machine().joined.set(None);
        self.stage.push(EventKind::MemberStopped { member: self.id });
    }

    fn latest(&self, queue: &MessageQueue, offset: i64) -> Option<DeliveryId> {
        let slot = (self.shard(queue), u64::try_from(offset).ok()?);
        self.latest.borrow().get(&slot).copied()
    }

    fn shard(&self, queue: &MessageQueue) -> ShardId {
        shard_of(&self.stage, &queue.broker, &queue.topic, queue.queue)
    }
}
