//! The history as a timeline: who did what to which message, and what was
//! wrong where for how long.

use std::collections::BTreeMap;

use stormglass_reports::record::{Event, EventKind as Kind, Position, Span, SpanKind};

use crate::history::{
    self, DeliveryId, EndId, EventKind, FaultId, FaultKind, History, LaneId, MessageId, OpId,
    ShardId, Stop,
};

#[derive(Default)]
pub(super) struct Timeline {
    pub events: Vec<Event>,
    pub spans: Vec<Span>,
    pub positions: Vec<Position>,
}

pub(super) fn timeline(history: &History, ended_us: u64) -> Timeline {
    let mut teller = Teller::new(history, ended_us);
    history.events.iter().for_each(|event| teller.tell(event));
    // What was healed in the same instant has no extent to show.
    teller.told.spans.retain(|span| span.to_us > span.from_us);
    teller.told
}

/// Walks the history once and remembers what later events refer to.
struct Teller<'a> {
    history: &'a History,
    ended_us: u64,
    ops: BTreeMap<OpId, (MessageId, Option<ShardId>)>,
    deliveries: BTreeMap<DeliveryId, (Option<MessageId>, ShardId, u64)>,
    ends: BTreeMap<EndId, MessageId>,
    faults: BTreeMap<FaultId, Vec<usize>>,
    down: BTreeMap<LaneId, usize>,
    logs: BTreeMap<LaneId, (u64, u64)>,
    told: Timeline,
}

