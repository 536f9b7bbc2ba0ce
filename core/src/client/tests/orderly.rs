//! Orderly groups: one owner at a time, one message at a time.

use super::{
    consuming::{config, rig_with_queues, stored, subscribe, take_offsets},
    *,
};

fn orderly() -> ConsumerConfig {
    config().orderly()
}

fn lock_of(rig: &Rig, queue: u32) -> (Option<&str>, u64) {
    let (holder, epoch) = &rig.tables.locks[&(broker(1), queue)];
    (holder.as_deref(), *epoch)
}

fn assigned(rig: &mut Rig, id: ConsumerId) -> Vec<u32> {
    let ticket = rig.command(Command::Assignment(id));
    match rig.outcome(ticket) {
        Some((_, Done::Assignment(queues))) => queues.iter().map(|queue| queue.queue).collect(),
        other => panic!("{other:?}"),
    }
}

/// Another member comes, and the last queue is to be its.
fn share(rig: &mut Rig) {
    rig.tables.members = vec![ME.to_owned(), "other".to_owned()];
    rig.notify_members_changed("g");
}

#[test]
fn a_member_gets_one_message_of_each_queue_at_a_time() {
    let mut rig = rig_with_queues(2, 3);
    subscribe(&mut rig, orderly());
    assert_eq!(rig.delivered.len(), 2, "one of each queue");
    let (refused, first) = rig.delivered.pop_front().unwrap();
    assert_eq!((first.attempts, first.lock_epoch), (1, Some(1)));
    rig.settle(refused, Verdict::Nack(Duration::from_secs(2)));
    rig.delivered.clear();
    rig.run_for(Duration::from_millis(1_900));
    assert!(rig.delivered.is_empty(), "nothing overtakes it");
    rig.run_for(Duration::from_millis(200));
    let (_, again) = rig.delivered.pop_front().unwrap();
    assert_eq!((&again.record, again.attempts), (&first.record, 2));
    assert!(rig.delivered.is_empty() && rig.tables.taken.is_empty());
}

/// R6: exactly once, and the queue waits until the dead letters have it.
#[test]
fn what_was_tried_often_enough_goes_to_the_dead_letters_in_its_turn() {
    let mut rig = rig_with_queues(1, 2);
    let mut config = orderly();
    config.max_retries = Some(2);
    subscribe(&mut rig, config);
    let mut silent = 1;
    rig.meddle = Box::new(move |_, frame| match frame.code {
        request::CONSUMER_SEND_MSG_BACK if silent > 0 => {
            silent -= 1;
            Fate::Silence
        }
        _ => Fate::Answer,
    });
    for attempt in 1..=3 {
        let (id, message) = rig.delivered.pop_front().unwrap();
        assert_eq!((message.queue_offset(), message.attempts), (0, attempt));
        rig.settle(id, Verdict::Retry);
        rig.run_for(Duration::from_millis(1_100));
    }
    assert!(rig.delivered.is_empty(), "nobody has it yet");
    rig.run_for(Duration::from_secs(10));
    let (_, next) = rig.delivered.pop_front().unwrap();
    assert_eq!(next.queue_offset(), 1);
    assert_eq!(rig.tables.taken.len(), 1);
    assert_eq!(rig.tables.taken[0].2, -1);
}

#[test]
fn a_queue_is_read_only_under_its_lock() {
    let mut rig = rig_with_queues(2, 3);
    rig.tables.locks.insert((broker(1), 1), (Some("other".to_owned()), 7));
    let id = subscribe(&mut rig, orderly());
    rig.run_for(Duration::from_secs(30));
    assert_eq!((rig.delivered.len(), assigned(&mut rig, id)), (1, vec![0]));
    let pulls = rig.requests_of(request::PULL_MESSAGE);
    assert!(pulls.iter().all(|frame| PullHeader::parse(&frame.fields).unwrap().queue == 0));

    rig.tables.locks.insert((broker(1), 1), (None, 7));
    rig.run_for(Duration::from_secs(2));
    let (_, message) = rig.delivered.pop_back().unwrap();
    assert_eq!((message.shard.queue, message.lock_epoch), (1, Some(8)));
    assert_eq!(assigned(&mut rig, id), [0, 1]);
}

