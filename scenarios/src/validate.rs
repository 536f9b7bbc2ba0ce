//! What the types cannot say: names that nothing bears, numbers out of range,
//! and plans that cannot happen.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use crate::{
    names::{FAULTS, MARKS, RECOVERABLE, STORIES},
    node::tags_of,
    scenario::*,
};

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
        check_workload(scenario, &format!("workload.{index}"), workload)?;
    }
    unique("workload", scenario.workloads.iter().map(Workload::nodes))?;
    for (index, clock) in scenario.clock.iter().enumerate() {
        one_node(
            scenario,
            &format!("clock.{index}.node"),
            &clock.node,
            &["names", "brokers", "clients"],
        )?;
    }
    for index in 0..scenario.faults.len() {
        check_fault(scenario, index)?;
    }
    check_chaos(scenario)?;
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
    time_within("run_for", scenario.run_for, Duration::from_secs(1)..=Duration::from_secs(3600))?;
    time_within("settle", scenario.settle, Duration::from_secs(1)..=Duration::from_secs(3600))
}

fn check_cluster(cluster: &Cluster) -> Checked {
    // Replication comes later; until then a plan for three brokers is a promise we would break.
    within("cluster.brokers", cluster.brokers, 1..=1)?;
    within("cluster.name_servers", cluster.name_servers, 1..=5)?;
    within("cluster.segment_bytes", cluster.segment_bytes, 16 << 10..=1 << 30)?;
    time_within("cluster.flush_interval", cluster.flush_interval, MS..=Duration::from_secs(60))?;
    if let Some(bytes) = cluster.retain_bytes {
        within("cluster.retain_bytes", bytes, cluster.segment_bytes..=1 << 40)?;
    }
    ensure(!cluster.topics.is_empty(), "cluster.topics", || {
        "is empty, allowed: at least one topic, as in { name = \"orders\", queues = 4 }".to_owned()
    })?;
    unique("cluster.topics", cluster.topics.iter().map(|topic| topic.name.clone()))?;
    for (index, topic) in cluster.topics.iter().enumerate() {
        identifier(&format!("cluster.topics.{index}.name"), &topic.name)?;
        within(&format!("cluster.topics.{index}.queues"), topic.queues, 1..=256)?;
    }
    Ok(())
}

const MS: Duration = Duration::from_millis(1);

fn check_workload(scenario: &Scenario, at: &str, workload: &Workload) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    if let Some(name) = &workload.name {
        identifier(&key("name"), name)?;
    }
    within(&key("members"), workload.members, 1..=64)?;
    let last_start = workload.start_at + workload.stagger * workload.members.saturating_sub(1);
    let earlier = if workload.start_at < scenario.run_for { "stagger" } else { "start_at" };
    before_end(scenario, &key(earlier), last_start)?;
    if let Some(stop_at) = workload.stop_at {
        ensure(last_start < stop_at && stop_at <= scenario.run_for, &key("stop_at"), || {
            format!(
                "found {stop_at:?}, allowed: after the last member starts ({last_start:?}) and up to run_for ({:?})",
                scenario.run_for
            )
        })?;
    }
    match &workload.kind {
        WorkloadKind::Produce(produce) => check_produce(scenario, at, produce),
        WorkloadKind::Consume(consume) => {
            identifier(&key("group"), &consume.group)?;
            for topic in &consume.topics {
                known_topic(scenario, &key("topics"), topic)?;
            }
            within(&key("topics"), consume.topics.len(), 1..=16)?;
            known_filter(&key("filter"), &consume.filter)?;
            within(&key("concurrency"), consume.concurrency, 1..=256)?;
            ensure(consume.nack + consume.never_ack <= 1.0, &key("never_ack"), || {
                format!(
                    "nack {} and never_ack {} share the deliveries, allowed: a sum up to 1.0",
                    consume.nack, consume.never_ack
                )
            })
        }
        WorkloadKind::Pull(pull) => {
            identifier(&key("group"), &pull.group)?;
            known_topic(scenario, &key("topic"), &pull.topic)?;
            known_filter(&key("filter"), &pull.filter)?;
            within(&key("batch"), pull.batch, 1..=1000)?;
            time_within(&key("every"), pull.every.min, MS..=Duration::from_secs(60))
        }
    }
}

fn check_produce(scenario: &Scenario, at: &str, produce: &Produce) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    known_topic(scenario, &key("topic"), &produce.topic)?;
    ensure(produce.rate > 0.0 && produce.rate <= 10_000.0, &key("rate"), || {
        format!("found {}, allowed: more than 0 and up to 10000 a second", produce.rate)
    })?;
    within(&key("batch"), produce.batch, 1..=1000)?;
    within(&key("in_flight"), produce.in_flight, 1..=1000)?;
    for tag in &produce.tags {
        let plain = !tag.is_empty() && !tag.contains(|c: char| c.is_whitespace() || c == '|');
        ensure(plain, &key("tags"), || {
            format!("found `{tag}`, allowed: words without spaces and |")
        })?;
    }
    // A batch is one atomic run of records, so it must fit into one segment (D6).
    let largest = produce.size.max * u64::from(produce.batch);
    let room = scenario.cluster.segment_bytes / 2;
    ensure(largest <= room, &key("size"), || {
        format!(
            "a send of up to {largest} bytes does not fit, allowed: half a segment ({room} bytes)"
        )
    })
}

