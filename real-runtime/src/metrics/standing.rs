//! Whether a broker is of use, and if not, why.

use std::fmt;

use stormglass_core::{
    broker::{Phase, View},
    ids::NodeId,
    replication::Role,
    runtime::Disk,
};

/// What a broker is to those who rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Serves,
    /// It could take over from this leader.
    Follows(NodeId),
    Recovers,
    /// It leads, and has not yet applied all that earlier leaders committed.
    TakesOver,
    Full,
    NoLeader,
    /// It is new to its set, or was removed; so it need not notice that its
    /// leader is gone.
    NoVote,
    /// What its disk holds does not count, or is behind this leader's log.
    CatchesUp(NodeId),
    Stops,
}

impl Standing {
    pub fn of<D: Disk>(view: &View<'_, D>) -> Standing {
        match (view.phase(), view.membership()) {
            (Phase::Serving, _) => Standing::Serves,
            (Phase::Full, _) => Standing::Full,
            (Phase::Stopping | Phase::Ended, _) => Standing::Stops,
            (Phase::Recovering | Phase::Starting, None) => Standing::Recovers,
            (_, Some((Role::Leader, ..))) => Standing::TakesOver,
            _ if !view.is_voter() => Standing::NoVote,
            (_, Some((Role::Candidate | Role::Follower(None), ..))) => Standing::NoLeader,
            (_, Some((Role::Follower(Some(leader)), term, _))) => {
                let log = view.log();
                let is_fit = !log.is_distrusted() && !log.is_damaged();
                // Each leader begins its term with an entry: who has one of this
                // term has everything from before it.
                let is_near = log.last_term() == term && view.applied() >= view.committed();
                if is_fit && is_near {
                    Standing::Follows(leader)
                } else {
                    Standing::CatchesUp(leader)
                }
            }
        }
    }

    /// Whether the next node may be stopped, as far as this one is concerned.
    pub fn is_ready(self) -> bool {
        matches!(self, Standing::Serves | Standing::Follows(_))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Serves => f.write_str("serves"),
            Standing::Follows(leader) => write!(f, "follows replica {leader}"),
            Standing::Recovers => f.write_str("recovers its log"),
            Standing::TakesOver => f.write_str("leads, and applies what is committed"),
            Standing::Full => {
                f.write_str("its disk is full: what is stored can be read, and nothing is taken")
            }
            Standing::NoLeader => f.write_str("knows no leader of its set"),
            Standing::NoVote => f.write_str("has no vote in its set"),
            Standing::CatchesUp(leader) => write!(f, "catches up with replica {leader}"),
            Standing::Stops => f.write_str("stops"),
        }
    }
}
