//! Gone is gone: what recovery cut off the log, and what retention dropped,
//! does not come back, from a stale segment or from anywhere.

use super::{EventIndex, Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoResurrection;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Truncated { message: MessageId, shard: ShardId, offset: u64 },
    Expired { message: MessageId, shard: ShardId, offset: u64, below: u64 },
}

impl Oracle for NoResurrection {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered { member, shard, queue_offset, message: Some(message), .. } =
            &event.kind
        else {
            return Ok(());
        };
        let (message, shard, offset) = (*message, *shard, *queue_offset);
        // A client may still hold what it fetched before; what it reads in a
        // stretch that began afterwards, it was given afterwards.
        let Some(reading) = facts.member(*member).reading(shard) else { return Ok(()) };
        let afterwards = |gone: EventIndex| reading.since > gone;

        let slot = facts.slot(shard, offset).filter(|slot| slot.message == Some(message));
        if let Some(lost) = slot.and_then(|slot| slot.lost).filter(|lost| afterwards(*lost)) {
            let breach = Breach::Truncated { message, shard, offset };
            return Err(Violation::new(breach, facts, [lost]));
        }
        let (below, expired) = facts.expired(shard);
        if offset < below && afterwards(expired) {
            let breach = Breach::Expired { message, shard, offset, below };
            return Err(Violation::new(breach, facts, [expired]));
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Truncated { message, shard, offset } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} at {slot} was cut off the log by a recovery, and came back")
            }
            Breach::Expired { message, shard, offset, below } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} at {slot} came back after all below {below} had expired")
            }
        }
    }
}
