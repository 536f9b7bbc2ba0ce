use super::*;
use crate::wire::{body as wire_body, header::ResetOffsetHeader};

const GROUP: &str = "g";

pub fn subscribe(rig: &mut Rig, config: ConsumerConfig) -> ConsumerId {
    let ticket = rig.command(Command::Subscribe(Box::new(config.topic("orders", "*"))));
    rig.run_for(Duration::from_millis(1));
    match rig.outcome(ticket) {
        Some((_, Done::Subscribed(Ok(id)))) => *id,
        other => panic!("not subscribed: {other:?}"),
    }
}

pub fn config() -> ConsumerConfig {
    ConsumerConfig::new(GROUP).start_at(StartAt::First)
}

pub fn rig_with_queues(queues: u32, messages: u64) -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_topic("orders", &[(1, queues)]);
    for queue in 0..queues {
        rig.tables.fill(broker(1), queue, messages);
    }
    rig
}

pub fn stored(rig: &Rig, queue: u32) -> Option<i64> {
    rig.tables.offsets.get(&(broker(1), queue)).copied()
}

pub fn take_offsets(rig: &mut Rig) -> Vec<(DeliveryId, u64)> {
    rig.delivered.drain(..).map(|(id, message)| (id, message.queue_offset())).collect()
}

#[test]
fn everything_is_delivered_and_what_is_acknowledged_is_stored() {
    let mut rig = rig_with_queues(2, 50);
    subscribe(&mut rig, config());
    let delivered = take_offsets(&mut rig);
    assert_eq!(delivered.len(), 100);
    for (id, _) in delivered {
        rig.settle(id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(6));
    assert_eq!((stored(&rig, 0), stored(&rig, 1)), (Some(50), Some(50)));
    rig.tables.fill(broker(1), 0, 1);
    rig.wake_held();
    assert_eq!(rig.delivered.len(), 1, "a held pull brings the next message");
}

/// O3: while the stored offset is unknown, nothing is pulled.
#[test]
fn a_failed_offset_query_never_becomes_an_offset() {
    for fate in [0, 1, 2] {
        let mut rig = rig_with_queues(1, 100);
        rig.tables.offsets.insert((broker(1), 0), 42);
        rig.meddle = Box::new(move |_, frame| match (frame.code, fate) {
            (request::QUERY_CONSUMER_OFFSET, 0) => Fate::Refuse(code::SYSTEM_ERROR),
            (request::QUERY_CONSUMER_OFFSET, 1) => Fate::Silence,
            (request::QUERY_CONSUMER_OFFSET, _) => Fate::LinkDown,
            _ => Fate::Answer,
        });
        subscribe(&mut rig, config());
        rig.run_for(Duration::from_secs(20));
        assert!(rig.requests_of(request::QUERY_CONSUMER_OFFSET).len() > 2);
        assert!(rig.requests_of(request::PULL_MESSAGE).is_empty());
        rig.meddle = Box::new(|_, _| Fate::Answer);
        rig.run_for(Duration::from_secs(10));
        assert_eq!(take_offsets(&mut rig)[0].1, 42);
    }
}

/// O3 again: neither does a failed question for the end of the queue.
#[test]
fn a_failed_question_for_the_end_never_becomes_an_offset() {
    let mut rig = rig_with_queues(1, 100);
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::GET_MAX_OFFSET => Fate::Refuse(code::SYSTEM_ERROR),
        _ => Fate::Answer,
    });
    subscribe(&mut rig, ConsumerConfig::new(GROUP));
    rig.run_for(Duration::from_secs(10));
    assert!(rig.requests_of(request::PULL_MESSAGE).is_empty() && stored(&rig, 0).is_none());
}

/// L14: a queue that was added while the group was away starts at its first
/// message, although the group otherwise starts at the end.
#[test]
fn a_new_queue_of_an_old_group_starts_at_its_first_message() {
    let mut rig = rig_with_queues(2, 10);
    rig.tables.offsets.insert((broker(1), 0), 10);
    subscribe(&mut rig, ConsumerConfig::new(GROUP));
    assert_eq!(stored(&rig, 1), Some(0));
    assert_eq!(take_offsets(&mut rig).len(), 10);
}

