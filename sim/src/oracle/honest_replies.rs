//! Replies mean what they say: refused is never visible, OK is where it was
//! asked to be. Unknown may be either. And nobody is told that a topic does not
//! exist when it does (N2).

use std::collections::BTreeMap;

use super::{EventIndex, Facts, Oracle, Verdict, Violation, facts::Message};
use crate::history::{Event, EventKind, MessageId, Names, ShardId, TopicId};

/// RocketMQ's TOPIC_NOT_EXIST.
const TOPIC_NOT_EXIST: i32 = 17;

#[derive(Debug, Default)]
pub struct HonestReplies {
    /// When a broker first had the topic.
    topics: BTreeMap<TopicId, EventIndex>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    RefusedButVisible { message: MessageId, shard: ShardId, offset: u64 },
    StoredElsewhere { message: MessageId, asked: Option<ShardId>, got: ShardId },
    TopicDenied { message: MessageId, topic: TopicId },
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
            EventKind::TopicSized { topic, .. } => {
                self.topics.entry(*topic).or_insert(facts.index);
                Ok(())
            }
            EventKind::SendRefused { op, code, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                let Some(message) = facts.message(op.message) else { return Ok(()) };
                let existed = self.topics.get(&message.topic).filter(|since| **since < op.begun);
                if let (TOPIC_NOT_EXIST, Some(since)) = (*code, existed) {
                    let breach = Breach::TopicDenied { message: op.message, topic: message.topic };
                    return Err(Violation::new(breach, facts, [*since, op.begun]));
                }
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
            Breach::TopicDenied { message, topic } => {
                let topic = names.of_topic(*topic);
                format!("{message} was refused because there is no topic {topic}, which there is")
            }
            Breach::StoredElsewhere { message, asked, got } => {
                let got = names.text_of_shard(*got);
                let asked = asked.map_or("another topic".to_owned(), |s| names.text_of_shard(s));
                format!("{message} was sent to {asked} and answered OK from {got}")
            }
        }
    }
}
