//! What retention takes, from whom, and what it waits for.

use std::time::Duration;

use bytes::Bytes;
use stormglass_core::{
    broker::BrokerConfig,
    message::Record,
    replication::Flush,
    wire::{Fields, code, header::PopHeader, request},
};
use stormglass_sim::fault::Unsynced;
use stormglass_tests::by_hand::{ByHand, Sent, send_fields, small_config};

const TOPIC: &str = "orders";

/// Keeps 256 KiB: four segments.
fn config() -> BrokerConfig {
    let mut config = small_config(Flush::Sync);
    config.retain_bytes = Some(256 << 10);
    config
}

fn fill(by_hand: &mut ByHand, kib: usize) {
    for _ in 0..kib / 8 {
        by_hand.send(TOPIC, 0, &"x".repeat(8 << 10));
    }
    by_hand.pass(Duration::from_secs(21));
}

fn log_kib(by_hand: &ByHand) -> u64 {
    let view = by_hand.broker.as_ref().unwrap().view();
    (view.applied().0 - view.log().start().0) >> 10
}

fn losses(by_hand: &ByHand) -> u64 {
    by_hand.broker.as_ref().unwrap().view().losses().map(|(_, _, lost)| lost).sum()
}

fn min(by_hand: &ByHand) -> u64 {
    let view = by_hand.broker.as_ref().unwrap().view();
    view.queues().find(|(shard, _)| &*shard.topic == TOPIC && shard.queue == 0).unwrap().1.min
}

#[test]
fn without_groups_the_log_stays_as_short_as_it_shall() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    fill(&mut by_hand, 1024);
    assert!(log_kib(&by_hand) <= 256 + 64, "{} KiB", log_kib(&by_hand));
    assert_eq!(losses(&by_hand), 0);
}

#[test]
fn a_group_that_is_behind_is_waited_for_and_then_passed_and_told() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    by_hand.send(TOPIC, 0, "first");
    assert_eq!(by_hand.commit("readers", TOPIC, 0, 0), Some(code::SUCCESS));
    fill(&mut by_hand, 400);
    assert_eq!(min(&by_hand), 0, "waited for");
    // It reads on: what it has read may go.
    assert_eq!(by_hand.commit("readers", TOPIC, 0, 40), Some(code::SUCCESS));
    fill(&mut by_hand, 64);
    assert!((1..=40).contains(&min(&by_hand)), "{}", min(&by_hand));
    assert_eq!(losses(&by_hand), 0);
    // It stops. At twice the limit the log goes on without it.
    fill(&mut by_hand, 1024);
    let (lost, now_at) = (losses(&by_hand), min(&by_hand));
    assert!(log_kib(&by_hand) <= 512 + 64, "{} KiB", log_kib(&by_hand));
    assert_eq!(lost, now_at - 40, "every message is counted");
    for restart in 0..2 {
        if restart == 0 {
            by_hand.kill();
        } else {
            by_hand.power_loss();
        }
        by_hand.start().unwrap();
        assert_eq!(losses(&by_hand), lost, "on record");
    }
    let fields = Fields::builder()
        .put("consumerGroup", "readers")
        .put("topic", TOPIC)
        .put("queueId", 0)
        .finish();
    let answer = by_hand.ask(request::QUERY_CONSUMER_OFFSET, fields, Vec::new()).unwrap();
    assert_eq!(answer.fields.get("lost"), Some(&*lost.to_string()));
    let (code, next, _) = by_hand.pull(TOPIC, 0, 40);
    assert_eq!((code, next), (code::PULL_OFFSET_MOVED, now_at as i64));
}

/// Files that were removed are there again after a power loss; messages are not.
#[test]
fn what_is_gone_stays_gone() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    let (mut gone, mut losses) = (0, 0);
    for _ in 0..200 {
        by_hand.send(TOPIC, 0, &"x".repeat(8 << 10));
        by_hand.pass(Duration::from_millis(500));
        if min(&by_hand) > gone {
            (gone, losses) = (min(&by_hand), losses + 1);
            by_hand.power_loss_with(Unsynced::Lost);
            by_hand.start().unwrap();
            assert_eq!(min(&by_hand), gone);
        }
    }
    assert!(losses >= 5, "{losses}");
}

