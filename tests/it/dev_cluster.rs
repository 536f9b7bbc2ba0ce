//! `stormglass dev` as people use it: a leader is killed in mid-traffic,
//! everything is there after a stop, and operators change who is in the set.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;
use stormglass::{Client, ConsumerConfig, Message, StartAt, on_tokio::block_on};
use stormglass_tests::cluster::Cluster;
use tokio::time::{sleep, timeout};

async fn send(client: &Client, from: u32, count: u32) {
    let patience = Instant::now() + Duration::from_secs(60);
    for number in from..from + count {
        while let Err(error) = client.send(Message::new("orders", format!("{number}"))).await {
            assert!(Instant::now() < patience, "{number}: {error}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn all_come(client: &Client, count: u32) {
    let config = ConsumerConfig::new("billing").topic("orders", "*").start_at(StartAt::First);
    let mut consumer = client.subscribe(config).await.unwrap();
    let mut missing: BTreeSet<String> = (0..count).map(|number| number.to_string()).collect();
    while !missing.is_empty() {
        let next = timeout(Duration::from_secs(60), consumer.next()).await;
        let message = next.expect("they all come").expect("the consumer is open");
        missing.remove(std::str::from_utf8(message.body()).unwrap());
        message.ack();
    }
    consumer.close().await;
}

async fn client(cluster: &Cluster) -> Client {
    Client::builder().name_server(cluster.name_server()).group("shop").build().await.unwrap()
}

#[test]
fn a_killed_leader_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(dir.path());
    cluster.command(&["topic", "create", "orders"]).unwrap();
    let after_the_kill = block_on(async {
        let client = client(&cluster).await;
        send(&client, 0, 200).await;
        let first = cluster.leader().to_owned();
        let killed = Instant::now();
        cluster.signal("-KILL", &first);
        send(&client, 200, 1).await;
        let after_the_kill = killed.elapsed();
        send(&client, 201, 199).await;
        cluster.wait_for(" leads set-1");
        assert_ne!(cluster.leader(), first);
        cluster.wait_for(&format!("{first} "));
        all_come(&client, 400).await;
        client.close().await;
        after_the_kill
    })
    .unwrap();
    println!("killed, and the next one took a message after {after_the_kill:?}");
    let pids = cluster.pids();
    assert_eq!(cluster.stop(), 0);
    for pid in pids {
        assert!(!Path::new("/proc").join(&pid).exists(), "{pid} is still there");
    }

    let cluster = Cluster::start(dir.path());
    block_on(async {
        let client = client(&cluster).await;
        send(&client, 400, 1).await;
        let group = ["group", "lag", "billing", "--topic", "orders", "-o", "json"];
        let lag: Value = serde_json::from_str(&cluster.command(&group).unwrap()).unwrap();
        let lag = lag.as_array().unwrap().iter().map(|row| row["lag"].as_i64().unwrap());
        assert_eq!(lag.sum::<i64>(), 1, "offsets go on where they were");
        client.close().await;
    })
    .unwrap();
}

/// The number of the replica that leads.
fn leads(rows: &[Value]) -> Option<u64> {
    rows.iter().find(|row| row["state"] == "leads").and_then(|row| row["replica"].as_u64())
}

/// Whether these are the replicas, all voters, one leads and the others have all
/// that it has.
fn are_well(rows: &[Value], replicas: &[u64]) -> bool {
    let is_well = |row: &Value| {
        row["role"] == "voter"
            && row["behind"] == 0
            && (row["state"] == "leads" || row["state"] == "follows")
    };
    rows.iter().filter_map(|row| row["replica"].as_u64()).eq(replicas.iter().copied())
        && rows.iter().all(is_well)
        && leads(rows).is_some()
}

#[test]
fn operators_hand_over_and_change_the_members_of_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(dir.path());
    cluster.command(&["topic", "create", "orders"]).unwrap();
    block_on(async {
        let client = client(&cluster).await;
        send(&client, 0, 50).await;
        let first = leads(&cluster.status(|rows| are_well(rows, &[1, 2, 3]))).unwrap();
        let second = first % 3 + 1;
        cluster.command(&["cluster", "transfer", "--to", &second.to_string()]).unwrap();
        cluster.status(|rows| leads(rows) == Some(second));
        send(&client, 50, 50).await;

        let addr = cluster.start_another(4).to_string();
        cluster.command(&["cluster", "add", "4", &addr]).unwrap();
        cluster.status(|rows| are_well(rows, &[1, 2, 3, 4]));
        let again = cluster.command(&["cluster", "add", "4", &addr]).unwrap_err();
        assert!(again.contains('4'), "{again}");
        let unknown = cluster.command(&["cluster", "remove", "9"]).unwrap_err();
        assert!(unknown.contains('9'), "{unknown}");

        // Who leads hands over before it goes.
        cluster.command(&["cluster", "remove", &second.to_string()]).unwrap();
        let left: Vec<u64> = (1..=4).filter(|id| *id != second).collect();
        let after = leads(&cluster.status(|rows| are_well(rows, &left))).unwrap();
        cluster.readiness(&format!("broker-{second}"), 503, "has no vote");
        for id in left.iter().filter(|id| **id != 4) {
            cluster.readiness(&format!("broker-{id}"), 200, "broker set-1: ");
        }
        send(&client, 100, 50).await;

        // With one of the founders gone, the new one is half of the majority.
        let victim = left.iter().find(|id| **id != 4 && (after == 4 || **id == after)).unwrap();
        cluster.signal("-STOP", &format!("broker-{victim}"));
        send(&client, 150, 50).await;
        cluster.status(|rows| leads(rows).is_some_and(|id| id != *victim));
        cluster.signal("-CONT", &format!("broker-{victim}"));
        cluster.status(|rows| are_well(rows, &left));
        all_come(&client, 200).await;
        client.close().await;
    })
    .unwrap();
    assert_eq!(cluster.stop(), 0);
}
