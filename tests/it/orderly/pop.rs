//! Popped messages: one owner each until acked or late, never lost, never early.

mod storms;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use stormglass_core::{
    message::Record,
    replication::Flush,
    wire::{
        Fields, Frame,
        body::{AckRun, BatchAck},
        code,
        header::{
            AckHeader, ChangeInvisibleHeader, ChangeInvisibleReply, NotificationHeader, PopHeader,
            PopReply, ReceiptHandle,
        },
        request,
    },
};
use stormglass_tests::by_hand::ByHand;

use super::Client;

const GROUP: &str = "poppers";
const TOPIC: &str = "jobs";
const INVISIBLE: u64 = 30_000;
const SECOND: Duration = Duration::from_secs(1);

/// A message and the receipt for it.
#[derive(Clone, Debug)]
struct Popped {
    body: String,
    times: i32,
    topic: String,
    queue: u32,
    offset: u64,
    handle: String,
}

fn pop_fields(queue: i32, most: i32, poll: i64, order: bool, attempt: Option<&str>) -> Fields {
    PopHeader {
        group: GROUP,
        topic: TOPIC,
        queue,
        max_messages: most,
        invisible_time: INVISIBLE as i64,
        poll_time: poll,
        born_wall: 0,
        init_mode: 0,
        expression_type: None,
        expression: Some("*"),
        order: Some(order),
        attempt_id: attempt,
    }
    .fields()
}

/// Reads an answer as RocketMQ's clients do.
fn messages(answer: &Frame) -> Vec<Popped> {
    if answer.code != code::SUCCESS {
        assert_eq!(answer.code, code::POLLING_TIMEOUT, "{}", answer.remark);
        return Vec::new();
    }
    let reply = PopReply::parse(&answer.fields).unwrap();
    let mut starts = BTreeMap::new();
    for entry in reply.start_offsets.unwrap().split(';') {
        let [retry, queue, start] = numbers(entry, ' ')[..] else { panic!("{entry}") };
        starts.insert((retry, queue), start);
    }
    let mut receipts = BTreeMap::new();
    for entry in reply.message_offsets.unwrap().split(';') {
        let words: Vec<&str> = entry.split(' ').collect();
        let (retry, queue) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        for offset in numbers(words[2], ',') {
            let handle = ReceiptHandle {
                start_offset: starts[&(retry, queue)] as i64,
                pop_wall: reply.pop_wall,
                invisible_time: reply.invisible_time,
                revive_queue: reply.revive_queue,
                retry: retry as u8,
                broker_name: "broker-a",
                queue: queue as u32,
                offset: offset as i64,
            };
            receipts.insert((retry != 0, queue, offset), handle.to_string());
        }
    }
    let records = Record::parse_all(&answer.body).unwrap();
    assert_eq!(records.len(), receipts.len(), "a receipt for each");
    let popped = |record: Record| {
        let is_retry = record.topic.starts_with("%RETRY%");
        let key = (is_retry, u64::from(record.queue), record.queue_offset);
        Popped {
            body: String::from_utf8(record.body.to_vec()).unwrap(),
            times: record.reconsume_times,
            handle: receipts[&key].clone(),
            topic: record.topic,
            queue: record.queue,
            offset: record.queue_offset,
        }
    };
    records.into_iter().map(popped).collect()
}

fn numbers(text: &str, between: char) -> Vec<u64> {
    text.split(between).map(|number| number.parse().unwrap()).collect()
}

fn pop(by_hand: &mut ByHand, client: Client, queue: i32, most: i32) -> Option<Vec<Popped>> {
    let fields = pop_fields(queue, most, 0, false, None);
    Some(messages(&client.ask(by_hand, request::POP_MESSAGE, fields, Bytes::new())?))
}

fn pop_in_order(by_hand: &mut ByHand, most: i32, attempt: Option<&str>) -> Vec<Popped> {
    let fields = pop_fields(0, most, 0, true, attempt);
    messages(&Client(1).ask(by_hand, request::POP_MESSAGE, fields, Bytes::new()).unwrap())
}

fn ack(by_hand: &mut ByHand, message: &Popped) -> Option<i32> {
    let header = AckHeader {
        group: GROUP,
        topic: &message.topic,
        queue: message.queue as i32,
        handle: &message.handle,
        offset: message.offset as i64,
    };
    Some(Client(1).ask(by_hand, request::ACK_MESSAGE, header.fields(), Bytes::new())?.code)
}

/// The same message under its new receipt; none if it was refused or nobody
/// answered.
fn change(by_hand: &mut ByHand, message: &Popped, invisible: i64) -> Option<Result<Popped, i32>> {
    let header = ChangeInvisibleHeader {
        group: GROUP,
        topic: &message.topic,
        queue: message.queue as i32,
        handle: &message.handle,
        offset: message.offset as i64,
        invisible_time: invisible,
    };
    let code = request::CHANGE_MESSAGE_INVISIBLE_TIME;
    let answer = Client(1).ask(by_hand, code, header.fields(), Bytes::new())?;
    if answer.code != code::SUCCESS {
        return Some(Err(answer.code));
    }
    let reply = ChangeInvisibleReply::parse(&answer.fields).unwrap();
    let old = ReceiptHandle::parse(&message.handle).unwrap();
    let new = ReceiptHandle {
        pop_wall: reply.pop_wall,
        invisible_time: reply.invisible_time,
        revive_queue: reply.revive_queue,
        ..old
    };
    Some(Ok(Popped { handle: new.to_string(), ..message.clone() }))
}

