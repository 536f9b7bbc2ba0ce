//! Who is owed which message: what follows from an OK, a subscription and a
//! start offset, less what expired and what power loss may take.

use super::{
    Facts,
    facts::{Answer, Delivery, Message, Place, Reader},
};
use crate::history::{From, MessageId, Mode, Pace, ShardId, TagId, TopicId};

/// A message that a reader must get and has not got, or not acknowledged.
#[derive(Clone, Copy)]
pub struct Debt<'a> {
    pub reader: &'a Reader,
    pub message: MessageId,
    pub place: Place,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
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

    /// Whether anything is still to come: the answer to a send, or a message.
    pub fn is_pending(&self) -> bool {
        self.all_ops().any(|(_, op)| !op.answered) || self.debts().next().is_some()
    }

    fn debt<'a>(&self, reader: &'a Reader, id: MessageId, message: &Message) -> Option<Debt<'a>> {
        let delivered = reader.delivered.contains(id.index());
        // In broadcasting nobody waits for an acknowledgement (L16).
        let settled = match reader.mode {
            Mode::Clustering => reader.acked.contains(id.index()),
            Mode::Broadcasting => delivered,
        };
        if settled {
            return None;
        }
        let place = self.owed(reader, message)?;
        let passed = reader.progress(place.shard).is_some_and(|p| p.has_passed(place.offset));
        let standing = match (delivered, passed) {
            (true, _) => Standing::Unanswered,
            (false, true) => Standing::Skipped,
            (false, false) => Standing::Ahead,
        };
        Some(Debt { reader, message: id, place, standing })
    }

    /// Where a reader must find this message in the end, if it must.
    pub fn owed(&self, reader: &Reader, message: &Message) -> Option<Place> {
        let place = message.stored()?;
        let (shard, offset) = (place.shard, place.offset);
        let progress = reader.progress(shard);
        let forgotten = progress.is_some_and(|progress| match progress.forgotten {
            // An orderly shard stands still behind a message without an answer.
            Some(first) if reader.orderly => first <= offset,
            Some(_) => progress.seen(offset).is_some_and(|seen| seen.forgotten),
            None => false,
        });
        let owed = self.wants(reader, message.topic, message.tag)
            && self.starts_at(reader, shard).is_some_and(|start| start <= offset)
            && !forgotten
            && !self.is_expired(shard, offset)
            && (self.context.may_lose_nothing || !self.may_be_lost(message));
        owed.then_some(place)
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
        let broker = self.broker_of(stored.shard);
        // The recovered log says exactly what is gone; the clock only roughly.
        let is_known = stored.position.is_some()
            && broker.recovered.is_some_and(|recovered| {
                recovered > stored.event
                    && broker.power_losses.last().is_some_and(|(_, lost)| *lost < recovered)
            });
        let at_risk = || self.was_at_risk(message, stored.shard, stored.at);
        message.lost.is_some() || (!is_known && at_risk())
    }

    /// Whether it may have been unsynced when the power of its broker failed:
    /// under async flush, stored no longer before than the flush interval.
    pub fn was_at_risk(&self, message: &Message, shard: ShardId, stored_by: u64) -> bool {
        !self.context.sync_flush
            && self.broker_of(shard).power_losses.iter().any(|(at, _)| {
                message.begun_at <= *at && stored_by >= at.saturating_sub(self.context.flush_window)
            })
    }
}
