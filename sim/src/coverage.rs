//! What really happened in a run, counted under the names that scenarios use
//! in `[expect]`: faults by kind, what clients saw, marks inside machines.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{
    Answered, DeliveryId, Event, EventKind, GroupId, Held, History, LaneId, LockEnd, MemberId,
    MessageId, Mode, OpId, Role, ShardId, Told, TopicId,
};

/// Counts by name; what never happened is absent.
pub fn coverage(history: &History) -> BTreeMap<String, u64> {
    let mut counter = Counter { history, counts: BTreeMap::new(), known: Known::default() };
    history.events.iter().for_each(|event| counter.event(event));
    let counts = counter.counts.into_iter().filter(|(_, count)| *count > 0);
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

struct Counter<'a> {
    history: &'a History,
    counts: BTreeMap<&'static str, u64>,
    known: Known,
}

/// What later events are compared with.
#[derive(Default)]
struct Known {
    seen: BTreeSet<(GroupId, Option<MemberId>, MessageId)>,
    broadcasting: BTreeSet<MemberId>,
    stored: BTreeMap<LaneId, Vec<u64>>,
    /// Why a send is held, and who sent it.
    held: BTreeMap<OpId, Held>,
    idempotent: BTreeSet<OpId>,
    producers: BTreeMap<MessageId, LaneId>,
    /// The first that was told of each transaction by its producer.
    told: BTreeMap<MessageId, Told>,
    /// The latest lease of each message, and the deliveries with an answer.
    leased: BTreeMap<(GroupId, MessageId), DeliveryId>,
    answered: BTreeSet<DeliveryId>,
    holders: BTreeMap<(GroupId, ShardId), LaneId>,
    lost: BTreeMap<(GroupId, ShardId), u64>,
    sizes: BTreeMap<(LaneId, TopicId), u32>,
    /// The set of each replica, and the newest leader of each set.
    sets: BTreeMap<LaneId, LaneId>,
    leaders: BTreeMap<LaneId, LaneId>,
}

impl Counter<'_> {
    fn count(&mut self, name: &'static str, count: u64) {
        *self.counts.entry(name).or_default() += count;
    }

    fn event(&mut self, event: &Event) {
        let one = match &event.kind {
            EventKind::SendBegun { op, message, held, idempotent, .. } => {
                self.known.producers.insert(*message, event.lane);
                self.known.held.extend(held.map(|held| (*op, held)));
                self.known.idempotent.extend(idempotent.then_some(*op));
                return;
            }
            EventKind::SendOk { op, shard, position, tries, .. } => {
                if let Some(position) = position {
                    let broker = self.history.names.of_shard(*shard).broker;
                    self.known.stored.entry(broker).or_default().push(*position);
                }
                let again = *tries > 1 && self.known.idempotent.contains(op);
                self.count("idempotent-retry", u64::from(again));
                "send-ok"
            }
            EventKind::SendHeld { op, .. } => match self.known.held.get(op) {
                Some(Held::Half) | None => "half",
                Some(Held::For(_) | Held::Until(_)) => "delayed",
            },
            EventKind::SendRefused { .. } => "send-refused",
            EventKind::SendUnknown { .. } => "send-unknown",
            EventKind::EndBegun { message, told, check, lost, .. } => {
                return self.end(*message, *told, check.is_some(), *lost);
            }
            EventKind::EndAnswered { answered: Answered::Conflict, .. } => "end-conflict",
            EventKind::CheckReceived { message, .. } => {
                let producer = message.and_then(|message| self.known.producers.get(&message));
                let elsewhere = producer.is_some_and(|producer| *producer != event.lane);
                self.count("check-elsewhere", u64::from(elsewhere));
                "check-back"
            }
            EventKind::RecallAnswered { answered: Answered::Ok, .. } => "recall",
            EventKind::MemberStarted(started) => {
                if started.mode == Mode::Broadcasting {
                    self.known.broadcasting.insert(started.member);
                }
                return;
            }
            EventKind::Delivered { .. } => return self.delivery(&event.kind),
            EventKind::Acked { delivery } => {
                self.known.answered.insert(*delivery);
                "ack"
            }
            EventKind::AckAnswered { answered, .. } if *answered != Answered::Ok => "late-ack",
            EventKind::Nacked { delivery, .. } => {
                self.known.answered.insert(*delivery);
                "nack"
            }
            EventKind::TimedOut { .. } => "timed-out",
            EventKind::SendBackAnswered { answered: Answered::Ok, .. } => "send-back",
            EventKind::SendBackAnswered { .. } => "send-back-failed",
            EventKind::LeaseAnswered { answered: Answered::Ok, .. } => "lease-change",
            EventKind::Locked { .. } => "lock",
            EventKind::Unlocked { why: LockEnd::Refused | LockEnd::Expired, .. } => "lock-lost",
            EventKind::LockHolder { group, shard, holder: Some(holder), .. } => {
                let before = self.known.holders.insert((*group, *shard), *holder);
                let changed = before.is_some_and(|before| before != *holder);
                return self.count("lock-hand-over", u64::from(changed));
            }
            EventKind::DeadLetter { .. } => "dead-letter",
            EventKind::ResetAnswered { answered: Answered::Ok, .. } => "offset-reset",
            EventKind::HalfParked { .. } => "parked",
            EventKind::HalfResumed { .. } => "resumed",
            EventKind::GroupLost { group, shard, messages } => {
                let before = self.known.lost.insert((*group, *shard), *messages).unwrap_or(0);
                return self.count("group-loss", messages.saturating_sub(before));
            }
            EventKind::Assigned { .. } => "rebalance",
            EventKind::TopicSized { topic, queues } => {
                let before = self.known.sizes.insert((event.lane, *topic), *queues);
                let grown = before.is_some_and(|before| before < *queues);
                return self.count("queue-growth", u64::from(grown));
            }
            EventKind::Expired { from, to, .. } => {
                return self.count("expiry", to.saturating_sub(*from));
            }
            EventKind::Fault(fault) => fault.kind.name(),
            EventKind::NodeStarted { .. } if is_broker(self.history, event.lane) => "broker-start",
            EventKind::Recovered { log_end } => {
                let lost = self.known.stored.entry(event.lane).or_default();
                let before = lost.len();
                lost.retain(|position| position < log_end);
                let lost = before - lost.len();
                self.count("licensed-loss", lost as u64);
                if !is_broker(self.history, event.lane) {
                    return;
                }
                "recovery"
            }
            EventKind::Formed { replicas, spares } => {
                let all = replicas.iter().chain(spares);
                self.known.sets.extend(all.map(|replica| (*replica, event.lane)));
                return;
            }
            EventKind::Role { role: Role::Leader, .. } => {
                let set = self.known.sets.get(&event.lane).copied().unwrap_or(event.lane);
                let before = self.known.leaders.insert(set, event.lane);
                let changed = before.is_some_and(|before| before != event.lane);
                self.count("leader-change", u64::from(changed));
                "election"
            }
            EventKind::Mark { mark } => mark.name(),
            _ => return,
        };
        self.count(one, 1);
    }

    fn end(&mut self, message: MessageId, told: Told, by_check: bool, lost: bool) {
        let decision = match told {
            Told::Commit => "commit",
            Told::Rollback => "rollback",
            Told::Unknown => "end-unknown",
        };
        self.count(if lost { "end-lost" } else { decision }, 1);
        if told == Told::Unknown || lost {
            return;
        }
        match self.known.told.get(&message) {
            Some(before) if *before != told => self.count("end-contrary", 1),
            Some(_) if !by_check => self.count("end-twice", 1),
            Some(_) => {}
            None => {
                self.known.told.insert(message, told);
            }
        }
    }

    fn delivery(&mut self, delivered: &EventKind) {
        let EventKind::Delivered { delivery, member, message, attempt, lease_until, .. } =
            delivered
        else {
            return;
        };
        self.count("delivery", 1);
        self.count("retry", u64::from(*attempt > 1));
        self.count("pop", u64::from(lease_until.is_some()));
        let group = self.history.names.of_member(*member).group;
        let Some(message) = *message else { return };
        // Every broadcast member is owed its own copy.
        let reader = self.known.broadcasting.contains(member).then_some(*member);
        let again = !self.known.seen.insert((group, reader, message));
        self.count("redelivery", u64::from(again));
        let before = match lease_until {
            Some(_) => self.known.leased.insert((group, message), *delivery),
            None => self.known.leased.remove(&(group, message)),
        };
        let expired = before.is_some_and(|before| !self.known.answered.contains(&before));
        self.count("lease-expiry", u64::from(expired));
    }
}

