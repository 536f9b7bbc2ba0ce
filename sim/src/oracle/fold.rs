//! How each event changes what is known.

use super::{
    facts::{
        ActiveFault, Answer, Delivery, EventIndex, Facts, Member, Message, Op, Place, Reader,
        ReaderId, Reading, Stretch, grown,
    },
    sparse::Bits,
};
use crate::history::{
    DeliveryId, Event, EventKind, FaultKind, From, LaneId, Mark, MemberId, MemberStarted,
    MessageId, Mode, OffsetSource, OpId, ShardId, Stop, Stored, TopicId,
};

impl Facts {
    /// Folds in an event that has been judged.
    pub fn absorb(&mut self, event: &Event) {
        match &event.kind {
            EventKind::SendBegun {
                op,
                message,
                topic,
                shard,
                key,
                tag,
                body_hash,
                one_way,
                ..
            } => {
                let (begun, begun_at) = (self.index, event.at);
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
                });
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
            EventKind::SendHeld { op, tries, .. } => {
                self.answered(*op, *tries);
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
            EventKind::MemberStarted(started) => self.start_member(started),
            EventKind::MemberStopped { member } | EventKind::MemberCrashed { member } => {
                self.assign(*member, &[]);
                self.members[member.index()].alive = false;
                self.disturb();
            }
            EventKind::MemberPaced { member, pace } => {
                let member = &mut self.members[member.index()];
                (member.paced, member.paced_at) = (Some(*pace), event.at);
            }
            EventKind::Assigned { member, shards } => self.assign(*member, shards),
            EventKind::OffsetRead { member, shard, offset, source } => {
                self.read_from(*member, *shard, *offset, *source);
            }
            EventKind::Delivered {
                delivery,
                member,
                shard,
                queue_offset,
                position,
                message,
                ..
            } => {
                let place = Place {
                    event: self.index,
                    at: event.at,
                    shard: *shard,
                    offset: *queue_offset,
                    position: Some(*position),
                };
                self.deliver(*delivery, *member, *message, place);
            }
            EventKind::Acked { delivery } => self.answer(*delivery, Answer::Acked),
            EventKind::Nacked { delivery, .. } => self.answer(*delivery, Answer::Nacked),
            EventKind::Forgotten { delivery } => self.answer(*delivery, Answer::Forgotten),
            EventKind::TopicSized { topic, queues } => self.size(event.lane, *topic, *queues),
            EventKind::GroupOffset { group, shard, offset, .. } => {
                let topic = self.shard(*shard).topic;
                if !self.committed.iter().any(|(g, t, _)| (g, t) == (group, &topic)) {
                    self.committed.push((*group, topic, self.index));
                }
                let mut readers = self.readers.iter_mut();
                let reader = readers.find(|r| r.group == *group && r.mode == Mode::Clustering);
                if let Some(reader) = reader {
                    reader.progress_mut(*shard).committed = Some(*offset);
                }
            }
            EventKind::ProducerJoined { .. }
            | EventKind::Decided { .. }
            | EventKind::EndBegun { .. }
            | EventKind::EndAnswered { .. }
            | EventKind::CheckReceived { .. }
            | EventKind::RecallBegun { .. }
            | EventKind::RecallAnswered { .. }
            | EventKind::AckAnswered { .. }
            | EventKind::SendBackBegun { .. }
            | EventKind::SendBackAnswered { .. }
            | EventKind::LeaseAsked { .. }
            | EventKind::LeaseAnswered { .. }
            | EventKind::Locked { .. }
            | EventKind::Unlocked { .. }
            | EventKind::DeadLetter { .. }
            | EventKind::ResetBegun { .. }
            | EventKind::ResetAnswered { .. }
            | EventKind::LockHolder { .. }
            | EventKind::HalfParked { .. }
            | EventKind::HalfResumed { .. }
            | EventKind::GroupLost { .. }
            | EventKind::Memory { .. } => {}
            EventKind::Expired { shard, to, .. } => {
                let expired = &mut self.expired[shard.index()];
                *expired = (*expired).max((*to, self.index));
            }
            EventKind::Fault(fault) => {
                let event = self.index;
                if matches!(fault.kind, FaultKind::BitRot | FaultKind::MisdirectedRead) {
                    for lane in &fault.lanes {
                        self.nodes[lane.index()].damaged.get_or_insert(event);
                    }
                }
                let (fault, kind, lanes) = (fault.fault, fault.kind, fault.lanes.clone());
                let before = self.disturbed.0;
                self.faults.push(ActiveFault { fault, kind, lanes, event, before });
                if !kind.is_of_handlers() {
                    self.disturb();
                }
            }
            EventKind::FaultHealed { fault } => {
                let healed = self.faults.extract_if(.., |active| active.fault == *fault);
                if !healed.into_iter().all(|active| active.kind.is_of_handlers()) {
                    self.disturb();
                }
            }
            EventKind::NodeStarted { life } => {
                let index = self.index;
                let node = &mut self.nodes[event.lane.index()];
                (node.life, node.up, node.sync_failed) = (*life, true, None);
                node.started = Some(index);
                self.disturb();
            }
            EventKind::NodeStopped { why } => {
                let lost_power = (event.at, self.index);
                let node = &mut self.nodes[event.lane.index()];
                (node.up, node.down_by) = (false, Some(*why));
                node.stopped = Some(lost_power.1);
                if *why == Stop::PowerLost {
                    node.power_losses.push(lost_power);
                }
                self.disturb();
            }
            EventKind::ChaosEnded => self.chaos_ended = Some((event.at, self.index)),
            EventKind::Quiesced => self.quiesced = Some(self.index),
            EventKind::Recovered { log_end } => self.cut(event.lane, *log_end),
            EventKind::Durable { position } => {
                let durable = &mut self.nodes[event.lane.index()].durable;
                *durable = (*durable).max(Some(*position));
            }
            EventKind::Mark { mark } => {
                if *mark == Mark::SyncFailed {
                    let failed = (self.index, event.at);
                    self.nodes[event.lane.index()].sync_failed.get_or_insert(failed);
                }
            }
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

    /// Notes that a slot holds a message.
    fn fill(&mut self, id: MessageId, place: Place) {
        let slot = self.slots[place.shard.index()].at(place.offset);
        if slot.message.is_some() {
            return;
        }
        (slot.message, slot.known_by) = (Some(id), place.event);
        if let Some(message) = self.messages.get_mut(id.index()).and_then(Option::as_mut) {
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
            let Some(message) = self.messages.get_mut(id.index()).and_then(Option::as_mut) else {
                continue;
            };
            // With a copy elsewhere it is still owed.
            message.copies = message.copies.saturating_sub(1);
            if message.copies == 0 {
                message.lost = Some(self.index);
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

    fn start_member(&mut self, started: &MemberStarted) {
        let id = started.member;
        let group = self.group_of(id);
        let known = self.readers.iter().position(|reader| {
            reader.group == group
                && reader.mode == started.mode
                && (started.mode == Mode::Clustering || reader.members == [id])
        });
        let reader = known.unwrap_or_else(|| {
            self.readers.push(Reader {
                group,
                mode: started.mode,
                orderly: started.orderly,
                from: started.from,
                members: Vec::new(),
                delivered: Bits::default(),
                acked: Bits::default(),
                progress: Vec::new(),
            });
            self.readers.len() - 1
        });
        let known = &mut self.readers[reader];
        if !known.members.contains(&id) {
            known.members.push(id);
        } else if started.mode == Mode::Broadcasting && started.from == From::Last {
            // Nobody keeps its offset for it: what came while it was away is missed (L16).
            known.shards_mut().for_each(|progress| progress.start = None);
        }
        self.members[id.index()] = Member {
            started: Some(started.clone()),
            reader: Some(ReaderId(reader)),
            alive: true,
            begun: self.index,
            ..Member::default()
        };
        self.disturb();
    }

    fn assign(&mut self, id: MemberId, shards: &[ShardId]) {
        let (index, now) = (self.index, self.now);
        let member = &mut self.members[id.index()];
        let before = std::mem::replace(&mut member.owns, shards.into());
        for shard in before.iter().filter(|shard| !shards.contains(shard)) {
            if let Some(Some(reading)) = member.readings.get_mut(shard.index()) {
                reading.released = Some(now);
            }
        }
        for shard in shards.iter().filter(|shard| !before.contains(shard)) {
            *grown(&mut member.readings, shard.index()) = Some(Reading::new(index));
            if let Some(reader) = member.reader {
                let progress = self.readers[reader.0].progress_mut(*shard);
                progress.readings += 1;
                progress.owner = Some((id, now, index));
            }
        }
    }

    fn read_from(&mut self, id: MemberId, shard: ShardId, offset: u64, source: OffsetSource) {
        let index = self.index;
        let member = &mut self.members[id.index()];
        let reading = grown(&mut member.readings, shard.index());
        let fresh = reading.as_ref().is_some_and(|r| r.start.is_none() && r.high.is_none());
        *reading = Some(Reading { start: Some(offset), ..Reading::new(index) });
        let Some(reader) = member.reader else { return };
        let reader = &mut self.readers[reader.0];
        let progress = reader.progress_mut(shard);
        if !fresh {
            progress.readings += 1;
        }
        if source == OffsetSource::Reset {
            progress.reset = Some(index);
            progress.moved_to = Some(offset);
        }
        progress.start = match progress.start {
            Some(start) if source == OffsetSource::Reset => Some(start.max(offset)),
            start => start.or(Some(offset)),
        };
    }

    fn deliver(
        &mut self,
        id: DeliveryId,
        member: MemberId,
        message: Option<MessageId>,
        place: Place,
    ) {
        *grown(&mut self.deliveries, id.index()) = Some(Delivery {
            event: place.event,
            at: place.at,
            member,
            shard: place.shard,
            offset: place.offset,
            message,
            answer: Answer::Open,
        });
        if let Some(message) = message {
            self.fill(message, place);
            if let Some(message) = self.messages.get_mut(message.index()).and_then(Option::as_mut) {
                message.seen = message.seen.or(Some(place));
            }
        }
        let higher = |high: Option<(u64, EventIndex)>| match high {
            Some(high) if high.0 >= place.offset => Some(high),
            _ => Some((place.offset, place.event)),
        };
        let member = &mut self.members[member.index()];
        let Some(reader) = member.reader else { return };
        let reader = &mut self.readers[reader.0];
        let progress = reader.progress_mut(place.shard);
        // A client that does not say where it reads has read since it began.
        let reading = grown(&mut member.readings, place.shard.index()).get_or_insert_with(|| {
            progress.readings += 1;
            Reading::new(member.begun)
        });
        reading.high = higher(reading.high);
        reading.last = Some(id);
        progress.high = higher(progress.high);
        let seen = progress.seen.at(place.offset);
        seen.deliveries += 1;
        seen.last = Some(id);
        if let Some(message) = message {
            reader.delivered.insert(message.index());
        }
    }

    fn answer(&mut self, id: DeliveryId, answer: Answer) {
        let Some(Some(delivery)) = self.deliveries.get_mut(id.index()) else { return };
        delivery.answer = answer;
        let Some(reader) = self.members[delivery.member.index()].reader else { return };
        let reader = &mut self.readers[reader.0];
        if let (Answer::Acked, Some(message)) = (answer, delivery.message) {
            reader.acked.insert(message.index());
        }
        let progress = reader.progress_mut(delivery.shard);
        if answer == Answer::Forgotten {
            progress.forgotten =
                Some(progress.forgotten.map_or(delivery.offset, |f| f.min(delivery.offset)));
        }
        let seen = progress.seen.at(delivery.offset);
        match answer {
            Answer::Acked => seen.acked = true,
            Answer::Nacked => seen.nacks += 1,
            Answer::Forgotten => seen.forgotten = true,
            Answer::Open => {}
        }
    }
}
