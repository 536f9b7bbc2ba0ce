//! Gone is gone: what recovery cut off the log, and what retention dropped,
//! does not come back, from a stale segment or from anywhere.

use std::collections::BTreeMap;

use super::{EventIndex, Facts, Oracle, Verdict, Violation};
use crate::history::{Event, EventKind, LaneId, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoResurrection {
    /// What each replica has dropped: everything below, since this event.
    dropped: BTreeMap<(ShardId, LaneId), (u64, EventIndex)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Truncated { message: MessageId, shard: ShardId, offset: u64 },
    Expired { message: MessageId, shard: ShardId, offset: u64, below: u64 },
}

impl Oracle for NoResurrection {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        if let EventKind::Expired { shard, to, .. } = &event.kind {
            let dropped = self.dropped.entry((*shard, event.lane)).or_default();
            *dropped = (*dropped).max((*to, facts.index));
        }
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
        let (below, expired) = self.dropped_everywhere(shard, facts);
        if offset < below && afterwards(expired) {
            let breach = Breach::Expired { message, shard, offset, below };
            return Err(Violation::new(breach, facts, [expired]));
        }
        Ok(())
    }
}

impl NoResurrection {
    /// Replicas drop what they have when they come to it; until the last one
    /// has, a message may be read.
    fn dropped_everywhere(&self, shard: ShardId, facts: &Facts) -> (u64, EventIndex) {
        let replicas = facts.voters(facts.shard(shard).broker);
        let dropped = replicas.map(|(replica, _)| self.dropped.get(&(shard, replica)).copied());
        dropped.map(Option::unwrap_or_default).min().unwrap_or_default()
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
