//! What the types cannot say: names that nothing bears, numbers out of range,
//! and plans that cannot happen.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use crate::{
    names::{FAULTS, MARKS, STORIES},
    scenario::*,
    workload::Workload,
};

mod fault;
mod operation;
mod workload;

pub(crate) struct Problem {
    /// The path of the key, with the index of each list: `fault.1.at`.
    pub key: String,
    pub what: String,
}

type Checked = Result<(), Problem>;

pub(crate) fn check(scenario: &Scenario) -> Checked {
    check_head(scenario)?;
    check_cluster(&scenario.cluster)?;
    for (index, workload) in scenario.workloads.iter().enumerate() {
        workload::check(scenario, &format!("workload.{index}"), workload)?;
    }
    unique("workload", scenario.workloads.iter().map(Workload::nodes))?;
    for (index, clock) in scenario.clock.iter().enumerate() {
        fault::one_node(scenario, &format!("clock.{index}.node"), &clock.node, fault::ANYONE)?;
    }
    for index in 0..scenario.operations.len() {
        operation::check(scenario, index)?;
    }
    for index in 0..scenario.faults.len() {
        fault::check(scenario, index)?;
    }
    fault::check_chaos(scenario)?;
    check_expect(scenario)
}

fn check_head(scenario: &Scenario) -> Checked {
    identifier("name", &scenario.name)?;
    for story in &scenario.story {
        let known = STORIES.iter().any(|(family, last)| {
            let number = story.strip_prefix(*family).and_then(|n| n.parse::<u32>().ok());
            number.is_some_and(|n| (1..=*last).contains(&n))
        });
        let families: Vec<String> =
            STORIES.iter().map(|(family, last)| format!("{family}1..{family}{last}")).collect();
        ensure(known, "story", || format!("found `{story}`, allowed: {}", families.join(", ")))?;
    }
    ensure(!scenario.seeds.is_empty(), "seeds", || {
        "is empty, allowed: at least one seed to pin".to_owned()
    })?;
    unique("seeds", scenario.seeds.iter().map(u64::to_string))?;
    time_within("run_for", scenario.run_for, Duration::from_secs(1)..=HOUR)?;
    time_within("settle", scenario.settle, Duration::from_secs(1)..=HOUR)
}

fn check_cluster(cluster: &Cluster) -> Checked {
    check_sets(cluster)?;
    within("cluster.name_servers", cluster.name_servers, 1..=5)?;
    within("cluster.segment_bytes", cluster.segment_bytes, 16 << 10..=1 << 30)?;
    time_within("cluster.flush_interval", cluster.flush_interval, MS..=Duration::from_secs(60))?;
    if let Some(bytes) = cluster.retain_bytes {
        within("cluster.retain_bytes", bytes, cluster.segment_bytes..=1 << 40)?;
    }
    if let Some(bytes) = cluster.far_behind {
        within("cluster.far_behind", bytes, 1 << 10..=1 << 40)?;
    }
    ensure(!cluster.topics.is_empty(), "cluster.topics", || {
        "is empty, allowed: at least one topic, as in { name = \"orders\", queues = 4 }".to_owned()
    })?;
    unique("cluster.topics", cluster.topics.iter().map(|topic| topic.name.clone()))?;
    for (index, topic) in cluster.topics.iter().enumerate() {
        identifier(&format!("cluster.topics.{index}.name"), &topic.name)?;
        within(&format!("cluster.topics.{index}.queues"), topic.queues, 1..=256)?;
    }
    unique("cluster.groups", cluster.groups.iter().map(|group| group.name.clone()))?;
    for (index, group) in cluster.groups.iter().enumerate() {
        let key = |name: &str| format!("cluster.groups.{index}.{name}");
        identifier(&key("name"), &group.name)?;
        within(&key("max_attempts"), group.max_attempts, 1..=1000)?;
        within(&key("back_off"), group.back_off.len(), 0..=64)?;
    }
    let Checks { after, every, longest, at_most } = cluster.checks;
    time_within("cluster.checks.after", after, 100 * MS..=HOUR)?;
    time_within("cluster.checks.every", every, 100 * MS..=HOUR)?;
    time_within("cluster.checks.longest", longest, every..=24 * HOUR)?;
    within("cluster.checks.at_most", at_most, 1..=255)?;
    time_within("cluster.lock_lease", cluster.lock_lease, Duration::from_secs(1)..=HOUR)
}