/// The new owner gets the lock only when nothing is worked on any more, and
/// finds the offset stored.
#[test]
fn a_queue_is_handed_over_when_the_message_in_hand_is_done() {
    let mut rig = rig_with_queues(2, 3);
    let id = subscribe(&mut rig, orderly());
    let in_hand: Vec<_> = rig.delivered.drain(..).collect();
    let (message_of_1, _) = in_hand.iter().find(|(_, m)| m.shard.queue == 1).unwrap();
    share(&mut rig);
    rig.run_for(Duration::from_secs(25));
    assert_eq!(lock_of(&rig, 1), (Some(ME), 1), "still worked on, and renewed");
    rig.settle(*message_of_1, Verdict::Ack);
    assert!(rig.delivered.is_empty(), "its next message is the other member's");
    assert_eq!((lock_of(&rig, 1), stored(&rig, 1)), ((None, 1), Some(1)));
    assert_eq!(assigned(&mut rig, id), [0]);
    let codes: Vec<i32> = rig.requests.iter().map(|(_, _, frame)| frame.code).collect();
    let last = |code| codes.iter().rposition(|c| *c == code).unwrap();
    assert!(last(request::UPDATE_CONSUMER_OFFSET) < last(request::UNLOCK_BATCH_MQ));
}

#[test]
fn a_message_that_is_not_done_in_time_does_not_keep_its_queue() {
    let mut rig = rig_with_queues(2, 3);
    subscribe(&mut rig, orderly());
    let in_hand = take_offsets(&mut rig);
    share(&mut rig);
    rig.run_for(Duration::from_secs(31));
    assert_eq!(lock_of(&rig, 1), (None, 1));
    for (id, _) in in_hand {
        rig.settle(id, Verdict::Ack);
    }
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 1), Some(0), "what it says later does not count");
}

#[test]
fn a_queue_that_comes_back_while_it_is_drained_was_never_away() {
    let mut rig = rig_with_queues(2, 3);
    let id = subscribe(&mut rig, orderly());
    let in_hand = take_offsets(&mut rig);
    share(&mut rig);
    rig.run_for(Duration::from_secs(2));
    rig.tables.members = vec![ME.to_owned()];
    rig.notify_members_changed("g");
    for (id, _) in in_hand {
        rig.settle(id, Verdict::Ack);
    }
    assert_eq!((rig.delivered.len(), assigned(&mut rig, id)), (2, vec![0, 1]));
    assert!(rig.requests_of(request::UNLOCK_BATCH_MQ).is_empty());
}

/// R1: a member whose broker is silent stops before the lease is over there.
#[test]
fn a_lock_that_cannot_be_renewed_counts_for_thirty_seconds() {
    let mut rig = rig_with_queues(1, 100);
    subscribe(&mut rig, orderly());
    let locked = rig.now;
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::LOCK_BATCH_MQ => Fate::Silence,
        _ => Fate::Answer,
    });
    while rig.now.since(locked) < Duration::from_secs(50) {
        while let Some((id, _)) = rig.delivered.pop_front() {
            assert!(rig.now.since(locked) <= Duration::from_secs(30));
            rig.run_for(Duration::from_secs(1));
            rig.settle(id, Verdict::Ack);
        }
        rig.run_for(Duration::from_millis(100));
    }
    let expired = |c: &Change| matches!(c, Change::Unlocked { why: Unlocked::Expired, .. });
    assert_eq!(rig.changes.iter().filter(|c| expired(c)).count(), 1);

    // Nobody else had it: the epoch is the same, and it goes on where it was.
    rig.meddle = Box::new(|_, _| Fate::Answer);
    rig.run_for(Duration::from_secs(5));
    assert_eq!(rig.delivered.len(), 1);
    assert!(rig.delivered[0].1.queue_offset() >= 29);
}

