//! What a broker tells, moved by hand on a disk in a temporary directory.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stormglass::{disk::RealDisk, on_tokio::block_on};
use stormglass_core::{
    broker::{Broker, BrokerConfig, Input, Output, Phase},
    ids::ConnId,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{ConsumeFrom, ConsumeType, ConsumerData, HeartbeatData, MessageModel, Subscription},
        request,
    },
};
use tempfile::TempDir;

use crate::metrics::{
    Origin,
    numbers::{self, Numbers},
    standing::Standing,
    text::{Metric, render},
};

struct ByHand {
    broker: Broker<RealDisk>,
    now: Now,
    opaque: i32,
    _dir: TempDir,
}

impl ByHand {
    async fn start(config: BrokerConfig) -> ByHand {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let broker = Broker::open(config, disk, 7).unwrap();
        let now = Now { mono: Time(0), wall: 1_700_000_000_000 };
        let mut by_hand = ByHand { broker, now, opaque: 0, _dir: dir };
        by_hand.settle().await;
        by_hand
    }

    fn request(&mut self, code: i32, fields: &[(&str, &str)], body: Bytes) {
        let mut builder = Fields::builder();
        for (key, value) in fields {
            builder.put(key, value);
        }
        self.opaque += 1;
        let frame = Frame::request(code, self.opaque, builder.finish(), body);
        self.broker.handle(self.now, Input::Frame { conn: ConnId(1), frame });
    }

    /// Until the broker wants nothing more done.
    async fn settle(&mut self) {
        let mut is_quiet = false;
        while !std::mem::replace(&mut is_quiet, true) {
            self.broker.advance(self.now);
            while let Some(output) = self.broker.poll_output() {
                is_quiet = false;
                match output {
                    Output::Sync { ticket, done } => {
                        let result = done.await;
                        self.broker.handle(self.now, Input::Synced { ticket, result });
                    }
                    Output::Failed(error) => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }

    async fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.now.wall += time.as_millis() as i64;
        self.settle().await;
    }

    /// A member of the group `billing` that wants these tags.
    fn member(&mut self, client: &str, tags: &str, version: i64) {
        let consumer = ConsumerData {
            group: "billing".into(),
            consume_type: ConsumeType::Push,
            message_model: MessageModel::Clustering,
            consume_from: ConsumeFrom::First,
            subscriptions: vec![Subscription::tags("orders", tags, version)],
        };
        let heartbeat = HeartbeatData {
            client_id: client.into(),
            producer_groups: Vec::new(),
            consumers: vec![consumer],
        };
        self.request(request::HEART_BEAT, &[], heartbeat.to_bytes());
    }

    fn topic(&mut self, name: &str, queues: &str) {
        let queues = [("readQueueNums", queues), ("writeQueueNums", queues)];
        let fields = [[("topic", name), ("perm", "6")], queues].concat();
        self.request(request::UPDATE_AND_CREATE_TOPIC, &fields, Bytes::new());
    }

    fn send(&mut self, topic: &str, queue: &str, group: &str, properties: &str) {
        let fields = [
            ("producerGroup", group),
            ("topic", topic),
            ("queueId", queue),
            ("sysFlag", "0"),
            ("bornTimestamp", "0"),
            ("flag", "0"),
            ("properties", properties),
        ];
        self.request(request::SEND_MESSAGE, &fields, Bytes::from_static(&[b'x'; 1000]));
    }

    fn commit(&mut self, group: &str, topic: &str, queue: &str, offset: &str) {
        let fields = [
            ("consumerGroup", group),
            ("topic", topic),
            ("queueId", queue),
            ("commitOffset", offset),
        ];
        self.request(request::UPDATE_CONSUMER_OFFSET, &fields, Bytes::new());
    }

    fn numbers(&self) -> Numbers {
        numbers::of_broker(&self.broker.view())
    }
}

fn config() -> BrokerConfig {
    let mut config = BrokerConfig::new("127.0.0.1:1".parse().unwrap());
    config.log.segment_bytes = 32 << 20;
    config
}

fn text(metrics: Vec<Metric>) -> String {
    let origin = Origin { cluster: "c".into(), node_type: "broker", node_id: "broker-a".into() };
    render(vec![(&origin, metrics)])
}

#[test]
fn who_is_behind_or_gone_or_disagrees_is_told() {
    let told = block_on(async {
        let mut by_hand = ByHand::start(config()).await;
        by_hand.topic("orders", "2");
        by_hand.settle().await;
        for queue in ["0", "0", "1"] {
            by_hand.send("orders", queue, "shop", "");
        }
        by_hand.commit("billing", "orders", "0", "1");
        by_hand.settle().await;
        by_hand.member("old", "paid", 1);
        by_hand.member("new", "paid || cancelled", 2);
        by_hand.send("orders", "1", "gone\"", "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}gone\"\u{2}");
        by_hand.settle().await;
        // The half is due to be checked, and nobody is there.
        by_hand.pass(Duration::from_secs(7)).await;
        assert_eq!(Standing::of(&by_hand.broker.view()), Standing::Serves);
        let mut all = by_hand.numbers();
        all.connections(3, 4096);
        text(all.metrics)
    });
    let told = told.unwrap();
    // How long the log is, is not for this test to say.
    let lines = told.lines().filter(|line| !line.starts_with('#') && !line.contains("_log_"));
    let lines = lines.filter(|line| !line.starts_with("rocketmq_storage_size"));
    let origin = r#"cluster="c",node_type="broker",node_id="broker-a""#;
    let short = |line: &str| line.replace(&format!("{origin},"), "");
    let lines = lines.map(|line| short(line).replace(&format!("{{{origin}}}"), ""));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    rocketmq_broker_permission 6
    rocketmq_commit_messages_total 0
    rocketmq_consumer_connections{consumer_group="billing"} 2
    rocketmq_consumer_group_number 1
    rocketmq_consumer_lag_messages{consumer_group="billing",topic="%RETRY%billing"} 0
    rocketmq_consumer_lag_messages{consumer_group="billing",topic="orders"} 1
    rocketmq_half_messages 1
    rocketmq_messages_in_total{topic="%RETRY%billing"} 0
    rocketmq_messages_in_total{topic="orders"} 3
    rocketmq_messages_out_total 0
    rocketmq_rollback_messages_total 0
    rocketmq_storage_flush_behind_bytes 0
    rocketmq_timing_messages 0
    rocketmq_topic_number 2
    stormglass_checks_received_total 0
    stormglass_checks_sent_total 0
    stormglass_connections 3
    stormglass_corrupt_reads_total 0
    stormglass_disagreeing_subscriptions{consumer_group="billing"} 1
    stormglass_disagreements_total 1
    stormglass_expired_messages_total 0
    stormglass_halves_expired_total 0
    stormglass_halves_parked_total 0
    stormglass_held_pulls 0
    stormglass_leases_expired_total 0
    stormglass_leases_lost_total 0
    stormglass_outdated_pulls_total 0
    stormglass_parked_halves{producer_group="gone\""} 0
    stormglass_queue_lag_messages{consumer_group="billing",topic="orders",queue_id="0"} 1
    stormglass_recalled_total 0
    stormglass_refused_total 0
    stormglass_repeated_sends_total 0
    stormglass_sent_back_total 0
    stormglass_snapshots_total 0
    stormglass_timing_lost_total 0
    stormglass_timing_memory_bytes 0
    stormglass_timing_unreadable 0
    stormglass_transaction_conflicts_total 0
    stormglass_undecided_halves{producer_group="gone\""} 1
    stormglass_unreachable_producer_halves{producer_group="gone\""} 1
    stormglass_unreachable_producers_total 1
    stormglass_unsent_bytes 4096
    stormglass_unwritten_bytes 0
    "#);
}

#[test]
fn what_retention_takes_from_a_group_is_told_and_no_longer_to_be_read() {
    const SENT: u64 = 400;
    let told = block_on(async {
        let mut config = config();
        config.log.segment_bytes = 64 << 10;
        config.snapshot_every = 64 << 10;
        config.retain_bytes = Some(64 << 10);
        let mut by_hand = ByHand::start(config).await;
        by_hand.topic("orders", "1");
        by_hand.settle().await;
        by_hand.commit("billing", "orders", "0", "1");
        for _ in 0..SENT {
            by_hand.send("orders", "0", "shop", "");
            by_hand.settle().await;
        }
        for _ in 0..3 {
            by_hand.pass(Duration::from_secs(11)).await;
        }
        text(by_hand.numbers().metrics)
    });
    let told = told.unwrap();
    let of_group = |name: &str| {
        let line = told.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) && line.contains(r#""billing",topic="orders""#)
        });
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {told}"))
    };
    let lost = of_group("stormglass_lost_to_retention_total");
    assert!(lost > 0);
    assert_eq!(lost + of_group("rocketmq_consumer_lag_messages"), SENT - 1);
}