#[test]
fn a_queue_added_later_starts_at_its_first_message_too() {
    let mut rig = rig_with_queues(1, 10);
    subscribe(&mut rig, ConsumerConfig::new(GROUP));
    assert_eq!((stored(&rig, 0), rig.delivered.len()), (Some(10), 0));
    rig.tables.add_topic("orders", &[(1, 2)]);
    rig.tables.fill(broker(1), 1, 5);
    rig.run_for(Duration::from_secs(40));
    assert_eq!(rig.delivered.len(), 5);
}

#[test]
fn a_new_group_starts_where_it_wants_in_every_queue() {
    let mut rig = rig_with_queues(4, 10);
    subscribe(&mut rig, ConsumerConfig::new(GROUP));
    assert_eq!(rig.delivered.len(), 0);
    // Stored at once: a crash before the first message must not move the start.
    assert_eq!((0..4).map(|queue| stored(&rig, queue)).collect::<Vec<_>>(), [Some(10); 4]);
}

#[test]
fn a_consumer_that_takes_nothing_stops_the_pulling() {
    let mut rig = rig_with_queues(1, 5_000);
    let mut config = config();
    config.max_outstanding = 10;
    config.max_cached_messages = 100;
    subscribe(&mut rig, config);
    rig.run_for(Duration::from_secs(60));
    assert_eq!(rig.delivered.len(), 10);
    let asked: i32 = rig
        .requests_of(request::PULL_MESSAGE)
        .iter()
        .map(|frame| PullHeader::parse(&frame.fields).unwrap().max_messages)
        .sum();
    assert_eq!(asked, 100, "no more was asked for than is held");
    let mut taken = 0;
    while let Some((id, _)) = rig.delivered.pop_front() {
        taken += 1;
        rig.settle(id, Verdict::Ack);
    }
    assert_eq!(taken, 5_000, "and it goes on as soon as messages are taken");
}

#[test]
fn one_stuck_message_bounds_how_far_the_queue_runs_ahead() {
    let mut rig = rig_with_queues(1, 5_000);
    let mut config = config();
    config.max_span = 200;
    subscribe(&mut rig, config);
    let mut stuck = None;
    while let Some((id, message)) = rig.delivered.pop_front() {
        match message.queue_offset() {
            0 => stuck = Some(id),
            _ => rig.settle(id, Verdict::Ack),
        }
    }
    let highest = rig.requests_of(request::PULL_MESSAGE).len() * 32;
    assert!((200..=256).contains(&highest), "{highest}");
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 0), Some(0), "nothing above it is stored");
    rig.settle(stuck.unwrap(), Verdict::Ack);
    assert!(!rig.delivered.is_empty());
}

/// Code 21: what was pulled is void, the place is stored, and it goes on there.
#[test]
fn a_moved_offset_restarts_the_queue_where_the_broker_says() {
    let mut rig = rig_with_queues(1, 100);
    rig.tables.offsets.insert((broker(1), 0), 10);
    rig.tables.min_offsets.insert((broker(1), 0), 60);
    subscribe(&mut rig, config());
    rig.run_for(Duration::from_secs(3));
    assert_eq!(stored(&rig, 0), Some(60));
    assert_eq!(take_offsets(&mut rig)[0].1, 60);
}

/// L20 and D2: the new owner starts after what was processed, not after what
/// was fetched; and the old owner's late verdicts change nothing.
#[test]
fn losing_a_queue_stores_what_was_processed_and_no_more() {
    let mut rig = rig_with_queues(2, 20);
    let id = subscribe(&mut rig, config());
    let delivered: Vec<_> = rig.delivered.drain(..).collect();
    let of_queue_1: Vec<_> = delivered
        .iter()
        .filter(|(_, message)| message.shard.queue == 1)
        .map(|(id, message)| (*id, message.queue_offset()))
        .collect();
    assert_eq!(of_queue_1.len(), 20);
    for (id, offset) in &of_queue_1 {
        if *offset < 5 || *offset == 9 {
            rig.settle(*id, Verdict::Ack);
        }
    }
    rig.tables.members = vec![ME.to_owned(), "other".to_owned()];
    rig.notify_members_changed(GROUP);
    assert_eq!(stored(&rig, 1), Some(5));
    let ticket = rig.command(Command::Assignment(id));
    let Some((_, Done::Assignment(queues))) = rig.outcome(ticket) else { panic!() };
    assert_eq!(queues.iter().map(|queue| queue.queue).collect::<Vec<_>>(), [0]);

    rig.tables.offsets.insert((broker(1), 1), 17);
    for (id, _) in &of_queue_1 {
        rig.settle(*id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(10));
    assert_eq!(stored(&rig, 1), Some(17), "the new owner's offset stands");
}

#[test]
fn not_knowing_the_members_gives_up_no_queue() {
    let mut rig = rig_with_queues(2, 1);
    let id = subscribe(&mut rig, config());
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::GET_CONSUMER_LIST_BY_GROUP => Fate::Refuse(code::SYSTEM_ERROR),
        _ => Fate::Answer,
    });
    rig.run_for(Duration::from_secs(60));
    let ticket = rig.command(Command::Assignment(id));
    assert!(
        matches!(rig.outcome(ticket), Some((_, Done::Assignment(queues))) if queues.len() == 2)
    );
}

