//! Each mistake is answered with file, line, key, what was found and what is
//! allowed; and what is committed is right.

use std::{collections::BTreeSet, time::Duration};

use insta::assert_snapshot;

use super::*;

const GOOD: &str = "
name = 'good'
seeds = [1, 7]
run_for = '30s'
settle = '10s'

[cluster]
topics = [{ name = 'orders', queues = 4 }]

[[workload]]
kind = 'produce'
topic = 'orders'

[[workload]]
kind = 'consume'
group = 'billing'
topics = ['orders']
members = 2

[[fault]]
at = '5s..10s'
kind = 'kill'
node = 'broker'
restart_after = '1s'
";

const KILL: &str = "kind = 'kill'\nnode = 'broker'\nrestart_after = '1s'";

/// What `parse` says each time one thing in the good file became another.
fn refusals(mistakes: &[(&str, &str)]) -> String {
    let refusal = |(good, bad): &(&str, &str)| {
        assert!(GOOD.contains(good), "{good:?} is not in the good file");
        parse("delivery/good.toml", &GOOD.replacen(good, bad, 1)).unwrap_err().to_string()
    };
    mistakes.iter().map(refusal).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_good_file_means_what_it_says() {
    let scenario = parse("delivery/good.toml", GOOD).unwrap();
    assert_eq!(scenario.area, "delivery");
    assert_eq!(scenario.run_for, Duration::from_secs(30));
    assert_eq!(scenario.faults[0].at, DurationRange::millis(5_000, 10_000));
    let ids: Vec<String> = scenario.nodes().into_iter().map(|node| node.id).collect();
    assert_eq!(
        ids,
        ["names-1", "broker-1", "producer-orders-1", "consumer-billing-1", "consumer-billing-2"]
    );
    assert_eq!(scenario.nodes_named("any-consumer").len(), 2);
    assert_eq!(scenario.nodes_named("consumer-billing").len(), 2);
    assert_eq!(scenario.nodes_named("leader"), ["broker-1"]);
}

#[test]
fn brokers_form_sets_and_faults_know_them_by_their_roles() {
    let replicated = GOOD.replace("[cluster]", "[cluster]\nbrokers = 6\nreplicas = 3");
    let scenario = parse("cluster/good.toml", &replicated).unwrap();
    let sets: Vec<String> = scenario.sets().into_iter().map(|set| set.name).collect();
    assert_eq!(sets, ["set-1", "set-2"]);
    assert_eq!(scenario.nodes_named("followers-2"), ["broker-4", "broker-5", "broker-6"]);
    assert_eq!(scenario.nodes_named("set-1"), ["broker-1", "broker-2", "broker-3"]);
    assert!(scenario.nodes_named("leader-3").is_empty());
    let spare = replicated.replace("replicas = 3", "replicas = 3\nspares = 1");
    let scenario = parse("cluster/good.toml", &spare).unwrap();
    assert_eq!(scenario.sets()[1].spares, ["broker-8"]);
    assert_eq!(scenario.nodes_named("set-1"), ["broker-1", "broker-2", "broker-3", "broker-7"]);
    let counts = |word| RoleWord::parse(word).unwrap().count(5);
    assert_eq!(["leader", "minority", "majority", "followers"].map(counts), [1, 2, 3, 4]);
}

#[test]
fn what_is_written_wrong_is_named() {
    let mistakes = [
        ("[1, 7]", "[1, 7"),
        ("seeds", "sedes"),
        ("[cluster]", "[cluster]\nflush = 'maybe'"),
        ("30s", "30 parsecs"),
        ("5s..10s", "10s..5s"),
        ("'produce'", "'publish'"),
        ("restart_after", "restart_afer"),
        ("kind = 'kill'\n", ""),
        ("members = 2", "nack = 1.5"),
        ("kind = 'consume'", "kind = 'pop'"),
        ("[[fault]]", "[[operation]]\nkind = 'grow'\nat = '1s'\n\n[[fault]]"),
    ];
    assert_snapshot!(refusals(&mistakes), @r#"
    delivery/good.toml:4: missing comma between array elements, expected `,`
    delivery/good.toml:3: sedes: unknown field `sedes`, expected one of `name`, `story`, `area`, `seeds`, `run_for`, `settle`, `cluster`, `disk`, `network`, `clock`, `workload`, `operation`, `fault`, `chaos`, `expect`
    delivery/good.toml:8: cluster.flush: unknown variant `maybe`, expected `sync` or `async`
    delivery/good.toml:4: run_for: `30 parsecs` is not a duration, allowed: a number and one of us, ms, s, m, h, as in "10s"
    delivery/good.toml:21: fault.at: `10s..5s` runs backwards, allowed: two durations in ascending order
    delivery/good.toml:11: workload.kind: unknown variant `publish`, expected one of `produce`, `transact`, `consume`, `pull`, `pop`
    delivery/good.toml:24: fault.restart_afer: unknown field `restart_afer`, expected `node` or `restart_after`, or as everywhere kind, at, every, times
    delivery/good.toml:20: fault: missing field `kind`, allowed: kill, power-loss, stop, tail-loss, disk-loss, restart, pause, partition, latency, drop-connections, silence-connections, clock-jump, clock-drift, disk-full, disk-slow, disk-read-error, disk-write-error, disk-sync-error, bit-rot, latent-error, misdirected-read, misdirected-write, consumer-stall, consumer-slow
    delivery/good.toml:18: workload.nack: 1.5 is not a probability, allowed: 0.0 to 1.0
    delivery/good.toml:17: workload.topics: unknown field `topics`, expected one of `group`, `topic`, `filter`, `invisible`, `batch`, `wait`, `work`, `extend`, `nack`, `again`, `poison`, `never_ack`, or as everywhere kind, name, members, start_at, stop_at, stagger
    delivery/good.toml:21: operation.kind: unknown variant `grow`, expected one of `grow-topic`, `reset-offset`, `resume-parked`, `transfer-leader`, `add-replica`, `remove-replica`, `replace-replica`
    "#);
}

#[test]
fn what_cannot_happen_is_refused() {
    let mistakes = [
        ("[1, 7]", "[]"),
        ("queues = 4", "queues = 0"),
        ("['orders']", "['order']"),
        ("5s..10s", "5s..40s"),
        ("'broker'", "'consumer-billing-3'"),
        (KILL, "kind = 'restart'\nnode = 'broker'"),
        (KILL, "kind = 'disk-full'\nnode = 'any-consumer'"),
        (KILL, "kind = 'partition'\na = ['brokers']\nb = ['broker-1']"),
        ("members = 2", "nack = 0.6\nnever_ack = 0.6"),
        ("'produce'\ntopic = 'orders'", "'consume'\ntopics = ['orders']\ngroup = 'billing'"),
        (KILL, "kind = 'pause'\nnode = 'broker'\ntimes = 2"),
        ("'produce'", "'transact'\nlose_end = 0.6\ncontrary = 0.6"),
        ("'produce'", "'transact'\nimmunity = '1500ms'"),
        ("'produce'", "'produce'\ndelay = '1s'\nbatch = 2"),
        ("'produce'", "'produce'\ndelay_levels = [1, 19]"),
        ("'produce'", "'produce'\nrecall = 0.1"),
        ("[cluster]", "[cluster]\nchecks = { every = '1ms' }"),
        ("[cluster]", "[cluster]\nbrokers = 4\nreplicas = 3"),
        ("[cluster]", "[cluster]\nbrokers = 2\nreplicas = 2"),
        ("'broker'", "'any-follower'"),
        (KILL, "kind = 'disk-loss'\nnode = 'broker'"),
        (KILL, "kind = 'stop'\nnode = 'any-consumer'"),
        (
            "[[fault]]",
            "[[operation]]\nkind = 'grow-topic'\nat = '1s'\ntopic = 'orders'\nqueues = 4\n[[fault]]",
        ),
        (
            "[[fault]]",
            "[[operation]]\nkind = 'reset-offset'\nat = '1s'\ntopic = 'orders'\ngroup = 'audit'\nback = '5s'\n[[fault]]",
        ),
        ("[cluster]", "[cluster]\nspares = 1"),
        (
            "[cluster]",
            "[[operation]]\nkind = 'add-replica'\nat = '1s'\nnode = 'broker-2'\n[cluster]\nbrokers = 3\nreplicas = 3\nspares = 1",
        ),
        (
            "[cluster]",
            "[[operation]]\nkind = 'remove-replica'\nat = '1s'\nnode = 'followers'\n[cluster]\nbrokers = 3\nreplicas = 3\nspares = 1",
        ),
        (
            "[cluster]",
            "[[operation]]\nkind = 'replace-replica'\nat = '1s'\nnode = 'leader'\nby = 'broker-8'\n[cluster]\nbrokers = 6\nreplicas = 3\nspares = 1",
        ),
        ("restart_after", "[expect.at_least]\nkills = 1\n#"),
        ("restart_after", "[expect.at_least]\npower-loss = 1\n#"),
    ];
    assert_snapshot!(refusals(&mistakes), @r#"
    delivery/good.toml:3: seeds: is empty, allowed: at least one seed to pin
    delivery/good.toml:8: cluster.topics.queues: found 0, allowed: 1 to 256
    delivery/good.toml:17: workload.topics: `order` is no topic here, allowed: orders
    delivery/good.toml:21: fault.at: 40s is after the end, allowed: before run_for (30s)
    delivery/good.toml:23: fault.node: `consumer-billing-3` is no node here, allowed: broker-1, consumer-billing-1, consumer-billing-2, names-1, producer-orders-1, any-name, any-broker, any-client
    delivery/good.toml:23: fault.node: nothing stops `broker` before 5s..10s, allowed: a node that an earlier kill, stop or power-loss without restart_after stopped, or a failed write or sync
    delivery/good.toml:23: fault.node: `any-consumer` is not a node that this can strike, allowed: broker-1, any-broker
    delivery/good.toml:24: fault.b: ["broker-1"] may be on both sides, allowed: each node on one side
    delivery/good.toml:19: workload.never_ack: nack 0.6, retry 0 and never_ack 0.6 share the deliveries, allowed: a sum up to 1.0
    delivery/good.toml:15: workload: `consumer-billing` is there twice, allowed: once; give one of them a `name`
    delivery/good.toml:24: fault.times: needs `every`: how long from one to the next
    delivery/good.toml:13: workload.contrary: lose_end, end_twice and contrary share the decisions, allowed: a sum up to 1.0
    delivery/good.toml:12: workload.immunity: found 1.5s, allowed: whole seconds
    delivery/good.toml:13: workload.batch: is delayed, allowed: single messages when delayed
    delivery/good.toml:12: workload.delay_levels: found 19, allowed: 1 to 18
    delivery/good.toml:12: workload.recall: has nothing to take back, allowed: with delay or delay_levels
    delivery/good.toml:8: cluster.checks.every: found 1ms, allowed: 100ms to 3600s
    delivery/good.toml:8: cluster.brokers: found 4, allowed: a multiple of the 3 replicas of a set
    delivery/good.toml:9: cluster.replicas: found 2, allowed: 1, 3, 5
    delivery/good.toml:23: fault.node: `any-follower` is no node here, allowed: broker-1, consumer-billing-1, consumer-billing-2, names-1, producer-orders-1, any-name, any-broker, any-client
    delivery/good.toml:23: fault.node: `broker` is more of 1 replicas than may lose their disks at once, allowed: a minority
    delivery/good.toml:23: fault.node: `any-consumer` is not a node that this can strike, allowed: broker-1, names-1, any-name, any-broker
    delivery/good.toml:24: operation.queues: found 4, allowed: 5 to 256
    delivery/good.toml:24: operation.group: `audit` is no group here, allowed: billing
    delivery/good.toml:8: cluster.spares: nobody joins a set of one, allowed: with replicas = 3 or 5
    delivery/good.toml:10: operation.node: `broker-2` is no spare, allowed: one of cluster.spares, once: broker-4
    delivery/good.toml:10: operation.node: `followers` is no replica, allowed: a broker of a set, leader, any-follower
    delivery/good.toml:11: operation.by: `broker-8` is a spare of set-2, allowed: one of set-1
    delivery/good.toml:25: expect.at_least.kills: is nothing that is counted, allowed: kill, power-loss, stop, tail-loss, disk-loss, restart, pause, partition, latency, drop-connections, silence-connections, clock-jump, clock-drift, disk-full, disk-slow, disk-read-error, disk-write-error, disk-sync-error, bit-rot, latent-error, misdirected-read, misdirected-write, consumer-stall, consumer-slow, send-ok, send-refused, send-unknown, idempotent-retry, delayed, recall, half, commit, rollback, end-unknown, end-lost, end-twice, end-contrary, end-conflict, check-back, check-elsewhere, delivery, redelivery, ack, nack, retry, timed-out, send-back, send-back-failed, dead-letter, rebalance, lock, lock-lost, pop, lease-expiry, lease-change, late-ack, offset-reset, queue-growth, overload, parked, resumed, lock-hand-over, group-loss, subscription-conflict, expiry, broker-start, recovery, refused-start, store-stopped, sync-failed, no-room, torn-page, tail-cut, segment-roll, segment-recycle, licensed-loss, election, leader-change, distrusted, repaired, snapshot-installed, members-changed, leadership-transferred, follower-read
    delivery/good.toml:25: expect.at_least.power-loss: can never happen: no fault is of this kind, allowed: kill, restart
    "#);
}

#[test]
fn what_is_committed_is_valid_and_says_why() {
    let scenarios = load_dir(&committed_dir()).unwrap_or_else(|error| panic!("{error}"));
    let mut stories = BTreeSet::new();
    for scenario in &scenarios {
        let Scenario { file, about, story, expect, seeds, .. } = scenario;
        assert!(!about.is_empty(), "{file} does not begin with its story");
        assert!(!story.is_empty(), "{file} names no failure story");
        assert!(!expect.at_least.is_empty(), "{file} is content when nothing happens");
        assert!((3..=5).contains(&seeds.len()), "{file} pins {} seeds", seeds.len());
        stories.extend(story.iter().map(String::as_str));
    }
    for story in [
        "L1", "L2", "L3", "L11", "L12", "L14", "O1", "O3", "D1", "D2", "D3", "D6", "R1", "N1", "N2",
    ] {
        assert!(stories.contains(story), "no scenario recreates {story}");
    }
}
