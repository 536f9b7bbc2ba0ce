//! The nodes of a run by their stable ids, in the order in which they start.

use std::time::Duration;

use crate::{
    role_word::RoleWord,
    scenario::{Cluster, Scenario},
    workload::{Workload, WorkloadKind},
};

/// A machine of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `names-1`, `broker-1`, `producer-orders-1`, `consumer-billing-2`.
    pub id: String,
    pub role: Role,
    /// When it first starts.
    pub start_at: Duration,
}

/// Brokers that are replicas of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSet {
    /// What clients know its queues by: `set-1`, or the only broker's id.
    pub name: String,
    /// The ids of its founders.
    pub brokers: Vec<String>,
    /// The ids of those that may join it.
    pub spares: Vec<String>,
}

impl ReplicaSet {
    /// Whoever is or may become a replica of it, in the order of their seats.
    pub fn nodes(&self) -> impl Iterator<Item = &String> {
        self.brokers.iter().chain(&self.spares)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    NameServer,
    Broker,
    /// A client: one member of `workloads[workload]`, counted from 0.
    Member {
        workload: usize,
        member: u32,
    },
}

impl Scenario {
    /// Name servers, brokers, then clients in the order of the file.
    pub fn nodes(&self) -> Vec<Node> {
        let machine = |id, role| Node { id, role, start_at: Duration::ZERO };
        let names = (1..=self.cluster.name_servers)
            .map(|n| machine(format!("names-{n}"), Role::NameServer));
        let Cluster { brokers, replicas, spares, .. } = self.cluster;
        let all = brokers + brokers / replicas * spares;
        let brokers = (1..=all).map(|n| machine(format!("broker-{n}"), Role::Broker));
        let members = self.workloads.iter().enumerate().flat_map(|(index, workload)| {
            (0..workload.members).map(move |member| Node {
                id: format!("{}-{}", workload.nodes(), member + 1),
                role: Role::Member { workload: index, member },
                start_at: workload.start_at + workload.stagger * member,
            })
        });
        names.chain(brokers).chain(members).collect()
    }

    /// The brokers as sets, in the order of their numbers; each on its own if
    /// they are not replicated.
    pub fn sets(&self) -> Vec<ReplicaSet> {
        let Cluster { brokers, replicas, spares, .. } = self.cluster;
        let nodes = |after: u32, count: u32| -> Vec<String> {
            (after + 1..=after + count).map(|n| format!("broker-{n}")).collect()
        };
        let set = |set: u32| {
            let founders = nodes(set * replicas, replicas);
            let name = match &*founders {
                [only] => only.clone(),
                _ => format!("set-{}", set + 1),
            };
            let spares = nodes(brokers + set * spares, spares);
            ReplicaSet { name, brokers: founders, spares }
        };
        (0..brokers / replicas).map(set).collect()
    }

    /// The ids that a word in a fault may stand for: a node's own id, a set
    /// (`brokers`, `names`, `producers`, `consumers`, `clients`, a replica set:
    /// `set-1`, or a workload's nodes: `consumer-billing`), what a broker is to
    /// its replica set ([`RoleWord`]), or `any-` and a set, of which one is meant.
    pub fn nodes_named(&self, word: &str) -> Vec<String> {
        let set = word.strip_prefix("any-").unwrap_or(word);
        if let Some(role) = RoleWord::parse(word) {
            let set = self
                .sets()
                .into_iter()
                .nth(role.set)
                .filter(|set| role.count(set.brokers.len()) > 0);
            return set.map_or_else(Vec::new, |set| set.nodes().cloned().collect());
        }
        let means = |node: &Node| match node.role {
            Role::NameServer => ["names", "name"].contains(&set),
            Role::Broker => ["brokers", "broker"].contains(&set),
            Role::Member { workload, .. } => {
                let workload = &self.workloads[workload];
                let role = workload.role();
                ["clients", "client"].contains(&set)
                    || set == workload.nodes()
                    || set.strip_suffix('s').unwrap_or(set) == role
            }
        };
        self.nodes().into_iter().filter(|n| n.id == word || means(n)).map(|n| n.id).collect()
    }
}

impl Workload {
    /// What its nodes are called, without their number: `consumer-billing`.
    pub fn nodes(&self) -> String {
        let name = self.name.as_deref().unwrap_or(match &self.kind {
            WorkloadKind::Produce(produce) => &produce.topic,
            WorkloadKind::Transact(transact) => &transact.topic,
            WorkloadKind::Consume(consume) => &consume.group,
            WorkloadKind::Pull(pull) => &pull.group,
            WorkloadKind::Pop(pop) => &pop.group,
        });
        format!("{}-{name}", self.role())
    }

    /// The consumer group of its members, if they consume.
    pub fn consumer_group(&self) -> Option<&str> {
        match &self.kind {
            WorkloadKind::Produce(_) | WorkloadKind::Transact(_) => None,
            WorkloadKind::Consume(consume) => Some(&consume.group),
            WorkloadKind::Pull(pull) => Some(&pull.group),
            WorkloadKind::Pop(pop) => Some(&pop.group),
        }
    }

    /// `producer` or `consumer`.
    pub fn role(&self) -> &'static str {
        match self.kind {
            WorkloadKind::Produce(_) | WorkloadKind::Transact(_) => "producer",
            WorkloadKind::Consume(_) | WorkloadKind::Pull(_) | WorkloadKind::Pop(_) => "consumer",
        }
    }
}

/// The tags that a filter asks for; none if it asks for every message.
pub fn tags_of(filter: &str) -> Vec<&str> {
    if filter.trim() == "*" {
        return Vec::new();
    }
    filter.split("||").map(str::trim).collect()
}
