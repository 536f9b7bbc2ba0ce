//! What the world `real` can show of a scenario, and what it cannot.

use std::{collections::BTreeMap, time::Duration};

use stormglass_core::ids::Name;
use stormglass_scenarios::{Disk, Role, Scenario};

use crate::fault::{Fault, plan::Plan};

/// What only a look inside a broker tells.
const UNSEEN: [&str; 25] = [
    "queue-growth",
    "parked",
    "resumed",
    "lock-hand-over",
    "group-loss",
    "subscription-conflict",
    "expiry",
    "recovery",
    "refused-start",
    "store-stopped",
    "sync-failed",
    "no-room",
    "torn-page",
    "tail-cut",
    "segment-roll",
    "segment-recycle",
    "licensed-loss",
    "election",
    "leader-change",
    "distrusted",
    "repaired",
    "snapshot-installed",
    "members-changed",
    "leadership-transferred",
    "follower-read",
];

/// Promises that are judged by what brokers say of themselves.
const UNJUDGED: [u32; 2] = [10, 12];

/// What must have happened at least: once for whatever the scenario asks for
/// more of, because how often is a matter of this machine.
pub fn expects(scenario: &Scenario) -> BTreeMap<String, u64> {
    let seen = scenario.expect.at_least.iter().filter(|(mark, _)| !UNSEEN.contains(&mark.as_str()));
    seen.map(|(mark, count)| (mark.clone(), *count.min(&1))).collect()
}

/// Whether a promise can be judged.
pub fn judges(promise: u32) -> bool {
    !UNJUDGED.contains(&promise)
}

/// The scenario for so long at most; what it expects shrinks with it.
pub fn shortened(scenario: &Scenario, run_for: Duration) -> Scenario {
    let mut scenario = scenario.clone();
    let whole = scenario.run_for;
    scenario.run_for = whole.min(run_for);
    let share = scenario.run_for.as_secs_f64() / whole.as_secs_f64();
    for count in scenario.expect.at_least.values_mut() {
        *count = (*count as f64 * share) as u64;
    }
    scenario
}

/// Why the scenario cannot be run for real, if it cannot.
pub fn not_applicable(scenario: &Scenario, plan: &Plan) -> Option<String> {
    let nodes = scenario.nodes();
    let is_client = |name: &str| {
        let node = nodes.iter().find(|node| node.id == name);
        node.is_some_and(|node| matches!(node.role, Role::Member { .. }))
    };
    let fault = plan.faults.iter().find_map(|timed| impossible(&timed.fault, is_client));
    let clock = scenario.clock.iter().any(|wrong| !is_client(&wrong.node));
    let cluster = &scenario.cluster;
    if let Some(why) = fault {
        Some(why.to_owned())
    } else if clock {
        Some("processes have the clock of this machine".to_owned())
    } else if scenario.disk.capacity < Disk::default().capacity {
        Some("a disk cannot be made small from here".to_owned())
    } else if cluster.retain_bytes.is_some() || cluster.retain_for.is_some() {
        Some("nobody sees what retention takes".to_owned())
    } else {
        None
    }
}

fn impossible(fault: &Fault, is_client: impl Fn(&str) -> bool) -> Option<&'static str> {
    let on_server = |node: &Name| !is_client(node);
    match fault {
        Fault::PowerLoss { node, .. }
        | Fault::TailLoss { node, .. }
        | Fault::DiskLoss { node, .. }
            if on_server(node) =>
        {
            Some("a process cannot lose what the page cache holds")
        }
        Fault::ClockJump { node, .. } | Fault::ClockDrift { node, .. } if on_server(node) => {
            Some("processes have the clock of this machine")
        }
        Fault::DiskFull { .. }
        | Fault::DiskFree { .. }
        | Fault::DiskSlow { .. }
        | Fault::DiskReadError { .. }
        | Fault::DiskWriteError { .. }
        | Fault::DiskSyncError { .. }
        | Fault::BitRot { .. }
        | Fault::LatentError { .. }
        | Fault::MisdirectedWrite { .. }
        | Fault::MisdirectedRead { .. } => Some("a real disk does not fail when it is told to"),
        _ => None,
    }
}
