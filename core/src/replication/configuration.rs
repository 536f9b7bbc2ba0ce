//! Who belongs to a group. The configuration is part of the log: an entry of
//! its kind holds all of it and counts once it is committed, and snapshots
//! hold the one that counts where they end.
//!
//! A new replica is a learner until it has caught up. Voters change in two
//! steps: while some are incoming or outgoing, a majority of the old voters
//! and one of the new ones decide together (joint consensus).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use raft::prelude::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::Corrupt,
    ids::{LogIndex, NodeId, Position},
};

/// Replicas of one group, learners and leaving ones included.
pub const MAX_REPLICAS: usize = 15;

/// All replicas of a group, as of one entry of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The entry that says so; zero for that of the founders.
    pub since: LogIndex,
    pub seats: BTreeMap<NodeId, Seat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Where it listens for the other replicas.
    pub address: SocketAddr,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Voter,
    /// It has no vote. Once it has caught up it gets one, and takes the place of
    /// another replica if it came for that.
    Learner {
        replaces: Option<NodeId>,
    },
    /// A voter once the change on its way is over, and already for its decision.
    Incoming,
    /// A voter only until then.
    Outgoing,
}

/// Why a change of members is refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotLeader,
    /// An earlier change is not over.
    Changing,
    Known(NodeId),
    Unknown(NodeId),
    LastVoter,
    TooMany,
    /// Of those who would decide from then on too few are there and trusted.
    TooFew,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotLeader => f.write_str("this replica does not lead its set"),
            Refused::Changing => f.write_str("an earlier change of members is not over"),
            Refused::Known(id) => write!(f, "replica {id} is a member already"),
            Refused::Unknown(id) => write!(f, "no replica {id} is a member"),
            Refused::LastVoter => f.write_str("the last voter cannot leave"),
            Refused::TooFew => {
                f.write_str("too few of the voters that would be left are up and trusted")
            }
            Refused::TooMany => write!(f, "a set has at most {MAX_REPLICAS} replicas"),
        }
    }
}

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add { id: NodeId, address: SocketAddr, replaces: Option<NodeId> },
    Remove(NodeId),
}

impl Configuration {
    pub fn of_founders(peers: &BTreeMap<NodeId, SocketAddr>) -> Configuration {
        let seat = |address: &SocketAddr| Seat { address: *address, standing: Standing::Voter };
        let seats = peers.iter().map(|(id, address)| (*id, seat(address))).collect();
        Configuration { since: LogIndex(0), seats }
    }

    pub fn contains(&self, id: NodeId) -> bool {
        self.seats.contains_key(&id)
    }

