//! At least once: a run that has come to rest owes nobody a message.
//!
//! Owed is what was answered OK, and what was answered by nobody but seen by
//! somebody: once an unknown outcome is decided, it stays so.

use super::{Facts, Oracle, Verdict, Violation};
use crate::history::{Event, GroupId, MessageId, Mode, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoLoss;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    NeverDelivered { group: GroupId, message: MessageId, shard: ShardId, offset: u64, acked: bool },
    NeverAcked { group: GroupId, message: MessageId, shard: ShardId, offset: u64 },
}

impl Oracle for NoLoss {
    fn event(&mut self, _event: &Event, _facts: &Facts) -> Verdict {
        Ok(())
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        if facts.quiesced.is_none() || !facts.context.recovers {
            return Ok(());
        }
        let groups = facts.readers.iter().filter(|reader| reader.mode == Mode::Clustering);
        for reader in groups.filter(|reader| facts.is_able(reader)) {
            for (id, message) in facts.all_messages() {
                if reader.acked.contains(id.index()) {
                    continue;
                }
                let Some(place) = facts.owed(reader, message) else { continue };
                let (group, shard, offset) = (reader.group, place.shard, place.offset);
                let breach = if reader.delivered.contains(id.index()) {
                    Breach::NeverAcked { group, message: id, shard, offset }
                } else {
                    let acked = message.ok.is_some();
                    Breach::NeverDelivered { group, message: id, shard, offset, acked }
                };
                return Err(Violation::new(breach, facts, [message.begun, place.event]));
            }
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::NeverDelivered { group, message, shard, offset, acked } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                let known = if *acked { "was answered OK" } else { "was seen by another group" };
                format!("{message} {known} at {slot}, and the group {group} never got it")
            }
            Breach::NeverAcked { group, message, shard, offset } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} at {slot} was delivered to {group} and never acknowledged")
            }
        }
    }
}
