//! What is told of messages that come later or again: transactions, delays,
//! retries, dead letters, leases, locks.

use stormglass_sim::history::{
    Answered, CheckId, Decision, DeliveryId, EndId, EventKind, Held, LaneId, LockEnd, MemberId,
    OffsetSource, OpId, ShardId, Stored, Told,
};

use super::{Got, Tale, id, position, sent};

impl Tale {
    // Transactions and delays, always by the one producer.

    /// The producer and a colleague, who may be asked about each other's halves.
    pub fn producers(&mut self) -> [LaneId; 2] {
        ["producer-1", "producer-2"].map(|name| {
            let (lane, group) = (self.lane(name), self.group("orders-producers"));
            self.push(lane, EventKind::ProducerJoined { group });
            lane
        })
    }

    pub fn half(&mut self, message: u32) {
        let op = self.begin_held(message, Held::Half);
        self.stored_held(op, u64::from(message));
    }

    /// Answered as stored where a message of that number would lie.
    pub fn stored_held(&mut self, op: OpId, number: u64) {
        let (lane, shard) = (self.lane("producer-1"), self.shard(0));
        let (position, status) = (Some(position(0, number)), Stored::AsPromised);
        self.push(lane, EventKind::SendHeld { op, shard, position, status, tries: 1 });
    }

    pub fn decide(&mut self, message: u32, decision: Decision) {
        let lane = self.lane("producer-1");
        self.push(lane, EventKind::Decided { message: id(message), decision });
    }

    pub fn tell(&mut self, message: u32, told: Told) -> EndId {
        let (lane, end) = (self.lane("producer-1"), EndId::at(self.ends));
        self.ends += 1;
        let message = id(message);
        self.push(lane, EventKind::EndBegun { end, message, told, check: None, lost: false });
        end
    }

    pub fn end_answered(&mut self, end: EndId, answered: Answered) {
        let lane = self.lane("producer-1");
        self.push(lane, EventKind::EndAnswered { end, answered });
    }

    pub fn end(&mut self, message: u32, told: Told) {
        let end = self.tell(message, told);
        self.end_answered(end, Answered::Ok);
    }

    pub fn check(&mut self, lane: LaneId, message: u32) {
        let check = CheckId::at(self.checks);
        self.checks += 1;
        let message = Some(id(message));
        self.push(lane, EventKind::CheckReceived { check, message, position: None });
    }

    pub fn park(&mut self, message: u32) {
        let parked = EventKind::HalfParked { position: 0, message: Some(id(message)) };
        self.push(self.broker, parked);
    }

    pub fn resume(&mut self, message: u32) {
        let resumed = EventKind::HalfResumed { position: 0, message: Some(id(message)) };
        self.push(self.broker, resumed);
    }

    pub fn recall(&mut self, message: u32, answered: Answered) {
        let (lane, message) = (self.lane("producer-1"), id(message));
        self.push(lane, EventKind::RecallBegun { message });
        self.push(lane, EventKind::RecallAnswered { message, answered });
    }

    // Retries and dead letters.

    fn shard_of(&mut self, topic: &str) -> ShardId {
        let topic = self.history.names.topic(topic);
        self.history.names.shard(topic, self.broker, 0)
    }

    /// A member that has queue 0 and the group's retry topic to itself.
    pub fn retrying(&mut self) -> MemberId {
        let member = self.consumer("billing", "c1");
        let lane = self.history.names.of_member(member).client;
        let (first, retries) = (self.shard(0), self.shard_of("%RETRY%billing"));
        self.push(lane, EventKind::Assigned { member, shards: [first, retries].into() });
        let source = OffsetSource::First;
        self.push(lane, EventKind::OffsetRead { member, shard: retries, offset: 0, source });
        member
    }

    pub fn send_back(&mut self, delivery: DeliveryId, answered: Answered) {
        self.send_back_as(delivery, false, answered);
    }