fn check_fault(scenario: &Scenario, index: usize) -> Checked {
    let fault = &scenario.faults[index];
    let key = |name: &str| format!("fault.{index}.{name}");
    before_end(scenario, &key("at"), fault.at.max)?;
    match (fault.every, fault.times) {
        (None, Some(_)) => {
            return problem(&key("times"), "needs `every`: how long from one to the next");
        }
        (Some(every), _) => time_within(&key("every"), every.min, MS..=Duration::from_secs(3600))?,
        (None, None) => {}
    }
    if let Some(times) = fault.times {
        within(&key("times"), times, 1..=1000)?;
    }
    let node = |node: &str, sets: &[&str]| one_node(scenario, &key("node"), node, sets);
    match &fault.kind {
        FaultKind::Kill(stop) | FaultKind::PowerLoss(stop) => node(&stop.node, ANYONE),
        FaultKind::Restart(OneNode { node: restarted }) => {
            node(restarted, ANYONE)?;
            let stopped = scenario.faults.iter().any(|other| match &other.kind {
                FaultKind::Kill(stop) | FaultKind::PowerLoss(stop) => {
                    stop.node == *restarted
                        && stop.restart_after.is_none()
                        && other.at.max <= fault.at.min
                }
                _ => false,
            });
            ensure(stopped, &key("node"), || {
                format!(
                    "nothing stops `{restarted}` before {}, allowed: a node that an earlier kill or power-loss without restart_after stopped",
                    fault.at
                )
            })
        }
        FaultKind::Pause(pause) => node(&pause.node, ANYONE),
        FaultKind::Partition(partition) => sides(scenario, index, &partition.a, &partition.b),
        FaultKind::Latency(latency) => sides(scenario, index, &latency.a, &latency.b),
        FaultKind::DropConnections(between) => sides(scenario, index, &between.a, &between.b),
        FaultKind::ClockJump(jump) => node(&jump.node, ANYONE),
        FaultKind::ClockDrift(drift) => node(&drift.node, ANYONE),
        FaultKind::DiskFull(full) => node(&full.node, WITH_DISK),
        FaultKind::DiskSlow(slow) => node(&slow.node, WITH_DISK),
        FaultKind::DiskReadError(error) | FaultKind::MisdirectedRead(error) => {
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
        FaultKind::ConsumerStall(stall) => node(&stall.node, CONSUMERS),
        FaultKind::ConsumerSlow(slow) => node(&slow.node, CONSUMERS),
    }
}

const ANYONE: &[&str] = &["names", "brokers", "clients"];
const WITH_DISK: &[&str] = &["brokers"];
const CONSUMERS: &[&str] = &["consumers"];

/// One node, out of these sets.
fn one_node(scenario: &Scenario, key: &str, word: &str, sets: &[&str]) -> Checked {
    let eligible: BTreeSet<String> =
        sets.iter().flat_map(|set| scenario.nodes_named(set)).collect();
    let named = scenario.nodes_named(word);
    let single =
        named.len() == 1 || word.starts_with("any-") || word == "broker" || word == "leader";
    ensure(!named.is_empty() && single && named.iter().all(|id| eligible.contains(id)), key, || {
        let found = match named.len() {
            0 => format!("`{word}` is no node here"),
            _ if !single => format!("`{word}` is more than one node"),
            _ => format!("`{word}` is not a node that this can strike"),
        };
        format!("{found}, allowed: {}", allowed_nodes(&eligible, sets))
    })
}

fn allowed_nodes(eligible: &BTreeSet<String>, sets: &[&str]) -> String {
    let any = sets.iter().map(|set| format!("any-{}", set.trim_end_matches('s')));
    eligible.iter().cloned().chain(any).collect::<Vec<_>>().join(", ")
}

/// Two sides of the network with no node on both.
fn sides(scenario: &Scenario, index: usize, a: &[String], b: &[String]) -> Checked {
    let side = |key: &str, words: &[String]| -> Result<BTreeSet<String>, Problem> {
        let key = format!("fault.{index}.{key}");
        ensure(!words.is_empty(), &key, || "is empty, allowed: nodes and sets".to_owned())?;
        let mut ids = BTreeSet::new();
        for word in words {
            let named = scenario.nodes_named(word);
            ensure(!named.is_empty(), &key, || {
                let all: Vec<String> = scenario.nodes().into_iter().map(|node| node.id).collect();
                format!(
                    "`{word}` is no node or set here, allowed: brokers, names, producers, consumers, clients, any- and one of them, {}",
                    all.join(", ")
                )
            })?;
            ids.extend(named);
        }
        Ok(ids)
    };
    let (a, b) = (side("a", a)?, side("b", b)?);
    ensure(a.is_disjoint(&b), &format!("fault.{index}.b"), || {
        let both: Vec<&String> = a.intersection(&b).collect();
        format!("{both:?} may be on both sides, allowed: each node on one side")
    })
}

fn check_chaos(scenario: &Scenario) -> Checked {
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
    time_within("chaos.every", chaos.every.min, MS..=Duration::from_secs(3600))?;
    within("chaos.budget", chaos.budget, 1..=10_000)?;
    before_end(scenario, "chaos.start_at", chaos.start_at)
}

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
    if planned.contains("kill") || planned.contains("power-loss") {
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

fn known_topic(scenario: &Scenario, key: &str, topic: &str) -> Checked {
    let topics = &scenario.cluster.topics;
    ensure(topics.iter().any(|known| known.name == topic), key, || {
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        format!("`{topic}` is no topic here, allowed: {}", names.join(", "))
    })
}

fn known_filter(key: &str, filter: &str) -> Checked {
    let plain = |tag: &&str| !tag.is_empty() && !tag.contains(char::is_whitespace);
    ensure(tags_of(filter).iter().all(plain), key, || {
        format!("found `{filter}`, allowed: *, or tags joined by ||, as in \"red || blue\"")
    })
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
