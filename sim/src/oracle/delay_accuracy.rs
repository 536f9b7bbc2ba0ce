//! A delayed message comes when it is due: not before, by the clock of the
//! broker that holds it, and soon after, faults excused. One that was taken
//! back never comes.

use super::{Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct DelayAccuracy;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Early {
        message: MessageId,
        shard: ShardId,
        offset: u64,
        by_micros: u64,
    },
    /// With no fault in its way, to a member that waited.
    Late {
        message: MessageId,
        shard: ShardId,
        offset: u64,
        by_micros: u64,
    },
    /// The broker said that it was taken back.
    Recalled {
        message: MessageId,
    },
}

impl Oracle for DelayAccuracy {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Delivered {
                member,
                message: Some(id),
                shard,
                queue_offset,
                origin: None,
                ..
            } => {
                let (shard, offset) = (*shard, *queue_offset);
                let Some(message) = facts.message(*id) else { return Ok(()) };
                let recalled = message.recall.and_then(|recall| recall.done);
                if let Some(recalled) = recalled.filter(|_| message.most_copies() <= 1) {
                    let breach = Breach::Recalled { message: *id };
                    return Err(Violation::new(breach, facts, [recalled]));
                }
                let Some((least, most)) = facts.due(message) else { return Ok(()) };
                let broker = facts.shard(shard).broker;
                if facts.is_early(broker, least, message.begun_at) {
                    let shown = facts.shown(broker, facts.now, facts.now).1;
                    let by_micros = (least - shown) as u64;
                    let breach = Breach::Early { message: *id, shard, offset, by_micros };
                    return Err(Violation::new(breach, facts, [message.begun]));
                }
                let reader = facts.reader_of(*member);
                let is_first = reader.is_some_and(|r| !r.delivered.contains(id.index()));
                let late = facts.late_by(broker, most, *member, shard).filter(|_| is_first);
                let late = late.filter(|late| {
                    message.stored_held.is_some() && *late > facts.context.delay_slack
                });
                let Some(by_micros) = late else { return Ok(()) };
                let breach = Breach::Late { message: *id, shard, offset, by_micros };
                Err(Violation::new(breach, facts, [message.begun]))
            }
            EventKind::RecallAnswered { message: id, answered } if answered.is_ok() => {
                let Some(message) = facts.message(*id) else { return Ok(()) };
                let Some(seen) = message.seen.filter(|_| message.most_copies() <= 1) else {
                    return Ok(());
                };
                Err(Violation::new(Breach::Recalled { message: *id }, facts, [seen.event]))
            }
            _ => Ok(()),
        }
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Early { message, shard, offset, by_micros } => {
                let slot = names.text_of_slot(*shard, *offset);
                let millis = by_micros / 1000;
                format!("{message} came from {slot} {millis} ms before it was due")
            }
            Breach::Late { message, shard, offset, by_micros } => {
                let slot = names.text_of_slot(*shard, *offset);
                let millis = by_micros / 1000;
                format!(
                    "{message} came from {slot} {millis} ms after it was due, to a member that \
                     waited, with no fault in its way"
                )
            }
            Breach::Recalled { message } => {
                format!("{message} was taken back, says the broker, and came all the same")
            }
        }
    }
}
