//! A group meets a shard's messages in log order, whoever owns the shard; an
//! orderly group starts the next only when the last is acknowledged or a dead
//! letter, also when it changes hands in between.

use super::{
    Facts, Oracle, Verdict, Violation,
    readers::{Answer, SentBack},
};
use crate::history::{DeliveryId, Event, EventKind, GroupId, Names, ShardId};

#[derive(Debug, Default)]
pub struct ShardOrder;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Backwards { group: GroupId, shard: ShardId, offset: u64, after: u64 },
    TooEarly { group: GroupId, shard: ShardId, offset: u64, open: u64, delivery: DeliveryId },
}

impl Oracle for ShardOrder {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered { member, shard, queue_offset, .. } = &event.kind else {
            return Ok(());
        };
        let (shard, offset) = (*shard, *queue_offset);
        // Several members lease from one shard at a time: no order was promised.
        let Some(reader) = facts.reader_of(*member).filter(|reader| !reader.pops) else {
            return Ok(());
        };
        if facts.disagrees(reader) {
            return Ok(());
        }
        let Some(progress) = reader.progress(shard) else { return Ok(()) };
        let reading = facts.member(*member).reading(shard);
        let group = reader.group;

        // A reset moves the group back on purpose: then order counts anew.
        let anew = reading.filter(|reading| progress.reset.is_some_and(|at| reading.since >= at));
        let high = anew.map_or(progress.high, |reading| reading.high);
        if let Some((after, by)) = high.filter(|(high, _)| offset < *high)
            && progress.seen(offset).is_none()
        {
            let breach = Breach::Backwards { group, shard, offset, after };
            return Err(Violation::new(breach, facts, [by]));
        }

        let last = reading.and_then(|reading| reading.last).filter(|_| reader.orderly);
        if let Some((id, last)) = last.and_then(|id| Some((id, facts.delivery(id)?)))
            && last.offset != offset
            && last.answer != Answer::Acked
            && last.sent_back != SentBack::Ok
        {
            let breach = Breach::TooEarly { group, shard, offset, open: last.offset, delivery: id };
            return Err(Violation::new(breach, facts, [last.event]));
        }
        // The same across a hand-over: whoever had the last, it is done with.
        let before = high.filter(|(high, _)| reader.orderly && *high < offset);
        if let Some((open, by)) = before
            && let Some(seen) = progress.seen(open).filter(|seen| !seen.is_settled())
            && facts.slot(shard, open).is_some_and(|slot| slot.lost.is_none())
            && !facts.is_expired(shard, open)
            && let Some(delivery) = seen.last
        {
            let breach = Breach::TooEarly { group, shard, offset, open, delivery };
            return Err(Violation::new(breach, facts, [by]));
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Backwards { group, shard, offset, after } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                format!("{group} first got {slot} after it had got {after}")
            }
            Breach::TooEarly { group, shard, offset, open, delivery } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                let delivery = delivery.number();
                format!(
                    "orderly {group} got {slot} before {open} was acknowledged (delivery {delivery})"
                )
            }
        }
    }
}
