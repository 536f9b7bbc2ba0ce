//! The shipped binary on real sockets and a real disk, killed in mid-traffic
//! while the testbed's own clients send and receive, and judged by the
//! testbed's own oracles.

use std::{process::Command, time::Duration};

use stormglass::{Client, ConsumerConfig, Message, StartAt};
use stormglass_reports::failure::failure_text;
use stormglass_sim::{
    record::record,
    run::{Options, World, run},
};
use stormglass_tests::server::{Server, binary};

const READERS: &str = "
    [[workload]]
    kind = 'consume'
    group = 'billing'
    topics = ['orders']
    members = 2
    from = 'first'

    [[workload]]
    kind = 'consume'
    group = 'audit'
    topics = ['orders']
    orderly = true
    from = 'first'
";

const KILLED_IN_TRAFFIC: &str = "
    name = 'killed-in-traffic'
    seeds = [1]
    run_for = '6s'
    settle = '60s'
    cluster = { topics = [{ name = 'orders', queues = 4 }], flush = 'FLUSH' }

    [[workload]]
    kind = 'produce'
    topic = 'orders'
    members = 2
    rate = 300.0
    keys = 8

    [[workload]]
    kind = 'produce'
    topic = 'orders'
    name = 'batches'
    rate = 20.0
    batch = 16

    READERS
    [[fault]]
    kind = 'kill'
    at = '1500ms..2s'
    every = '2s'
    node = 'broker'
    restart_after = '300ms'

    [expect]
    at_least = { kill = 2, restart = 2 }
    may_lose = 'nothing'
";

#[test]
fn a_killed_broker_loses_nothing_it_acknowledged() {
    killed_in_traffic("sync");
}

#[test]
fn a_killed_broker_loses_nothing_under_async_flush_either() {
    // Only a power failure may take what was not synced yet.
    killed_in_traffic("async");
}

fn killed_in_traffic(flush: &str) {
    holds(&KILLED_IN_TRAFFIC.replace("FLUSH", flush));
}

/// Runs a scenario for real; it must have had traffic.
fn holds(text: &str) {
    let text = text.replace("READERS", READERS);
    let scenario = stormglass_scenarios::parse("real_smoke.rs", &text).unwrap();
    let run = run(&scenario, 1, World::Real, &Options::default());
    let record = record(&scenario, &run);
    assert!(run.passed(), "{}", failure_text(&record));
    let sent = run.coverage["send-ok"];
    assert!(sent > 500, "too little traffic: {sent} sent");
}

const LEADERS_GO: &str = "
    name = 'leaders-go'
    seeds = [1]
    run_for = '8s'
    settle = '60s'

    [cluster]
    brokers = 3
    replicas = 3
    election_timeout = '300ms'
    topics = [{ name = 'orders', queues = 4 }]

    [[workload]]
    kind = 'produce'
    topic = 'orders'
    members = 2
    rate = 100
    keys = 8

    [[workload]]
    kind = 'transact'
    name = 'deals'
    topic = 'orders'
    rate = 20

    READERS
    [[fault]]
    kind = 'kill'
    at = '1s..1500ms'
    node = 'leader'
    restart_after = '500ms'

    [[fault]]
    kind = 'pause'
    at = '3500ms'
    node = 'leader'
    for = '1s'

    [[fault]]
    kind = 'partition'
    at = '6s'
    a = ['leader']
    b = ['followers']
    for = '1s'

    [expect]
    at_least = { kill = 1, restart = 1, pause = 1, partition = 1, commit = 20 }
    may_lose = 'nothing'
";

#[test]
fn a_set_of_processes_loses_nothing_when_its_leaders_die_sleep_or_are_cut_off() {
    holds(LEADERS_GO);
}

#[test]
fn the_library_sends_and_receives_from_any_thread() {
    let server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "2"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder().name_server(server.addr()).group("shop").build();
        let client = client.await.unwrap();
        let senders = (0..4).map(|thread| {
            let client = client.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let message = Message::new("orders", format!("from {thread}")).tag("paid");
                runtime.block_on(client.send(message)).unwrap();
            })
        });
        senders.collect::<Vec<_>>().into_iter().for_each(|sender| sender.join().unwrap());
        client
            .send_batch((0..3).map(|n| Message::new("orders", format!("batch {n}"))).collect())
            .await
            .unwrap();

        let config = ConsumerConfig::new("billing").topic("orders", "*").start_at(StartAt::First);
        let mut consumer = client.subscribe(config).await.unwrap();
        let mut got = Vec::new();
        let mut refused = false;
        while got.len() < 7 {
            let message = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
            let message = message.expect("messages keep coming").expect("the consumer is open");
            let text = String::from_utf8(message.body().to_vec()).unwrap();
            if text == "from 2" && !refused {
                // Handed back, so it comes again.
                refused = true;
                message.nack(Duration::from_millis(50));
                continue;
            }
            got.push(text);
            message.ack();
        }
        got.sort();
        let all = ["batch 0", "batch 1", "batch 2", "from 0", "from 1", "from 2", "from 3"];
        assert_eq!(got, all);
        consumer.close().await;
        client.close().await;
    });
    let lag = server.command(&["group", "lag", "billing", "--topic", "orders", "-o", "json"]);
    let lag: serde_json::Value = serde_json::from_str(&lag).unwrap();
    let behind: i64 = lag.as_array().unwrap().iter().map(|row| row["lag"].as_i64().unwrap()).sum();
    assert_eq!(behind, 0, "{lag}");
}

