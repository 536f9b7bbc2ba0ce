//! What is wrong with a fault, or with random ones.

use std::collections::BTreeSet;

use super::{Checked, HOUR, MS, Problem, before_end, ensure, problem, time_within, within};
use crate::{
    fault::*,
    names::{RECOVERABLE, ROLE_WORDS},
    role_word::RoleWord,
    scenario::Scenario,
};

pub(super) fn check(scenario: &Scenario, index: usize) -> Checked {
    let fault = &scenario.faults[index];
    let key = |name: &str| format!("fault.{index}.{name}");
    before_end(scenario, &key("at"), fault.at.max)?;
    match (fault.every, fault.times) {
        (None, Some(_)) => {
            return problem(&key("times"), "needs `every`: how long from one to the next");
        }
        (Some(every), _) => time_within(&key("every"), every.min, MS..=HOUR)?,
        (None, None) => {}
    }
    if let Some(times) = fault.times {
        within(&key("times"), times, 1..=1000)?;
    }
    let node = |node: &str, sets: &[&str]| nodes(scenario, &key("node"), node, sets);
    match &fault.kind {
        FaultKind::Kill(stop) | FaultKind::PowerLoss(stop) => node(&stop.node, ANYONE),
        FaultKind::Stop(stop) => node(&stop.node, SERVERS),
        FaultKind::TailLoss(TailLoss { node: lossy, .. })
        | FaultKind::DiskLoss(Stop { node: lossy, .. }) => {
            node(lossy, WITH_DISK)?;
            spares_majority(scenario, &key("node"), lossy)
        }
        FaultKind::Restart(OneNode { node: restarted }) => {
            node(restarted, ANYONE)?;
            let stopped = scenario.faults.iter().any(|other| {
                other.at.max <= fault.at.min && other.kind.stops_for_good() == Some(restarted)
            });
            ensure(stopped, &key("node"), || {
                format!(
                    "nothing stops `{restarted}` before {}, allowed: a node that an earlier kill, stop or power-loss without restart_after stopped, or a failed write or sync",
                    fault.at
                )
            })
        }
        FaultKind::Pause(pause) => node(&pause.node, ANYONE),
        FaultKind::Partition(partition) => sides(scenario, index, &partition.a, &partition.b),
        FaultKind::Latency(latency) => sides(scenario, index, &latency.a, &latency.b),
        FaultKind::DropConnections(between) | FaultKind::SilenceConnections(between) => {
            sides(scenario, index, &between.a, &between.b)
        }
        FaultKind::ClockJump(jump) => node(&jump.node, ANYONE),
        FaultKind::ClockDrift(drift) => node(&drift.node, ANYONE),
        FaultKind::DiskFull(full) => node(&full.node, WITH_DISK),
        FaultKind::DiskSlow(slow) => node(&slow.node, WITH_DISK),
        FaultKind::DiskReadError(error)
        | FaultKind::MisdirectedRead(error)
        | FaultKind::MisdirectedWrite(error) => {
            within(&key("count"), error.count, 1..=1000)?;
            node(&error.node, WITH_DISK)
        }
        FaultKind::DiskWriteError(error) | FaultKind::DiskSyncError(error) => {
            within(&key("count"), error.count, 1..=1000)?;
            node(&error.node, WITH_DISK)
        }
        FaultKind::BitRot(rot) => {
            within(&key("flips"), rot.flips, 1..=1000)?;
            node(&rot.node, WITH_DISK)
        }
        FaultKind::LatentError(error) => {
            within(&key("pages"), error.pages, 1..=1000)?;
            node(&error.node, WITH_DISK)
        }
        FaultKind::ConsumerStall(stall) => node(&stall.node, CONSUMERS),
        FaultKind::ConsumerSlow(slow) => node(&slow.node, CONSUMERS),
    }
}

pub(super) const ANYONE: &[&str] = &["names", "brokers", "clients"];
const SERVERS: &[&str] = &["names", "brokers"];
const WITH_DISK: &[&str] = &["brokers"];
const CONSUMERS: &[&str] = &["consumers"];

/// What was durable may be lost by replicas that their set can do without.
fn spares_majority(scenario: &Scenario, key: &str, word: &str) -> Checked {
    let replicas = scenario.cluster.replicas as usize;
    let struck = match RoleWord::parse(word) {
        Some(role) => role.count(replicas),
        None if word == "brokers" => replicas,
        None => 1,
    };
    ensure(struck <= (replicas - 1) / 2, key, || {
        format!(
            "`{word}` is more of {replicas} replicas than may lose their disks at once, allowed: a minority"
        )
    })
}