fn broker_with(count: usize) -> ByHand {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    for n in 0..count {
        by_hand.send(TOPIC, 0, &format!("m{n}"));
    }
    by_hand
}

fn bodies(messages: &[Popped]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

#[test]
fn one_queue_is_shared_by_many_and_what_is_acked_never_comes_again() {
    let mut by_hand = broker_with(6);
    let first = pop(&mut by_hand, Client(1), -1, 2).unwrap();
    let second = pop(&mut by_hand, Client(2), 0, 2).unwrap();
    let third = pop(&mut by_hand, Client(3), -1, 32).unwrap();
    assert_eq!(bodies(&first), ["m0", "m1"]);
    assert_eq!(bodies(&second), ["m2", "m3"]);
    assert_eq!(bodies(&third), ["m4", "m5"]);
    assert!(pop(&mut by_hand, Client(1), -1, 32).unwrap().is_empty());

    let mut run = AckRun {
        group: GROUP.into(),
        topic: TOPIC.into(),
        retry: "0".into(),
        start_offset: 4,
        queue: 0,
        revive_queue: 0,
        pop_wall: ReceiptHandle::parse(&third[0].handle).unwrap().pop_wall,
        invisible_time: INVISIBLE as i64,
        bits: Vec::new(),
    };
    run.set(4);
    run.set(5);
    let batch = BatchAck { broker_name: "broker-a".into(), acks: vec![run] };
    let code = request::BATCH_ACK_MESSAGE;
    let answer = Client(3).ask(&mut by_hand, code, Fields::default(), batch.to_bytes()).unwrap();
    assert_eq!(answer.code, code::SUCCESS);
    assert_eq!(ack(&mut by_hand, &first[0]), Some(code::SUCCESS));
    assert_eq!(ack(&mut by_hand, &first[0]), Some(code::NO_MESSAGE), "done already");
    // The group stands at the first message that is not done.
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(1));

    by_hand.pass(Duration::from_millis(INVISIBLE - 1));
    assert!(pop(&mut by_hand, Client(1), -1, 32).unwrap().is_empty(), "not early");
    by_hand.pass(SECOND);
    let again = pop(&mut by_hand, Client(1), -1, 32).unwrap();
    assert_eq!(bodies(&again), ["m1", "m2", "m3"]);
    assert!(again.iter().all(|message| message.times == 1));
    assert_eq!(ack(&mut by_hand, &first[1]), Some(code::NO_MESSAGE), "the lease is over");
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(6));
    for message in &again {
        assert_eq!(ack(&mut by_hand, message), Some(code::SUCCESS));
    }
    by_hand.pass(100 * SECOND);
    assert!(pop(&mut by_hand, Client(1), -1, 32).unwrap().is_empty());
    assert_eq!(by_hand.broker.as_ref().unwrap().view().leases().count(), 0);
}

#[test]
fn a_lease_runs_anew_after_a_restart_and_is_not_forgotten() {
    let mut by_hand = broker_with(2);
    let popped = pop(&mut by_hand, Client(1), -1, 2).unwrap();
    by_hand.pass(Duration::from_millis(INVISIBLE - 1000));
    for restart in 0..3 {
        if restart % 2 == 0 {
            by_hand.kill();
        } else {
            by_hand.power_loss();
        }
        by_hand.start().unwrap();
        assert!(pop(&mut by_hand, Client(1), -1, 32).unwrap().is_empty());
        by_hand.pass(Duration::from_millis(INVISIBLE - 1000));
        assert!(pop(&mut by_hand, Client(1), -1, 32).unwrap().is_empty(), "not early");
    }
    assert_eq!(ack(&mut by_hand, &popped[0]), Some(code::SUCCESS), "the receipt still fits");
    by_hand.pass(2 * SECOND);
    assert_eq!(bodies(&pop(&mut by_hand, Client(1), -1, 32).unwrap()), ["m1"]);
}

#[test]
fn another_time_is_another_receipt() {
    let mut by_hand = broker_with(1);
    let popped = pop(&mut by_hand, Client(1), -1, 1).unwrap().remove(0);
    let longer = change(&mut by_hand, &popped, 90_000).unwrap().unwrap();
    assert_eq!(ack(&mut by_hand, &popped), Some(code::NO_MESSAGE), "the old receipt is void");
    by_hand.pass(Duration::from_millis(89_000));
    assert!(pop(&mut by_hand, Client(1), -1, 1).unwrap().is_empty());
    // At once: a consumer that cannot process it gives it back.
    let now = change(&mut by_hand, &longer, 0).unwrap().unwrap();
    by_hand.pass(Duration::from_millis(1));
    let again = pop(&mut by_hand, Client(2), -1, 1).unwrap().remove(0);
    assert_eq!((again.body.as_str(), again.times), ("m0", 1));
    assert_eq!(ack(&mut by_hand, &now), Some(code::NO_MESSAGE));
    assert_eq!(ack(&mut by_hand, &again), Some(code::SUCCESS));
}

