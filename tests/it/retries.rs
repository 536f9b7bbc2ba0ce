//! Messages that come later, again, or for the last time: delays, send-backs,
//! dead letters.

mod dead_letters;
mod delays;

use std::time::Duration;

use stormglass_core::{
    message::{Properties, Record, property},
    replication::Flush,
    wire::{
        Fields, Frame,
        body::{RetryPolicy, SubscriptionGroup},
        code,
        header::{GroupConfigHeader, ResetOffsetHeader, SendBackHeader},
        request,
    },
};
use stormglass_sim::fault::Unsynced;
use stormglass_tests::by_hand::{ByHand, send_fields};

const ASYNC: Flush = Flush::Async { interval: Duration::from_millis(500) };
const GROUP: &str = "readers";
const RETRY: &str = "%RETRY%readers";
const DLQ: &str = "%DLQ%readers";

fn started(flush: Flush) -> ByHand {
    let mut by_hand = ByHand::new(flush);
    by_hand.start().unwrap();
    by_hand
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Sends to queue 0 with this one property.
fn send_with(by_hand: &mut ByHand, key: &str, value: &str, body: &str) -> Frame {
    let mut properties = Vec::new();
    Properties::put(&mut properties, key, value);
    let fields = send_fields("orders", 0, std::str::from_utf8(&properties).unwrap());
    by_hand.ask(request::SEND_MESSAGE, fields, body.as_bytes().to_vec()).expect("an answer")
}

/// The messages of a topic's first queue.
fn records(by_hand: &mut ByHand, topic: &str) -> Vec<Record> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let (code, next, records) = by_hand.pull(topic, 0, at);
        if code == code::TOPIC_NOT_EXIST || next <= at {
            return found;
        }
        found.extend(records);
        at = next;
    }
}

fn bodies(by_hand: &mut ByHand, topic: &str) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.body.to_vec()).unwrap();
    records(by_hand, topic).iter().map(text).collect()
}

fn get<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    Properties(&record.properties).get(key)
}

fn back(record: &Record) -> SendBackHeader<'static> {
    back_from(record.position.0 as i64, None)
}

fn back_from(offset: i64, delay_ms: Option<i64>) -> SendBackHeader<'static> {
    SendBackHeader {
        offset,
        group: GROUP,
        delay_level: 0,
        origin_message_id: None,
        origin_topic: None,
        unit_mode: None,
        max_reconsume_times: None,
        delay_ms,
        lock_epoch: None,
    }
}

fn send_back(by_hand: &mut ByHand, header: SendBackHeader<'_>) -> Option<i32> {
    let answer = by_hand.ask(request::CONSUMER_SEND_MSG_BACK, header.fields(), Vec::new());
    answer.map(|answer| answer.code)
}

fn configure(by_hand: &mut ByHand, retry_queues: i32, retry_max: i32, policy: RetryPolicy) {
    let name = GROUP.to_owned();
    let body = SubscriptionGroup { name, retry_queues, retry_max, policy }.to_bytes();
    let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    assert_eq!(by_hand.ask(code, Fields::default(), body.to_vec()).unwrap().code, code::SUCCESS);
}

#[test]
fn what_is_sent_back_comes_again_and_says_where_from() {
    for flush in [Flush::Sync, ASYNC] {
        let mut by_hand = started(flush);
        let sent = send_with(&mut by_hand, "TAGS", "blue", "again");
        let id = sent.fields.get("msgId").unwrap().to_owned();
        let mut record = records(&mut by_hand, "orders").remove(0);
        // 10 s, 30 s: levels 3 and 4.
        for (times, wait) in [(1, 10), (2, 30)] {
            assert_eq!(send_back(&mut by_hand, back(&record)), Some(code::SUCCESS));
            by_hand.pass(seconds(wait));
            assert_eq!(records(&mut by_hand, RETRY).len(), times - 1);
            by_hand.pass(Duration::from_millis(1));
            by_hand.settle();
            let found = records(&mut by_hand, RETRY);
            assert_eq!(found.len(), times, "{flush:?}");
            record = found.into_iter().next_back().unwrap();
            assert_eq!((record.reconsume_times, &record.body[..]), (times as i32, &b"again"[..]));
            assert_eq!(get(&record, property::RETRY_TOPIC), Some("orders"));
            assert_eq!(get(&record, property::ORIGIN_MESSAGE_ID), Some(id.as_str()));
            assert_eq!(get(&record, property::TAGS), Some("blue"));
        }
        let chosen = SendBackHeader { delay_ms: Some(70), ..back(&record) };
        assert_eq!(send_back(&mut by_hand, chosen), Some(code::SUCCESS));
        by_hand.pass(Duration::from_millis(71));
        by_hand.settle();
        assert_eq!(records(&mut by_hand, RETRY).len(), 3);
    }
}

