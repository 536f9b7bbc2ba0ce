//! What consumers do: members come and go, read, get messages and answer them.

use std::collections::BTreeMap;

use crate::{
    history::{
        Access, DeliveryId, Event, EventKind, From, GroupId, LaneId, MemberId, MemberStarted, Mode,
        OffsetSource, ShardId, TopicId,
    },
    oracle::{
        facts::{EventIndex, Facts, Place, Stretch, grown},
        readers::{Answer, Delivery, Member, Reader, ReaderId, Reading, SentBack},
        replicas::Stored,
        sparse::Bits,
    },
};

impl Facts {
    pub(super) fn absorb_consuming(&mut self, event: &Event) {
        match &event.kind {
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
            EventKind::Delivered { .. } => self.deliver(event),
            EventKind::Acked { delivery } => self.answer(*delivery, Answer::Acked),
            EventKind::Nacked { delivery, again_after } => {
                if let Some(Some(nacked)) = self.deliveries.get_mut(delivery.index()) {
                    nacked.again_after = *again_after;
                }
                self.answer(*delivery, Answer::Nacked);
            }
            EventKind::Forgotten { delivery } => self.answer(*delivery, Answer::Forgotten),
            EventKind::TimedOut { delivery } => self.time_out(*delivery),
            EventKind::SendBackBegun { delivery, resent } => {
                self.send_back(*delivery, SentBack::Begun);
                if *resent {
                    self.resend(*delivery);
                }
            }
            EventKind::SendBackAnswered { delivery, answered } if answered.is_ok() => {
                self.send_back(*delivery, SentBack::Ok);
            }
            EventKind::SendBackAnswered { delivery, answered } if answered.is_refused() => {
                self.send_back(*delivery, SentBack::Refused);
            }
            EventKind::DeadLetter { group, shard, queue_offset, position, message, .. } => {
                let Some(message) = *message else { return };
                let (event, at) = (self.index, event.at);
                let (shard, offset, position) = (*shard, *queue_offset, Some(*position));
                self.fill(message, Place { event, at, shard, offset, position });
                for reader in self.readers.iter_mut().filter(|reader| reader.group == *group) {
                    reader.dead.insert(message.index());
                }
            }
            EventKind::ResetBegun { group, topic, .. } => self.reset(*group, *topic, true),
            EventKind::ResetAnswered { group, topic, answered }
                if answered.is_ok() || answered.is_refused() =>
            {
                self.reset(*group, *topic, false);
            }
            EventKind::GroupOffset { group, shard, offset, .. } => {
                self.group_offset(*group, *shard, *offset);
            }
            _ => {}
        }
    }

    /// Somebody asks to move a group, or that has been answered: by then it has moved.
    fn reset(&mut self, group: GroupId, topic: TopicId, begins: bool) {
        let (index, shards) = (self.index, &self.shards);
        let readers = self.readers.iter_mut().filter(|reader| reader.group == group);
        for (shard, progress) in readers.flat_map(Reader::shards_mut) {
            if shards[shard.index()].topic == topic {
                progress.resetting = begins.then_some(index);
            }
        }
    }

