//! What the broker promises, one process and one disk at a time.

use std::time::Duration;

use proptest::prelude::*;
use stormglass_core::{
    broker::Input,
    replication::{ASYNC_WINDOW, Flush},
    wire::{body, code, header::pull_flag, request},
};
use stormglass_tests::by_hand::{ByHand, Sent, pull_fields, send_fields};

use crate::crashes::{Crash, between_requests};

const ASYNC: Flush = Flush::Async { interval: Duration::from_millis(500) };

#[test]
fn what_is_acknowledged_is_there_after_power_loss() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    assert_eq!(by_hand.send("orders", 1, "a"), Sent::Ok { queue: 1, offset: 0 });
    assert_eq!(by_hand.send("orders", 1, "b"), Sent::Ok { queue: 1, offset: 1 });
    assert_eq!(by_hand.commit("readers", "orders", 1, 1), Some(code::SUCCESS));
    for _ in 0..3 {
        by_hand.power_loss();
        by_hand.start().unwrap();
        assert!(by_hand.is_serving());
        assert_eq!(by_hand.contents("orders", 1), [(0, "a".into()), (1, "b".into())]);
        assert_eq!(by_hand.committed("readers", "orders", 1), Some(1));
    }
}

#[test]
fn a_message_is_invisible_until_it_is_durable() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "first");
    by_hand.drive.fail_syncs(1);
    assert_eq!(by_hand.send("orders", 0, "second"), Sent::Unknown);
    // The store is stopped, not retried into an OK (L2).
    assert!(by_hand.failed.is_some());
    by_hand.power_loss();
    by_hand.drive.repair();
    by_hand.start().unwrap();
    let contents = by_hand.contents("orders", 0);
    assert_eq!(contents[0], (0, "first".into()));
    assert!(contents.len() <= 2);
}

#[test]
fn a_held_pull_wakes_for_its_tag_only() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "first");
    let mut pull = pull_fields("orders", 0, 1, pull_flag::SUBSCRIPTION | pull_flag::SUSPEND, 5000);
    pull = {
        let mut fields = stormglass_core::wire::Fields::builder();
        for (key, value) in pull.iter() {
            fields.put(key, if key == "subscription" { "blue" } else { value });
        }
        fields.finish()
    };
    let held = by_hand.request(request::PULL_MESSAGE, pull.clone(), Vec::new());
    by_hand.settle();
    assert!(by_hand.answer(held).is_none());
    by_hand.ask(
        request::SEND_MESSAGE,
        send_fields("orders", 0, "TAGS\u{1}red\u{2}"),
        b"r".to_vec(),
    );
    assert!(by_hand.answer(held).is_none());
    by_hand.ask(
        request::SEND_MESSAGE,
        send_fields("orders", 0, "TAGS\u{1}blue\u{2}"),
        b"b".to_vec(),
    );
    let answer = by_hand.answer(held).unwrap();
    assert_eq!((answer.code, answer.fields.get("nextBeginOffset")), (code::SUCCESS, Some("3")));

    let held = by_hand.request(request::PULL_MESSAGE, pull, Vec::new());
    by_hand.settle();
    by_hand.pass(Duration::from_secs(4));
    // It starts at 1 and finds "blue" at once.
    assert_eq!(by_hand.answer(held).unwrap().code, code::SUCCESS);
    let held = by_hand.request(
        request::PULL_MESSAGE,
        pull_fields("orders", 0, 3, pull_flag::SUBSCRIPTION | pull_flag::SUSPEND, 5000),
        Vec::new(),
    );
    by_hand.settle();
    by_hand.pass(Duration::from_millis(4_900));
    assert!(by_hand.answer(held).is_none());
    by_hand.pass(Duration::from_millis(200));
    assert_eq!(by_hand.answer(held).unwrap().code, code::PULL_NOT_FOUND);
}

