//! Messages that come later, again, or for the last time: delays, send-backs,
//! dead letters.

use std::{collections::BTreeSet, time::Duration};

use stormglass_core::{
    message::{Properties, Record, property},
    queue::QueueConfig,
    replication::Flush,
    wire::{
        Fields, Frame, RecallHandle,
        body::{BatchRecord, RetryPolicy, SubscriptionGroup, put_batch_record},
        code,
        header::{
            GroupConfigHeader, RecallHeader, ReplayHeader, ReplayReply, ResetOffsetHeader,
            SendBackHeader, SendHeader,
        },
        request,
    },
};
use stormglass_sim::fault::Unsynced;
use stormglass_tests::by_hand::{ByHand, send_fields, small_config};

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

fn recall(by_hand: &mut ByHand, handle: &str) -> Frame {
    let fields =
        RecallHeader { producer_group: None, topic: "orders", recall_handle: handle }.fields();
    by_hand.ask(request::RECALL_MESSAGE, fields, Vec::new()).expect("an answer")
}

fn configure(by_hand: &mut ByHand, retry_queues: i32, retry_max: i32, policy: RetryPolicy) {
    let name = GROUP.to_owned();
    let body = SubscriptionGroup { name, retry_queues, retry_max, policy }.to_bytes();
    let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    assert_eq!(by_hand.ask(code, Fields::default(), body.to_vec()).unwrap().code, code::SUCCESS);
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
fn an_exhausted_message_is_dead_exactly_once() {
    let mut by_hand = started(Flush::Sync);
    let sent = send_with(&mut by_hand, "DELAY", "1", "dead");
    by_hand.pass(seconds(2));
    let record = records(&mut by_hand, "orders").remove(0);
    let now = SendBackHeader { max_reconsume_times: Some(1), delay_ms: Some(0), ..back(&record) };
    assert_eq!(send_back(&mut by_hand, now), Some(code::SUCCESS));
    by_hand.settle();
    let again = records(&mut by_hand, RETRY).remove(0);
    let last = SendBackHeader { max_reconsume_times: Some(1), ..back(&again) };
    // It is delivered to another member, who sends it back as well: before the
    // first answer, after it, and after a crash.
    let first = by_hand.request(request::CONSUMER_SEND_MSG_BACK, last.fields(), Vec::new());
    assert_eq!(send_back(&mut by_hand, last.clone()), Some(code::SUCCESS));
    assert_eq!(by_hand.answer(first).unwrap().code, code::SUCCESS);
    by_hand.power_loss();
    by_hand.start().unwrap();
    assert_eq!(send_back(&mut by_hand, last), Some(code::SUCCESS));
    by_hand.pass(seconds(60));
    let dead = records(&mut by_hand, DLQ);
    assert_eq!(dead.len(), 1);
    assert_eq!(get(&dead[0], property::DLQ_ORIGIN_TOPIC), Some("orders"));
    assert_eq!(get(&dead[0], property::DLQ_ORIGIN_MESSAGE_ID), sent.fields.get("msgId"));
    assert_eq!((get(&dead[0], property::DELAY), dead[0].reconsume_times), (None, 2));
    assert_eq!(records(&mut by_hand, RETRY).len(), 1);
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

/// As clients send to the retry topic when 36 fails.
fn fall_back(by_hand: &mut ByHand, times: i32, most: i32) {
    let properties = "RETRY_TOPIC\u{1}orders\u{2}ORIGIN_MESSAGE_ID\u{1}X\u{2}DELAY\u{1}1\u{2}";
    let fields = send_fields(RETRY, 0, properties);
    let header = SendHeader {
        reconsume_times: Some(times),
        max_reconsume_times: Some(most),
        ..SendHeader::parse(&fields).unwrap()
    };
    let body = b"fallen back".to_vec();
    let answer = by_hand.ask(request::SEND_MESSAGE, header.fields(), body).unwrap();
    assert_eq!(answer.code, code::SUCCESS);
}

#[test]
fn a_client_may_send_back_by_itself() {
    let mut by_hand = started(Flush::Sync);
    configure(&mut by_hand, 1, 16, RetryPolicy::default());
    fall_back(&mut by_hand, 2, 2);
    assert_eq!(bodies(&mut by_hand, RETRY), [""; 0]);
    by_hand.pass(Duration::from_millis(1_001));
    by_hand.settle();
    let again = records(&mut by_hand, RETRY).remove(0);
    assert_eq!((again.reconsume_times, get(&again, property::DELAY)), (2, None));
    fall_back(&mut by_hand, 3, 2);
    let dead = records(&mut by_hand, DLQ);
    assert_eq!(dead.len(), 1);
    // At once, whatever it was told of delays (R7).
    assert_eq!((get(&dead[0], property::DELAY), dead[0].reconsume_times), (None, 3));
    assert_eq!(get(&dead[0], property::DLQ_ORIGIN_TOPIC), Some("orders"));
}

/// An orderly group retries by itself and sends only what is exhausted, at its
/// limit and not above it (R6).
#[test]
fn what_an_orderly_group_sends_to_its_retry_topic_is_dead() {
    let mut by_hand = started(Flush::Sync);
    configure(&mut by_hand, 1, 16, RetryPolicy::default());
    by_hand.send("orders", 0, "a");
    let lock = r#"{"consumerGroup":"readers","clientId":"c","mqSet":[
        {"topic":"orders","brokerName":"broker-a","queueId":0}]}"#;
    let code = request::LOCK_BATCH_MQ;
    let answer = by_hand.ask(code, Fields::default(), lock.as_bytes().to_vec()).unwrap();
    assert_eq!(answer.code, code::SUCCESS);
    fall_back(&mut by_hand, 2, 2);
    by_hand.pass(seconds(5));
    assert_eq!(bodies(&mut by_hand, DLQ), ["fallen back"]);
    assert_eq!(bodies(&mut by_hand, RETRY), [""; 0]);
}