#[test]
fn a_held_pop_gets_what_arrives_and_what_comes_again() {
    let mut by_hand = broker_with(1);
    let first = pop(&mut by_hand, Client(1), -1, 1).unwrap();
    assert_eq!(first.len(), 1);
    let hold = |by_hand: &mut ByHand, n: u64| {
        let fields = pop_fields(-1, 8, 20_000, false, None);
        let held = Client(n).request(by_hand, request::POP_MESSAGE, fields, Bytes::new());
        by_hand.settle();
        held
    };
    let (a, b) = (hold(&mut by_hand, 1), hold(&mut by_hand, 2));
    assert!(by_hand.answer(a).is_none() && by_hand.answer(b).is_none());
    by_hand.send(TOPIC, 2, "new");
    let woken = messages(&by_hand.answer(a).expect("who asked first"));
    assert_eq!(bodies(&woken), ["new"]);
    by_hand.pass(19 * SECOND);
    assert!(by_hand.answer(b).is_none());
    by_hand.pass(2 * SECOND);
    assert_eq!(by_hand.answer(b).unwrap().code, code::POLLING_TIMEOUT);
    let c = hold(&mut by_hand, 3);
    by_hand.pass(10 * SECOND);
    assert_eq!(bodies(&messages(&by_hand.answer(c).unwrap())), ["m0", "new"]);
}

#[test]
fn a_notice_takes_nothing() {
    let mut by_hand = broker_with(1);
    let notice = |by_hand: &mut ByHand| {
        let header = NotificationHeader {
            group: GROUP,
            topic: TOPIC,
            queue: -1,
            poll_time: 0,
            born_wall: 0,
            order: None,
            attempt_id: None,
        };
        let fields = header.fields();
        let answer = Client(1).ask(by_hand, request::NOTIFICATION, fields, Bytes::new()).unwrap();
        answer.fields.get("hasMsg").map(str::to_owned)
    };
    assert_eq!(notice(&mut by_hand).as_deref(), Some("true"));
    assert_eq!(pop(&mut by_hand, Client(1), -1, 8).unwrap().len(), 1);
    assert_eq!(notice(&mut by_hand).as_deref(), Some("false"));
}

#[test]
fn what_nobody_manages_to_process_is_dead_once() {
    let mut by_hand = broker_with(1);
    let mut deliveries = 0;
    for _ in 0..40 {
        for popped in pop(&mut by_hand, Client(1), -1, 8).unwrap() {
            assert_eq!(popped.times, deliveries);
            deliveries += 1;
        }
        by_hand.pass(Duration::from_millis(INVISIBLE + 1000));
    }
    assert_eq!(deliveries, 17, "16 retries");
    assert_eq!(by_hand.contents(&format!("%DLQ%{GROUP}"), 0), [(0, "m0".into())]);
}

#[test]
fn in_order_nothing_passes_what_is_not_done() {
    let mut by_hand = broker_with(5);
    let first = pop_in_order(&mut by_hand, 2, Some("a1"));
    assert_eq!(bodies(&first), ["m0", "m1"]);
    assert!(pop_in_order(&mut by_hand, 2, Some("a2")).is_empty(), "not before these are done");
    // A repeated request of the same attempt: its answer was lost.
    let first = pop_in_order(&mut by_hand, 2, Some("a1"));
    assert_eq!(bodies(&first), ["m0", "m1"]);
    assert_eq!(ack(&mut by_hand, &first[0]), Some(code::SUCCESS));
    assert!(pop_in_order(&mut by_hand, 2, Some("a2")).is_empty());
    by_hand.pass(Duration::from_millis(INVISIBLE + 1000));
    let second = pop_in_order(&mut by_hand, 2, Some("a3"));
    assert_eq!(bodies(&second), ["m1", "m2"], "from where they are, in order");
    by_hand.power_loss();
    by_hand.start().unwrap();
    assert!(pop_in_order(&mut by_hand, 2, Some("a4")).is_empty());
    for message in &second {
        assert_eq!(ack(&mut by_hand, message), Some(code::SUCCESS));
    }
    assert_eq!(bodies(&pop_in_order(&mut by_hand, 9, None)), ["m3", "m4"]);
}

#[test]
fn in_order_a_message_that_nobody_processes_is_dead_and_the_rest_goes_on() {
    let mut by_hand = broker_with(2);
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.extend(pop_in_order(&mut by_hand, 1, None));
        by_hand.pass(Duration::from_millis(INVISIBLE + 1000));
    }
    let poisoned = seen.iter().filter(|message| message.body == "m0").count();
    assert_eq!(poisoned, 17, "16 retries");
    assert_eq!(by_hand.contents(&format!("%DLQ%{GROUP}"), 0), [(0, "m0".into())]);
    assert_eq!(seen[17].body, "m1");
}