impl<'a> Teller<'a> {
    fn new(history: &'a History, ended_us: u64) -> Teller<'a> {
        let mut ops: BTreeMap<OpId, (MessageId, Option<ShardId>)> = BTreeMap::new();
        for event in &history.events {
            match &event.kind {
                EventKind::SendBegun { op, message, shard, .. } => {
                    ops.insert(*op, (*message, *shard));
                }
                // Where it went is known from its answer.
                EventKind::SendOk { op, shard, .. } | EventKind::SendHeld { op, shard, .. } => {
                    if let Some((_, known)) = ops.get_mut(op) {
                        *known = Some(*shard);
                    }
                }
                _ => {}
            }
        }
        Teller {
            history,
            ended_us,
            ops,
            deliveries: BTreeMap::new(),
            ends: BTreeMap::new(),
            faults: BTreeMap::new(),
            down: BTreeMap::new(),
            logs: BTreeMap::new(),
            told: Timeline::default(),
        }
    }

    fn tell(&mut self, event: &history::Event) {
        let lane = event.lane.index() as u32;
        let mut told = Event {
            at_us: event.at,
            lane,
            to_lane: None,
            kind: kind(&event.kind),
            text: format!("{:#}", self.history.tell(event)),
            message: None,
            shard: None,
            offset: None,
        };
        match &event.kind {
            EventKind::SendBegun { op, .. } => {
                self.name_op(&mut told, *op);
                let shard = self.ops.get(op).and_then(|(_, shard)| *shard);
                told.to_lane = shard.map(|shard| self.broker_of(shard));
            }
            EventKind::SendOk { op, shard, queue_offset, position, .. } => {
                self.name_op(&mut told, *op);
                told.shard = Some(self.shard_name(*shard));
                told.offset = Some(*queue_offset);
                if let Some(position) = position {
                    let broker = self.history.names.of_shard(*shard).broker;
                    self.grow(event.at, broker, *position, 0);
                }
            }
            EventKind::SendHeld { op, shard, position, .. } => {
                self.name_op(&mut told, *op);
                told.shard = Some(self.shard_name(*shard));
                if let Some(position) = position {
                    let broker = self.history.names.of_shard(*shard).broker;
                    self.grow(event.at, broker, *position, 0);
                }
            }
            EventKind::SendRefused { op, .. } | EventKind::SendUnknown { op, .. } => {
                self.name_op(&mut told, *op);
            }
            EventKind::EndBegun { end, message, .. } => {
                self.ends.insert(*end, *message);
                told.message = Some(u64::from(message.number()));
            }
            EventKind::EndAnswered { end, .. } => {
                told.message = self.ends.get(end).map(|message| u64::from(message.number()));
            }
            EventKind::Decided { message, .. }
            | EventKind::RecallBegun { message }
            | EventKind::RecallAnswered { message, .. } => {
                told.message = Some(u64::from(message.number()));
            }
            EventKind::CheckReceived { message, .. }
            | EventKind::HalfParked { message, .. }
            | EventKind::HalfResumed { message, .. } => {
                told.message = message.map(|message| u64::from(message.number()));
            }
            EventKind::DeadLetter { shard, queue_offset, message, .. } => {
                told.message = message.map(|message| u64::from(message.number()));
                told.shard = Some(self.shard_name(*shard));
                told.offset = Some(*queue_offset);
            }
            EventKind::Locked { shard, .. }
            | EventKind::Unlocked { shard, .. }
            | EventKind::LockHolder { shard, .. }
            | EventKind::GroupLost { shard, .. } => told.shard = Some(self.shard_name(*shard)),
            EventKind::Delivered { delivery, shard, queue_offset, message, .. } => {
                self.deliveries.insert(*delivery, (*message, *shard, *queue_offset));
                (told.lane, told.to_lane) = (self.broker_of(*shard), Some(lane));
                self.name_delivery(&mut told, *delivery);
            }
            EventKind::Acked { delivery }
            | EventKind::AckAnswered { delivery, .. }
            | EventKind::Nacked { delivery, .. }
            | EventKind::TimedOut { delivery }
            | EventKind::SendBackBegun { delivery, .. }
            | EventKind::SendBackAnswered { delivery, .. }
            | EventKind::LeaseAsked { delivery, .. }
            | EventKind::LeaseAnswered { delivery, .. }
            | EventKind::Forgotten { delivery } => {
                self.name_delivery(&mut told, *delivery);
                if let Some(message) = told.message {
                    told.text += &format!(", m{message}");
                }
            }
            EventKind::OffsetRead { shard, offset, .. }
            | EventKind::GroupOffset { shard, offset, .. } => {
                told.shard = Some(self.shard_name(*shard));
                told.offset = Some(*offset);
            }
            EventKind::Expired { shard, .. } => told.shard = Some(self.shard_name(*shard)),
            EventKind::Fault(fault) => self.begin_fault(event.at, fault),
            EventKind::FaultHealed { fault } => {
                for index in self.faults.remove(fault).unwrap_or_default() {
                    self.told.spans[index].to_us = event.at;
                }
            }
            EventKind::NodeStopped { why } if *why != Stop::Graceful => {
                let index = self.begin(event.at, event.lane, SpanKind::Down, told.text.clone());
                self.down.insert(event.lane, index);
            }
            EventKind::NodeStarted { .. } => {
                if let Some(index) = self.down.remove(&event.lane) {
                    self.told.spans[index].to_us = event.at;
                }
            }
            EventKind::Recovered { log_end } => {
                self.logs.insert(event.lane, (0, 0));
                self.grow(event.at, event.lane, *log_end, *log_end);
            }
            EventKind::Durable { position } => {
                self.grow(event.at, event.lane, *position, *position);
            }
            _ => {}
        }
        self.told.events.push(told);
    }

    fn name_op(&self, told: &mut Event, op: OpId) {
        if let Some((message, shard)) = self.ops.get(&op) {
            told.message = Some(u64::from(message.number()));
            told.shard = shard.map(|shard| self.shard_name(shard));
        }
    }

    fn name_delivery(&self, told: &mut Event, delivery: DeliveryId) {
        if let Some((message, shard, offset)) = self.deliveries.get(&delivery) {
            told.message = message.map(|message| u64::from(message.number()));
            told.shard = Some(self.shard_name(*shard));
            told.offset = Some(*offset);
        }
    }

    fn shard_name(&self, shard: ShardId) -> String {
        let name = self.history.names.of_shard(shard);
        format!("{}/{}", self.history.names.of_topic(name.topic), name.queue)
    }

    fn broker_of(&self, shard: ShardId) -> u32 {
        self.history.names.of_shard(shard).broker.index() as u32
    }

    /// A broker's log reaches at least to `written`, of which `durable` is safe.
    fn grow(&mut self, at_us: u64, lane: LaneId, written: u64, durable: u64) {
        let log = self.logs.entry(lane).or_default();
        let known = *log;
        *log = (log.0.max(written), log.1.max(durable));
        if *log != known {
            let (written, durable) = *log;
            self.told.positions.push(Position {
                at_us,
                lane: lane.index() as u32,
                written,
                durable,
            });
        }
    }

    fn begin(&mut self, from_us: u64, lane: LaneId, kind: SpanKind, text: String) -> usize {
        let (to_us, lane) = (self.ended_us.max(from_us), lane.index() as u32);
        self.told.spans.push(Span { from_us, to_us, lane, kind, text });
        self.told.spans.len() - 1
    }

    fn begin_fault(&mut self, at: u64, fault: &history::Fault) {
        let Some(kind) = span_kind(fault.kind) else { return };
        for lane in &fault.lanes {
            let index = self.begin(at, *lane, kind, fault.text.clone());
            self.faults.entry(fault.fault).or_default().push(index);
        }
    }
}

/// What lasts; being down shows as such from the node's stop to its start.
fn span_kind(kind: FaultKind) -> Option<SpanKind> {
    Some(match kind {
        FaultKind::Pause => SpanKind::Paused,
        FaultKind::Partition => SpanKind::Partitioned,
        FaultKind::Latency => SpanKind::NetworkSlow,
        FaultKind::ClockDrift => SpanKind::ClockWrong,
        FaultKind::DiskFull => SpanKind::DiskFull,
        FaultKind::DiskSlow => SpanKind::DiskSlow,
        FaultKind::DiskReadError
        | FaultKind::DiskWriteError
        | FaultKind::DiskSyncError
        | FaultKind::MisdirectedRead
        | FaultKind::MisdirectedWrite => SpanKind::DiskFailing,
        FaultKind::ConsumerStall | FaultKind::ConsumerSlow | FaultKind::Overload => SpanKind::Slow,
        FaultKind::Kill
        | FaultKind::PowerLoss
        | FaultKind::Stop
        | FaultKind::TailLoss
        | FaultKind::DiskLoss
        | FaultKind::Restart
        | FaultKind::DropConnections
        | FaultKind::SilenceConnections
        | FaultKind::ClockJump
        | FaultKind::BitRot
        | FaultKind::LatentError => return None,
    })
}

fn kind(kind: &EventKind) -> Kind {
    match kind {
        EventKind::SendBegun { .. } => Kind::Send,
        EventKind::SendOk { .. } | EventKind::SendHeld { .. } => Kind::Stored,
        EventKind::SendRefused { .. } => Kind::Refused,
        EventKind::SendUnknown { .. } => Kind::Unknown,
        EventKind::Delivered { .. } => Kind::Deliver,
        EventKind::Acked { .. } => Kind::Ack,
        EventKind::Nacked { .. }
        | EventKind::TimedOut { .. }
        | EventKind::SendBackBegun { .. }
        | EventKind::SendBackAnswered { .. }
        | EventKind::DeadLetter { .. } => Kind::Retry,
        EventKind::ProducerJoined { .. } => Kind::Life,
        EventKind::Decided { .. }
        | EventKind::EndBegun { .. }
        | EventKind::EndAnswered { .. }
        | EventKind::RecallBegun { .. }
        | EventKind::RecallAnswered { .. } => Kind::Decide,
        EventKind::CheckReceived { .. } => Kind::Check,
        EventKind::AckAnswered { .. }
        | EventKind::LeaseAsked { .. }
        | EventKind::LeaseAnswered { .. } => Kind::Ack,
        EventKind::GroupOffset { .. }
        | EventKind::ResetBegun { .. }
        | EventKind::ResetAnswered { .. } => Kind::Commit,
        EventKind::Assigned { .. }
        | EventKind::OffsetRead { .. }
        | EventKind::Locked { .. }
        | EventKind::Unlocked { .. }
        | EventKind::LockHolder { .. } => Kind::Assign,
        EventKind::MemberStarted(_)
        | EventKind::MemberStopped { .. }
        | EventKind::MemberCrashed { .. }
        | EventKind::MemberPaced { .. }
        | EventKind::NodeStarted { .. }
        | EventKind::NodeStopped { .. } => Kind::Life,
        EventKind::Fault(_) | EventKind::FaultHealed { .. } | EventKind::ClockIs { .. } => {
            Kind::Fault
        }
        EventKind::Recovered { .. }
        | EventKind::Durable { .. }
        | EventKind::Formed { .. }
        | EventKind::Members { .. }
        | EventKind::Role { .. }
        | EventKind::Committed { .. }
        | EventKind::Expired { .. }
        | EventKind::HalfParked { .. }
        | EventKind::HalfResumed { .. }
        | EventKind::GroupLost { .. }
        | EventKind::Mark { .. } => Kind::Replica,
        EventKind::Forgotten { .. }
        | EventKind::TopicSized { .. }
        | EventKind::ChaosEnded
        | EventKind::Quiesced
        | EventKind::Memory { .. } => Kind::Note,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;
    use crate::history::{Fault, Recorder, Stored};

    /// One message from producer to consumer, with a kill and a partition.
    fn history() -> History {
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let recorder = Recorder::new(move || clock.load(Relaxed));
        let at = |us: u64| now.store(us, Relaxed);
        let (broker, producer, consumer) = recorder.name(|names| {
            (names.lane("broker-1"), names.lane("producer-orders-1"), names.lane("consumer-b-1"))
        });
        let (topic, shard, member) = recorder.name(|names| {
            let (topic, group) = (names.topic("orders"), names.group("b"));
            (topic, names.shard(topic, broker, 3), names.member(group, consumer))
        });
        let (op, message) = (recorder.next_op(), recorder.next_message());
        let (delivery, fault) = (recorder.next_delivery(), recorder.next_fault());

        recorder.push(broker, EventKind::NodeStarted { life: 1 });
        at(10);
        let begun = EventKind::SendBegun {
            op,
            message,
            topic,
            shard: None,
            key: None,
            tag: None,
            body_hash: 1,
            size: 100,
            batch: None,
            one_way: false,
            held: None,
            idempotent: false,
        };
        recorder.push(producer, begun);
        at(20);
        let (queue_offset, position) = (5, Some(640));
        let status = Stored::AsPromised;
        let stored = EventKind::SendOk { op, shard, queue_offset, position, status, tries: 1 };
        recorder.push(producer, stored);
        at(30);
        recorder.push(broker, EventKind::Durable { position: 700 });
        recorder.push(
            consumer,
            EventKind::Delivered {
                delivery,
                member,
                shard,
                queue_offset,
                position: 640,
                message: Some(message),
                body_hash: 1,
                key: None,
                tag: None,
                attempt: 1,
                origin: None,
                lease_until: None,
            },
        );
        at(40);
        recorder.push(consumer, EventKind::Acked { delivery });
        let partition = FaultKind::Partition;
        let lanes = vec![consumer];
        let text = "partition".to_owned();
        let fault_event = Fault { fault, kind: partition, lanes, side: 1, text };
        recorder.push(consumer, EventKind::Fault(Box::new(fault_event)));
        recorder.push(broker, EventKind::NodeStopped { why: Stop::Killed });
        at(90);
        recorder.push(consumer, EventKind::FaultHealed { fault });
        recorder.take()
    }

    #[test]
    fn a_message_can_be_followed_from_lane_to_lane() {
        let told = timeline(&history(), 100);
        let of_message: Vec<_> = told
            .events
            .iter()
            .filter(|event| event.message == Some(1))
            .map(|event| (event.at_us, event.lane, event.to_lane, event.kind))
            .collect();
        let (broker, producer, consumer) = (0, 1, 2);
        assert_eq!(
            of_message,
            [
                (10, producer, Some(broker), Kind::Send),
                (20, producer, None, Kind::Stored),
                (30, broker, Some(consumer), Kind::Deliver),
                (40, consumer, None, Kind::Ack),
            ]
        );
        let offsets: Vec<_> = told.events.iter().filter_map(|event| event.offset).collect();
        assert_eq!(offsets, [5, 5, 5]);
    }

    #[test]
    fn spans_end_with_their_fault_or_with_the_run() {
        let told = timeline(&history(), 100);
        let spans: Vec<_> =
            told.spans.iter().map(|s| (s.from_us, s.to_us, s.lane, s.kind)).collect();
        assert_eq!(spans, [(40, 90, 2, SpanKind::Partitioned), (40, 100, 0, SpanKind::Down)]);
    }

    #[test]
    fn what_is_written_and_not_yet_durable_shows() {
        let positions = timeline(&history(), 100).positions;
        let pending: Vec<_> = positions.iter().map(|p| (p.at_us, p.written, p.durable)).collect();
        assert_eq!(pending, [(20, 640, 0), (30, 700, 700)]);
    }
}