#[test]
fn a_broker_that_has_not_opened_its_term_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let broker = Broker::open(BrokerConfig::new("127.0.0.1:1".parse().unwrap()), disk, 7).unwrap();
    let standing = Standing::of(&broker.view());
    assert_eq!((standing, standing.is_ready()), (Standing::Recovers, false));
    let names = numbers::of_broker(&broker.view()).metrics;
    assert!(names.iter().any(|metric| metric.name == "stormglass_log_position_bytes"));
    assert!(names.iter().all(|metric| metric.name != "rocketmq_messages_in_total"));
}

/// `cargo test --release -p stormglass what_a_scrape_costs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_scrape_costs() {
    for topics_of_group in [10, 1000] {
        block_on(measure(topics_of_group)).unwrap();
    }
}

async fn measure(topics_of_group: usize) {
    const TOPICS: usize = 1000;
    const QUEUES: [&str; 4] = ["0", "1", "2", "3"];
    let mut by_hand = ByHand::start(config()).await;
    (0..TOPICS).for_each(|topic| by_hand.topic(&format!("a-topic-of-shop-{topic}"), "4"));
    by_hand.settle().await;
    for topic in 0..TOPICS {
        for queue in QUEUES {
            by_hand.send(&format!("a-topic-of-shop-{topic}"), queue, "shop", "");
        }
    }
    by_hand.settle().await;
    for group in 0..100 {
        for topic in (0..topics_of_group).map(|topic| (group * 10 + topic) % TOPICS) {
            let topic = format!("a-topic-of-shop-{topic}");
            for (queue, offset) in QUEUES.into_iter().zip(["0", "1", "1", "1"]) {
                by_hand.commit(&format!("a-group-{group}"), &topic, queue, offset);
            }
        }
        by_hand.settle().await;
    }
    assert_eq!(by_hand.broker.phase(), Phase::Serving);
    let mut pauses = Vec::new();
    let mut writing = Duration::MAX;
    let mut length = 0;
    for _ in 0..21 {
        let began = Instant::now();
        let numbers = by_hand.numbers();
        pauses.push(began.elapsed());
        let began = Instant::now();
        length = text(numbers.metrics).len();
        writing = writing.min(began.elapsed());
    }
    pauses.sort_unstable();
    println!(
        "{TOPICS} topics x 4 queues, 100 groups, each with {topics_of_group} topics: the broker \
         stands still for {:?} (median of 21, longest {:?}); writing {} KiB takes {writing:?} \
         elsewhere",
        pauses[10],
        pauses[20],
        length >> 10
    );
}
