//! Messages of one producer to one shard keep their order: what was sent after
//! an OK has a higher queue offset, and comes later. Messages with a key or a
//! sequence number keep it even if several are under way (R3), and those of one
//! key stay in one shard as long as the topic keeps its queues (R2).

use std::collections::BTreeMap;

use super::{EventIndex, Facts, Oracle, Verdict, Violation, facts::Op};
use crate::history::{Event, EventKind, KeyId, LaneId, MessageId, Names, ShardId, TopicId};

#[derive(Debug, Default)]
pub struct ProducerOrder {
    acked: BTreeMap<(LaneId, ShardId), Vec<Acked>>,
    /// By reader, producer and shard: of what came so far, what was sent last.
    latest: BTreeMap<(usize, LaneId, ShardId), (EventIndex, MessageId)>,
    /// Where a key was stored first, and which answer said so.
    keys: BTreeMap<(TopicId, KeyId), (ShardId, EventIndex)>,
    /// With keys: the offsets of what was answered OK, in the order of sending.
    keyed: BTreeMap<(LaneId, ShardId), BTreeMap<EventIndex, (u64, MessageId)>>,
}

/// The highest offset that a producer knew of when it got this answer.
#[derive(Clone, Copy, Debug)]
struct Acked {
    event: EventIndex,
    offset: u64,
    message: MessageId,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Stored { shard: ShardId, before: MessageId, at: u64, after: MessageId, after_at: u64 },
    Delivered { shard: ShardId, before: MessageId, after: MessageId },
    KeyMoved { key: KeyId, message: MessageId, from: ShardId, to: ShardId },
}

impl Oracle for ProducerOrder {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::SendOk { op, shard, queue_offset, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                let (shard, offset) = (*shard, *queue_offset);
                self.check_key(op.message, shard, facts)?;
                self.check_keyed(event.lane, op, (shard, offset), facts)?;
                let acked = self.acked.entry((event.lane, shard)).or_default();
                // Only sends in flight lie between the two: the search is short.
                let before = acked.iter().rev().find(|acked| acked.event < op.begun);
                if let Some(before) = before.filter(|before| before.offset > offset) {
                    let breach = Breach::Stored {
                        shard,
                        before: before.message,
                        at: before.offset,
                        after: op.message,
                        after_at: offset,
                    };
                    return Err(Violation::new(breach, facts, [before.event, op.begun]));
                }
                if acked.last().is_none_or(|last| last.offset < offset) {
                    acked.push(Acked { event: facts.index, offset, message: op.message });
                }
                Ok(())
            }
            EventKind::Delivered { member, shard, queue_offset, message: Some(id), .. } => {
                let Some(message) = facts.message(*id) else { return Ok(()) };
                let Some(reader) = facts.member(*member).reader else { return Ok(()) };
                let known = facts.reader(reader);
                if known.pops || facts.disagrees(known) {
                    return Ok(());
                }
                let is_first = !known.delivered.contains(id.index());
                let here = message.ok.filter(|ok| (ok.shard, ok.offset) == (*shard, *queue_offset));
                let (Some(ok), true) = (here, is_first) else { return Ok(()) };
                let latest = self
                    .latest
                    .entry((reader.index(), message.producer, *shard))
                    .or_insert((message.begun, *id));
                if ok.event < latest.0 {
                    let breach = Breach::Delivered { shard: *shard, before: *id, after: latest.1 };
                    return Err(Violation::new(breach, facts, [ok.event, latest.0]));
                }
                *latest = (*latest).max((message.begun, *id));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl ProducerOrder {
    fn check_key(&mut self, id: MessageId, shard: ShardId, facts: &Facts) -> Verdict {
        let Some(message) = facts.message(id) else { return Ok(()) };
        let Some(key) = message.key else { return Ok(()) };
        let first = self.keys.entry((message.topic, key)).or_insert((shard, facts.index));
        let has_grown = facts.grown.iter().any(|(_, topic, ..)| *topic == message.topic);
        if first.0 == shard || has_grown {
            return Ok(());
        }
        let (from, known_by) = *first;
        let breach = Breach::KeyMoved { key, message: id, from, to: shard };
        Err(Violation::new(breach, facts, [known_by, message.begun]))
    }
}

impl ProducerOrder {
    fn check_keyed(
        &mut self,
        lane: LaneId,
        op: &Op,
        (shard, offset): (ShardId, u64),
        facts: &Facts,
    ) -> Verdict {
        let Some(message) = facts.message(op.message) else { return Ok(()) };
        if message.key.is_none() && !message.idempotent {
            return Ok(());
        }
        let keyed = self.keyed.entry((lane, shard)).or_default();
        keyed.insert(op.begun, (offset, op.message));
        let mut around = keyed.range(..op.begun).next_back().into_iter().collect::<Vec<_>>();
        around.extend(keyed.range(op.begun..).take(2));
        for pair in around.windows(2) {
            let [(begun, (at, before)), (later, (after_at, after))] = [pair[0], pair[1]];
            if at > after_at {
                let (before, at, after, after_at) = (*before, *at, *after, *after_at);
                let breach = Breach::Stored { shard, before, at, after, after_at };
                return Err(Violation::new(breach, facts, [*begun, *later]));
            }
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Stored { shard, before, at, after, after_at } => {
                let shard = names.text_of_shard(*shard);
                format!(
                    "{after} had to come after {before}, but in {shard} it is at \
                     {after_at}, and {before} at {at}"
                )
            }
            Breach::KeyMoved { key, message, from, to } => format!(
                "{message} with key {} was stored in {}, earlier messages of that key in {}",
                names.of_key(*key),
                names.text_of_shard(*to),
                names.text_of_shard(*from)
            ),
            Breach::Delivered { shard, before, after } => {
                let shard = names.text_of_shard(*shard);
                format!(
                    "{after} was sent to {shard} after {before} was answered OK, but came first"
                )
            }
        }
    }
}
