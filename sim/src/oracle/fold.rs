//! How each event changes what is known.

mod consuming;

use super::{
    facts::{ActiveFault, Facts, Message, Op, Place, PowerLoss, Stretch, grown},
    held::{Half, StoredHeld},
};
use crate::history::{
    Event, EventKind, Held, LaneId, Mark, MessageId, OpId, Stop, Stored, TopicId,
};

impl Facts {
    /// Folds in an event that has been judged.
    pub fn absorb(&mut self, event: &Event) {
        self.absorb_replica(event);
        match &event.kind {
            EventKind::SendBegun { .. } => self.begin_send(event),
            EventKind::SendOk { op, shard, queue_offset, position, status, tries } => {
                let place = Place {
                    event: self.index,
                    at: event.at,
                    shard: *shard,
                    offset: *queue_offset,
                    position: *position,
                };
                let Some((id, message)) = self.answered(*op, *tries) else { return };
                match status {
                    Stored::AsPromised => message.ok = message.ok.or(Some(place)),
                    Stored::Weakly => message.unknown = true,
                }
                self.fill(id, place);
            }
            EventKind::SendHeld { op, shard, position, status, tries } => {
                let (shard, position) = (*shard, *position);
                let place = StoredHeld { event: self.index, at: event.at, shard, position };
                self.hold(*op, *tries, *status, place);
            }
            EventKind::SendRefused { op, tries, .. } => {
                let index = self.index;
                if let Some((_, message)) = self.answered(*op, *tries) {
                    message.refused = Some(index);
                }
            }
            EventKind::SendUnknown { op, tries, .. } => {
                if let Some((_, message)) = self.answered(*op, *tries) {
                    message.unknown = true;
                }
            }
            EventKind::TopicSized { topic, queues } => self.size(event.lane, *topic, *queues),
            EventKind::Expired { shard, to, .. } => {
                let expired = &mut self.expired[shard.index()];
                *expired = (*expired).max((*to, self.index));
            }
            EventKind::Fault(fault) => {
                let event = self.index;
                if fault.kind.damages() {
                    for lane in &fault.lanes {
                        let damaged = &mut self.nodes[lane.index()].damaged;
                        damaged.get_or_insert((event, event)).1 = event;
                    }
                }
                let (kind, lanes) = (fault.kind, fault.lanes.clone());
                let (fault, side) = (fault.fault, fault.side as usize);
                let before = self.disturbed.0;
                self.faults.push(ActiveFault { fault, kind, lanes, side, event, before });
                if !kind.is_of_handlers() {
                    self.disturb();
                }
            }
            EventKind::FaultHealed { fault } => {
                let index = self.index;
                let healed = self.faults.extract_if(.., |active| active.fault == *fault);
                let kinds: Vec<_> = healed.map(|active| active.kind).collect();
                if kinds.iter().any(|kind| kind.loses_answers()) {
                    self.cut = Some(index);
                }
                if !kinds.iter().all(|kind| kind.is_of_handlers()) {
                    self.disturb();
                }
            }
            EventKind::NodeStarted { life } => {
                let index = self.index;
                let node = &mut self.nodes[event.lane.index()];
                (node.life, node.up, node.sync_failed) = (*life, true, None);
                (node.committed, node.called_durable) = (None, None);
                node.started = Some(index);
                self.disturb_by(event.lane);
            }
            EventKind::NodeStopped { why } => {
                let index = self.index;
                let node = &mut self.nodes[event.lane.index()];
                (node.up, node.down_by) = (false, Some(*why));
                if let Some(producer) = self.producers.get_mut(&event.lane) {
                    producer.alive = false;
                }
                node.stopped = Some(index);
                self.stops.push(index);
                if *why == Stop::PowerLost {
                    let durable = node.durable;
                    node.holds_at_most(durable.unwrap_or(0));
                    let lost = PowerLoss { at: event.at, event: index, durable, kept: None };
                    node.power_losses.push(lost);
                }
                self.disturb_by(event.lane);
            }
            EventKind::ClockIs { ahead_us, drift_ppm } => {
                let clock = &mut self.nodes[event.lane.index()].clock;
                clock.set(event.at, *ahead_us, *drift_ppm);
            }
            EventKind::ChaosEnded => self.chaos_ended = Some((event.at, self.index)),
            EventKind::Quiesced => self.quiesced = Some(self.index),
            EventKind::Recovered { log_end } => self.cut(event.lane, *log_end),
            EventKind::Mark { mark } => {
                if *mark == Mark::SyncFailed {
                    let failed = (self.index, event.at);
                    self.nodes[event.lane.index()].sync_failed.get_or_insert(failed);
                }
            }
            _ => {
                self.absorb_held(event);
                self.absorb_consuming(event);
            }
        }
    }