    pub fn send_back_as(&mut self, delivery: DeliveryId, resent: bool, answered: Answered) {
        let lane = self.lane("consumer");
        self.push(lane, EventKind::SendBackBegun { delivery, resent });
        self.push(lane, EventKind::SendBackAnswered { delivery, answered });
    }

    /// Handed back to the broker, for when the group's back-off says.
    pub fn fail(&mut self, delivery: DeliveryId) {
        self.nack(delivery);
        self.send_back(delivery, Answered::Ok);
    }

    /// From the retry topic, at this offset of it.
    pub fn deliver_again(
        &mut self,
        member: MemberId,
        message: u32,
        offset: u64,
        attempt: u32,
    ) -> DeliveryId {
        let (retries, topic) = (self.shard_of("%RETRY%billing"), self.topic);
        self.deliver_in(member, retries, offset, sent(message), |delivered| {
            if let EventKind::Delivered { attempt: told, origin, .. } = delivered {
                (*told, *origin) = (attempt, Some(topic));
            }
        })
    }

    pub fn dead_letter(&mut self, message: u32, queue_offset: u64, got: Got) {
        let (auditor, shard) = (self.lane("auditor"), self.shard_of("%DLQ%billing"));
        let (group, topic) = (self.group("billing"), self.topic);
        let letter = EventKind::DeadLetter {
            group,
            shard,
            queue_offset,
            position: 0,
            message: Some(id(message)),
            body_hash: got.body_hash,
            attempts: 3,
            origin: Some(topic),
        };
        self.push(auditor, letter);
    }

    // Leases and locks.

    /// Leased for so many seconds from now.
    pub fn lease(&mut self, member: MemberId, message: u32, offset: u64, secs: u64) -> DeliveryId {
        let (shard, until) = (self.shard(0), self.now + secs * 1_000_000);
        self.deliver_in(member, shard, offset, sent(message), |delivered| {
            if let EventKind::Delivered { lease_until, .. } = delivered {
                *lease_until = Some(until);
            }
        })
    }

    /// As another attempt, from this offset of the retry topic.
    pub fn lease_again(
        &mut self,
        member: MemberId,
        message: u32,
        offset: u64,
        attempt: u32,
        secs: u64,
    ) -> DeliveryId {
        let (retries, topic) = (self.shard_of("%RETRY%billing"), self.topic);
        let until = self.now + secs * 1_000_000;
        self.deliver_in(member, retries, offset, sent(message), |delivered| {
            if let EventKind::Delivered { attempt: told, origin, lease_until, .. } = delivered {
                (*told, *origin, *lease_until) = (attempt, Some(topic), Some(until));
            }
        })
    }

    pub fn ack_answered(&mut self, delivery: DeliveryId, answered: Answered) {
        let lane = self.lane("consumer");
        self.push(lane, EventKind::AckAnswered { delivery, answered });
    }

    pub fn locked(&mut self, member: MemberId, epoch: u64) {
        let lane = self.history.names.of_member(member).client;
        let shard = self.shard(0);
        self.lock_holder(Some(lane), epoch);
        self.push(lane, EventKind::Locked { member, shard, epoch: Some(epoch) });
    }

    pub fn lock_holder(&mut self, holder: Option<LaneId>, epoch: u64) {
        let (group, shard) = (self.group("ledger"), self.shard(0));
        self.push(self.broker, EventKind::LockHolder { group, shard, holder, epoch });
    }

    pub fn unlocked(&mut self, member: MemberId) {
        let lane = self.history.names.of_member(member).client;
        let (shard, why) = (self.shard(0), LockEnd::Released);
        self.push(lane, EventKind::Unlocked { member, shard, why });
    }

    pub fn reset(&mut self, group: &str, answered: Answered, moved: impl FnOnce(&mut Tale)) {
        let (admin, group, topic) = (self.lane("admin"), self.group(group), self.topic);
        self.push(admin, EventKind::ResetBegun { group, topic, to: 0 });
        moved(self);
        self.push(admin, EventKind::ResetAnswered { group, topic, answered });
    }
}
