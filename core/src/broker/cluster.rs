//! 20040 to 20042: what operators see of a replica set, and how they change it.

use super::{
    Broker,
    propose::{Answer, Proposal, Proposed},
};
use crate::{
    error::Rejected,
    ids::{ConnId, NodeId},
    replication::{
        Member, Progress, Replica, Role,
        configuration::{Change, Refused, Seat, Standing},
    },
    runtime::Disk,
    wire::{
        Fields, Frame,
        body::{
            ClusterStatus, MemberChange, OwnStatus, ReplicaProgress, ReplicaRole, ReplicaStatus,
        },
        code,
        header::TransferLeaderHeader,
    },
};

impl<D: Disk> Broker<D> {
    /// Any replica answers, whether it serves or not.
    pub(super) fn cluster_status(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let member = self.member()?;
        let configuration = member.configuration();
        let leader = match member.role() {
            Role::Leader => Some(member.id()),
            Role::Follower(leader) => leader,
            Role::Candidate => None,
        };
        let status = |(id, seat): (&NodeId, &Seat)| ReplicaStatus {
            id: id.0,
            address: seat.address,
            role: role(seat.standing),
            progress: member.progress(*id).map(progress),
        };
        let body = ClusterStatus {
            set: self.config.name.clone(),
            term: member.term().0,
            leader: leader.map(|id| id.0),
            changing: configuration.is_joint() || configuration.learners().next().is_some(),
            replicas: configuration.seats.iter().map(status).collect(),
            own: self.own_status(member),
        };
        self.reply_body(conn, frame.reply_to(), body.to_bytes());
        Ok(())
    }

    fn own_status(&self, member: &Member<D>) -> OwnStatus {
        let log = member.log();
        OwnStatus {
            id: member.id().0,
            serving: self.is_serving(),
            commit_index: member.committed_index().0,
            start: log.start().0,
            committed: member.committed().0,
            applied: self.applied.position.0,
            durable: log.durable().0,
            trusted: !log.is_distrusted(),
            removed: member.is_removed(),
        }
    }

    pub(super) fn change_members(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let node = |id: u64| match id {
            0 => Err(Rejected::bad_field("id", "is zero")),
            id => Ok(NodeId(id)),
        };
        let change = match MemberChange::parse(&frame.body)? {
            MemberChange::Add { id, address } => {
                Change::Add { id: node(id)?, address, replaces: None }
            }
            MemberChange::Remove { id } => Change::Remove(node(id)?),
            MemberChange::Replace { id, by, address } => {
                Change::Add { id: node(by)?, address, replaces: Some(node(id)?) }
            }
        };
        if self.leads(conn, frame)?.is_none() {
            return Ok(());
        }
        let place = match self.replica.change(change) {
            Ok(Ok(place)) => place,
            Ok(Err(refused)) => return Err(refusal(refused)),
            Err(error) => return Err(self.refused_or_failed(error)),
        };
        let answer = Answer::ok(conn, frame.reply_to());
        self.proposed.push_back(Proposed { place, what: Proposal::Members { answer } });
        Ok(())
    }

    pub(super) fn transfer_leader(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let to = TransferLeaderHeader::parse(&frame.fields)?.to.map(NodeId);
        let Some(me) = self.leads(conn, frame)? else { return Ok(()) };
        if to != Some(me) && !self.replica.hand_over(to) {
            let who = to.map_or("no other replica".to_owned(), |to| {
                format!("replica {to} is not one that")
            });
            let remark = format!("{who} can lead: a voter that answers and is trusted");
            return Err(Rejected::new(code::ILLEGAL_OPERATION, remark));
        }
        self.reply_ok(conn, frame.reply_to(), Fields::default());
        Ok(())
    }

    fn member(&self) -> Result<&Member<D>, Rejected> {
        match &self.replica {
            Replica::Member(member) => Ok(member),
            Replica::Alone(_) => {
                let remark = "this broker is no replica of a set";
                Err(Rejected::new(code::REQUEST_CODE_NOT_SUPPORTED, remark))
            }
        }
    }

    /// The own number, if this replica leads; otherwise it has answered who does.
    fn leads(&mut self, conn: ConnId, frame: &Frame) -> Result<Option<NodeId>, Rejected> {
        let member = self.member()?;
        let me = member.id();
        if self.is_serving() && member.role() == Role::Leader {
            return Ok(Some(me));
        }
        self.refuse_to_lead(conn, frame.reply_to(), code::NOT_LEADER);
        Ok(None)
    }
}

fn role(standing: Standing) -> ReplicaRole {
    match standing {
        Standing::Voter => ReplicaRole::Voter,
        Standing::Learner { .. } => ReplicaRole::Learner,
        Standing::Incoming => ReplicaRole::Incoming,
        Standing::Outgoing => ReplicaRole::Outgoing,
    }
}

fn progress(of: Progress) -> ReplicaProgress {
    ReplicaProgress {
        matched: of.matched.0,
        bytes_behind: of.bytes_behind,
        recently_active: of.is_active,
        trusted: of.is_trusted,
        installing: of.is_installing,
    }
}

fn refusal(refused: Refused) -> Rejected {
    let code = match refused {
        Refused::NotLeader => code::NOT_LEADER,
        Refused::Changing | Refused::TooFew => code::SYSTEM_BUSY,
        Refused::Known(_) | Refused::Unknown(_) | Refused::LastVoter | Refused::TooMany => {
            code::ILLEGAL_OPERATION
        }
    };
    Rejected::new(code, refused.to_string())
}
