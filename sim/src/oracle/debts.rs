//! Who is owed which message: what follows from an OK, a subscription and a
//! start offset, less what expired and what power loss may take.

use std::ops::Range;

use super::{
    EventIndex, Facts,
    facts::{Message, Place},
    readers::{Answer, Delivery, Reader},
    replicas::Stored,
};
use crate::history::{Decision, From, MessageId, Mode, Pace, ShardId, TagId, TopicId};

/// A message that a reader must get and has not got, or not acknowledged.
#[derive(Clone, Copy)]
pub struct Debt<'a> {
    pub reader: &'a Reader,
    pub message: MessageId,
    /// The event that promised it.
    pub promised: EventIndex,
    /// Where it is. What was promised to become visible has no place before.
    pub place: Option<Place>,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Committed, or due, and not seen by anybody.
    Invisible,
    /// The reader has not come to it yet.
    Ahead,
    /// The reader is beyond it and never got it.
    Skipped,
    /// It was delivered, and its group has not acknowledged it.
    Unanswered,
}

impl Facts {
    /// What readers are owed that could have had it by now.
    pub fn debts(&self) -> impl Iterator<Item = Debt<'_>> {
        let able = self.readers.iter().filter(|reader| self.is_able(reader));
        able.flat_map(|reader| {
            self.all_messages().filter_map(|(id, message)| self.debt(reader, id, message))
        })
    }

    /// Whether anything is still to come: the answer to a send, the end of a
    /// transaction, a message, or somebody who is not there.
    pub fn is_pending(&self) -> bool {
        (self.context.recovers && self.absent().is_some())
            || self.all_ops().any(|(_, op)| !op.answered)
            || self.all_messages().any(|(_, message)| self.is_undecided(message))
            || self.debts().next().is_some()
    }

    /// Whether the broker holds it as a half that somebody lives to decide on.
    pub fn is_undecided(&self, message: &Message) -> bool {
        let Some(half) = message.half.as_deref() else { return false };
        let is_held = message.stored_held.is_some() && message.seen.is_none();
        is_held
            && half.parked.is_none()
            && message.lost.is_none()
            && half.ended.is_none()
            // Nobody sees whether a rollback has arrived.
            && half.told_rollback.is_none()
            && half.group.is_some_and(|group| self.has_producer(group))
    }

    fn debt<'a>(&self, reader: &'a Reader, id: MessageId, message: &Message) -> Option<Debt<'a>> {
        let delivered = reader.delivered.contains(id.index());
        // In broadcasting nobody waits for an acknowledgement (L16).
        let settled = match reader.mode {
            Mode::Clustering => {
                reader.acked.contains(id.index())
                    || reader.dead.contains(id.index())
                    || reader.retries(id).cut
            }
            Mode::Broadcasting => delivered,
        };
        if settled || !self.wants(reader, message.topic, message.tag) {
            return None;
        }
        let Some(place) = message.stored() else {
            let promised = self.promise(reader, message)?;
            let standing = Standing::Invisible;
            return Some(Debt { reader, message: id, promised, place: None, standing });
        };
        self.owed(reader, id, message)?;
        let passed = reader.progress(place.shard).is_some_and(|p| p.has_passed(place.offset));
        let standing = match (delivered, passed) {
            (true, _) => Standing::Unanswered,
            (false, true) if !reader.pops => Standing::Skipped,
            (false, _) => Standing::Ahead,
        };
        let promised = place.event;
        Some(Debt { reader, message: id, promised, place: Some(place), standing })
    }

    /// Where a reader must find this message in the end, if it must.
    fn owed(&self, reader: &Reader, id: MessageId, message: &Message) -> Option<Place> {
        let place = message.stored()?;
        let (shard, offset) = (place.shard, place.offset);
        // An orderly shard stands still behind a message without an answer.
        let stands_still = || {
            let first = reader.progress(shard).and_then(|progress| progress.forgotten);
            reader.orderly && first.is_some_and(|first| first <= offset)
        };
        let owed = self.starts_at(reader, shard).is_some_and(|start| start <= offset)
            && !reader.forgotten.contains(id.index())
            && !stands_still()
            && !self.is_expired(shard, offset)
            && (self.context.may_lose_nothing || !self.may_be_lost(message));
        owed.then_some(place)
    }

    /// What promised that a message which nobody has seen will be there: the
    /// commit of its transaction, or that it was stored to be delivered later.
    fn promise(&self, reader: &Reader, message: &Message) -> Option<EventIndex> {
        let stored = message.stored_held?;
        let promised = match message.half.as_deref() {
            Some(_) => self.decision(message).filter(|d| d.decision == Decision::Commit)?.event,
            None => {
                let by = self.due(message)?.1;
                let due = self.when_shown(self.shard(stored.shard).broker, by);
                let taken_back = message.recall.is_some_and(|recall| !recall.refused);
                (self.is_awaited(due) && !taken_back).then_some(stored.event)?
            }
        };
        let since = reader.progress(stored.shard).and_then(|progress| progress.since);
        let from_start = reader.from == From::First
            && reader.progress(stored.shard).is_none_or(|progress| progress.moved_to.is_none());
        let reads = from_start || since.is_some_and(|since| since < message.begun);
        let at_risk = message.lost.is_some() || self.was_at_risk(message, stored.shard, stored.at);
        (reads && (self.context.may_lose_nothing || !at_risk)).then_some(promised)
    }

    /// Whether the run lasts long enough for what is due then.
    fn is_awaited(&self, due: u64) -> bool {
        self.chaos_ended.is_none_or(|(ended, _)| due <= ended + self.context.settle / 2)
    }

    /// The first message in these offsets that the group has not settled, since
    /// it was last moved on purpose, and should have.
    pub fn unsettled(
        &self,
        reader: &Reader,
        shard: ShardId,
        mut offsets: Range<u64>,
    ) -> Option<(u64, MessageId)> {
        offsets.find_map(|offset| {
            let slot = self.slot(shard, offset).filter(|slot| slot.lost.is_none())?;
            let id = slot.message?;
            let message = self.message(id)?;
            let progress = reader.progress(shard);
            let settled = progress.and_then(|progress| progress.seen(offset)).is_some_and(|seen| {
                let reset = progress.and_then(|progress| progress.reset);
                // What was acknowledged before the reset is to be done again (O4).
                let again = reset.is_some_and(|reset| seen.acked_from < reset);
                (seen.acked && !again) || seen.sent_back
            });
            // Of what is leased, the broker itself knows what is done.
            let wanted = !reader.pops && self.wants(reader, message.topic, message.tag);
            let owed = !settled && wanted && !self.may_be_lost(message);
            owed.then_some((offset, id))
        })
    }

    /// From where on a reader is owed a shard, if that is known.
    pub fn starts_at(&self, reader: &Reader, shard: ShardId) -> Option<u64> {
        let name = self.shard(shard);
        let joined = self.grown.iter().find(|(broker, topic, queues, _)| {
            (*broker, *topic) == (name.broker, name.topic) && queues.contains(&name.queue)
        });
        let committed = self
            .committed
            .iter()
            .find(|(group, topic, _)| (*group, *topic) == (reader.group, name.topic));
        // A queue younger than the group's progress is read from its start (L14).
        let is_young = matches!((joined, committed), (Some(j), Some(c)) if c.2 < j.3);
        if reader.from == From::First || is_young {
            let moved = reader.progress(shard).and_then(|progress| progress.moved_to);
            return Some(moved.unwrap_or(0));
        }
        reader.progress(shard)?.start
    }

    /// Whether every living member of the reader asks for this. Members of a
    /// group that disagree (L15) owe only what all of them ask for.
    pub fn wants(&self, reader: &Reader, topic: TopicId, tag: Option<TagId>) -> bool {
        let mut living = self.living(reader).peekable();
        living.peek().is_some() && living.all(|member| member.wants(topic, tag))
    }

    /// Whether its members disagree about what they subscribe to (L15): then
    /// nobody knows what comes in which order.
    pub fn disagrees(&self, reader: &Reader) -> bool {
        let mut all = reader.members.iter().filter_map(|m| self.member(*m).started.as_ref());
        let first = all.next();
        all.any(|other| Some(&other.subscriptions) != first.map(|first| &first.subscriptions))
    }

    /// Whether the reader could have worked through everything by now.
    pub fn is_able(&self, reader: &Reader) -> bool {
        let mut living = self.living(reader).peekable();
        living.peek().is_some() && living.all(|member| member.paced != Some(Pace::Stalled))
    }

    /// Whether nobody of the reader works on anything.
    pub fn is_idle(&self, reader: &Reader) -> bool {
        let is_in_hand = |delivery: &Delivery| {
            let member = self.member(delivery.member);
            let here = member.alive && member.begun < delivery.event;
            here && delivery.answer == Answer::Open && reader.members.contains(&delivery.member)
        };
        self.living(reader).all(|member| !member.is_paced())
            && !self.deliveries.iter().flatten().any(is_in_hand)
    }

    /// Whether power loss under async flush excuses that this is gone.
    pub fn may_be_lost(&self, message: &Message) -> bool {
        let Some(stored) = message.stored() else { return true };
        let lane = self.shard(stored.shard).broker;
        if self.set(lane).is_some() {
            let (begun_at, stored_by) = (message.begun_at, stored.at);
            let Place { event, position, .. } = stored;
            let stored = Stored { begun_at, stored_by, event, position };
            return message.lost.is_some() || self.may_be_gone(lane, stored).is_ok();
        }
        let broker = self.node(lane);
        // The recovered log says exactly what is gone; the clock only roughly.
        let is_known = stored.position.is_some()
            && broker.recovered.is_some_and(|recovered| {
                recovered > stored.event
                    && broker.power_losses.last().is_some_and(|lost| lost.event < recovered)
            });
        let at_risk = || self.was_at_risk(message, stored.shard, stored.at);
        message.lost.is_some() || (!is_known && at_risk())
    }

    /// Whether it may have been unsynced when the power of its broker failed:
    /// under async flush, stored no longer before than the flush interval.
    pub fn was_at_risk(&self, message: &Message, shard: ShardId, stored_by: u64) -> bool {
        !self.context.sync_flush
            && self.power_losses(self.shard(shard).broker).any(|loss| {
                let earliest = loss.at.saturating_sub(self.context.flush_window);
                message.begun_at <= loss.at && stored_by >= earliest
            })
    }
}