#[test]
fn the_command_line_round_trips() {
    let mut server = Server::start(&[]);
    let sent = server.command(&["produce", "-t", "news", "-m", "hello", "--tag", "a", "-k", "k1"]);
    assert!(sent.starts_with("news/"), "{sent}");
    server.command(&["produce", "-t", "news", "-m", "other", "--tag", "b"]);
    let got = server
        .command(&["consume", "-t", "news", "-g", "g", "--tag", "a", "--count", "1", "-o", "json"]);
    let got: serde_json::Value = serde_json::from_str(&got).unwrap();
    assert_eq!(
        (&got["body"], &got["tag"], &got["keys"][0]),
        (&"hello".into(), &"a".into(), &"k1".into())
    );
    assert_eq!(server.stop(), 0);
    server.restart();
    let topics = server.command(&["topic", "list"]);
    assert!(topics.contains("news"), "topics survive a restart: {topics}");
    let groups = server.command(&["group", "list"]);
    assert!(groups.lines().any(|line| line.starts_with("g ")), "groups do too: {groups}");
}

#[test]
fn dead_letters_are_shown_and_replayed() {
    let mut server = Server::start(&[]);
    server.command(&["group", "set", "billing", "--retries", "3", "--delays", "10,20"]);
    let group = server.command(&["group", "show", "billing"]);
    assert!(group.contains("10,20 ms"), "{group}");
    server.command(&["produce", "-t", "orders", "-m", "poison", "-k", "k1"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let next = |server: &Server, dies: bool| {
        runtime.block_on(async {
            let client = Client::builder().name_server(server.addr()).build().await.unwrap();
            let config = ConsumerConfig::new("billing").topic("orders", "*");
            let mut consumer = client.subscribe(config.start_at(StartAt::First)).await.unwrap();
            let message = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await;
            let message = message.expect("it comes").expect("the consumer is open");
            let text = String::from_utf8(message.body().to_vec()).unwrap();
            if dies {
                message.dead_letter()
            } else {
                message.ack()
            }
            consumer.close().await;
            client.close().await;
            text
        })
    };
    assert_eq!(next(&server, true), "poison");
    server.kill();
    server.restart();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&server.command(&[args, &["-o", "json"]].concat())).unwrap()
    };
    let list = json(&["dlq", "list"]);
    assert_eq!((&list[0]["group"], &list[0]["letters"]), (&"billing".into(), &1.into()));
    let letter = &json(&["dlq", "show", "billing"])[0];
    assert_eq!((&letter["topic"], &letter["body"]), (&"orders".into(), &"poison".into()));
    assert_eq!((&letter["keys"], &letter["deliveries"]), (&"k1".into(), &1.into()));
    assert_eq!(json(&["dlq", "replay", "billing"])[0]["replayed"], 1);
    assert_eq!(json(&["dlq", "replay", "billing"])[0]["skipped"], 1);
    assert_eq!(next(&server, false), "poison");
}

#[test]
fn mistakes_are_told_and_the_exit_status_says_whose_they_are() {
    for (args, status, says) in [
        (&["serve", "--listen", "nowhere"][..], 2, "--listen"),
        (&["serve", "--listen", "0.0.0.0:9876"], 2, "--insecure-plaintext"),
        (&["serve", "--colour", "blue"], 2, "--colour"),
        (&["topic", "list", "-n", "localhost"], 2, "HOST:PORT"),
        (&["consume", "-t", "news", "-n", "127.0.0.1:1"], 1, "127.0.0.1:1: cannot connect"),
        (&["produce", "-t", "news", "-m", "x", "-n", "127.0.0.1:1"], 1, "cannot connect"),
    ] {
        let output = Command::new(binary()).args(args).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {told}");
        assert!(told.contains(says), "{args:?}: {told}");
    }
}

#[test]
fn a_second_server_is_kept_away_from_the_data() {
    let server = Server::start(&[]);
    let mut second = Command::new(binary());
    second.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(server.data());
    let output = second.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("another process"), "{told}");
}
