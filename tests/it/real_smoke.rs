//! The shipped binary on real sockets and a real disk, killed in mid-traffic
//! while the testbed's own clients send and receive, and judged by the
//! testbed's own oracles.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use stormglass::{
    Client, ConsumerConfig, Message, StartAt,
    on_tokio::{OnTokio, block_on},
};
use stormglass_scenarios::{Role, Scenario};
use stormglass_sim::{
    disk::Timer,
    history::{EventKind, Fault, FaultKind, LaneId, Recorder, Stop},
    oracle::{Context, Judge, judge},
    workload::Workloads,
};
use stormglass_tests::server::{Server, binary};
use tokio::{task::spawn_local, time::sleep};

/// The name that `stormglass serve` gives its broker.
const BROKER: &str = "broker-a";

const KILLED_IN_TRAFFIC: &str = "
    name = 'killed-in-traffic'
    seeds = [1]
    run_for = '6s'
    settle = '60s'
    cluster = { topics = [{ name = 'orders', queues = 4 }] }

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

#[test]
fn a_killed_broker_loses_nothing_it_acknowledged() {
    killed_in_traffic(&[], true);
}

#[test]
fn a_killed_broker_loses_nothing_under_async_flush_either() {
    // Only a power failure may take what was not synced yet.
    killed_in_traffic(&["--flush", "async"], false);
}

fn killed_in_traffic(flags: &[&str], sync_flush: bool) {
    let scenario = stormglass_scenarios::parse("real_smoke.rs", KILLED_IN_TRAFFIC).unwrap();
    let mut server = Server::start(flags);
    for topic in &scenario.cluster.topics {
        server.command(&["topic", "create", &topic.name, "--queues", &topic.queues.to_string()]);
    }
    let time = RealTime(Instant::now());
    let recorder = Recorder::new(move || time.now_us());
    let broker = recorder.name(|names| names.lane(BROKER));
    let topics = scenario.cluster.topics.iter();
    for (topic, queues) in topics.map(|topic| (topic.name.clone(), topic.queues)) {
        let topic = recorder.name(|names| names.topic(&topic));
        recorder.push(broker, EventKind::TopicSized { topic, queues });
    }
    recorder.push(broker, EventKind::NodeStarted { life: 1 });

    let context =
        Context { sync_flush, may_lose_nothing: true, settle: 60_000_000, ..Context::default() };
    let follower = Judge::new(context.clone());
    block_on(live(scenario, &mut server, &recorder, follower, broker, time)).unwrap();
    assert_eq!(server.stop(), 0, "a stop in good order");

    let history = recorder.take();
    let count = |of: fn(&EventKind) -> bool| history.events.iter().filter(|e| of(&e.kind)).count();
    let sent = count(|kind| matches!(kind, EventKind::SendOk { .. }));
    let acked = count(|kind| matches!(kind, EventKind::Acked { .. }));
    assert!(sent > 1000 && acked > sent, "too little traffic: {sent} sent, {acked} acknowledged");
    let violations = judge(&history, context);
    let told: Vec<String> =
        violations.iter().map(|violation| violation.tell(&history.names)).collect();
    assert!(told.is_empty(), "{told:#?}");
}

/// Two kills in mid-traffic, then rest.
async fn live(
    scenario: Scenario,
    server: &mut Server,
    recorder: &Recorder,
    mut judge: Judge,
    broker: LaneId,
    time: RealTime,
) {
    let addr: SocketAddr = server.addr().parse().unwrap();
    let scenario = Rc::new(scenario);
    let clients = Workloads::new(scenario.clone(), recorder.clone(), Rc::new(time), vec![addr]);
    for node in scenario.nodes() {
        if matches!(node.role, Role::Member { .. }) {
            let clients = clients.clone();
            spawn_local(async move {
                let stop = clients.clone().run(OnTokio::new(), node.id.as_str().into()).await;
                clients.stopped(&node.id, stop);
            });
        }
    }
    for life in 2..=3 {
        sleep(Duration::from_secs(2)).await;
        let fault = recorder.next_fault();
        recorder.push(
            broker,
            EventKind::Fault(Box::new(Fault {
                fault,
                kind: FaultKind::Kill,
                lanes: vec![broker],
                side: 0,
                text: format!("kill -9 {BROKER}"),
            })),
        );
        server.kill();
        recorder.push(broker, EventKind::NodeStopped { why: Stop::Killed });
        recorder.push(broker, EventKind::FaultHealed { fault });
        sleep(Duration::from_millis(300)).await;
        recorder.push(broker, EventKind::NodeStarted { life });
        let began = Instant::now();
        server.restart();
        println!("killed, and serving {:?} after its start", began.elapsed());
    }
    sleep(scenario.run_for.saturating_sub(time.0.elapsed())).await;
    let everywhere = recorder.name(|names| names.lane("net"));
    recorder.push(everywhere, EventKind::ChaosEnded);
    clients.end_chaos();
    let end = Instant::now() + scenario.settle;
    while Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        recorder.read(|history| judge.follow(history));
        if clients.are_at_rest(judge.facts()) {
            return recorder.push(everywhere, EventKind::Quiesced);
        }
    }
}

#[derive(Clone, Copy)]
struct RealTime(Instant);

impl Timer for RealTime {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    fn sleep_us(&self, us: u64) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(sleep(Duration::from_micros(us)))
    }
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
