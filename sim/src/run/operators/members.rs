//! An operator adds, removes and replaces the replicas of a set.

use std::collections::BTreeSet;

use stormglass_core::{
    client::{Answer, Ask},
    ids::NodeId,
    rng::Rng,
    runtime::Runtime,
    shell::client::Client,
    wire::body::{ClusterStatus, MemberChange, ReplicaRole},
};
use stormglass_scenarios::{OperationKind, Part, ReplicaSet, RoleWord};

use super::{ASK_AGAIN, Office};
use crate::{
    history::{EventKind, LaneId, Mark},
    run::nodes,
};

impl Office {
    /// Asks for a change until the set says that it is so: the answer to an earlier
    /// attempt may be lost, and a leader may die with the change half done. Like on
    /// the command line, each attempt asks anew who leads.
    pub(super) async fn change_members<R: Runtime>(
        &self,
        rt: &R,
        rng: &mut Rng,
        lane: LaneId,
        kind: &OperationKind,
    ) {
        let (number, set) = self.set_of(kind);
        let mut wanted = None;
        loop {
            let client = self.client(rt);
            if let Some(status) = self.leaders_word(&client, &set).await {
                wanted = wanted.or_else(|| self.change(kind, &set, &status, rng));
                if wanted.is_some_and(|change| is_so(change, &status)) {
                    let voters = voters(&status);
                    self.sets[number].seems_decided_by([voters.clone(), voters]);
                    break client.close().await;
                }
                if let Some(change) = wanted.filter(|_| !status.changing) {
                    let (topic, broker) = (self.any_topic(), set.name.clone());
                    // What came of it, the next status tells.
                    let _ = client.ask(Ask::ChangeMembers { topic, broker, change }).await;
                }
            }
            client.close().await;
            rt.sleep_until(rt.now().mono + ASK_AGAIN).await;
        }
        self.recorder.push(lane, EventKind::Mark { mark: Mark::MembersChanged });
    }

    /// The set whose members are to change, and its number from 0.
    fn set_of(&self, kind: &OperationKind) -> (usize, ReplicaSet) {
        let [joins, leaves] = kind.joins_and_leaves();
        let word = joins.or(leaves).expect("somebody joins or leaves");
        let role = RoleWord::parse(word);
        let is_it = |(number, set): &(usize, ReplicaSet)| match role {
            Some(role) => role.set == *number,
            None => set.nodes().any(|node| node == word),
        };
        let mut sets = self.scenario.sets().into_iter().enumerate();
        sets.find(is_it).expect("the scenario was checked")
    }

    /// The set as its leader sees it, if it answers.
    async fn leaders_word(&self, client: &Client, set: &ReplicaSet) -> Option<ClusterStatus> {
        let ask = Ask::SetStatus { topic: self.any_topic(), broker: set.name.clone() };
        let Ok(Answer::Set(status)) = client.ask(ask).await else { return None };
        (status.leader == Some(status.own.id) && status.own.serving).then_some(status)
    }

    /// What is asked for, with numbers in place of words; none as long as nobody
    /// is what a word says.
    fn change(
        &self,
        kind: &OperationKind,
        set: &ReplicaSet,
        status: &ClusterStatus,
        rng: &mut Rng,
    ) -> Option<MemberChange> {
        let mut seat = |word: &str| match RoleWord::parse(word).map(|role| role.part) {
            None => set.nodes().position(|node| node == word).map(|at| at as u64 + 1),
            Some(Part::Leader) => Some(status.own.id),
            Some(_) => {
                let leader = NodeId(status.own.id);
                let followers = voters(status).into_iter().filter(|voter| *voter != leader);
                let followers: Vec<NodeId> = followers.collect();
                let drawn = rng.below(followers.len().max(1) as u64) as usize;
                followers.get(drawn).map(|follower| follower.0)
            }
        };
        let [joins, leaves] = kind.joins_and_leaves();
        let addresses = nodes::peer_addresses(&self.scenario, set);
        let address = |id| addresses[&NodeId(id)];
        match [joins, leaves].map(|word| word.map(&mut seat)) {
            [Some(by), Some(id)] => {
                let (by, id) = (by?, id?);
                Some(MemberChange::Replace { id, by, address: address(by) })
            }
            [Some(id), None] => id.map(|id| MemberChange::Add { id, address: address(id) }),
            [None, leaves] => leaves?.map(|id| MemberChange::Remove { id }),
        }
    }

    /// Whatever its name, it tells where every set is.
    fn any_topic(&self) -> String {
        self.scenario.cluster.topics[0].name.clone()
    }
}

fn voters(status: &ClusterStatus) -> BTreeSet<NodeId> {
    let voters = status.replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter);
    voters.map(|replica| NodeId(replica.id)).collect()
}

fn is_so(change: MemberChange, status: &ClusterStatus) -> bool {
    let voters = voters(status);
    let votes = |id| voters.contains(&NodeId(id));
    let is_done = match change {
        MemberChange::Add { id, .. } => votes(id),
        MemberChange::Remove { id } => !votes(id),
        MemberChange::Replace { id, by, .. } => votes(by) && !votes(id),
    };
    is_done && !status.changing
}