/// It was another member's meanwhile: what was pulled under the old lock is void,
/// and so is what the application says of it.
#[test]
fn a_lock_that_was_lost_meanwhile_starts_at_the_stored_offset() {
    let mut rig = rig_with_queues(1, 10);
    subscribe(&mut rig, orderly());
    let in_hand = take_offsets(&mut rig);
    rig.tables.locks.insert((broker(1), 0), (Some("other".to_owned()), 2));
    rig.tables.offsets.insert((broker(1), 0), 4);
    rig.run_for(Duration::from_secs(21));
    rig.settle(in_hand[0].0, Verdict::Ack);
    rig.run_for(Duration::from_secs(6));
    assert!(rig.delivered.is_empty());
    assert_eq!(stored(&rig, 0), Some(4));

    rig.tables.locks.insert((broker(1), 0), (None, 2));
    rig.run_for(Duration::from_secs(5));
    let (_, message) = rig.delivered.pop_front().unwrap();
    assert_eq!((message.queue_offset(), message.lock_epoch), (4, Some(3)));
}

/// The paused member: its lease is over, another one is at work, and it does not
/// know. Its offset is refused, and it begins anew (R1).
#[test]
fn a_fenced_offset_ends_the_ownership() {
    let mut rig = rig_with_queues(1, 10);
    subscribe(&mut rig, orderly());
    let in_hand = take_offsets(&mut rig);
    rig.tables.locks.insert((broker(1), 0), (Some("other".to_owned()), 2));
    rig.settle(in_hand[0].0, Verdict::Ack);
    rig.run_for(Duration::from_secs(6));
    assert_eq!(stored(&rig, 0), Some(0));
    rig.delivered.clear();
    rig.run_for(Duration::from_secs(30));
    assert!(rig.delivered.is_empty());
    let refused = |c: &Change| matches!(c, Change::Unlocked { why: Unlocked::Refused, .. });
    assert_eq!(rig.changes.iter().filter(|c| refused(c)).count(), 1);
}

#[test]
fn a_member_that_leaves_stores_unlocks_and_goes() {
    let mut rig = rig_with_queues(2, 3);
    let id = subscribe(&mut rig, orderly());
    let (first, _) = rig.delivered.pop_front().unwrap();
    rig.settle(first, Verdict::Ack);
    let ticket = rig.command(Command::CloseConsumer(id));
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Closed);
    assert_eq!(
        (stored(&rig, 0), lock_of(&rig, 0), lock_of(&rig, 1)),
        (Some(1), (None, 1), (None, 1))
    );
    let codes: Vec<i32> = rig.requests.iter().map(|(_, _, frame)| frame.code).collect();
    let at = |code| codes.iter().rposition(|c| *c == code).unwrap();
    assert!(at(request::UPDATE_CONSUMER_OFFSET) < at(request::UNLOCK_BATCH_MQ));
    assert!(at(request::UNLOCK_BATCH_MQ) < at(request::UNREGISTER_CLIENT));
}

/// A grant that arrives when the queue is no longer wanted is given back: the
/// other member shall not wait for the end of the lease.
#[test]
fn a_lock_that_was_asked_for_and_is_not_needed_is_given_back() {
    let mut rig = rig_with_queues(2, 3);
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::LOCK_BATCH_MQ => Fate::LoseReply,
        _ => Fate::Answer,
    });
    subscribe(&mut rig, orderly());
    assert_eq!(lock_of(&rig, 1), (Some(ME), 1));
    share(&mut rig);
    rig.run_for(Duration::from_secs(5));
    assert_eq!(lock_of(&rig, 1), (None, 1));
}

/// A renewal behind the unlocking would lock the queue for nobody.
#[test]
fn a_lock_that_is_being_given_up_is_not_renewed() {
    let mut rig = rig_with_queues(2, 3);
    let mut config = orderly();
    config.lock_renewal = Duration::from_secs(1);
    subscribe(&mut rig, config);
    for (id, _) in take_offsets(&mut rig) {
        rig.settle(id, Verdict::Ack);
    }
    for (id, _) in take_offsets(&mut rig) {
        rig.settle(id, Verdict::Ack);
    }
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::UNLOCK_BATCH_MQ => Fate::LoseReply,
        _ => Fate::Answer,
    });
    for (id, _) in take_offsets(&mut rig) {
        rig.settle(id, Verdict::Ack);
    }
    share(&mut rig);
    assert_eq!(lock_of(&rig, 1), (None, 1));
    rig.run_for(Duration::from_secs(30));
    assert_eq!(lock_of(&rig, 1), (None, 1));
}