fn check_sets(cluster: &Cluster) -> Checked {
    within("cluster.brokers", cluster.brokers, 1..=15)?;
    let Cluster { brokers, replicas, spares, .. } = *cluster;
    ensure([1, 3, 5].contains(&replicas), "cluster.replicas", || {
        format!("found {replicas}, allowed: 1, 3, 5")
    })?;
    ensure(brokers % replicas == 0, "cluster.brokers", || {
        format!("found {brokers}, allowed: a multiple of the {replicas} replicas of a set")
    })?;
    within("cluster.spares", spares, 0..=4)?;
    ensure(spares == 0 || replicas > 1, "cluster.spares", || {
        "nobody joins a set of one, allowed: with replicas = 3 or 5".to_owned()
    })?;
    time_within("cluster.election_timeout", cluster.election_timeout, 50 * MS..=10_000 * MS)
}

fn known_topic<'a>(scenario: &'a Scenario, key: &str, name: &str) -> Result<&'a Topic, Problem> {
    let topics = &scenario.cluster.topics;
    topics.iter().find(|topic| topic.name == name).ok_or_else(|| {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        Problem {
            key: key.to_owned(),
            what: format!("`{name}` is no topic here, allowed: {}", names.join(", ")),
        }
    })
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

fn check_expect(scenario: &Scenario) -> Checked {
    ensure(scenario.expect.isolation_factor >= 1.0, "expect.isolation_factor", || {
        format!("found {}, allowed: at least 1.0", scenario.expect.isolation_factor)
    })?;
    let mut planned: BTreeSet<&str> = scenario
        .faults
        .iter()
        .map(|fault| fault.kind.name())
        .chain(scenario.chaos.iter().flat_map(|chaos| chaos.kinds.iter().map(String::as_str)))
        .collect();
    // A failed store is power-cycled, and what stops starts again.
    if planned.contains("disk-sync-error") || planned.contains("disk-write-error") {
        planned.insert("power-loss");
    }
    let stops = ["kill", "power-loss", "stop", "tail-loss", "disk-loss"];
    if stops.iter().any(|stop| planned.contains(stop)) {
        planned.insert("restart");
    }
    for (what, count) in &scenario.expect.at_least {
        let key = format!("expect.at_least.{what}");
        let what = what.as_str();
        ensure(FAULTS.contains(&what) || MARKS.contains(&what), &key, || {
            format!(
                "is nothing that is counted, allowed: {}, {}",
                FAULTS.join(", "),
                MARKS.join(", ")
            )
        })?;
        within(&key, *count, 1..=u64::from(u32::MAX))?;
        let can_happen = MARKS.contains(&what) || planned.contains(what);
        ensure(can_happen, &key, || {
            let planned: Vec<&str> = planned.iter().copied().collect();
            format!("can never happen: no fault is of this kind, allowed: {}", planned.join(", "))
        })?;
    }
    Ok(())
}

fn identifier(key: &str, name: &str) -> Checked {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    ensure((1..=64).contains(&name.len()) && name.chars().all(plain), key, || {
        format!("found `{name}`, allowed: 1 to 64 letters, digits, - and _")
    })
}

fn unique(key: &str, names: impl Iterator<Item = String>) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        ensure(seen.insert(name.clone()), &format!("{key}.{index}"), || {
            let remedy = if key == "workload" { "; give one of them a `name`" } else { "" };
            format!("`{name}` is there twice, allowed: once{remedy}")
        })?;
    }
    Ok(())
}

fn before_end(scenario: &Scenario, key: &str, at: Duration) -> Checked {
    ensure(at < scenario.run_for, key, || {
        format!("{at:?} is after the end, allowed: before run_for ({:?})", scenario.run_for)
    })
}

fn time_within(key: &str, found: Duration, allowed: RangeInclusive<Duration>) -> Checked {
    ensure(allowed.contains(&found), key, || {
        format!("found {found:?}, allowed: {:?} to {:?}", allowed.start(), allowed.end())
    })
}

fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    found: T,
    allowed: RangeInclusive<T>,
) -> Checked {
    ensure(allowed.contains(&found), key, || {
        format!("found {found}, allowed: {} to {}", allowed.start(), allowed.end())
    })
}

fn ensure(holds: bool, key: &str, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Problem { key: key.to_owned(), what: what() }) }
}

fn problem(key: &str, what: &str) -> Checked {
    ensure(false, key, || what.to_owned())
}
