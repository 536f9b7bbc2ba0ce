//! One owner per shard and group. Orderly groups have locks for it, with epochs
//! that fence earlier owners. In others two members may overlap while the group
//! rebalances, and while a fault keeps the old owner from hearing of it.

mod locks;

use self::locks::Locks;
use super::{Facts, Oracle, Verdict, Violation, readers::Reader};
use crate::history::{Event, EventKind, GroupId, LaneId, MemberId, Mode, Names, ShardId};

#[derive(Debug, Default)]
pub struct Exclusivity {
    locks: Locks,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// The shard has had another owner for longer than a rebalance takes.
    TwoOwners {
        member: MemberId,
        owner: MemberId,
        shard: ShardId,
        for_micros: u64,
    },
    /// The member itself gave the shard up longer ago.
    AfterRelease {
        member: MemberId,
        shard: ShardId,
        for_micros: u64,
    },
    NeverAssigned {
        member: MemberId,
        shard: ShardId,
    },
    /// The lock is another member's.
    Fenced {
        member: MemberId,
        shard: ShardId,
        owner: LaneId,
        epoch: u64,
    },
    NotLocked {
        member: MemberId,
        shard: ShardId,
    },
    /// The lock changed hands without a new epoch, or with an earlier one.
    EpochReused {
        group: GroupId,
        shard: ShardId,
        epoch: u64,
        before: u64,
    },
    /// Committed over what the owner of the lock has not handled.
    FencedCommit {
        group: GroupId,
        shard: ShardId,
        offset: u64,
        owner: MemberId,
        at: u64,
    },
}

impl Oracle for Exclusivity {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        self.locks.event(event, facts)?;
        let EventKind::Delivered { member, shard, .. } = &event.kind else { return Ok(()) };
        let (id, shard) = (*member, *shard);
        let member = facts.member(id);
        let is_owned = |r: &&Reader| r.mode == Mode::Clustering && !r.pops;
        let Some(reader) = facts.reader_of(id).filter(is_owned) else { return Ok(()) };
        if let Some(verdict) = self.locks.delivered(id, shard, facts).filter(|_| reader.orderly) {
            return verdict;
        }
        let grace = match reader.orderly {
            true => facts.context.orderly_rebalance,
            false => facts.context.rebalance,
        };
        // What a stalled member took in before, it may hand on when it wakes.
        if member.is_paced() || (member.paced.is_some() && event.at - member.paced_at <= grace) {
            return Ok(());
        }

        let owner = reader.progress(shard).and_then(|progress| progress.owner);
        if let Some((owner, since, assigned)) = owner.filter(|(owner, ..)| *owner != id) {
            let for_micros = event.at - since;
            if facts.member(owner).owns.contains(&shard)
                && for_micros > grace
                && facts.calm_for(grace)
            {
                let breach = Breach::TwoOwners { member: id, owner, shard, for_micros };
                return Err(Violation::new(breach, facts, [assigned]));
            }
        }
        let Some(reading) = member.reading(shard) else {
            // A client that assigns itself nothing (a pull consumer) owns what it reads.
            return match member.owns.is_empty() {
                true => Ok(()),
                false => {
                    Err(Violation::new(Breach::NeverAssigned { member: id, shard }, facts, []))
                }
            };
        };
        let released = reading.released.map(|at| event.at - at).filter(|ago| *ago > grace);
        if let Some(for_micros) = released {
            let breach = Breach::AfterRelease { member: id, shard, for_micros };
            return Err(Violation::new(breach, facts, [reading.since]));
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let who = |member: &MemberId| {
            let name = names.of_member(*member);
            format!("{} of {}", names.of_lane(name.client), names.of_group(name.group))
        };
        let millis = |micros: &u64| micros / 1000;
        match self {
            Breach::TwoOwners { member, owner, shard, for_micros } => format!(
                "{} handles {}, which has belonged to {} for {} ms",
                who(member),
                names.text_of_shard(*shard),
                who(owner),
                millis(for_micros)
            ),
            Breach::AfterRelease { member, shard, for_micros } => format!(
                "{} handles {}, which it gave up {} ms ago",
                who(member),
                names.text_of_shard(*shard),
                millis(for_micros)
            ),
            Breach::Fenced { member, shard, owner, epoch } => format!(
                "{} handles {}, whose lock is {}'s, epoch {epoch}",
                who(member),
                names.text_of_shard(*shard),
                names.of_lane(*owner)
            ),
            Breach::NotLocked { member, shard } => {
                let shard = names.text_of_shard(*shard);
                format!("{} handles {shard} without its lock", who(member))
            }
            Breach::EpochReused { group, shard, epoch, before } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!(
                    "the lock of {shard} for {group} changed hands with epoch {epoch} after {before}"
                )
            }
            Breach::FencedCommit { group, shard, offset, owner, at } => {
                let group = names.of_group(*group);
                let shard = names.text_of_shard(*shard);
                format!(
                    "{group} committed {offset} in {shard}, though {at} was only handled before \
                     {} got the lock",
                    who(owner)
                )
            }
            Breach::NeverAssigned { member, shard } => {
                format!(
                    "{} handles {}, which it never had",
                    who(member),
                    names.text_of_shard(*shard)
                )
            }
        }
    }
}