fn replay(by_hand: &mut ByHand, to_origin: bool, again: bool) -> ReplayReply {
    let header =
        ReplayHeader { group: GROUP, from: 0, to: u64::MAX, to_origin, again: Some(again) };
    let answer = by_hand.ask(request::REPLAY_DEAD_LETTERS, header.fields(), Vec::new()).unwrap();
    ReplayReply::parse(&answer.fields).expect("a reply")
}

#[test]
fn dead_letters_are_replayed_once_each() {
    let mut by_hand = started(Flush::Sync);
    for n in 0..3 {
        by_hand.send("orders", 0, &n.to_string());
    }
    for record in records(&mut by_hand, "orders") {
        send_back(&mut by_hand, SendBackHeader { delay_level: -1, ..back(&record) });
    }
    by_hand.settle();
    assert_eq!(records(&mut by_hand, DLQ).len(), 3);
    let reply = replay(&mut by_hand, false, false);
    assert_eq!((reply.replayed, reply.skipped, reply.failed, reply.next), (3, 0, 0, u64::MAX));
    let again = records(&mut by_hand, RETRY);
    assert_eq!(again.len(), 3);
    assert_eq!((again[0].reconsume_times, get(&again[0], property::DLQ_ORIGIN_TOPIC)), (0, None));
    assert_eq!(get(&again[0], property::RETRY_TOPIC), Some("orders"));
    by_hand.power_loss();
    by_hand.start().unwrap();
    let reply = replay(&mut by_hand, true, false);
    assert_eq!((reply.replayed, reply.skipped), (0, 3));
    let reply = replay(&mut by_hand, true, true);
    assert_eq!((reply.replayed, reply.skipped), (3, 0));
    let queues = 0..4;
    let all: usize = queues.map(|queue| by_hand.contents("orders", queue).len()).sum();
    assert_eq!((all, records(&mut by_hand, RETRY).len()), (6, 3));
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

/// One record that the disk does not give out, and everything else comes (L25).
#[test]
fn what_cannot_be_read_when_it_is_due_holds_nobody_up() {
    let mut by_hand = started(Flush::Sync);
    for n in 0..40 {
        send_with(&mut by_hand, "TIMER_DELAY_MS", "1000", &n.to_string());
    }
    by_hand.pass(Duration::from_millis(990));
    by_hand.drive.fail_reads(1);
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
    let start = |by_hand: &ByHand| by_hand.broker.as_ref().unwrap().view().start();
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
