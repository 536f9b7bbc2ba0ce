//! Messages for later.

use std::collections::BTreeSet;

use stormglass_core::{
    queue::QueueConfig,
    wire::{
        RecallHandle,
        body::{BatchRecord, put_batch_record},
        header::RecallHeader,
    },
};
use stormglass_tests::by_hand::small_config;

use super::*;

fn recall(by_hand: &mut ByHand, handle: &str) -> Frame {
    let fields =
        RecallHeader { producer_group: None, topic: "orders", recall_handle: handle }.fields();
    by_hand.ask(request::RECALL_MESSAGE, fields, Vec::new()).expect("an answer")
}

#[test]
fn a_delayed_message_is_seen_when_it_is_due_and_not_before() {
    for flush in [Flush::Sync, ASYNC] {
        let mut by_hand = started(flush);
        let due = (by_hand.now.wall + 2_500).to_string();
        for (key, value, body) in [
            ("DELAY", "2", "5 s"),
            ("TIMER_DELAY_MS", "1500", "1.5 s"),
            ("TIMER_DELIVER_MS", &due, "2.5 s"),
            ("TIMER_DELIVER_MS", "1", "past"),
        ] {
            assert_eq!(send_with(&mut by_hand, key, value, body).code, code::SUCCESS);
        }
        let mut expected = vec!["past"];
        for (step, body) in [(1_500, None), (1, Some("1.5 s")), (998, None), (1, Some("2.5 s"))] {
            by_hand.pass(Duration::from_millis(step));
            by_hand.settle();
            expected.extend(body);
            assert_eq!(bodies(&mut by_hand, "orders"), expected, "{flush:?}");
        }
        by_hand.pass(seconds(10));
        let all = records(&mut by_hand, "orders");
        assert_eq!(all.iter().map(|record| record.queue_offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
        // What asked for the delay is gone, or a retry would wait again (R7).
        assert!(all.iter().skip(1).all(|record| record.properties.is_empty()));
        assert_eq!(by_hand.broker.as_ref().unwrap().view().timers().0, 0);
    }
}

#[test]
fn delays_survive_what_a_broker_survives() {
    let mut by_hand = started(Flush::Sync);
    for n in 0..200 {
        let delay = (1_000 + n % 40 * 100).to_string();
        send_with(&mut by_hand, "TIMER_DELAY_MS", &delay, &format!("{n:->400}"));
    }
    for restart in 0..6 {
        by_hand.pass(Duration::from_millis(900));
        match restart % 2 {
            0 => by_hand.power_loss(),
            _ => by_hand.kill(),
        }
        by_hand.start().unwrap();
    }
    by_hand.pass(seconds(2));
    let all = bodies(&mut by_hand, "orders");
    assert_eq!(all.len(), 200);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 200);
}

#[test]
fn what_was_due_while_the_broker_was_away_comes_at_once_and_in_order() {
    let mut by_hand = started(Flush::Sync);
    for n in (1..=300).rev() {
        send_with(&mut by_hand, "TIMER_DELAY_MS", &(n * 1_000).to_string(), &n.to_string());
    }
    by_hand.kill();
    by_hand.now.wall += 150_000;
    by_hand.start().unwrap();
    by_hand.pass(Duration::from_millis(5));
    let expected: Vec<String> = (1..=150).map(|n: i32| n.to_string()).collect();
    assert_eq!(bodies(&mut by_hand, "orders"), expected);
}

#[test]
fn a_step_of_the_wall_clock_is_noticed() {
    let mut by_hand = started(Flush::Sync);
    send_with(&mut by_hand, "TIMER_DELAY_SEC", "3600", "later");
    by_hand.pass(seconds(5));
    by_hand.now.wall += 3_600_000;
    by_hand.pass(seconds(1));
    by_hand.settle();
    assert_eq!(bodies(&mut by_hand, "orders"), ["later"]);
    // Due is a time on that clock: what steps back waits, and is never early.
    send_with(&mut by_hand, "TIMER_DELAY_SEC", "10", "back");
    by_hand.now.wall -= 60_000;
    by_hand.pass(seconds(70));
    assert_eq!(bodies(&mut by_hand, "orders").len(), 1);
    by_hand.pass(Duration::from_millis(1));
    by_hand.settle();
    assert_eq!(bodies(&mut by_hand, "orders").len(), 2);
}

#[test]
fn delays_that_cannot_be_kept_are_refused() {
    let mut by_hand = started(Flush::Sync);
    for (key, value) in [
        ("TIMER_DELAY_SEC", "259201"),
        ("TIMER_DELAY_MS", "soon"),
        ("TIMER_DELIVER_MS", "99999999999999"),
        ("DELAY", "x"),
    ] {
        let answer = send_with(&mut by_hand, key, value, "never");
        assert_eq!(answer.code, code::MESSAGE_ILLEGAL, "{key} {value}");
    }
    let mut batch = Vec::new();
    for properties in [&b""[..], b"DELAY\x012\x02"] {
        put_batch_record(&mut batch, BatchRecord { flag: 0, body: b"b", properties });
    }
    let answer = by_hand.ask(request::SEND_BATCH_MESSAGE, send_fields("orders", 0, ""), batch);
    assert_eq!(answer.unwrap().code, code::MESSAGE_ILLEGAL);
    by_hand.pass(seconds(30));
    assert_eq!(bodies(&mut by_hand, "orders"), [""; 0]);
}

#[test]
fn a_delayed_message_is_recalled_until_it_is_due() {
    let mut by_hand = started(Flush::Sync);
    let sent = send_with(&mut by_hand, "DELAY", "3", "no");
    let handle = sent.fields.get("recallHandle").unwrap().to_owned();
    let other = send_with(&mut by_hand, "DELAY", "1", "yes");
    let other = other.fields.get("recallHandle").unwrap().to_owned();
    by_hand.power_loss();
    by_hand.start().unwrap();
    let answer = recall(&mut by_hand, &handle);
    assert_eq!((answer.code, answer.fields.get("msgId")), (0, sent.fields.get("msgId")));
    assert_eq!(recall(&mut by_hand, &handle).code, code::ILLEGAL_OPERATION);
    by_hand.power_loss();
    by_hand.start().unwrap();
    by_hand.pass(seconds(20));
    assert_eq!(bodies(&mut by_hand, "orders"), ["yes"]);
    assert_eq!(recall(&mut by_hand, &other).code, code::ILLEGAL_OPERATION);
    let view = by_hand.broker.as_ref().unwrap().view();
    assert_eq!(view.undelivered(), (1, 0, 0));

    // Handles are not to be trusted.
    let honest = RecallHandle::decode(&other).unwrap();
    for handle in [
        "?".to_owned(),
        RecallHandle { broker: "broker-b".into(), ..honest.clone() }.encode(),
        RecallHandle { topic: "bills".into(), ..honest.clone() }.encode(),
        RecallHandle { message_id: "FF".into(), ..honest.clone() }.encode(),
        RecallHandle { due_wall: honest.due_wall + 1, ..honest }.encode(),
    ] {
        assert_eq!(recall(&mut by_hand, &handle).code, code::ILLEGAL_OPERATION, "{handle}");
    }
}

/// One record that the disk does not give out, and everything else comes (L25).
#[test]
fn what_cannot_be_read_when_it_is_due_holds_nobody_up() {
    let mut by_hand = started(Flush::Sync);
    for n in 0..40 {
        send_with(&mut by_hand, "TIMER_DELAY_MS", "1000", &n.to_string());
    }
    by_hand.pass(Duration::from_millis(990));
    // A read that fails is tried three times.
    by_hand.drive.fail_reads(3);
    by_hand.pass(Duration::from_millis(20));
    assert_eq!(bodies(&mut by_hand, "orders").len(), 39);
    let unreadable = |by_hand: &ByHand| by_hand.broker.as_ref().unwrap().view().undelivered().2;
    assert_eq!(unreadable(&by_hand), 1);
    // The disk recovers, and so does the message.
    by_hand.pass(seconds(10));
    assert_eq!(bodies(&mut by_hand, "orders").len(), 40);
    assert_eq!(unreadable(&by_hand), 0);
}

#[test]
fn what_waits_is_kept_however_short_the_log() {
    let mut config = small_config(Flush::Sync);
    config.retain_bytes = Some(64 << 10);
    let mut by_hand = ByHand::with(config);
    by_hand.start().unwrap();
    send_with(&mut by_hand, "TIMER_DELAY_SEC", "3600", "waits");
    let start = |by_hand: &ByHand| by_hand.broker.as_ref().unwrap().view().log().start();
    let first = start(&by_hand);
    for n in 0..40 {
        by_hand.send("other", 0, &format!("{n:->10000}"));
        by_hand.pass(seconds(10));
    }
    assert_eq!(start(&by_hand), first);
    by_hand.pass(seconds(3600));
    assert_eq!(bodies(&mut by_hand, "orders"), ["waits"]);
    for n in 0..40 {
        by_hand.send("other", 0, &format!("{n:->10000}"));
        by_hand.pass(seconds(10));
    }
    assert!(start(&by_hand) > first, "it is kept for ever");
}

/// The figures of a million delayed messages:
/// `cargo test -p stormglass-tests --test it million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute"]
fn a_million_delayed_messages() {
    const COUNT: usize = 1_000_000;
    let mut config = small_config(Flush::Sync);
    config.log.segment_bytes = 64 << 20;
    config.queue = QueueConfig::default();
    config.snapshot_every = 64 << 20;
    let mut by_hand = ByHand::with(config);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "creates the topic");
    let last_due = by_hand.now.wall + 120_000;
    for n in 0..COUNT {
        let due = last_due - 60_000 + (n * 7_919 % 60_000) as i64;
        let fields = send_fields("orders", 0, &format!("TIMER_DELIVER_MS\u{1}{due}\u{2}"));
        by_hand.request(request::SEND_MESSAGE, fields, due.to_string().into_bytes());
        if n % 500 == 0 {
            by_hand.settle();
            by_hand.sent.clear();
        }
    }
    by_hand.settle();
    by_hand.sent.clear();
    let (waiting, bytes) = by_hand.broker.as_ref().unwrap().view().timers();
    assert_eq!(waiting, COUNT);
    by_hand.kill();
    let began = std::time::Instant::now();
    by_hand.start().unwrap();
    let restart = began.elapsed();
    let began = std::time::Instant::now();
    by_hand.pass(Duration::from_millis(120_010));
    let fired = began.elapsed();
    let mut late = Vec::with_capacity(COUNT);
    let mut at = 1;
    while late.len() < COUNT {
        let (_, next, records) = by_hand.pull("orders", 0, at);
        assert!(next > at, "{} of {COUNT}", late.len());
        at = next;
        late.extend(records.iter().map(|record| {
            let due: i64 = std::str::from_utf8(&record.body).unwrap().parse().unwrap();
            record.store_wall - due
        }));
    }
    late.sort_unstable();
    assert!(late[0] >= 0, "early by {} ms", -late[0]);
    println!(
        "{:.2} bytes of memory each; restart {restart:?}; late by p99 {} ms, at most {} ms; \
         fired in {fired:?}",
        bytes as f64 / COUNT as f64,
        late[COUNT * 99 / 100],
        late[COUNT - 1],
    );
}
