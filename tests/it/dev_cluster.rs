//! `stormglass dev` as people use it: a leader is killed in mid-traffic, and
//! everything is there after a stop.

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