    fn begin_send(&mut self, event: &Event) {
        let EventKind::SendBegun {
            op,
            message,
            topic,
            shard,
            key,
            tag,
            body_hash,
            one_way,
            held,
            idempotent,
            ..
        } = &event.kind
        else {
            return;
        };
        let (begun, begun_at) = (self.index, event.at);
        let group = self.producer_group(event.lane);
        let half = (*held == Some(Held::Half)).then(|| Half { group, ..Half::default() });
        let known = grown(&mut self.messages, message.index()).get_or_insert(Message {
            begun,
            begun_at,
            producer: event.lane,
            topic: *topic,
            shard: *shard,
            key: *key,
            tag: *tag,
            body_hash: *body_hash,
            open: 0,
            unknown: false,
            refused: None,
            ok: None,
            seen: None,
            copies: 0,
            tries: 0,
            lost: None,
            idempotent: *idempotent,
            held: *held,
            stored_held: None,
            half: half.map(Box::new),
            recall: None,
        });
        known.idempotent &= *idempotent;
        if *one_way {
            known.unknown = true;
            known.tries += 1;
        } else {
            known.open += 1;
        }
        // Another attempt may go to another shard.
        known.shard = if known.shard == *shard { *shard } else { None };
        *grown(&mut self.ops, op.index()) =
            Some(Op { message: *message, begun, begun_at, answered: *one_way });
    }

    /// Stored, and not visible.
    fn hold(&mut self, op: OpId, tries: u8, status: Stored, place: StoredHeld) {
        let Some((id, message)) = self.answered(op, tries) else { return };
        match status {
            Stored::AsPromised => message.stored_held = message.stored_held.or(Some(place)),
            Stored::Weakly => message.unknown = true,
        }
        if let Some(position) = place.position {
            let broker = self.shards[place.shard.index()].broker;
            self.nodes[broker.index()].held.push((position, id));
        }
    }

    pub(super) fn message_mut(&mut self, message: MessageId) -> Option<&mut Message> {
        self.messages.get_mut(message.index())?.as_mut()
    }

    /// That a set has another leader is no excuse: what took the last one may be.
    fn disturb_by(&mut self, lane: LaneId) {
        if self.set(lane).is_none() {
            self.disturb();
        }
    }

    fn disturb(&mut self) {
        self.disturbed = (self.now, self.index);
    }

    fn answered(&mut self, op: OpId, tries: u8) -> Option<(MessageId, &mut Message)> {
        let op = self.ops.get_mut(op.index())?.as_mut()?;
        let message = self.messages[op.message.index()].as_mut()?;
        if !std::mem::replace(&mut op.answered, true) {
            message.open -= 1;
        }
        message.tries += u32::from(tries);
        Some((op.message, message))
    }

    /// Notes that a slot holds a message. In its own topic that is a copy of it;
    /// in a retry or a dead-letter topic it is the same one on its way.
    fn fill(&mut self, id: MessageId, place: Place) {
        let slot = self.slots[place.shard.index()].at(place.offset);
        if slot.message.is_some() {
            return;
        }
        (slot.message, slot.known_by) = (Some(id), place.event);
        let topic = self.shards[place.shard.index()].topic;
        if let Some(message) = self.message_mut(id).filter(|message| message.topic == topic) {
            message.copies += 1;
        }
        if let Some(position) = place.position {
            let broker = self.shards[place.shard.index()].broker;
            let log = &mut self.nodes[broker.index()].log;
            let highest = log.last().map_or(position, |last| last.highest.max(position));
            log.push(Stretch { position, highest, shard: place.shard, offset: place.offset });
        }
    }

    /// A recovered log ends here: what was known beyond it is gone.
    fn cut(&mut self, broker: LaneId, log_end: u64) {
        self.nodes[broker.index()].recovered = Some(self.index);
        self.cut_send_backs(broker, log_end);
        let log = &mut self.nodes[broker.index()].log;
        let kept = log.iter().rposition(|s| s.highest < log_end).map_or(0, |last| last + 1);
        let mut highest = kept.checked_sub(1).map_or(0, |last| log[last].highest);
        for mut stretch in log.split_off(kept) {
            if stretch.position < log_end {
                highest = highest.max(stretch.position);
                stretch.highest = highest;
                self.nodes[broker.index()].log.push(stretch);
                continue;
            }
            let slot = self.slots[stretch.shard.index()].at(stretch.offset);
            slot.lost = Some(self.index);
            let Some(id) = slot.message else { continue };
            let (index, topic) = (self.index, self.shards[stretch.shard.index()].topic);
            let Some(message) = self.message_mut(id).filter(|message| message.topic == topic)
            else {
                continue;
            };
            // With a copy elsewhere it is still owed.
            message.copies = message.copies.saturating_sub(1);
            if message.copies == 0 {
                message.lost = Some(index);
            }
        }
        let held = std::mem::take(&mut self.nodes[broker.index()].held);
        let (kept, lost): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(position, _)| *position < log_end);
        self.nodes[broker.index()].held = kept;
        for (_, id) in lost {
            let index = self.index;
            if let Some(message) = self.message_mut(id) {
                message.lost = Some(index);
            }
        }
    }

    fn size(&mut self, broker: LaneId, topic: TopicId, queues: u32) {
        let known = self.sizes.iter_mut().find(|(b, t, _)| (*b, *t) == (broker, topic));
        let Some((_, _, size)) = known else { return self.sizes.push((broker, topic, queues)) };
        let before = std::mem::replace(size, queues);
        if before < queues {
            self.grown.push((broker, topic, before..queues, self.index));
        }
    }
}