#[test]
fn a_batch_is_stored_whole_or_not_at_all() {
    let mut batch = Vec::new();
    for text in ["a", "b", "c"] {
        let record = body::BatchRecord { flag: 0, body: text.as_bytes(), properties: b"" };
        body::put_batch_record(&mut batch, record);
    }
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    let fields = send_fields("orders", 2, "");
    let answer = by_hand.ask(request::SEND_BATCH_MESSAGE, fields.clone(), batch.clone()).unwrap();
    assert_eq!(answer.fields.get("msgId").unwrap().split(',').count(), 3);
    let stored = [(0, "a".into()), (1, "b".into()), (2, "c".into())];
    assert_eq!(by_hand.contents("orders", 2), stored);

    batch.truncate(batch.len() - 1);
    let answer = by_hand.ask(request::SEND_BATCH_MESSAGE, fields, batch).unwrap();
    assert_eq!(answer.code, code::MESSAGE_ILLEGAL);
    assert_eq!(by_hand.contents("orders", 2), stored);
    assert_eq!(by_hand.send("orders", 2, "d"), Sent::Ok { queue: 2, offset: 3 });
}

#[test]
fn offsets_beyond_either_end_are_corrected_to_that_end() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "a");
    by_hand.send("orders", 0, "b");
    // Never to 0, which would replay everything (O2).
    let (code, next, _) = by_hand.pull("orders", 0, 77);
    assert_eq!((code, next), (code::PULL_OFFSET_MOVED, 2));
    let (code, next, _) = by_hand.pull("orders", 0, -5);
    assert_eq!((code, next), (code::PULL_OFFSET_MOVED, 0));
}

#[test]
fn progress_only_moves_forward() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    for _ in 0..5 {
        by_hand.send("orders", 0, "m");
    }
    by_hand.commit("readers", "orders", 0, 4);
    by_hand.commit("readers", "orders", 0, 2);
    assert_eq!(by_hand.committed("readers", "orders", 0), Some(4));
}

#[test]
fn offsets_lost_under_async_flush_are_never_given_again() {
    let mut by_hand = ByHand::new(ASYNC);
    by_hand.start().unwrap();
    assert_eq!(by_hand.send("orders", 0, "kept?"), Sent::Ok { queue: 0, offset: 0 });
    by_hand.pass(Duration::from_secs(1));
    assert_eq!(by_hand.send("orders", 0, "lost?"), Sent::Ok { queue: 0, offset: 1 });
    by_hand.power_loss();
    by_hand.start().unwrap();
    let kept = by_hand.contents("orders", 0);
    assert_eq!(kept[0], (0, "kept?".into()), "synced long before");
    let Sent::Ok { offset, .. } = by_hand.send("orders", 0, "new") else { panic!("refused") };
    assert_eq!(offset, kept.len() as u64 + ASYNC_WINDOW);
    // A consumer whose offset was in the gap goes on at the new message.
    let (code, _, records) = by_hand.pull("orders", 0, 2);
    assert_eq!((code, records[0].queue_offset), (code::SUCCESS, offset));
}

#[test]
fn an_orderly_stop_loses_and_skips_nothing() {
    let mut by_hand = ByHand::new(ASYNC);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "a");
    by_hand.input(Input::Stop);
    by_hand.settle();
    assert!(by_hand.broker.is_none() && by_hand.failed.is_none());
    by_hand.power_loss();
    by_hand.start().unwrap();
    assert_eq!(by_hand.send("orders", 0, "b"), Sent::Ok { queue: 0, offset: 1 });
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    let body = "x".repeat(8 << 10);
    by_hand.send("orders", 0, &body);
    by_hand.drive.set_full(true);
    let outcomes: Vec<Sent> = (0..40).map(|_| by_hand.send("orders", 0, &body)).collect();
    assert_eq!(outcomes.last(), Some(&Sent::Refused(code::SERVICE_NOT_AVAILABLE)));
    let stored = outcomes.iter().filter(|sent| matches!(sent, Sent::Ok { .. })).count();
    assert_eq!(by_hand.contents("orders", 0).len(), stored + 1, "reads go on");
    by_hand.drive.set_full(false);
    let next = stored as u64 + 1;
    assert_eq!(by_hand.send("orders", 0, &body), Sent::Ok { queue: 0, offset: next });
}

