use super::*;

fn send(rig: &mut Rig, message: Message) -> Ticket {
    rig.command(Command::Send { messages: vec![message], options: SendOptions::default() })
}

fn ordered(key: &str, body: &'static str) -> Command {
    let message = Message::new("orders", body).sharding_key(key);
    let options = SendOptions { ordered: true, ..SendOptions::default() };
    Command::Send { messages: vec![message], options }
}

fn receipt(rig: &Rig, ticket: Ticket) -> (Time, SendReceipt) {
    match rig.outcome(ticket) {
        Some((at, Done::Sent(Ok(receipt)))) => (at, receipt.clone()),
        other => panic!("no receipt but {other:?}"),
    }
}

fn error(rig: &Rig, ticket: Ticket) -> (Time, SendError) {
    match rig.outcome(ticket) {
        Some((at, Done::Sent(Err(error)))) => (at, error.clone()),
        other => panic!("no error but {other:?}"),
    }
}

fn is_send(frame: &Frame) -> bool {
    frame.code == request::SEND_MESSAGE_V2
}

fn rig_with_brokers(brokers: &[(u8, u32)]) -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_topic("orders", brokers);
    rig
}

#[test]
fn a_send_is_answered_with_its_place() {
    let mut rig = rig_with_brokers(&[(1, 4)]);
    let ticket = send(&mut rig, Message::new("orders", "x").tag("red"));
    let (_, receipt) = receipt(&rig, ticket);
    assert_eq!((receipt.queue_offset, receipt.status), (0, SendStatus::Ok));
    assert_eq!(receipt.message_id.len(), 32);
}

