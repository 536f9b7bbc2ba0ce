//! Locks of orderly groups: a member handles a shard only while it holds the
//! lock, a lock changes hands with a higher epoch, and who has lost it has no
//! effect any more (R1).

use std::collections::{BTreeMap, BTreeSet};

use super::Breach;
use crate::{
    history::{Event, EventKind, GroupId, LaneId, MemberId, ShardId},
    oracle::{EventIndex, Facts, Verdict, Violation, readers::Reader},
};

#[derive(Debug, Default)]
pub struct Locks {
    /// What members hold, as far as they know.
    held: BTreeSet<(MemberId, ShardId)>,
    /// What brokers say of each group's shards.
    holders: BTreeMap<(GroupId, ShardId), Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    lane: Option<LaneId>,
    /// The last one there was.
    last: Option<LaneId>,
    epoch: u64,
    event: EventIndex,
}

impl Locks {
    pub fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Locked { member, shard, .. } => {
                self.held.insert((*member, *shard));
                Ok(())
            }
            EventKind::Unlocked { member, shard, .. } => {
                self.held.remove(&(*member, *shard));
                Ok(())
            }
            EventKind::MemberStarted(started) => {
                self.held.retain(|(member, _)| *member != started.member);
                Ok(())
            }
            EventKind::MemberStopped { member } | EventKind::MemberCrashed { member } => {
                self.held.retain(|(known, _)| known != member);
                Ok(())
            }
            EventKind::LockHolder { group, shard, holder, epoch } => {
                self.changed((*group, *shard), *holder, *epoch, facts)
            }
            EventKind::GroupOffset { group, shard, offset, .. } => {
                self.committed(*group, *shard, *offset, facts)
            }
            _ => Ok(()),
        }
    }

    /// Whether the brokers lock this shard for the group, and if so, whether the
    /// member may handle it.
    pub fn delivered(&self, id: MemberId, shard: ShardId, facts: &Facts) -> Option<Verdict> {
        let group = facts.group_of(id);
        let holder = self.holders.get(&(group, shard))?;
        let owner = holder.lane.filter(|lane| *lane != facts.lane_of(id));
        let breach = match owner {
            Some(owner) => Breach::Fenced { member: id, shard, owner, epoch: holder.epoch },
            None if !self.held.contains(&(id, shard)) => Breach::NotLocked { member: id, shard },
            None => return Some(Ok(())),
        };
        Some(Err(Violation::new(breach, facts, [holder.event])))
    }

    fn changed(
        &mut self,
        key: (GroupId, ShardId),
        lane: Option<LaneId>,
        epoch: u64,
        facts: &Facts,
    ) -> Verdict {
        let before = self.holders.get(&key).copied();
        let last = lane.or(before.and_then(|before| before.last));
        self.holders.insert(key, Holder { lane, last, epoch, event: facts.index });
        let Some(before) = before else { return Ok(()) };
        let changes_hands = before.last.is_some() && last != before.last;
        if epoch > before.epoch || (epoch == before.epoch && !changes_hands) {
            return Ok(());
        }
        let (group, shard) = key;
        let breach = Breach::EpochReused { group, shard, epoch, before: before.epoch };
        Err(Violation::new(breach, facts, [before.event]))
    }

    /// A commit over what only an earlier owner has handled is that owner's.
    fn committed(&self, group: GroupId, shard: ShardId, offset: u64, facts: &Facts) -> Verdict {
        let Some(holder) = self.holders.get(&(group, shard)) else { return Ok(()) };
        let Some(reader) = facts.clustering(group).filter(|reader| reader.orderly) else {
            return Ok(());
        };
        let Some(owner) = holder.lane.and_then(|lane| member_at(reader, lane, facts)) else {
            return Ok(());
        };
        let Some(progress) = reader.progress(shard) else { return Ok(()) };
        let handled = facts.member(owner).reading(shard).and_then(|reading| reading.high);
        let from = progress.committed.unwrap_or(0).max(handled.map_or(0, |(high, _)| high + 1));
        let is_foreign = |at: &u64| progress.seen(*at).is_some_and(|seen| seen.deliveries > 0);
        let foreign = (from..offset).find(is_foreign);
        let Some(at) = foreign.filter(|_| progress.resetting.is_none()) else { return Ok(()) };
        let breach = Breach::FencedCommit { group, shard, offset, owner, at };
        Err(Violation::new(breach, facts, [holder.event]))
    }
}

fn member_at(reader: &Reader, lane: LaneId, facts: &Facts) -> Option<MemberId> {
    reader.members.iter().copied().find(|member| facts.lane_of(*member) == lane)
}
