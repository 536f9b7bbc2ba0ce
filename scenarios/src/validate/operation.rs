//! What is wrong with something that an operator is to do.

use std::collections::BTreeSet;

use super::{Checked, Problem, before_end, ensure, known_topic, within};
use crate::{
    node::ReplicaSet,
    operation::{Operation, OperationKind},
    role_word::{Part, RoleWord},
    scenario::Scenario,
    workload::Workload,
};

pub(super) fn check(scenario: &Scenario, index: usize) -> Checked {
    let Operation { at, kind } = &scenario.operations[index];
    let key = |name: &str| format!("operation.{index}.{name}");
    before_end(scenario, &key("at"), at.max)?;
    match kind {
        OperationKind::GrowTopic(grow) => {
            let topic = known_topic(scenario, &key("topic"), &grow.topic)?;
            within(&key("queues"), grow.queues, topic.queues + 1..=256)
        }
        OperationKind::ResetOffset(reset) => {
            known_topic(scenario, &key("topic"), &reset.topic)?;
            let groups: BTreeSet<&str> =
                scenario.workloads.iter().filter_map(Workload::consumer_group).collect();
            ensure(groups.contains(&*reset.group), &key("group"), || {
                let groups: Vec<&str> = groups.iter().copied().collect();
                format!("`{}` is no group here, allowed: {}", reset.group, groups.join(", "))
            })
        }
        OperationKind::ResumeParked(_) => Ok(()),
        OperationKind::TransferLeader(_) => {
            ensure(scenario.cluster.replicas > 1, &key("kind"), || {
                "a set of one has nobody to hand over to".to_owned()
            })
        }
        OperationKind::AddReplica(add) => joins(scenario, index, "node", &add.node).map(drop),
        OperationKind::RemoveReplica(remove) => {
            leaves(scenario, &key("node"), &remove.node).map(drop)
        }
        OperationKind::ReplaceReplica(replace) => {
            let left = leaves(scenario, &key("node"), &replace.node)?;
            let joined = joins(scenario, index, "by", &replace.by)?;
            ensure(left == joined, &key("by"), || {
                format!(
                    "`{}` is a spare of {}, allowed: one of {}",
                    replace.by, joined.name, left.name
                )
            })
        }
    }
}

/// The set of a spare that no earlier operation has used: its number is to be new.
fn joins(scenario: &Scenario, index: usize, key: &str, node: &str) -> Result<ReplicaSet, Problem> {
    let earlier = scenario.operations[..index].iter();
    let used: Vec<&str> = earlier.filter_map(|of| of.kind.joins_and_leaves()[0]).collect();
    let sets = scenario.sets();
    let spares: Vec<&str> = sets.iter().flat_map(|set| &set.spares).map(String::as_str).collect();
    let free: Vec<&str> = spares.into_iter().filter(|spare| !used.contains(spare)).collect();
    ensure(free.contains(&node), &format!("operation.{index}.{key}"), || {
        format!("`{node}` is no spare, allowed: one of cluster.spares, once: {}", free.join(", "))
    })?;
    let set = sets.iter().find(|set| set.spares.iter().any(|spare| spare == node));
    Ok(set.cloned().expect("every spare is one of a set"))
}

/// The set of a broker, or of one that is named by what it is.
fn leaves(scenario: &Scenario, key: &str, word: &str) -> Result<ReplicaSet, Problem> {
    let is_one = |role: &RoleWord| matches!(role.part, Part::Leader | Part::AnyFollower);
    let role = scenario.role_word(word).filter(|(role, _)| is_one(role));
    let mut sets = scenario.sets().into_iter().filter(|set| set.brokers.len() > 1);
    let set = match role {
        Some((_, set)) => Some(set),
        None => sets.find(|set| set.nodes().any(|node| node == word)),
    };
    set.ok_or_else(|| Problem {
        key: key.to_owned(),
        what: format!("`{word}` is no replica, allowed: a broker of a set, leader, any-follower"),
    })
}