/// In every segment some pointers show what lies in the one before, and so on to
/// the very first: only what is seen keeps what it shows.
#[test]
fn steady_delays_do_not_keep_the_log() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    by_hand.send(TOPIC, 0, "first");
    for _ in 0..400 {
        let fields = send_fields(TOPIC, 0, "TIMER_DELAY_MS\u{1}2000\u{2}");
        by_hand.ask(request::SEND_MESSAGE, fields, "x".repeat(8 << 10).into()).unwrap();
        by_hand.pass(Duration::from_millis(250));
    }
    // 2 s are eight messages, a segment has seven.
    assert!(log_kib(&by_hand) <= 256 + 3 * 64, "{} KiB", log_kib(&by_hand));
    let kept = min(&by_hand);
    assert!(kept > 300, "{kept}");
    let (code, _, records) = by_hand.pull(TOPIC, 0, kept as i64);
    assert_eq!((code, records[0].queue_offset), (code::SUCCESS, kept));
}

#[test]
fn sends_may_be_refused_instead() {
    let mut config = config();
    config.retain_or_refuse = true;
    let mut by_hand = ByHand::with(config);
    by_hand.start().unwrap();
    by_hand.send(TOPIC, 0, "first");
    by_hand.commit("readers", TOPIC, 0, 0);
    fill(&mut by_hand, 1024);
    assert_eq!(by_hand.send(TOPIC, 0, "more"), Sent::Refused(code::SERVICE_NOT_AVAILABLE));
    assert_eq!((min(&by_hand), losses(&by_hand)), (0, 0));
    by_hand.commit("readers", TOPIC, 0, 129);
    by_hand.pass(Duration::from_secs(21));
    assert!(matches!(by_hand.send(TOPIC, 0, "more"), Sent::Ok { .. }));
    assert_eq!(losses(&by_hand), 0);
}

/// A popped message, a retried one and an open half are needed where they were
/// written, long after everything around them was read.
#[test]
fn what_comes_again_is_still_there() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    by_hand.send("jobs", 0, "job");
    let pop = |by_hand: &mut ByHand| {
        let fields = PopHeader {
            group: "poppers",
            topic: "jobs",
            queue: -1,
            max_messages: 1,
            invisible_time: 15_000,
            poll_time: 0,
            born_wall: 0,
            init_mode: 0,
            expression_type: None,
            expression: None,
            order: None,
            attempt_id: None,
        }
        .fields();
        let answer = by_hand.ask(request::POP_MESSAGE, fields, Vec::new()).unwrap();
        Record::parse_all(&answer.body).unwrap()
    };
    assert_eq!(pop(&mut by_hand).len(), 1);
    // Its lease ends meanwhile: what is unread then is a pointer far away.
    for _ in 0..3 {
        fill(&mut by_hand, 128);
        by_hand.commit("readers", TOPIC, 0, 1_000);
    }
    assert!(log_kib(&by_hand) > 320, "it is waited for: {} KiB", log_kib(&by_hand));
    by_hand.kill();
    by_hand.start().unwrap();
    let again = pop(&mut by_hand);
    assert_eq!(again.len(), 1);
    assert_eq!((&again[0].body, again[0].reconsume_times), (&Bytes::from("job"), 1));
}

#[test]
fn an_undecided_message_is_waited_for() {
    let mut by_hand = ByHand::with(config());
    by_hand.start().unwrap();
    by_hand.send(TOPIC, 0, "first");
    let fields = send_fields(TOPIC, 0, "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}producers\u{2}");
    let half = by_hand.ask(request::SEND_MESSAGE, fields, b"half".to_vec()).unwrap();
    assert_eq!(half.code, code::SUCCESS);
    fill(&mut by_hand, 384);
    assert_eq!(min(&by_hand), 0);
    fill(&mut by_hand, 512);
    assert!(log_kib(&by_hand) <= 512 + 64, "but not for ever");
}
