//! Committed offsets: forward unless somebody resets them, over acknowledged
//! messages only, never beyond what is visible, and there again after a
//! restart, unless power was lost under async flush.

use std::collections::BTreeMap;

use super::{EventIndex, Facts, Oracle, Verdict, Violation, readers::Reader};
use crate::history::{
    Event, EventKind, GroupId, LaneId, MemberId, MessageId, Names, OffsetSource, ShardId, Stop,
};

#[derive(Debug, Default)]
pub struct Offsets {
    committed: BTreeMap<(GroupId, ShardId), Committed>,
    /// What was committed when a member got a shard: it may not read from before.
    owed_at_start: BTreeMap<(MemberId, ShardId), Committed>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    offset: u64,
    event: EventIndex,
    life: u32,
    /// Everything below has been found acknowledged.
    checked: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Backwards {
        group: GroupId,
        shard: ShardId,
        from: u64,
        to: u64,
    },
    /// Past a message that the group has not acknowledged.
    Unacked {
        group: GroupId,
        shard: ShardId,
        offset: u64,
        message: MessageId,
        at: u64,
    },
    BeyondEnd {
        group: GroupId,
        shard: ShardId,
        offset: u64,
        end: u64,
    },
    /// A restarted broker does not know it any more.
    Forgotten {
        group: GroupId,
        shard: ShardId,
        offset: u64,
    },
    /// A member was told to read from before the committed offset.
    ReadBehind {
        member: MemberId,
        shard: ShardId,
        offset: u64,
        committed: u64,
    },
}

impl Oracle for Offsets {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::GroupOffset { group, shard, offset, end } => {
                self.commit(*group, *shard, *offset, *end, facts)
            }
            EventKind::Recovered { .. } => self.recovered(event.lane, facts),
            EventKind::Assigned { member, shards } => {
                let group = facts.group_of(*member);
                for shard in shards.iter().filter(|s| !facts.member(*member).owns.contains(s)) {
                    match self.committed.get(&(group, *shard)) {
                        Some(known) => self.owed_at_start.insert((*member, *shard), *known),
                        None => self.owed_at_start.remove(&(*member, *shard)),
                    };
                }
                Ok(())
            }
            EventKind::OffsetRead { member, shard, offset, source } => {
                let known = self.owed_at_start.get(&(*member, *shard));
                let Some(known) = known.filter(|_| *source != OffsetSource::Reset) else {
                    return Ok(());
                };
                if *offset >= known.offset || self.is_excused(*shard, known, facts) {
                    return Ok(());
                }
                let (member, shard, offset) = (*member, *shard, *offset);
                let breach = Breach::ReadBehind { member, shard, offset, committed: known.offset };
                Err(Violation::new(breach, facts, [known.event]))
            }
            _ => Ok(()),
        }
    }
}

impl Offsets {
    fn commit(
        &mut self,
        group: GroupId,
        shard: ShardId,
        offset: u64,
        end: u64,
        facts: &Facts,
    ) -> Verdict {
        let reader = facts.clustering(group);
        let before = self.committed.get(&(group, shard)).copied();
        if offset > end {
            return Err(Violation::new(Breach::BeyondEnd { group, shard, offset, end }, facts, []));
        }
        if let Some(before) = before.filter(|before| offset < before.offset)
            && !self.is_excused(shard, &before, facts)
            && !reader.is_some_and(|reader| is_reset(reader, shard, before.event))
        {
            let breach = Breach::Backwards { group, shard, from: before.offset, to: offset };
            return Err(Violation::new(breach, facts, [before.event]));
        }
        let start = || reader.and_then(|r| facts.starts_at(r, shard)).unwrap_or(offset);
        let checked = before.map_or_else(start, |before| before.checked.min(offset));
        if let Some(reader) = reader.filter(|reader| !is_resetting(reader, shard)) {
            let offsets = checked.max(facts.expired(shard).0)..offset;
            if let Some((at, message)) = facts.unsettled(reader, shard, offsets) {
                let stored = facts.message(message).and_then(|m| m.stored());
                let breach = Breach::Unacked { group, shard, offset, message, at };
                return Err(Violation::new(breach, facts, stored.map(|place| place.event)));
            }
        }
        let life = facts.node(facts.shard(shard).broker).life;
        let now = Committed { offset, event: facts.index, life, checked: offset };
        self.committed.insert((group, shard), now);
        Ok(())
    }

    /// The broker has said all that it recovered: what it said in an earlier
    /// life and not in this one, it has forgotten.
    fn recovered(&self, broker: LaneId, facts: &Facts) -> Verdict {
        let life = facts.node(broker).life;
        let mut of_broker =
            self.committed.iter().filter(|((_, shard), _)| facts.shard(*shard).broker == broker);
        let forgotten = of_broker.find(|((_, shard), known)| {
            known.life < life && !self.is_excused(*shard, known, facts)
        });
        let Some(((group, shard), known)) = forgotten else { return Ok(()) };
        let breach = Breach::Forgotten { group: *group, shard: *shard, offset: known.offset };
        Err(Violation::new(breach, facts, [known.event]))
    }

    /// Whether power was lost under async flush since it was committed.
    fn is_excused(&self, shard: ShardId, known: &Committed, facts: &Facts) -> bool {
        let lane = facts.shard(shard).broker;
        let broker = facts.node(lane);
        let lost = facts.power_losses(lane).any(|loss| loss.event > known.event);
        let losing = facts.set(lane).is_some()
            || broker.down_by == Some(Stop::PowerLost)
            || broker.life > known.life;
        !facts.context.sync_flush && lost && losing
    }
}

/// Whether somebody has moved it on purpose since. A commit that comes late
/// from an earlier owner is no reason (O4).
fn is_reset(reader: &Reader, shard: ShardId, since: EventIndex) -> bool {
    let reset = reader.progress(shard).and_then(|progress| progress.reset);
    reset.is_some_and(|reset| reset > since) || is_resetting(reader, shard)
}

fn is_resetting(reader: &Reader, shard: ShardId) -> bool {
    reader.progress(shard).is_some_and(|progress| progress.resetting.is_some())
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Backwards { group, shard, from, to } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!("the committed offset of {group} in {shard} went back from {from} to {to}")
            }
            Breach::Unacked { group, shard, offset, message, at } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!(
                    "{group} committed {offset} in {shard}, though {message} at {at} is not \
                     acknowledged"
                )
            }
            Breach::BeyondEnd { group, shard, offset, end } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!("{group} committed {offset} in {shard}, of which only {end} are visible")
            }
            Breach::Forgotten { group, shard, offset } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!(
                    "after its restart the broker has no offset of {group} in {shard}, it was {offset}"
                )
            }
            Breach::ReadBehind { member, shard, offset, committed } => {
                let name = names.of_member(*member);
                let shard = names.text_of_shard(*shard);
                format!(
                    "{} of {} was told to read {shard} from {offset}, {committed} was committed",
                    names.of_lane(name.client),
                    names.of_group(name.group)
                )
            }
        }
    }
}
