//! Replies mean what they say: refused is never visible, OK is where it was
//! asked to be. Unknown may be either.

use super::{Facts, Oracle, Verdict, Violation, facts::Message};
use crate::history::{Event, EventKind, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct HonestReplies;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    RefusedButVisible { message: MessageId, shard: ShardId, offset: u64 },
    StoredElsewhere { message: MessageId, asked: Option<ShardId>, got: ShardId },
}

impl Oracle for HonestReplies {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Delivered { message: Some(id), shard, queue_offset, .. } => {
                let Some(message) = facts.message(*id) else { return Ok(()) };
                let (Some(refused), true) = (message.refused, is_settled(message, 0)) else {
                    return Ok(());
                };
                let (message, shard, offset) = (*id, *shard, *queue_offset);
                let breach = Breach::RefusedButVisible { message, shard, offset };
                Err(Violation::new(breach, facts, [refused]))
            }
            EventKind::SendRefused { op, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                let Some(message) = facts.message(op.message) else { return Ok(()) };
                let (Some(seen), true) = (message.seen, is_settled(message, 1)) else {
                    return Ok(());
                };
                let (shard, offset) = (seen.shard, seen.offset);
                let breach = Breach::RefusedButVisible { message: op.message, shard, offset };
                Err(Violation::new(breach, facts, [op.begun, seen.event]))
            }
            EventKind::SendOk { op, shard, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                let Some(message) = facts.message(op.message) else { return Ok(()) };
                let topic = facts.shard(*shard).topic;
                if topic == message.topic && message.shard.is_none_or(|asked| asked == *shard) {
                    return Ok(());
                }
                let (message, asked) = (op.message, message.shard);
                let breach = Breach::StoredElsewhere { message, asked, got: *shard };
                Err(Violation::new(breach, facts, [op.begun]))
            }
            _ => Ok(()),
        }
    }
}

/// Whether all its operations but `open` have ended, none of them in a way
/// that may have stored it.
fn is_settled(message: &Message, open: u32) -> bool {
    message.open == open && message.ok.is_none() && !message.unknown
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::RefusedButVisible { message, shard, offset } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} was refused, yet delivered from {slot}")
            }
            Breach::StoredElsewhere { message, asked, got } => {
                let got = names.text_of_shard(*got);
                let asked = asked.map_or("another topic".to_owned(), |s| names.text_of_shard(s));
                format!("{message} was sent to {asked} and answered OK from {got}")
            }
        }
    }
}
