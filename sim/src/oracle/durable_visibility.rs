//! Under sync flush a consumer never sees what a crash can take back (L3).

use super::{Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, Names, ShardId};

#[derive(Debug, Default)]
pub struct DurableVisibility;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    SeenBeforeDurable { shard: ShardId, offset: u64, position: u64, durable: u64 },
}

impl Oracle for DurableVisibility {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered { shard, queue_offset, position, .. } = &event.kind else {
            return Ok(());
        };
        match facts.durable_of(*shard) {
            Some(durable) if facts.context.sync_flush && *position >= durable => {
                let (shard, offset, position) = (*shard, *queue_offset, *position);
                let breach = Breach::SeenBeforeDurable { shard, offset, position, durable };
                Err(Violation::new(breach, facts, []))
            }
            _ => Ok(()),
        }
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let Breach::SeenBeforeDurable { shard, offset, position, durable } = self;
        let slot = names.text_of_slot(*shard, *offset);
        format!("{slot} was seen; it lies at log position {position}, durable is {durable}")
    }
}
