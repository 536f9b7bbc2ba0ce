//! A member gets what its subscription asks for and nothing else; in
//! broadcasting, every member gets all of it, and nothing again because its
//! handler failed (L16).

use super::{
    EventIndex, Facts, Oracle, Verdict, Violation,
    debts::{Debt, Standing},
    readers::Answer,
};
use crate::history::{Event, EventKind, MemberId, MessageId, Mode, Names, ShardId, TagId};

#[derive(Debug, Default)]
pub struct BroadcastAndFilter;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Delivered against the subscription.
    Unwanted { member: MemberId, shard: ShardId, offset: u64, tag: Option<TagId> },
    /// A member of a broadcasting group never got it.
    Missed { member: MemberId, message: MessageId, slot: Option<(ShardId, u64)> },
    /// In broadcasting nothing is tried again (L16).
    Retried { member: MemberId, message: MessageId, attempt: u32 },
}

impl Oracle for BroadcastAndFilter {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered {
            member, shard, queue_offset, message, tag, attempt, origin, ..
        } = &event.kind
        else {
            return Ok(());
        };
        let subscribed = facts.member(*member);
        if let (Some(message), Some(last)) =
            (*message, tried_before(*member, *shard, *queue_offset, facts))
        {
            let breach = Breach::Retried { member: *member, message, attempt: *attempt };
            return Err(Violation::new(breach, facts, [last]));
        }
        // By the tag that was sent: what was delivered as is another promise.
        let sent = message.and_then(|message| facts.message(message));
        let sent_tag = sent.map_or(*tag, |sent| sent.tag);
        let topic = origin.unwrap_or(facts.shard(*shard).topic);
        if subscribed.started.is_none() || subscribed.wants(topic, sent_tag) {
            return Ok(());
        }
        let (member, shard, offset) = (*member, *shard, *queue_offset);
        let breach = Breach::Unwanted { member, shard, offset, tag: sent_tag };
        Err(Violation::new(breach, facts, sent.map(|sent| sent.begun)))
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        let is_missed = |debt: &Debt<'_>| {
            debt.reader.mode == Mode::Broadcasting
                && (facts.quiesced.is_some() || debt.standing == Standing::Skipped)
        };
        let Some(debt) = facts.debts().find(is_missed).filter(|_| facts.context.recovers) else {
            return Ok(());
        };
        let (member, message) = (debt.reader.members[0], debt.message);
        let slot = debt.place.map(|place| (place.shard, place.offset));
        let breach = Breach::Missed { member, message, slot };
        Err(Violation::new(breach, facts, [debt.promised]))
    }
}

/// The delivery after which a broadcasting member wanted this again, since it
/// reads the shard.
fn tried_before(
    member: MemberId,
    shard: ShardId,
    offset: u64,
    facts: &Facts,
) -> Option<EventIndex> {
    let reader = facts.reader_of(member).filter(|reader| reader.mode == Mode::Broadcasting)?;
    let last = reader.progress(shard)?.seen(offset)?.last?;
    let since = facts.member(member).reading(shard)?.since;
    let last = facts.delivery(last)?;
    (last.answer == Answer::Nacked && last.event > since).then_some(last.event)
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let who = |member: &MemberId| {
            let name = names.of_member(*member);
            format!("{} of {}", names.of_lane(name.client), names.of_group(name.group))
        };
        match self {
            Breach::Unwanted { member, shard, offset, tag } => {
                let slot = names.text_of_slot(*shard, *offset);
                let tag =
                    tag.map_or("no tag".to_owned(), |tag| format!("tag {}", names.of_tag(tag)));
                format!("{} got {slot} with {tag}, which it did not subscribe to", who(member))
            }
            Breach::Retried { member, message, attempt } => {
                format!("{} got {message} again, as attempt {attempt}", who(member))
            }
            Breach::Missed { member, message, slot } => {
                let slot = slot.map_or("where it was held".to_owned(), |(shard, offset)| {
                    names.text_of_slot(shard, offset)
                });
                format!("{} never got {message} from {slot}, as every member should", who(member))
            }
        }
    }
}