#[test]
fn leaving_stores_offsets_before_the_group_hears_of_it() {
    let mut rig = rig_with_queues(1, 10);
    let id = subscribe(&mut rig, config());
    let (first, _) = rig.delivered.pop_front().unwrap();
    rig.settle(first, Verdict::Ack);
    let ticket = rig.command(Command::CloseConsumer(id));
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Closed);
    assert_eq!(stored(&rig, 0), Some(1));
    let codes: Vec<i32> = rig.requests.iter().map(|(_, _, frame)| frame.code).collect();
    let at = |code| codes.iter().rposition(|c| *c == code).unwrap();
    assert!(at(request::UPDATE_CONSUMER_OFFSET) < at(request::UNREGISTER_CLIENT));
    rig.run_for(Duration::from_secs(60));
    assert!(rig.requests_of(request::PULL_MESSAGE).len() < 10, "it no longer pulls");
}

#[test]
fn a_broadcasting_member_gets_every_queue_and_keeps_its_own_offsets() {
    let mut rig = rig_with_queues(4, 10);
    rig.tables.members = vec![ME.to_owned(), "other".to_owned()];
    let id = subscribe(&mut rig, config().broadcasting());
    let delivered = take_offsets(&mut rig);
    assert_eq!(delivered.len(), 40);
    for (id, _) in delivered {
        rig.settle(id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(6));
    assert!(rig.tables.offsets.is_empty());
    let ticket = rig.command(Command::Offsets(id));
    let Some((_, Done::Offsets(offsets))) = rig.outcome(ticket) else { panic!() };
    assert_eq!(offsets.values().copied().collect::<Vec<_>>(), [10; 4]);

    let mut again = rig_with_queues(4, 12);
    let mut config = config().broadcasting();
    config.local_offsets = offsets.clone();
    subscribe(&mut again, config);
    assert_eq!(again.delivered.len(), 8);
}

#[test]
fn only_the_wanted_tags_are_delivered_and_the_others_count_as_processed() {
    let mut rig = rig_with_queues(1, 10);
    let log = rig.tables.logs.get_mut(&(broker(1), 0)).unwrap();
    // The hashes of Aa and BB collide: the broker cannot tell them apart.
    for (n, record) in log.iter_mut().enumerate() {
        let tag = if n % 2 == 0 { "Aa" } else { "BB" };
        *record = progress::tests::record(n as u64, tag);
    }
    let config = config().topic("orders", "Aa");
    rig.command(Command::Subscribe(Box::new(config)));
    rig.run_for(Duration::from_millis(1));
    let delivered = take_offsets(&mut rig);
    assert_eq!(delivered.iter().map(|(_, o)| *o).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    for (id, _) in delivered {
        rig.settle(id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 0), Some(10));
}

/// A held pull on a connection that died without a word is noticed by a probe,
/// long before the pull's own timeout.
#[test]
fn a_dead_connection_under_a_held_pull_is_replaced() {
    let mut rig = rig_with_queues(1, 0);
    subscribe(&mut rig, config());
    rig.meddle = Box::new(|addr, _| if addr == broker(1) { Fate::Silence } else { Fate::Answer });
    let died = rig.now;
    while rig.closed_links.is_empty() {
        rig.run_for(Duration::from_millis(100));
        assert!(rig.now.since(died) < Duration::from_secs(9));
    }
    rig.meddle = Box::new(|_, _| Fate::Answer);
    rig.tables.fill(broker(1), 0, 3);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.delivered.len(), 3);
}

#[test]
fn a_quiet_but_living_connection_is_kept() {
    let mut rig = rig_with_queues(1, 0);
    subscribe(&mut rig, config());
    rig.run_for(Duration::from_secs(25));
    assert!(rig.closed_links.is_empty());
}

#[test]
fn a_second_consumer_of_the_group_in_one_client_is_refused() {
    let mut rig = rig_with_queues(1, 0);
    subscribe(&mut rig, config());
    let config = config().topic("orders", "*");
    let ticket = rig.command(Command::Subscribe(Box::new(config)));
    assert!(matches!(rig.outcome(ticket), Some((_, Done::Subscribed(Err(_))))));
}

#[test]
fn a_pull_reader_keeps_its_own_place() {
    let mut rig = rig_with_queues(2, 10);
    let queues = rig.command(Command::Ask(Ask::Queues { topic: "orders".into() }));
    let Some((_, Done::Answered(Ok(Answer::Queues(queues))))) = rig.outcome(queues) else {
        panic!()
    };
    let queue = queues[1].clone();
    let ask = |what| Command::Ask(Ask::Queue { queue: queue.clone(), what });
    let what = QueueAsk::Pull {
        group: "reader".into(),
        offset: 4,
        max: 3,
        expression: "*".into(),
        hold: Duration::ZERO,
    };
    let ticket = rig.command(ask(what));
    let Some((_, Done::Answered(Ok(Answer::Pulled(pulled))))) = rig.outcome(ticket) else {
        panic!()
    };
    let offsets: Vec<_> = pulled.records.iter().map(|record| record.queue_offset).collect();
    assert_eq!((offsets, pulled.next_offset, pulled.max_offset), (vec![4, 5, 6], 7, 10));

    let committed = || ask(QueueAsk::Committed { group: "reader".into() });
    let ticket = rig.command(committed());
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Answered(Ok(Answer::Committed(None))));
    rig.command(ask(QueueAsk::Commit { group: "reader".into(), offset: 7 }));
    let ticket = rig.command(committed());
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Answered(Ok(Answer::Committed(Some(7)))));
}