    fn group_offset(&mut self, group: GroupId, shard: ShardId, offset: u64) {
        let topic = self.shard(shard).topic;
        if !self.committed.iter().any(|(g, t, _)| (*g, *t) == (group, topic)) {
            self.committed.push((group, topic, self.index));
        }
        let mut readers = self.readers.iter();
        let found = readers.position(|r| r.group == group && r.mode == Mode::Clustering);
        let Some(found) = found else { return };
        let reader = &self.readers[found];
        let known = reader.progress(shard);
        let before = known.and_then(|progress| progress.committed).unwrap_or(offset);
        // Commits of its members go on until it is moved: they only go forward
        // over what is done.
        let moves = known.is_some_and(|progress| progress.resetting.is_some())
            && (offset < before || self.unsettled(reader, shard, before..offset).is_some());
        let index = self.index;
        let progress = self.readers[found].progress_mut(shard);
        progress.committed = Some(offset);
        if moves {
            progress.moved(index, offset);
            progress.resetting = None;
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
        let rules = &self.rules[group.index()];
        let reader = known.unwrap_or_else(|| {
            self.readers.push(Reader {
                group,
                mode: started.mode,
                orderly: started.orderly,
                from: started.from,
                pops: started.access == Access::Pop,
                max_attempts: started.max_attempts.unwrap_or(rules.max_attempts),
                members: Vec::new(),
                delivered: Bits::default(),
                acked: Bits::default(),
                forgotten: Bits::default(),
                dead: Bits::default(),
                retries: BTreeMap::new(),
                progress: Vec::new(),
            });
            self.readers.len() - 1
        });
        let known = &mut self.readers[reader];
        if !known.members.contains(&id) {
            known.members.push(id);
        } else if started.mode == Mode::Broadcasting && started.from == From::Last {
            // Nobody keeps its offset for it: what came while it was away is missed (L16).
            for (_, progress) in known.shards_mut() {
                (progress.start, progress.since) = (None, None);
            }
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
        // A member may learn late of a move that others have worked on since.
        if source == OffsetSource::Reset && progress.committed != Some(offset) {
            progress.moved(index, offset);
        }
        progress.start = progress.start.or(Some(offset));
        progress.since = progress.since.or(Some(index));
    }

    fn deliver(&mut self, event: &Event) {
        let EventKind::Delivered {
            delivery: id,
            member,
            shard,
            queue_offset,
            position,
            message,
            attempt,
            origin,
            lease_until,
            ..
        } = &event.kind
        else {
            return;
        };
        let (index, shard, offset) = (self.index, *shard, *queue_offset);
        let (at, position) = (event.at, Some(*position));
        let place = Place { event: index, at, shard, offset, position };
        let is_retry = origin.is_some();
        *grown(&mut self.deliveries, id.index()) = Some(Delivery {
            event: index,
            at,
            member: *member,
            shard,
            offset,
            message: *message,
            answer: Answer::Open,
            attempt: *attempt,
            is_retry,
            is_leased: lease_until.is_some(),
            timed_out: false,
            again_after: None,
            sent_back: SentBack::Never,
        });
        if let Some(message) = *message {
            self.fill(message, place);
            if let Some(message) = self.message_mut(message).filter(|_| !is_retry) {
                message.seen = message.seen.or(Some(place));
            }
        }
        let higher = |high: Option<(u64, EventIndex)>| match high {
            Some(high) if high.0 >= offset => Some(high),
            _ => Some((offset, index)),
        };
        let member = &mut self.members[member.index()];
        let Some(reader) = member.reader else { return };
        let reader = &mut self.readers[reader.0];
        let progress = reader.progress_mut(shard);
        // A client that does not say where it reads has read since it began.
        let reading = grown(&mut member.readings, shard.index()).get_or_insert_with(|| {
            progress.readings += 1;
            Reading::new(member.begun)
        });
        reading.high = higher(reading.high);
        reading.last = Some(*id);
        progress.high = higher(progress.high);
        let seen = progress.seen.at(offset);
        seen.deliveries += 1;
        seen.last = Some(*id);
        let is_new = seen.deliveries == 1;
        let Some(message) = *message else { return };
        reader.delivered.insert(message.index());
        if let Some(retries) = reader.retries.get_mut(&message) {
            retries.cut = false;
        }
        if is_retry || *attempt > 1 {
            let retries = reader.retries.entry(message).or_default();
            retries.slots += u32::from(is_retry && is_new);
            retries.deliveries += u32::from(is_retry);
            retries.highest = retries.highest.max(*attempt);
            retries.last = index;
        }
    }

    fn answer(&mut self, id: DeliveryId, answer: Answer) {
        let Some(Some(delivery)) = self.deliveries.get_mut(id.index()) else { return };
        if !delivery.timed_out {
            delivery.answer = answer;
        }
        let Some(reader) = self.members[delivery.member.index()].reader else { return };
        let reader = &mut self.readers[reader.0];
        // The lease of what is forgotten ends, and it comes again.
        let forgotten = answer == Answer::Forgotten && !delivery.is_leased;
        if let Some(message) = delivery.message {
            match answer {
                Answer::Acked => _ = reader.acked.insert(message.index()),
                Answer::Forgotten if forgotten => _ = reader.forgotten.insert(message.index()),
                _ => {}
            }
        }
        let progress = reader.progress_mut(delivery.shard);
        if forgotten {
            progress.forgotten =
                Some(progress.forgotten.map_or(delivery.offset, |f| f.min(delivery.offset)));
        }
        let seen = progress.seen.at(delivery.offset);
        match answer {
            Answer::Acked => {
                seen.acked = true;
                seen.acked_from = seen.acked_from.max(delivery.event);
            }
            Answer::Nacked => seen.nacks += 1,
            Answer::Forgotten => seen.forgotten = true,
            Answer::Open => {}
        }
    }

    fn time_out(&mut self, id: DeliveryId) {
        self.answer(id, Answer::Nacked);
        let Some(Some(delivery)) = self.deliveries.get_mut(id.index()) else { return };
        delivery.timed_out = true;
        let reader = self.members[delivery.member.index()].reader;
        if let (Some(reader), Some(message)) = (reader, delivery.message) {
            self.readers[reader.0].retries.entry(message).or_default().timed_out = true;
        }
    }

    fn send_back(&mut self, id: DeliveryId, how: SentBack) {
        let Some(Some(delivery)) = self.deliveries.get_mut(id.index()) else { return };
        let is_first = delivery.sent_back == SentBack::Never;
        delivery.sent_back = match (delivery.sent_back, how) {
            // One of several requests was served.
            (SentBack::Ok, _) => SentBack::Ok,
            (_, how) => how,
        };
        let Some(reader) = self.members[delivery.member.index()].reader else { return };
        let reader = &mut self.readers[reader.0];
        if how == SentBack::Ok {
            if !self.context.sync_flush {
                let broker = self.shards[delivery.shard.index()].broker;
                self.nodes[broker.index()].taken_back.push((id, self.index, self.now));
            }
            reader.progress_mut(delivery.shard).seen.at(delivery.offset).sent_back = true;
        }
        let Some(message) = delivery.message else { return };
        let is_last = delivery.attempt >= reader.max_attempts;
        let retries = reader.retries.entry(message).or_default();
        retries.sent_back += u32::from(is_first);
        match how {
            SentBack::Begun => {
                retries.send_backs += 1;
                retries.exhausted += u32::from(is_last);
            }
            SentBack::Refused => {
                retries.send_backs = retries.send_backs.saturating_sub(1);
                retries.exhausted = retries.exhausted.saturating_sub(u32::from(is_last));
            }
            SentBack::Ok | SentBack::Never => {}
        }
    }

    fn resend(&mut self, id: DeliveryId) {
        let Some(Some(delivery)) = self.deliveries.get(id.index()) else { return };
        let reader = self.members[delivery.member.index()].reader;
        if let (Some(reader), Some(message)) = (reader, delivery.message) {
            self.readers[reader.0].retries.entry(message).or_default().resends += 1;
        }
    }

    /// A log that may have lost its end ends here. It is cut in one place: what
    /// was taken back is there if anything is that was asked for later.
    pub(super) fn cut_send_backs(&mut self, broker: LaneId, log_end: u64) {
        let begun = |stretch: &Stretch| {
            let slot = self.slots[stretch.shard.index()].get(stretch.offset)?;
            Some(self.message(slot.message?)?.begun)
        };
        let log = self.nodes[broker.index()].log.iter();
        let kept = log.filter(|stretch| stretch.position < log_end).filter_map(begun).max();
        for (id, event, at) in std::mem::take(&mut self.nodes[broker.index()].taken_back) {
            let Some(Some(delivery)) = self.deliveries.get(id.index()) else { continue };
            let (Some(reader), Some(message)) =
                (self.members[delivery.member.index()].reader, delivery.message)
            else {
                continue;
            };
            let given = delivery.event;
            let what = Stored { begun_at: delivery.at, stored_by: at, event, position: None };
            let is_cut =
                kept.is_none_or(|kept| kept < event) && self.may_be_gone(broker, what).is_ok();
            let retries = self.readers[reader.0].retries.entry(message).or_default();
            retries.cut |= is_cut && retries.last <= given;
        }
    }
}