#[test]
fn a_group_has_its_own_back_off() {
    let mut by_hand = started(Flush::Sync);
    configure(&mut by_hand, 1, 3, RetryPolicy::Steps(vec![100, 700]));
    by_hand.power_loss();
    by_hand.start().unwrap();
    let fields = GroupConfigHeader { group: GROUP }.fields();
    let answer = by_hand.ask(request::GET_SUBSCRIPTIONGROUP_CONFIG, fields, Vec::new()).unwrap();
    let group = SubscriptionGroup::parse(&answer.body).unwrap();
    assert_eq!((group.retry_max, group.policy), (3, RetryPolicy::Steps(vec![100, 700])));
    by_hand.send("orders", 0, "again");
    let mut record = records(&mut by_hand, "orders").remove(0);
    for wait in [100, 700, 700] {
        assert_eq!(send_back(&mut by_hand, back(&record)), Some(code::SUCCESS));
        by_hand.pass(Duration::from_millis(wait));
        let before = records(&mut by_hand, RETRY).len();
        by_hand.pass(Duration::from_millis(1));
        by_hand.settle();
        let mut found = records(&mut by_hand, RETRY);
        assert_eq!(found.len(), before + 1);
        record = found.pop().unwrap();
    }
    assert_eq!(send_back(&mut by_hand, back(&record)), Some(code::SUCCESS));
    by_hand.settle();
    assert_eq!(bodies(&mut by_hand, DLQ), ["again"]);
}

#[test]
fn once_the_group_has_passed_a_message_it_may_be_sent_back_anew() {
    let mut by_hand = started(Flush::Sync);
    by_hand.send("orders", 0, "a");
    let record = records(&mut by_hand, "orders").remove(0);
    let now = SendBackHeader { delay_ms: Some(0), ..back(&record) };
    for (committed, copies) in [(None, 1), (None, 1), (Some(1), 1)] {
        assert_eq!(send_back(&mut by_hand, now.clone()), Some(code::SUCCESS));
        by_hand.settle();
        assert_eq!(records(&mut by_hand, RETRY).len(), copies);
        if let Some(offset) = committed {
            assert_eq!(by_hand.commit(GROUP, "orders", 0, offset), Some(code::SUCCESS));
        }
    }
    // Who reads it on purpose after that means it.
    assert_eq!(send_back(&mut by_hand, now), Some(code::SUCCESS));
    by_hand.settle();
    assert_eq!(records(&mut by_hand, RETRY).len(), 2);
}

#[test]
fn once_a_group_was_reset_it_may_send_everything_back_again() {
    let mut by_hand = started(Flush::Sync);
    by_hand.send("orders", 0, "a");
    let record = records(&mut by_hand, "orders").remove(0);
    let now = SendBackHeader { delay_ms: Some(0), ..back(&record) };
    assert_eq!(send_back(&mut by_hand, now.clone()), Some(code::SUCCESS));
    let reset = ResetOffsetHeader {
        topic: "orders",
        group: GROUP,
        timestamp: 0,
        force: true,
        queue: Some(0),
        offset: Some(0),
    };
    let asked = by_hand.ask(request::INVOKE_BROKER_TO_RESET_OFFSET, reset.fields(), Vec::new());
    assert_eq!(asked.unwrap().code, code::SUCCESS);
    assert_eq!(send_back(&mut by_hand, now), Some(code::SUCCESS));
    by_hand.settle();
    assert_eq!(records(&mut by_hand, RETRY).len(), 2);
}

