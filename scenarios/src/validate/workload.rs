//! What is wrong with a workload.

use std::time::Duration;

use super::{
    Checked, HOUR, MS, before_end, ensure, identifier, known_topic, problem, time_within, within,
};
use crate::{node::tags_of, scenario::Scenario, workload::*};

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn check(scenario: &Scenario, at: &str, workload: &Workload) -> Checked {
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
        WorkloadKind::Transact(transact) => check_transact(scenario, at, transact),
        WorkloadKind::Consume(consume) => check_consume(scenario, at, consume),
        WorkloadKind::Pull(pull) => {
            identifier(&key("group"), &pull.group)?;
            known_topic(scenario, &key("topic"), &pull.topic)?;
            known_filter(&key("filter"), &pull.filter)?;
            within(&key("batch"), pull.batch, 1..=1000)?;
            time_within(&key("every"), pull.every.min, MS..=MINUTE)
        }
        WorkloadKind::Pop(pop) => check_pop(scenario, at, pop),
    }
}

fn check_produce(scenario: &Scenario, at: &str, produce: &Produce) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    known_topic(scenario, &key("topic"), &produce.topic)?;
    known_rate(&key("rate"), produce.rate)?;
    if let Some(burst) = &produce.burst {
        known_rate(&key("burst.rate"), burst.rate)?;
        time_within(&key("burst.lasts"), burst.lasts, MS..=HOUR)?;
        before_end(scenario, &key("burst.at"), burst.at + burst.lasts)?;
    }
    within(&key("batch"), produce.batch, 1..=1000)?;
    within(&key("in_flight"), produce.in_flight, 1..=1000)?;
    known_tags(&key("tags"), &produce.tags)?;
    check_delays(at, produce)?;
    // A batch is one atomic run of records, so it must fit into one segment (D6).
    fits(scenario, &key("size"), produce.size.max * u64::from(produce.batch))
}

fn check_delays(at: &str, produce: &Produce) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    let levels = &produce.delay_levels;
    for level in levels {
        within(&key("delay_levels"), *level, 1..=18)?;
    }
    let is_delayed = produce.delay.is_some() || !levels.is_empty();
    ensure(produce.delay.is_none() || levels.is_empty(), &key("delay_levels"), || {
        "stands beside `delay`, allowed: one of the two".to_owned()
    })?;
    ensure(!is_delayed || produce.batch == 1, &key("batch"), || {
        "is delayed, allowed: single messages when delayed".to_owned()
    })?;
    ensure(produce.recall == 0.0 || is_delayed, &key("recall"), || {
        "has nothing to take back, allowed: with delay or delay_levels".to_owned()
    })
}

fn check_transact(scenario: &Scenario, at: &str, transact: &Transact) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    known_topic(scenario, &key("topic"), &transact.topic)?;
    if let Some(group) = &transact.group {
        identifier(&key("group"), group)?;
    }
    known_rate(&key("rate"), transact.rate)?;
    known_tags(&key("tags"), &transact.tags)?;
    within(&key("in_flight"), transact.in_flight, 1..=1000)?;
    within(&key("unknown_rounds"), transact.unknown_rounds, 0..=100)?;
    let faulty = transact.lose_end + transact.end_twice + transact.contrary;
    ensure(faulty <= 1.0, &key("contrary"), || {
        "lose_end, end_twice and contrary share the decisions, allowed: a sum up to 1.0".to_owned()
    })?;
    if let Some(immunity) = transact.immunity {
        time_within(&key("immunity"), immunity, Duration::from_secs(1)..=HOUR)?;
        ensure(immunity.subsec_nanos() == 0, &key("immunity"), || {
            format!("found {immunity:?}, allowed: whole seconds")
        })?;
    }
    fits(scenario, &key("size"), transact.size.max)
}

fn check_consume(scenario: &Scenario, at: &str, consume: &Consume) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    identifier(&key("group"), &consume.group)?;
    for topic in &consume.topics {
        known_topic(scenario, &key("topics"), topic)?;
    }
    within(&key("topics"), consume.topics.len(), 1..=16)?;
    known_filter(&key("filter"), &consume.filter)?;
    within(&key("concurrency"), consume.concurrency, 1..=256)?;
    if let Some(attempts) = consume.max_attempts {
        within(&key("max_attempts"), attempts, 1..=1000)?;
    }
    if let Some(timeout) = consume.consume_timeout {
        time_within(&key("consume_timeout"), timeout, Duration::from_secs(1)..=HOUR)?;
    }
    if let Some(renewal) = consume.lock_renewal {
        time_within(&key("lock_renewal"), renewal, 100 * MS..=MINUTE)?;
    }
    ensure(consume.nack + consume.retry + consume.never_ack <= 1.0, &key("never_ack"), || {
        format!(
            "nack {}, retry {} and never_ack {} share the deliveries, allowed: a sum up to 1.0",
            consume.nack, consume.retry, consume.never_ack
        )
    })
}

fn check_pop(scenario: &Scenario, at: &str, pop: &Pop) -> Checked {
    let key = |name: &str| format!("{at}.{name}");
    identifier(&key("group"), &pop.group)?;
    known_topic(scenario, &key("topic"), &pop.topic)?;
    known_filter(&key("filter"), &pop.filter)?;
    time_within(&key("invisible"), pop.invisible, 100 * MS..=HOUR)?;
    time_within(&key("wait"), pop.wait, Duration::ZERO..=Duration::from_secs(30))?;
    within(&key("batch"), pop.batch, 1..=32)?;
    ensure(pop.nack + pop.never_ack <= 1.0, &key("never_ack"), || {
        format!(
            "nack {} and never_ack {} share the deliveries, allowed: a sum up to 1.0",
            pop.nack, pop.never_ack
        )
    })
}

fn known_rate(key: &str, rate: f64) -> Checked {
    ensure(rate > 0.0 && rate <= 10_000.0, key, || {
        format!("found {rate}, allowed: more than 0 and up to 10000 a second")
    })
}

fn fits(scenario: &Scenario, key: &str, largest: u64) -> Checked {
    let room = scenario.cluster.segment_bytes / 2;
    ensure(largest <= room, key, || {
        format!(
            "a send of up to {largest} bytes does not fit, allowed: half a segment ({room} bytes)"
        )
    })
}

fn known_tags(key: &str, tags: &[String]) -> Checked {
    let plain =
        |tag: &String| !tag.is_empty() && !tag.contains(|c: char| c.is_whitespace() || c == '|');
    match tags.iter().find(|tag| !plain(tag)) {
        Some(tag) => problem(key, &format!("found `{tag}`, allowed: words without spaces and |")),
        None => Ok(()),
    }
}

fn known_filter(key: &str, filter: &str) -> Checked {
    let plain = |tag: &&str| !tag.is_empty() && !tag.contains(char::is_whitespace);
    ensure(tags_of(filter).iter().all(plain), key, || {
        format!("found `{filter}`, allowed: *, or tags joined by ||, as in \"red || blue\"")
    })
}
