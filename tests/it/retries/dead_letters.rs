//! Messages that a group gave up.

use stormglass_core::wire::header::{ReplayHeader, ReplayReply, SendHeader};

use super::*;

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