/// Not even the record that opens a term has room: reads are served all the same.
#[test]
fn a_broker_that_restarts_onto_a_full_disk_serves_what_it_has() {
    let full = Sent::Refused(code::SERVICE_NOT_AVAILABLE);
    let crashes = [ByHand::kill, ByHand::power_loss];
    for (flush, crash) in [Flush::Sync, ASYNC].into_iter().flat_map(|f| crashes.map(|c| (f, c))) {
        let mut by_hand = ByHand::new(flush);
        by_hand.start().unwrap();
        assert_eq!(by_hand.send("orders", 1, "first"), Sent::Ok { queue: 1, offset: 0 });
        by_hand.drive.set_full(true);
        while by_hand.send("orders", 1, &"x".repeat(2_000)) != full {}
        while by_hand.commit("readers", "orders", 1, 1) == Some(code::SUCCESS) {}
        by_hand.pass(Duration::from_secs(1));
        let stored = by_hand.contents("orders", 1);
        for _ in 0..2 {
            crash(&mut by_hand);
            by_hand.start().unwrap();
            assert!(!by_hand.is_serving());
            assert_eq!(by_hand.contents("orders", 1), stored);
            assert_eq!(by_hand.committed("readers", "orders", 1), Some(1));
            assert_eq!(by_hand.send("orders", 1, "second"), full);
            by_hand.pass(Duration::from_secs(5));
        }
        by_hand.drive.set_full(false);
        by_hand.pass(Duration::from_secs(2));
        let Sent::Ok { offset, .. } = by_hand.send("orders", 1, "second") else {
            panic!("there is room again")
        };
        assert!(offset >= stored.len() as u64, "no offset is used twice");
    }
}

/// What a client may do, and what may happen to the machine.
#[derive(Clone, Debug)]
enum Step {
    Send { queue: i32, size: usize },
    Commit { queue: u32 },
    Crash(Crash),
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3i32, 1..3000usize).prop_map(|(queue, size)| Step::Send { queue, size }),
        3 => (0..3u32).prop_map(|queue| Step::Commit { queue }),
        2 => between_requests().prop_map(Step::Crash),
        1 => (1..2000u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The model of a broker under sync flush is a vector for each queue and a
    /// number for each offset: nothing that happens to the machine shows.
    #[test]
    fn under_sync_flush_the_broker_is_a_vector(steps in prop::collection::vec(step(), 1..120)) {
        let mut by_hand = ByHand::new(Flush::Sync);
        by_hand.start().unwrap();
        let mut queues: [Vec<(u64, String)>; 3] = Default::default();
        let mut offsets = [None; 3];
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { queue, size } => {
                    let body = format!("{n:->size$}");
                    let offset = queues[queue as usize].len() as u64;
                    let sent = by_hand.send("orders", queue, &body);
                    prop_assert_eq!(sent, Sent::Ok { queue: queue as u32, offset });
                    queues[queue as usize].push((offset, body));
                }
                Step::Commit { queue } => {
                    let end = queues[queue as usize].len() as i64;
                    if by_hand.commit("readers", "orders", queue, end) == Some(code::SUCCESS) {
                        offsets[queue as usize] = Some(end);
                    }
                }
                Step::Crash(crash) => crash.strike(&mut by_hand),
                Step::Pass { millis } => by_hand.pass(Duration::from_millis(millis)),
            }
        }
        if queues.iter().any(|queue| !queue.is_empty()) {
            for queue in 0..3u32 {
                prop_assert_eq!(&by_hand.contents("orders", queue), &queues[queue as usize]);
                if let Some(offset) = offsets[queue as usize] {
                    prop_assert_eq!(by_hand.committed("readers", "orders", queue), Some(offset));
                }
            }
        }
    }
}
