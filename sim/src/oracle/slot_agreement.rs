//! A queue offset is given once. Power loss under async flush may take back
//! the message, never the offset.

use super::{Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct SlotAgreement;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    TwoMessages { shard: ShardId, offset: u64, first: MessageId, second: MessageId },
}

impl Oracle for SlotAgreement {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let (shard, offset, second) = match &event.kind {
            EventKind::Delivered { shard, queue_offset, message: Some(message), .. } => {
                (*shard, *queue_offset, *message)
            }
            EventKind::DeadLetter { shard, queue_offset, message: Some(message), .. } => {
                (*shard, *queue_offset, *message)
            }
            EventKind::SendOk { op, shard, queue_offset, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                (*shard, *queue_offset, op.message)
            }
            _ => return Ok(()),
        };
        let Some(slot) = facts.slot(shard, offset) else { return Ok(()) };
        match slot.message {
            Some(first) if first != second => {
                let breach = Breach::TwoMessages { shard, offset, first, second };
                Err(Violation::new(breach, facts, [slot.known_by]))
            }
            _ => Ok(()),
        }
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let Breach::TwoMessages { shard, offset, first, second } = self;
        let slot = names.text_of_slot(*shard, *offset);
        format!("{slot} was {first}, and now it is {second}")
    }
}