/// Some nodes, all out of these sets.
fn nodes(scenario: &Scenario, key: &str, word: &str, sets: &[&str]) -> Checked {
    let eligible: BTreeSet<String> =
        sets.iter().flat_map(|set| scenario.nodes_named(set)).collect();
    let named = scenario.nodes_named(word);
    ensure(!named.is_empty() && named.iter().all(|id| eligible.contains(id)), key, || {
        let found = match named.is_empty() {
            true => format!("`{word}` is no node here"),
            false => format!("`{word}` is not a node that this can strike"),
        };
        format!("{found}, allowed: {}", allowed_nodes(scenario, &eligible, sets))
    })
}

/// One node, out of these sets.
pub(super) fn one_node(scenario: &Scenario, key: &str, word: &str, sets: &[&str]) -> Checked {
    let eligible: BTreeSet<String> =
        sets.iter().flat_map(|set| scenario.nodes_named(set)).collect();
    let named = scenario.nodes_named(word);
    let single = named.len() == 1 || word.starts_with("any-") || word == "broker";
    ensure(!named.is_empty() && single && named.iter().all(|id| eligible.contains(id)), key, || {
        let found = match named.len() {
            0 => format!("`{word}` is no node here"),
            _ if !single => format!("`{word}` is more than one node"),
            _ => format!("`{word}` is not a node that this can strike"),
        };
        format!("{found}, allowed: {}", allowed_nodes(scenario, &eligible, sets))
    })
}

fn allowed_nodes(scenario: &Scenario, eligible: &BTreeSet<String>, sets: &[&str]) -> String {
    let any = sets.iter().map(|set| format!("any-{}", set.trim_end_matches('s')));
    let mut allowed: Vec<String> = eligible.iter().cloned().chain(any).collect();
    if sets.contains(&"brokers") && scenario.cluster.replicas > 1 {
        allowed.extend(ROLE_WORDS.map(str::to_owned));
    }
    allowed.join(", ")
}

/// Two sides of the network with no node on both. What replicas are to their
/// set is known when the fault strikes; then the more precise word counts.
fn sides(scenario: &Scenario, index: usize, a: &[String], b: &[String]) -> Checked {
    let brokers = scenario.nodes_named("brokers");
    let casts = a.iter().chain(b).any(|word| scenario.role_word(word).is_some());
    let side = |key: &str, words: &[String]| -> Result<BTreeSet<String>, Problem> {
        let key = format!("fault.{index}.{key}");
        ensure(!words.is_empty(), &key, || "is empty, allowed: nodes and sets".to_owned())?;
        let mut ids = BTreeSet::new();
        for word in words {
            let named = scenario.nodes_named(word);
            ensure(!named.is_empty(), &key, || {
                let all: Vec<String> = scenario.nodes().into_iter().map(|node| node.id).collect();
                format!(
                    "`{word}` is no node or set here, allowed: brokers, names, producers, consumers, clients, any- and one of them, {}, {}",
                    all.join(", "),
                    ROLE_WORDS.join(", ")
                )
            })?;
            match scenario.role_word(word) {
                Some(_) => ids.extend([word.clone()]),
                None => ids.extend(named.into_iter().filter(|id| !casts || !brokers.contains(id))),
            }
        }
        Ok(ids)
    };
    let (a, b) = (side("a", a)?, side("b", b)?);
    ensure(a.is_disjoint(&b), &format!("fault.{index}.b"), || {
        let both: Vec<&String> = a.intersection(&b).collect();
        format!("{both:?} may be on both sides, allowed: each node on one side")
    })
}

pub(super) fn check_chaos(scenario: &Scenario) -> Checked {
    let Some(chaos) = &scenario.chaos else { return Ok(()) };
    within("chaos.kinds", chaos.kinds.len(), 1..=100)?;
    for kind in &chaos.kinds {
        ensure(RECOVERABLE.contains(&kind.as_str()), "chaos.kinds", || {
            format!("found `{kind}`, allowed: {}", RECOVERABLE.join(", "))
        })?;
        let strikes_someone =
            !kind.starts_with("consumer-") || !scenario.nodes_named("consumers").is_empty();
        ensure(strikes_someone, "chaos.kinds", || {
            format!("`{kind}` has nobody to strike, allowed: with a consume workload")
        })?;
    }
    time_within("chaos.every", chaos.every.min, MS..=HOUR)?;
    within("chaos.budget", chaos.budget, 1..=10_000)?;
    before_end(scenario, "chaos.start_at", chaos.start_at)
}