#[test]
fn what_was_never_delivered_cannot_be_sent_back() {
    let mut by_hand = started(Flush::Sync);
    by_hand.send("orders", 0, "a");
    send_with(&mut by_hand, "DELAY", "18", "delayed");
    let record = records(&mut by_hand, "orders").remove(0);
    let end = by_hand.broker.as_ref().unwrap().view().written().0 as i64;
    // The delayed one is among them.
    for offset in (-8..end + 16).chain([i64::MIN, i64::MAX]) {
        if offset != record.position.0 as i64 {
            let header = SendBackHeader { offset, delay_ms: Some(0), ..back(&record) };
            assert_eq!(send_back(&mut by_hand, header), Some(code::SYSTEM_ERROR), "{offset}");
        }
    }
    for (delay_ms, expected) in
        [(-1, code::MESSAGE_ILLEGAL), (259_200_001, code::MESSAGE_ILLEGAL), (259_200_000, 0)]
    {
        let header = SendBackHeader { delay_ms: Some(delay_ms), ..back(&record) };
        assert_eq!(send_back(&mut by_hand, header), Some(expected), "{delay_ms}");
    }
    by_hand.pass(seconds(5));
    assert_eq!(bodies(&mut by_hand, RETRY), [""; 0]);
}

#[test]
fn a_group_without_retries_is_told_so() {
    let mut by_hand = started(Flush::Sync);
    configure(&mut by_hand, 0, 16, RetryPolicy::default());
    by_hand.send("orders", 0, "kept");
    let record = records(&mut by_hand, "orders").remove(0);
    assert_eq!(send_back(&mut by_hand, back(&record)), Some(code::NO_PERMISSION));
    let dead = SendBackHeader { delay_level: -1, ..back(&record) };
    assert_eq!(send_back(&mut by_hand, dead), Some(code::SUCCESS));
    by_hand.settle();
    assert_eq!(bodies(&mut by_hand, DLQ), ["kept"]);
}

/// Sends, sends back, and lets it come again, while the power fails after any
/// single disk operation: what was answered OK comes again, and only once.
#[test]
fn no_crash_loses_or_doubles_what_was_sent_back() {
    for unsynced in [Unsynced::Random, Unsynced::Torn] {
        for cut in 0.. {
            let what = format!("power cut after operation {cut}, {unsynced:?}");
            let mut by_hand = ByHand::new(Flush::Sync);
            by_hand.cut_after = Some(cut);
            let fields = send_fields("orders", 0, "");
            let sent = match by_hand.start() {
                Ok(()) => by_hand.ask(request::SEND_MESSAGE, fields, b"again".to_vec()),
                Err(_) => None,
            };
            let mut answer = None;
            let mut finished = false;
            if let Some(sent) = sent.filter(|answer| answer.code == code::SUCCESS) {
                let position = &sent.fields.get("msgId").unwrap()[16..];
                let offset = i64::from_str_radix(position, 16).unwrap();
                answer = send_back(&mut by_hand, back_from(offset, Some(300)));
                by_hand.pass(seconds(1));
                finished = by_hand.broker.is_some();
            }
            by_hand.power_loss_with(unsynced);
            by_hand.cut_after = None;
            by_hand.start().unwrap_or_else(|error| panic!("{what}: {error}"));
            by_hand.pass(seconds(1));
            let copies = records(&mut by_hand, RETRY).len();
            assert!(copies <= 1, "{what}: {copies} copies");
            if answer == Some(code::SUCCESS) {
                assert_eq!(copies, 1, "{what}: lost");
            }
            // Whoever got no answer asks again.
            if let Some(record) = records(&mut by_hand, "orders").first() {
                let header = SendBackHeader { delay_ms: Some(0), ..back(record) };
                assert_eq!(send_back(&mut by_hand, header), Some(code::SUCCESS), "{what}");
                by_hand.settle();
                assert_eq!(records(&mut by_hand, RETRY).len(), 1, "{what}");
            }
            if finished {
                assert!(cut > 8, "the run must have something to cut");
                break;
            }
        }
    }
}

/// A send-back that is not durable is not answered, so that its consumer does
/// not go on (L18, L24).
#[test]
fn a_send_back_is_answered_when_it_is_durable() {
    let mut by_hand = started(Flush::Sync);
    by_hand.send("orders", 0, "a");
    let record = records(&mut by_hand, "orders").remove(0);
    by_hand.drive.fail_syncs(1);
    assert_eq!(send_back(&mut by_hand, back(&record)), None);
    assert!(by_hand.failed.is_some());
}