fn is_broker(history: &History, lane: LaneId) -> bool {
    history.names.of_lane(lane).starts_with("broker-")
}

/// What `[expect]` asks for and the run did not show, as sentences.
pub fn missing(
    at_least: &BTreeMap<String, u64>,
    coverage: &BTreeMap<String, u64>,
) -> Vec<(String, String)> {
    at_least
        .iter()
        .map(|(name, wanted)| (name, *wanted, coverage.get(name).copied().unwrap_or(0)))
        .filter(|(_, wanted, found)| found < wanted)
        .map(|(name, wanted, found)| (name.clone(), format!("{found}, expected at least {wanted}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Recorder, Stored};

    #[test]
    fn what_recovery_cut_and_what_came_twice_is_counted() {
        let recorder = Recorder::new(|| 0);
        let (broker, shard, member) = recorder.name(|names| {
            let (broker, client) = (names.lane("broker-1"), names.lane("consumer-billing-1"));
            let (topic, group) = (names.topic("orders"), names.group("billing"));
            (broker, names.shard(topic, broker, 0), names.member(group, client))
        });
        let messages = [recorder.next_message(), recorder.next_message()];
        for (offset, _) in messages.iter().enumerate() {
            let stored = EventKind::SendOk {
                op: recorder.next_op(),
                shard,
                queue_offset: offset as u64,
                position: Some(offset as u64 * 100),
                status: Stored::AsPromised,
                tries: 1,
            };
            recorder.push(broker, stored);
        }
        for message in [messages[0], messages[0], messages[1]] {
            let delivered = EventKind::Delivered {
                delivery: recorder.next_delivery(),
                member,
                shard,
                queue_offset: 0,
                position: 0,
                message: Some(message),
                body_hash: 0,
                key: None,
                tag: None,
                attempt: 1,
                origin: None,
                lease_until: None,
            };
            recorder.push(broker, delivered);
        }
        recorder.push(broker, EventKind::NodeStarted { life: 2 });
        recorder.push(broker, EventKind::Recovered { log_end: 100 });
        recorder.push(broker, EventKind::Recovered { log_end: 100 });

        let counts = coverage(&recorder.take());
        let expected = [
            ("broker-start", 1),
            ("delivery", 3),
            ("licensed-loss", 1),
            ("recovery", 2),
            ("redelivery", 1),
            ("send-ok", 2),
        ];
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(counts, expected);

        let at_least = BTreeMap::from([("delivery".to_owned(), 3), ("kill".to_owned(), 1)]);
        let found = missing(&at_least, &counts);
        assert_eq!(found, [("kill".to_owned(), "0, expected at least 1".to_owned())]);
    }
}
