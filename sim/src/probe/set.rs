//! A replica set seen as one broker: the replica that leads and serves shows
//! what all of them hold. Its reigns are the lives of that broker.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use stormglass_core::{
    broker::View,
    ids::{LogIndex, Name, NodeId, Position, Term},
};
use stormglass_scenarios::ReplicaSet;

use super::{Pen, chain::Chain, folded::Folded};
use crate::{
    disk::SimDisk,
    history::{EventKind, LaneId, Recorder, Stop},
};

/// The brokers that hold the same log; often only one.
pub struct Set {
    /// Writes on the set's lane; that of a single broker is its own.
    pen: Pen,
    /// By their seats, those that may join it last.
    replicas: Vec<(LaneId, Name)>,
    /// Who decides now, and as long as that changes those who did before; and the
    /// entry that says so.
    voters: RefCell<[BTreeSet<NodeId>; 2]>,
    members_since: Cell<LogIndex>,
    pub(super) folded: RefCell<Folded>,
    pub(super) chain: RefCell<Chain>,
    /// Who serves as the leader of which term, and who was the last to do so.
    reign: Cell<Option<(LaneId, Term)>>,
    latest: Cell<Option<(LaneId, Term)>>,
    reigns: Cell<u32>,
}

impl Set {
    pub fn new(recorder: Recorder, set: &ReplicaSet) -> Set {
        let (lane, replicas) = recorder.name(|names| {
            let replicas = set.nodes().map(|id| (names.lane(id), id.as_str().into()));
            let replicas: Vec<(LaneId, Name)> = replicas.collect();
            (names.lane(&set.name), replicas)
        });
        let pen = Pen { recorder, lane };
        let founders = set.brokers.len();
        let voters: BTreeSet<NodeId> = (1..).map(NodeId).take(founders).collect();
        let set = Set {
            folded: RefCell::new(Folded::new(pen.clone())),
            pen,
            replicas,
            voters: RefCell::new([voters.clone(), voters]),
            members_since: Cell::new(LogIndex(0)),
            chain: RefCell::default(),
            reign: Cell::new(None),
            latest: Cell::new(None),
            reigns: Cell::new(0),
        };
        if !set.is_alone() {
            let lanes: Vec<LaneId> = set.replicas.iter().map(|(lane, _)| *lane).collect();
            let (replicas, spares) = lanes.split_at(founders);
            let (replicas, spares) = (replicas.into(), spares.into());
            set.pen.push(EventKind::Formed { replicas, spares });
        }
        set
    }

    pub fn is_alone(&self) -> bool {
        self.replicas.len() == 1
    }

    /// The replica that was the last to begin serving as the leader.
    pub fn leader(&self) -> Option<&Name> {
        let (latest, _) = self.latest.get()?;
        self.replicas.iter().find(|(lane, _)| *lane == latest).map(|(_, name)| name)
    }

    /// Whoever has a say in it at the moment.
    pub fn members(&self) -> Vec<Name> {
        let [voters, before] = &*self.voters.borrow();
        let seats = (1..).map(NodeId).zip(&self.replicas);
        let decide = |seat: &NodeId| voters.contains(seat) || before.contains(seat);
        seats.filter(|(seat, _)| decide(seat)).map(|(_, (_, name))| name.clone()).collect()
    }

    /// What a replica knows of who decides.
    pub(super) fn is_decided_by(&self, view: &View<'_, SimDisk>) {
        if let Some((since, voters)) = view.voters_after(self.members_since.get()) {
            self.members_since.set(since);
            self.seems_decided_by(voters);
        }
    }

    /// The same, as somebody outside hears it.
    pub fn seems_decided_by(&self, voters: [BTreeSet<NodeId>; 2]) {
        if *self.voters.borrow() != voters {
            *self.voters.borrow_mut() = voters;
            self.tell_members();
        }
    }

    fn tell_members(&self) {
        let lanes = |seats: &BTreeSet<NodeId>| {
            let seated = (1..).map(NodeId).zip(&self.replicas);
            seated.filter(|(seat, _)| seats.contains(seat)).map(|(_, (lane, _))| *lane).collect()
        };
        let [voters, before] = &*self.voters.borrow();
        let before = (before != voters).then(|| lanes(before));
        self.pen.push(EventKind::Members { voters: lanes(voters), before });
    }

    /// A replica serves as the leader of a term. `log_end` is where its log
    /// ended when it was elected.
    pub(super) fn is_served_by(
        &self,
        leader: LaneId,
        term: Term,
        view: &View<'_, SimDisk>,
        log_end: Position,
    ) {
        if self.latest.get().is_some_and(|(_, newest)| newest > term) {
            return;
        }
        let folded = &mut *self.folded.borrow_mut();
        if self.reign.get() != Some((leader, term)) {
            self.end_reign();
            self.reign.set(Some((leader, term)));
            self.latest.set(Some((leader, term)));
            self.reigns.set(self.reigns.get() + 1);
            self.pen.push(EventKind::NodeStarted { life: self.reigns.get() });
            folded.begin_life();
            folded.recovered(view, log_end);
        }
        folded.observe(view);
        folded.glance(view);
    }

    /// Who serves as the leader, as somebody outside sees it, who does not see
    /// more.
    pub fn seems_served_by(&self, leader: Option<&Name>) {
        let replica = |leader| self.replicas.iter().find(|(_, name)| name == leader);
        let leader = leader.and_then(replica).map(|(lane, _)| *lane);
        if leader == self.reign.get().map(|(lane, _)| lane) {
            return;
        }
        self.end_reign();
        if let Some(leader) = leader {
            self.reigns.set(self.reigns.get() + 1);
            let reign = Some((leader, Term(u64::from(self.reigns.get()))));
            self.reign.set(reign);
            self.latest.set(reign);
            self.pen.push(EventKind::NodeStarted { life: self.reigns.get() });
        }
    }

    /// A replica does not lead, or not any more.
    pub(super) fn is_not_served_by(&self, replica: LaneId) {
        if self.reign.get().is_some_and(|(leader, _)| leader == replica) {
            self.end_reign();
        }
    }

    fn end_reign(&self) {
        if self.reign.take().is_some() {
            self.pen.push(EventKind::NodeStopped { why: Stop::Deposed });
        }
    }
}