/// O4: the group was set to another offset while this member was about to store
/// where it starts. It asks again where the group stands.
#[test]
fn a_start_that_a_reset_overtook_is_asked_for_again() {
    let mut rig = rig_with_queues(1, 10);
    let mut refusals = 1;
    rig.meddle = Box::new(move |_, frame| match frame.code {
        request::UPDATE_CONSUMER_OFFSET if refusals > 0 => {
            refusals -= 1;
            Fate::Refuse(code::FENCED)
        }
        _ => Fate::Answer,
    });
    subscribe(&mut rig, config());
    rig.tables.offsets.insert((broker(1), 0), 7);
    rig.run_for(Duration::from_secs(2));
    assert_eq!(take_offsets(&mut rig)[0].1, 7);
}

/// O4: a reset voids what was pulled and what the application says of it.
#[test]
fn a_reset_is_not_undone_by_what_was_in_hand() {
    let mut rig = rig_with_queues(1, 10);
    subscribe(&mut rig, config());
    let in_hand = take_offsets(&mut rig);
    rig.tables.offsets.insert((broker(1), 0), 4);
    let queue = wire_body::MessageQueue::new("orders", &broker_name(1), 0);
    let reset = wire_body::ResetOffset { queue, offset: 4, reset_epoch: Some(1) };
    let body = wire_body::ResetOffsets { offsets: vec![reset] }.to_bytes();
    let header = ResetOffsetHeader {
        topic: "orders",
        group: GROUP,
        timestamp: 0,
        force: true,
        queue: None,
        offset: None,
    };
    let code = request::RESET_CONSUMER_CLIENT_OFFSET;
    rig.request(broker(1), Frame::request(code, 9, header.fields(), body).one_way());
    let again = take_offsets(&mut rig);
    assert_eq!((again.len(), again[0].1), (6, 4));
    assert!(rig.changes.iter().any(|change| matches!(
        change,
        Change::Reading { offset: 4, source: OffsetSource::Reset, .. }
    )));
    for (id, _) in in_hand {
        rig.settle(id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 0), Some(4));
}
