//! Messages that are given back: by whom, when, how, and that none is lost.

use super::{
    consuming::{config, stored, subscribe, take_offsets},
    *,
};
use crate::message::{Properties, property};

fn rig(messages: u64) -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_topic("orders", &[(1, 1)]);
    rig.tables.add_topic("%RETRY%g", &[(1, 1)]);
    rig.tables.fill(broker(1), 0, messages);
    rig
}

fn settle_all(rig: &mut Rig, verdict: Verdict) {
    for (id, _) in take_offsets(rig) {
        rig.settle(id, verdict);
    }
}

/// What the brokers were asked of each send-back: level and milliseconds.
fn asked(rig: &Rig) -> Vec<(i32, Option<i64>)> {
    rig.tables.taken.iter().map(|(_, _, level, delay)| (*level, *delay)).collect()
}

#[test]
fn a_message_that_was_given_back_comes_again_by_the_retry_topic() {
    let mut rig = rig(3);
    subscribe(&mut rig, config());
    let (first, message) = rig.delivered.pop_front().unwrap();
    assert_eq!((message.attempts, &*message.topic), (1, "orders"));
    rig.settle(first, Verdict::Retry);
    settle_all(&mut rig, Verdict::Ack);
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 0), Some(3), "its broker has it: the queue goes on");

    rig.wake_held();
    let (again, message) = rig.delivered.pop_front().unwrap();
    assert_eq!((message.attempts, &*message.topic), (2, "orders"));
    assert_eq!(&*message.shard.topic, "%RETRY%g");
    assert_eq!(&message.body()[..], b"body-0");
    rig.settle(again, Verdict::Ack);
    rig.run_for(Duration::from_secs(6));
    assert_eq!(rig.tables.offsets[&(broker(1), tables::slot("%RETRY%g", 0))], 1);
}

#[test]
fn the_application_chooses_when_it_comes_again_or_that_it_never_does() {
    let mut rig = rig(3);
    subscribe(&mut rig, config());
    let ids: Vec<_> = take_offsets(&mut rig).into_iter().map(|(id, _)| id).collect();
    rig.settle(ids[0], Verdict::Retry);
    rig.settle(ids[1], Verdict::Nack(Duration::from_secs(7)));
    rig.settle(ids[2], Verdict::DeadLetter);
    // Level 3 is 10 s: the first one that is not too short, for brokers that
    // know levels only.
    assert_eq!(asked(&rig), [(0, None), (3, Some(7_000)), (-1, None)]);
}

/// L18: nothing is stored past a message that no broker has taken back.
#[test]
fn no_offset_passes_a_message_whose_send_back_is_not_answered() {
    for fate in [0, 1, 2] {
        let mut rig = rig(3);
        subscribe(&mut rig, config());
        rig.meddle = Box::new(move |_, frame| match (frame.code, fate) {
            (request::CONSUMER_SEND_MSG_BACK | request::SEND_MESSAGE_V2, 0) => Fate::Silence,
            (request::CONSUMER_SEND_MSG_BACK | request::SEND_MESSAGE_V2, 1) => {
                Fate::Refuse(code::SYSTEM_ERROR)
            }
            (request::CONSUMER_SEND_MSG_BACK | request::SEND_MESSAGE_V2, _) => Fate::LinkDown,
            _ => Fate::Answer,
        });
        let ids = take_offsets(&mut rig);
        rig.settle(ids[1].0, Verdict::Retry);
        rig.settle(ids[0].0, Verdict::Ack);
        rig.settle(ids[2].0, Verdict::Ack);
        rig.run_for(Duration::from_secs(60));
        assert_eq!(stored(&rig, 0), Some(1));
        rig.meddle = Box::new(|_, _| Fate::Answer);
        rig.run_for(Duration::from_secs(20));
        assert_eq!(stored(&rig, 0), Some(3));
    }
}

/// Its own broker does not find it, after a fail-over say: the message itself is
/// sent, with all that is known about it.
#[test]
fn a_refused_send_back_is_replaced_by_a_send() {
    let mut rig = rig(1);
    subscribe(&mut rig, config());
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::CONSUMER_SEND_MSG_BACK => Fate::Refuse(code::SYSTEM_ERROR),
        _ => Fate::Answer,
    });
    settle_all(&mut rig, Verdict::Nack(Duration::from_secs(30)));
    rig.run_for(Duration::from_secs(6));
    let sent = rig.requests_of(request::SEND_MESSAGE_V2);
    assert_eq!(sent.len(), 1);
    let header = SendHeader::parse(&sent[0].fields).unwrap();
    assert_eq!((header.topic, header.reconsume_times), ("%RETRY%g", Some(1)));
    let properties = Properties(header.properties.unwrap().as_bytes());
    assert_eq!(properties.get(property::RETRY_TOPIC), Some("orders"));
    assert_eq!(properties.get(property::TIMER_DELAY_MS), Some("30000"));
    assert_eq!(properties.get(property::TAGS), Some("a"));
    assert_eq!(stored(&rig, 0), Some(1));

    rig.wake_held();
    let (_, message) = rig.delivered.pop_front().unwrap();
    assert_eq!(
        (message.attempts, &*message.topic, &message.body()[..]),
        (2, "orders", &b"body-0"[..])
    );
}

