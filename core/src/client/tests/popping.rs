//! Messages under leases.

use super::*;
use crate::wire::header::{AckHeader, ChangeInvisibleHeader, PopHeader, PopReply, ReceiptHandle};

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_topic("orders", &[(1, 2)]);
    rig
}

fn pop() -> Pop {
    Pop {
        group: "g".into(),
        topic: "orders".into(),
        expression: "a".into(),
        max: 8,
        invisible: Duration::from_secs(60),
        hold: Duration::from_secs(10),
        from_first: true,
    }
}

/// Asks, and answers the request as a broker would; the ticket of the ask.
fn answered(rig: &mut Rig, ask: Ask, code: i32, answer: (i32, Fields, Bytes)) -> Ticket {
    rig.meddle = Box::new(move |_, frame| match frame.code == code {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let ticket = rig.command(Command::Ask(ask));
    let (_, addr, frame) = rig.requests.iter().rfind(|r| r.2.code == code).unwrap().clone();
    rig.reply(addr, &frame, answer);
    rig.settle_down();
    ticket
}

fn one_message() -> (i32, Fields, Bytes) {
    let mut body = Vec::new();
    progress::tests::record(0, "a").encode(&mut body);
    let reply = PopReply {
        pop_wall: 1_795_000_000_000,
        invisible_time: 60_000,
        revive_queue: 0,
        rest: 0,
        start_offsets: Some("0 0 0"),
        message_offsets: Some("0 0 0"),
        order_counts: None,
    };
    (code::SUCCESS, reply.fields(), body.into())
}

fn popped(rig: &mut Rig) -> Vec<Popped> {
    let mut body = Vec::new();
    let mut retried = progress::tests::record(0, "a");
    retried.topic = "%RETRY%g_orders".into();
    retried.reconsume_times = 2;
    let mut first = progress::tests::record(10, "a");
    first.queue = 1;
    let mut looks_alike = progress::tests::record(12, "b");
    looks_alike.queue = 1;
    for record in [first, looks_alike, retried] {
        record.encode(&mut body);
    }
    let reply = PopReply {
        pop_wall: 1_795_000_000_000,
        invisible_time: 60_000,
        revive_queue: 3,
        rest: 5,
        start_offsets: Some("0 1 10;1 0 0"),
        message_offsets: Some("0 1 10,12;1 0 0"),
        order_counts: None,
    };
    let answer = (code::SUCCESS, reply.fields(), body.into());
    let ticket = answered(rig, Ask::Pop(pop()), request::POP_MESSAGE, answer);
    match rig.outcome(ticket) {
        Some((_, Done::Answered(Ok(Answer::Popped(popped))))) => popped.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn popped_messages_come_with_leases_and_what_only_looks_wanted_is_acknowledged() {
    let mut rig = rig();
    let popped = popped(&mut rig);
    let asked = rig.requests_of(request::POP_MESSAGE)[0].clone();
    let asked = PopHeader::parse(&asked.fields).unwrap();
    assert_eq!((asked.queue, asked.invisible_time, asked.poll_time), (-1, 60_000, 10_000));
    let [first, retried] = &popped[..] else { panic!("{popped:?}") };
    assert_eq!(first.lease.handle, "10 1795000000000 60000 3 0 broker-1 1 10");
    assert_eq!(first.lease.until, 1_795_000_060_000);
    assert_eq!(retried.lease.handle, "0 1795000000000 60000 3 1 broker-1 0 0");
    assert_eq!((retried.message.attempts, &*retried.lease.topic), (3, "orders"));
    let acked = rig.requests_of(request::ACK_MESSAGE);
    let offsets: Vec<i64> =
        acked.iter().map(|frame| AckHeader::parse(&frame.fields).unwrap().offset).collect();
    assert_eq!(offsets, [12]);
}

/// Its lease would have nobody to be given back to.
#[test]
fn what_a_broker_leased_before_it_left_the_route_is_still_its_own() {
    let mut rig = rig();
    rig.meddle = Box::new(|_, frame| match frame.code == request::POP_MESSAGE {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let ticket =
        rig.command(Command::Ask(Ask::Pop(Pop { hold: Duration::from_secs(60), ..pop() })));
    rig.tables.add_topic("orders", &[(2, 2)]);
    rig.run_for(Duration::from_secs(31));
    let (_, addr, frame) = rig.requests.iter().find(|r| r.2.code == request::POP_MESSAGE).unwrap();
    let (addr, frame) = (*addr, frame.clone());
    rig.reply(addr, &frame, one_message());
    rig.settle_down();
    let Some((_, Done::Answered(Ok(Answer::Popped(popped))))) = rig.outcome(ticket) else {
        panic!("{:?}", rig.outcome(ticket));
    };
    assert_eq!(&*popped[0].lease.broker_name, "broker-1");
}

#[test]
fn a_changed_lease_has_a_handle_of_its_own() {
    let mut rig = rig();
    let lease = popped(&mut rig).remove(0).lease;
    let fields = Fields::builder()
        .put("popTime", 1_795_000_030_000i64)
        .put("invisibleTime", 90_000)
        .put("reviveQid", 4)
        .finish();
    let ask = Ask::ChangeInvisible { lease, invisible: Duration::from_secs(90) };
    let code = request::CHANGE_MESSAGE_INVISIBLE_TIME;
    let ticket = answered(&mut rig, ask, code, (code::SUCCESS, fields, Bytes::new()));
    let asked = rig.requests_of(code)[0].clone();
    let asked = ChangeInvisibleHeader::parse(&asked.fields).unwrap();
    assert_eq!((asked.queue, asked.offset, asked.invisible_time), (1, 10, 90_000));
    let Some((_, Done::Answered(Ok(Answer::Lease(lease))))) = rig.outcome(ticket) else { panic!() };
    assert_eq!(lease.until, 1_795_000_120_000);
    let handle = ReceiptHandle::parse(&lease.handle).unwrap();
    assert_eq!((handle.pop_wall, handle.revive_queue), (1_795_000_030_000, 4));
}

#[test]
fn nothing_to_pop_is_no_error_and_a_lease_that_is_over_is() {
    let mut rig = rig();
    let lease = popped(&mut rig).remove(0).lease;
    let nothing = (code::POLLING_TIMEOUT, Fields::default(), Bytes::new());
    let ticket = answered(&mut rig, Ask::Pop(pop()), request::POP_MESSAGE, nothing);
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Answered(Ok(Answer::Popped(vec![]))));

    let gone = (code::NO_MESSAGE, Fields::default(), Bytes::new());
    let ask = Ask::Ack { lease: lease.clone() };
    let ticket = answered(&mut rig, ask, request::ACK_MESSAGE, gone.clone());
    let done = rig.outcome(ticket).unwrap().1;
    assert!(matches!(done, Done::Answered(Err(ClientError::Refused(_)))), "{done:?}");

    // The first answer was lost: it may have been the one that ended the lease.
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::ACK_MESSAGE => Fate::Silence,
        _ => Fate::Answer,
    });
    let ticket = rig.command(Command::Ask(Ask::Ack { lease }));
    let before = rig.requests_of(request::ACK_MESSAGE).len();
    while rig.requests_of(request::ACK_MESSAGE).len() == before {
        rig.run_for(Duration::from_millis(100));
    }
    let (_, addr, frame) = rig.requests.last().unwrap().clone();
    rig.reply(addr, &frame, gone);
    rig.settle_down();
    let done = rig.outcome(ticket).unwrap().1;
    assert!(matches!(done, Done::Answered(Err(ClientError::Unavailable { .. }))), "{done:?}");
}