/// N1: with one broker silently dead, the other one gets its chance in time.
#[test]
fn a_dead_broker_leaves_time_for_another() {
    let mut rig = rig_with_brokers(&[(1, 1), (2, 1)]);
    rig.meddle = Box::new(|addr, frame| match is_send(frame) && addr == broker(1) {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let start = rig.now;
    let tickets: Vec<_> = (0..4).map(|_| send(&mut rig, Message::new("orders", "x"))).collect();
    rig.run_for(Duration::from_secs(3));
    for ticket in tickets {
        let (at, receipt) = receipt(&rig, ticket);
        assert_eq!(&*receipt.broker_name, broker_name(2));
        assert!(at.since(start) < Duration::from_secs(2), "{:?}", at.since(start));
    }
    // And it is avoided from then on.
    let before = rig.now;
    let ticket = send(&mut rig, Message::new("orders", "x"));
    assert_eq!(receipt(&rig, ticket).0, before);
}

#[test]
fn tries_and_waits_together_stay_within_the_timeout() {
    let mut rig = rig_with_brokers(&[(1, 2)]);
    rig.meddle = Box::new(|_, frame| match is_send(frame) {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let start = rig.now;
    let ticket = send(&mut rig, Message::new("orders", "x"));
    rig.run_for(Duration::from_secs(10));
    let (at, error) = error(&rig, ticket);
    assert!(matches!(error, SendError::Unknown { .. }), "{error:?}");
    assert!(at.since(start) <= Duration::from_secs(3));
    assert_eq!(rig.requests_of(request::SEND_MESSAGE_V2).len(), 3);
}

#[test]
fn a_refusal_after_an_unanswered_try_is_still_unknown() {
    let mut rig = rig_with_brokers(&[(1, 2)]);
    let mut tries = 0;
    rig.meddle = Box::new(move |_, frame| {
        if !is_send(frame) {
            return Fate::Answer;
        }
        tries += 1;
        if tries == 1 { Fate::Silence } else { Fate::Refuse(code::MESSAGE_ILLEGAL) }
    });
    let ticket = send(&mut rig, Message::new("orders", "x"));
    rig.run_for(Duration::from_secs(3));
    assert!(matches!(error(&rig, ticket).1, SendError::Unknown { .. }));
}

#[test]
fn what_was_only_ever_refused_is_refused() {
    for (code, tries, retryable) in
        [(code::MESSAGE_ILLEGAL, 1, false), (code::SYSTEM_BUSY, 3, true)]
    {
        let mut rig = rig_with_brokers(&[(1, 2)]);
        rig.meddle = Box::new(move |_, frame| match is_send(frame) {
            true => Fate::Refuse(code),
            false => Fate::Answer,
        });
        let ticket = send(&mut rig, Message::new("orders", "x"));
        rig.run_for(Duration::from_secs(3));
        let (_, error) = error(&rig, ticket);
        assert!(matches!(&error, SendError::Refused(rejected) if rejected.code == code));
        assert_eq!(error.is_retryable(), retryable);
        assert_eq!(rig.requests_of(request::SEND_MESSAGE_V2).len(), tries);
    }
}

/// A request that never left cannot have been stored, however often it was tried.
#[test]
fn an_unreachable_broker_means_refused_not_unknown() {
    let mut rig = rig_with_brokers(&[(1, 2)]);
    rig.meddle = Box::new(|addr, _| match addr == broker(1) {
        true => Fate::LinkDown,
        false => Fate::Answer,
    });
    let start = rig.now;
    let ticket = send(&mut rig, Message::new("orders", "x"));
    rig.run_for(Duration::from_secs(2));
    assert!(rig.outcome(ticket).is_none(), "a broker that restarts is waited for");
    rig.run_for(Duration::from_secs(2));
    let (at, error) = error(&rig, ticket);
    assert!(matches!(error, SendError::Refused(_)), "{error:?}");
    assert!(at.since(start) <= Duration::from_secs(3));
}

/// R2: the key stays on its shard while the shard's broker is away.
#[test]
fn a_key_never_moves_to_another_shard() {
    let mut rig = rig_with_brokers(&[(1, 4), (2, 4)]);
    let message = |n: u32| Message::new("orders", "x").sharding_key(format!("key-{n}"));
    let tickets: Vec<_> = (0..20).map(|n| send(&mut rig, message(n))).collect();
    let homes: Vec<SendReceipt> = tickets.iter().map(|t| receipt(&rig, *t).1).collect();
    assert!(homes.iter().any(|home| &*home.broker_name == "broker-1"));

    rig.tables.add_topic("orders", &[(2, 4)]);
    rig.run_for(Duration::from_secs(31));
    for (n, home) in homes.iter().enumerate() {
        let ticket = send(&mut rig, message(n as u32));
        rig.run_for(Duration::from_secs(3));
        if &*home.broker_name == "broker-1" {
            assert!(matches!(error(&rig, ticket).1, SendError::Refused(_)));
        } else {
            assert_eq!(receipt(&rig, ticket).1.shard, home.shard);
        }
    }
}

/// R3: a later ordered send waits until the earlier one has its outcome.
#[test]
fn ordered_sends_to_one_shard_do_not_overtake() {
    let mut rig = rig_with_brokers(&[(1, 4)]);
    let mut tries = 0;
    rig.meddle = Box::new(move |_, frame| {
        if !is_send(frame) {
            return Fate::Answer;
        }
        tries += 1;
        if tries == 1 { Fate::Refuse(code::SYSTEM_BUSY) } else { Fate::Answer }
    });
    let first = rig.command(ordered("k", "first"));
    let second = rig.command(ordered("k", "second"));
    assert!(rig.outcome(first).is_none() && rig.outcome(second).is_none());
    rig.run_for(Duration::from_secs(3));
    let (first, second) = (receipt(&rig, first).1, receipt(&rig, second).1);
    assert_eq!(first.shard, second.shard);
    assert!(first.queue_offset < second.queue_offset);
    let sent = rig.requests_of(request::SEND_MESSAGE_V2);
    let bodies: Vec<&[u8]> = sent.iter().map(|frame| &frame.body[..]).collect();
    assert_eq!(bodies, [&b"first"[..], b"first", b"second"]);
}

#[test]
fn an_ordered_send_that_never_had_its_turn_is_refused() {
    let mut rig = rig_with_brokers(&[(1, 1)]);
    rig.meddle = Box::new(|_, frame| match is_send(frame) {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let first = rig.command(ordered("k", "first"));
    let second = rig.command(ordered("k", "second"));
    rig.run_for(Duration::from_secs(4));
    assert!(matches!(error(&rig, first).1, SendError::Unknown { .. }));
    assert!(matches!(error(&rig, second).1, SendError::Refused(_)));
}

#[test]
fn a_batch_is_one_request() {
    let mut rig = rig_with_brokers(&[(1, 4)]);
    let messages: Vec<_> = (0..3).map(|n| Message::new("orders", format!("m{n}"))).collect();
    let ticket = rig.command(Command::Send { messages, options: SendOptions::default() });
    receipt(&rig, ticket);
    let sent = rig.requests_of(request::SEND_BATCH_MESSAGE);
    let records: Result<Vec<_>, _> = crate::wire::body::BatchRecords::new(&sent[0].body).collect();
    let bodies: Vec<_> = records.unwrap().iter().map(|record| record.body.to_vec()).collect();
    assert_eq!(bodies, [b"m0", b"m1", b"m2"]);
    assert_eq!(SendHeader::parse(&sent[0].fields).unwrap().batch, Some(true));
}

#[test]
fn an_unknown_topic_is_created_by_sending_to_it() {
    let mut rig = Rig::new();
    rig.tables.add_topic("TBW102", &[(1, 8)]);
    let tickets: Vec<_> = (0..8).map(|_| send(&mut rig, Message::new("fresh", "x"))).collect();
    let queues: Vec<u32> = tickets.iter().map(|t| receipt(&rig, *t).1.shard.queue).collect();
    assert!(queues.iter().all(|queue| *queue < 4), "{queues:?}");
}

#[test]
fn a_topic_that_nobody_knows_is_refused_at_once() {
    let mut rig = Rig::new();
    let ticket = send(&mut rig, Message::new("nowhere", "x"));
    let (at, error) = error(&rig, ticket);
    assert_eq!(at, rig.now);
    assert!(matches!(error, SendError::Refused(r) if r.code == code::TOPIC_NOT_EXIST));
    // The miss is not remembered.
    rig.tables.add_topic("nowhere", &[(1, 1)]);
    rig.run_for(Duration::from_secs(1));
    let ticket = send(&mut rig, Message::new("nowhere", "x"));
    receipt(&rig, ticket);
}

/// N2: a name server that forgot everything takes nothing from the cache.
#[test]
fn a_restarted_name_server_does_not_stop_a_producer() {
    let mut rig = rig_with_brokers(&[(1, 4)]);
    let before = send(&mut rig, Message::new("orders", "x"));
    receipt(&rig, before);
    rig.tables.routes.clear();
    rig.run_for(Duration::from_secs(90));
    assert!(rig.requests_of(request::GET_ROUTEINFO_BY_TOPIC).len() > 2);
    let after = send(&mut rig, Message::new("orders", "x"));
    receipt(&rig, after);
}

#[test]
fn the_next_name_server_is_asked_when_one_is_down() {
    let dead: SocketAddr = "10.0.0.101:9876".parse().unwrap();
    let mut rig = Rig::with(ClientConfig::new(vec![dead, name_server()]));
    rig.tables.add_topic("orders", &[(1, 4)]);
    rig.meddle = Box::new(move |addr, _| if addr == dead { Fate::Silence } else { Fate::Answer });
    let ticket = send(&mut rig, Message::new("orders", "x"));
    rig.run_for(Duration::from_secs(3));
    receipt(&rig, ticket);
}

#[test]
fn more_sends_than_the_limit_are_refused_not_queued() {
    let mut config = ClientConfig::new(vec![name_server()]);
    config.max_unresolved_sends = 10;
    let mut rig = Rig::with(config);
    rig.tables.add_topic("orders", &[(1, 4)]);
    rig.meddle = Box::new(|_, frame| match is_send(frame) {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let tickets: Vec<_> = (0..11).map(|_| send(&mut rig, Message::new("orders", "x"))).collect();
    assert!(rig.outcome(tickets[9]).is_none());
    assert!(
        matches!(error(&rig, tickets[10]).1, SendError::Refused(r) if r.code == code::SYSTEM_BUSY)
    );
}

#[test]
fn a_one_way_send_asks_for_no_answer() {
    let mut rig = rig_with_brokers(&[(1, 4)]);
    let message = Message::new("orders", "x");
    let ticket = rig.command(Command::SendOneWay { message, options: SendOptions::default() });
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::HandedOver(Ok(())));
    assert!(rig.requests_of(request::SEND_MESSAGE_V2)[0].is_one_way());
}

/// A connection that a partition killed must not be waited on for ever.
#[test]
fn a_link_that_has_fallen_silent_is_given_up() {
    let mut rig = rig_with_brokers(&[(1, 1)]);
    let before = send(&mut rig, Message::new("orders", "x"));
    receipt(&rig, before);
    rig.meddle = Box::new(|addr, _| if addr == broker(1) { Fate::Silence } else { Fate::Answer });
    for _ in 0..4 {
        send(&mut rig, Message::new("orders", "x"));
        rig.run_for(Duration::from_secs(3));
    }
    assert!(rig.closed_links.iter().any(|(_, addr)| *addr == broker(1)));
}

#[test]
fn closing_ends_every_send_and_takes_leave() {
    let mut rig = rig_with_brokers(&[(1, 1)]);
    rig.meddle = Box::new(|_, frame| match is_send(frame) {
        true => Fate::Silence,
        false => Fate::Answer,
    });
    let under_way = send(&mut rig, Message::new("orders", "x"));
    let close = rig.command(Command::Close);
    assert!(matches!(error(&rig, under_way).1, SendError::Unknown { .. }));
    assert_eq!(rig.outcome(close).unwrap().1, &Done::Closed);
    assert_eq!(rig.requests_of(request::UNREGISTER_CLIENT).len(), 1);
    assert!(rig.core.is_closed());
    let late = send(&mut rig, Message::new("orders", "x"));
    assert!(matches!(error(&rig, late).1, SendError::Refused(_)));
}