/// N2: a leader that is not ready yet is asked again, as only it knows when the
/// group's back-off has the message due.
#[test]
fn a_send_back_that_was_refused_as_busy_is_asked_again() {
    let mut rig = rig(1);
    subscribe(&mut rig, config());
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::CONSUMER_SEND_MSG_BACK => Fate::Refuse(code::SYSTEM_BUSY),
        _ => Fate::Answer,
    });
    settle_all(&mut rig, Verdict::Retry);
    rig.run_for(Duration::from_secs(20));
    rig.meddle = Box::new(|_, _| Fate::Answer);
    rig.run_for(Duration::from_secs(12));
    assert_eq!(rig.requests_of(request::SEND_MESSAGE_V2).len(), 0);
    assert_eq!((asked(&rig), stored(&rig, 0)), (vec![(0, None)], Some(1)));
}

/// D4: whoever works for too long is not waited for; it is told and counted.
#[test]
fn a_message_that_takes_too_long_goes_back_although_it_is_in_hand() {
    let mut rig = rig(2);
    let mut config = config();
    config.consume_timeout = Duration::from_secs(60);
    subscribe(&mut rig, config);
    let ids = take_offsets(&mut rig);
    rig.settle(ids[1].0, Verdict::Ack);
    rig.run_for(Duration::from_secs(300));
    assert_eq!(asked(&rig), [], "what waits for the application is not overdue");
    rig.take(ids[0].0);
    rig.run_for(Duration::from_secs(59));
    assert_eq!(asked(&rig), []);
    rig.run_for(Duration::from_secs(12));
    assert_eq!((asked(&rig), stored(&rig, 0)), (vec![(0, None)], Some(2)));
    assert!(rig.changes.iter().any(|c| matches!(c, Change::TimedOut { offset: 0, .. })));
    rig.settle(ids[0].0, Verdict::Retry);
    assert_eq!(asked(&rig).len(), 1, "its late verdict says nothing");
}

/// L16
#[test]
fn in_broadcasting_a_refused_message_is_dropped() {
    let mut rig = rig(2);
    subscribe(&mut rig, config().broadcasting());
    settle_all(&mut rig, Verdict::Retry);
    rig.run_for(Duration::from_secs(30));
    assert!(rig.delivered.is_empty() && rig.tables.taken.is_empty());
    let heartbeat = rig.requests_of(request::HEART_BEAT)[0].clone();
    assert!(!String::from_utf8_lossy(&heartbeat.body).contains("%RETRY%"));
}

/// A new group that starts at the end still gets what it is to get again.
#[test]
fn retries_are_read_from_the_first_on() {
    let mut rig = rig(0);
    rig.tables.fill(broker(1), tables::slot("%RETRY%g", 0), 2);
    let ticket = ConsumerConfig::new("g");
    subscribe(&mut rig, ticket);
    assert_eq!(rig.delivered.len(), 2);
}

/// The queue moved while the message was on its way back: its new owner starts
/// before it, and this member lets go of it.
#[test]
fn a_return_ends_with_the_ownership_of_its_queue() {
    let mut rig = rig(1);
    subscribe(&mut rig, config());
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::CONSUMER_SEND_MSG_BACK => Fate::Silence,
        _ => Fate::Answer,
    });
    settle_all(&mut rig, Verdict::Retry);
    rig.tables.members = vec!["an-earlier-one".to_owned(), ME.to_owned()];
    rig.notify_members_changed("g");
    rig.run_for(Duration::from_secs(30));
    assert_eq!(rig.requests_of(request::CONSUMER_SEND_MSG_BACK).len(), 1);
    assert_eq!(stored(&rig, 0), Some(0));
}

/// What was given back is taken before the member leaves: nobody gets it twice.
#[test]
fn a_member_that_leaves_waits_for_its_returns_but_not_for_ever() {
    let mut rig = rig(2);
    let id = subscribe(&mut rig, config());
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::CONSUMER_SEND_MSG_BACK => Fate::Silence,
        _ => Fate::Answer,
    });
    settle_all(&mut rig, Verdict::Retry);
    let ticket = rig.command(Command::CloseConsumer(id));
    assert!(rig.outcome(ticket).is_none());
    for frame in
        rig.requests_of(request::CONSUMER_SEND_MSG_BACK).into_iter().cloned().collect::<Vec<_>>()
    {
        rig.reply(broker(1), &frame, (code::SUCCESS, Fields::default(), Bytes::new()));
    }
    rig.settle_down();
    assert_eq!((rig.outcome(ticket).unwrap().1, stored(&rig, 0)), (&Done::Closed, Some(2)));

    let id = subscribe(&mut rig, config());
    rig.tables.fill(broker(1), 0, 1);
    rig.wake_held();
    settle_all(&mut rig, Verdict::Retry);
    let (asked, ticket) = (rig.now, rig.command(Command::CloseConsumer(id)));
    rig.run_for(Duration::from_secs(10));
    let (at, done) = rig.outcome(ticket).unwrap();
    assert_eq!((done, stored(&rig, 0)), (&Done::Closed, Some(2)));
    assert!(at.since(asked) <= Duration::from_secs(3));
}