    pub fn addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.seats.iter().map(|(id, seat)| (*id, seat.address)).collect()
    }

    /// A change of voters is on its way.
    pub fn is_joint(&self) -> bool {
        let changes =
            |seat: &Seat| matches!(seat.standing, Standing::Incoming | Standing::Outgoing);
        self.seats.values().any(changes)
    }

    fn of(&self, standings: [Standing; 2]) -> BTreeSet<NodeId> {
        let seats = self.seats.iter().filter(|(_, seat)| standings.contains(&seat.standing));
        seats.map(|(id, _)| *id).collect()
    }

    /// Those who decide, each set by its majority, all sets together.
    pub fn voters(&self) -> [BTreeSet<NodeId>; 2] {
        let old = self.of([Standing::Voter, Standing::Outgoing]);
        let new = self.of([Standing::Voter, Standing::Incoming]);
        [new, old]
    }

    /// Replicas without a vote that are to get one, and whom they replace.
    pub fn learners(&self) -> impl Iterator<Item = (NodeId, Option<NodeId>)> {
        self.seats.iter().filter_map(|(id, seat)| match seat.standing {
            Standing::Learner { replaces } => Some((*id, replaces)),
            _ => None,
        })
    }

    pub fn standing(&self, id: NodeId) -> Option<Standing> {
        self.seats.get(&id).map(|seat| seat.standing)
    }

    /// The next configuration on the way to what is asked for.
    pub fn changed(&self, change: Change) -> Result<Configuration, Refused> {
        if self.is_joint()
            || self.learners().next().is_some_and(|(id, _)| Some(id) != change.leaves())
        {
            return Err(Refused::Changing);
        }
        let mut next = self.clone();
        match change {
            Change::Add { id, address, replaces } => {
                if self.contains(id) || id == NodeId(0) {
                    return Err(Refused::Known(id));
                }
                if let Some(missing) = replaces.filter(|replaced| !self.contains(*replaced)) {
                    return Err(Refused::Unknown(missing));
                }
                if self.seats.len() >= MAX_REPLICAS {
                    return Err(Refused::TooMany);
                }
                next.seats.insert(id, Seat { address, standing: Standing::Learner { replaces } });
            }
            Change::Remove(id) => next.let_go(id)?,
        }
        Ok(next)
    }

    /// A learner that has caught up gets its vote.
    pub fn promoted(&self, learner: NodeId) -> Result<Configuration, Refused> {
        let mut next = self.clone();
        let seat = next.seats.get_mut(&learner).ok_or(Refused::Unknown(learner))?;
        let Standing::Learner { replaces } = seat.standing else {
            return Err(Refused::Known(learner));
        };
        seat.standing = Standing::Incoming;
        match replaces {
            Some(replaced) if self.contains(replaced) => next.let_go(replaced)?,
            _ => {}
        }
        Ok(next)
    }

    fn let_go(&mut self, id: NodeId) -> Result<(), Refused> {
        match self.seats.get_mut(&id) {
            None => return Err(Refused::Unknown(id)),
            Some(seat) if seat.standing == Standing::Voter => seat.standing = Standing::Outgoing,
            Some(_) => drop(self.seats.remove(&id)),
        }
        if self.voters()[0].is_empty() { Err(Refused::LastVoter) } else { Ok(()) }
    }

    /// What a change of voters on its way leads to.
    pub fn settled(&self) -> Configuration {
        let mut next = self.clone();
        next.seats.retain(|_, seat| seat.standing != Standing::Outgoing);
        for seat in next.seats.values_mut() {
            if seat.standing == Standing::Incoming {
                seat.standing = Standing::Voter;
            }
        }
        next
    }

    /// As raft-rs names it.
    pub fn conf_state(&self) -> ConfState {
        let numbers = |ids: BTreeSet<NodeId>| ids.into_iter().map(|id| id.0).collect::<Vec<_>>();
        let [new, old] = self.voters();
        let learners = self.learners().map(|(id, _)| id.0).collect::<Vec<_>>();
        let mut state = ConfState::from((numbers(new), learners));
        if self.is_joint() {
            state.voters_outgoing = numbers(old);
        }
        state
    }

    /// The step from this configuration to `next`, in raft-rs's terms.
    pub fn step_to(&self, next: &Configuration) -> ConfChangeV2 {
        let mut step = ConfChangeV2::default();
        if self.is_joint() && !next.is_joint() {
            // Nothing to say: leave the joint configuration.
            return step;
        }
        if next.is_joint() {
            step.set_transition(ConfChangeTransition::Explicit);
        }
        let ids: BTreeSet<NodeId> = self.seats.keys().chain(next.seats.keys()).copied().collect();
        for id in ids {
            let (before, after) = (self.standing(id), next.standing(id));
            let kind = match after {
                same if same == before => continue,
                Some(Standing::Voter | Standing::Incoming) => ConfChangeType::AddNode,
                Some(Standing::Learner { .. }) => ConfChangeType::AddLearnerNode,
                Some(Standing::Outgoing) | None => ConfChangeType::RemoveNode,
            };
            let mut change = ConfChangeSingle { node_id: id.0, ..Default::default() };
            change.set_change_type(kind);
            step.changes.push(change);
        }
        step
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        let bytes = postcard::to_allocvec(self).expect("nothing in it cannot be encoded");
        out.extend_from_slice(&bytes);
    }

    /// `at` is where the entry lies, for the error.
    pub fn decode(bytes: &[u8], at: Position) -> Result<Configuration, Corrupt> {
        postcard::from_bytes(bytes).map_err(|error| Corrupt {
            file: "log".into(),
            position: Some(at),
            what: format!("not a configuration: {error}"),
        })
    }
}

impl Change {
    fn leaves(self) -> Option<NodeId> {
        match self {
            Change::Remove(id) => Some(id),
            Change::Add { .. } => None,
        }
    }
}
