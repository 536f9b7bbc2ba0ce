//! Nothing is delivered that nobody sent.

use super::{Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, KeyId, MessageId, Names, ShardId, TagId};

#[derive(Debug, Default)]
pub struct NoPhantom;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// The body is none that a workload wrote.
    ForeignBody {
        shard: ShardId,
        offset: u64,
    },
    NeverSent {
        message: MessageId,
        shard: ShardId,
        offset: u64,
    },
    WrongBody {
        message: MessageId,
        sent: u32,
        got: u32,
    },
    WrongKey {
        message: MessageId,
        sent: Option<KeyId>,
        got: Option<KeyId>,
    },
    WrongTag {
        message: MessageId,
        sent: Option<TagId>,
        got: Option<TagId>,
    },
    WrongShard {
        message: MessageId,
        got: ShardId,
    },
}

impl Oracle for NoPhantom {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered {
            shard, queue_offset, message, body_hash, key, tag, origin, ..
        } = &event.kind
        else {
            return Ok(());
        };
        let (shard, offset) = (*shard, *queue_offset);
        // Wrong bytes from a damaged disk break another promise: fault honesty.
        let damaged = facts.damaged(shard).is_some();
        let Some(id) = *message else {
            let breach = Breach::ForeignBody { shard, offset };
            return if damaged { Ok(()) } else { Err(Violation::new(breach, facts, [])) };
        };
        let Some(sent) = facts.message(id) else {
            let breach = Breach::NeverSent { message: id, shard, offset };
            return Err(Violation::new(breach, facts, []));
        };
        let breach = if sent.body_hash != *body_hash && !damaged {
            Breach::WrongBody { message: id, sent: sent.body_hash, got: *body_hash }
        } else if sent.key != *key {
            Breach::WrongKey { message: id, sent: sent.key, got: *key }
        } else if sent.tag != *tag {
            Breach::WrongTag { message: id, sent: sent.tag, got: *tag }
        } else if sent.topic != origin.unwrap_or(facts.shard(shard).topic)
            || (origin.is_none() && sent.shard.is_some_and(|s| s != shard))
        {
            Breach::WrongShard { message: id, got: shard }
        } else {
            return Ok(());
        };
        Err(Violation::new(breach, facts, [sent.begun]))
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::ForeignBody { shard, offset } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("the body delivered from {slot} is none that anybody sent")
            }
            Breach::NeverSent { message, shard, offset } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} was delivered from {slot} and never sent")
            }
            Breach::WrongBody { message, sent, got } => {
                format!("{message} was sent with body {sent:08x} and delivered with {got:08x}")
            }
            Breach::WrongKey { message, sent, got } => {
                let text = |key: &Option<KeyId>| {
                    key.map_or("no key".to_owned(), |key| format!("key {}", names.of_key(key)))
                };
                format!("{message} was sent with {} and delivered with {}", text(sent), text(got))
            }
            Breach::WrongTag { message, sent, got } => {
                let text = |tag: &Option<TagId>| {
                    tag.map_or("no tag".to_owned(), |tag| format!("tag {}", names.of_tag(tag)))
                };
                format!("{message} was sent with {} and delivered with {}", text(sent), text(got))
            }
            Breach::WrongShard { message, got } => {
                let shard = names.text_of_shard(*got);
                format!("{message} was delivered from {shard}, where nobody sent it")
            }
        }
    }
}
