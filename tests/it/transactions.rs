//! Half messages, decisions and check-back, on a broker driven by hand.

mod figures;
mod model;
mod operator;
mod producing;

use std::time::Duration;

use stormglass_core::{
    message::{Properties, property, sys_flag},
    replication::Flush,
    wire::{
        body::{HalfInfo, HalfList, HalfState},
        code,
        header::{
            EndTransactionHeader, HalfHeader, ListHalvesHeader, Resolution, ResumeCheckHeader,
            pull_flag,
        },
        request,
    },
};
use stormglass_sim::fault::Unsynced;
use stormglass_tests::by_hand::{ByHand, Sent, pull_fields};

pub use producing::{Half, Producing};

const SECOND: Duration = Duration::from_secs(1);

fn started() -> ByHand {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().expect("an empty disk opens");
    by_hand
}

fn bodies(by_hand: &mut ByHand) -> Vec<String> {
    by_hand.contents("orders", 0).into_iter().map(|(_, body)| body).collect()
}

#[test]
fn a_committed_message_appears_where_and_when_it_was_committed() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    let half = producer.send_half(&mut by_hand, "half", "TAGS\u{1}red\u{2}").expect("stored");
    by_hand.send("orders", 0, "plain");
    assert_eq!(bodies(&mut by_hand), ["plain"], "a half message is not seen");
    by_hand.pass(SECOND);

    // A consumer waits for it, and gets it with the commit.
    let pull = pull_fields("orders", 0, 1, pull_flag::SUBSCRIPTION | pull_flag::SUSPEND, 15_000);
    let waiting = by_hand.request(request::PULL_MESSAGE, pull, Vec::new());
    by_hand.settle();
    assert_eq!(producer.end(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
    let answer = by_hand.answer(waiting).expect("the pull is answered");
    let records = stormglass_core::message::Record::parse_all(&answer.body).expect("records");
    let record = &records[0];
    assert_eq!((&record.body[..], record.queue_offset), (&b"half"[..], 1));
    let transaction = record.sys_flag & sys_flag::TRANSACTION_MASK;
    assert_eq!(transaction, sys_flag::TRANSACTION_COMMIT);
    assert_eq!(record.prepared_position, half.position);
    let properties = Properties(&record.properties);
    assert_eq!(properties.get(property::TAGS), Some("red"));
    assert_eq!(properties.get(property::UNIQ_KEY), Some("K-half"));
    assert_eq!(properties.get(property::TRAN_MSG), None, "sent again it is no half message");
    assert_eq!(bodies(&mut by_hand), ["plain", "half"]);
}

#[test]
fn the_first_decision_stays_and_contrary_ones_are_told() {
    for (first, second) in
        [(Resolution::Commit, Resolution::Rollback), (Resolution::Rollback, Resolution::Commit)]
    {
        let mut by_hand = started();
        let producer = Producing::new(1, "p");
        let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
        let expected: &[&str] = if first == Resolution::Commit { &["half"] } else { &[] };
        // Both arrive before anything is durable: the order decides (T4).
        let opaques = [first, second, first]
            .map(|resolution| producer.request_end(&mut by_hand, &half, resolution));
        by_hand.settle();
        let codes = opaques.map(|opaque| by_hand.answer(opaque).map(|answer| answer.code));
        let conflict = Some(code::ILLEGAL_OPERATION);
        assert_eq!(codes, [Some(code::SUCCESS), conflict, Some(code::SUCCESS)]);
        for restart in [false, true] {
            if restart {
                by_hand.power_loss();
                by_hand.start().expect("it opens again");
            }
            assert_eq!(producer.end(&mut by_hand, &half, second), conflict);
            assert_eq!(producer.end(&mut by_hand, &half, first), Some(code::SUCCESS));
            assert_eq!(bodies(&mut by_hand), expected);
        }
        by_hand.pass(120 * SECOND);
        assert_eq!(producer.checks(&mut by_hand).len(), 0, "what is decided is not asked");
    }
}

#[test]
fn a_stranger_decides_nothing() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    by_hand.send("orders", 0, "plain");
    let wrong = [
        (Producing::new(1, "other"), half.clone()),
        (producer.clone(), Half { number: half.number + 1, ..half.clone() }),
        (producer.clone(), Half { number: -1, ..half.clone() }),
        (producer.clone(), Half { position: half.position + 8, ..half.clone() }),
        (producer.clone(), Half { position: -1, ..half.clone() }),
        (producer.clone(), Half { position: i64::MAX, ..half.clone() }),
        (producer.clone(), Half { position: 0, ..half.clone() }),
    ];
    for (who, what) in wrong {
        let code = who.end(&mut by_hand, &what, Resolution::Commit);
        assert_eq!(code, Some(code::SYSTEM_ERROR), "{what:?} by {who:?}");
    }
    let header = EndTransactionHeader {
        producer_group: "p",
        topic: None,
        half_offset: half.number,
        position: half.position,
        resolution: Resolution::Unknown,
        from_check: None,
        message_id: "",
        transaction_id: None,
        broker_name: None,
    };
    let answer = by_hand.ask(request::END_TRANSACTION, header.fields(), Vec::new());
    assert_eq!(answer.map(|answer| answer.code), Some(code::SUCCESS));
    assert_eq!(bodies(&mut by_hand), ["plain"], "nobody decided");
    assert_eq!(producer.end(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
}

#[test]
fn whoever_says_nothing_is_asked() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    producer.heartbeat(&mut by_hand);
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    by_hand.pass(Duration::from_millis(5_900));
    assert_eq!(producer.checks(&mut by_hand), []);
    by_hand.pass(Duration::from_millis(200));
    assert_eq!(
        producer.checks(&mut by_hand),
        std::slice::from_ref(&half),
        "6 s after it was stored"
    );
    by_hand.pass(Duration::from_millis(29_800));
    assert_eq!(producer.checks(&mut by_hand), []);
    producer.heartbeat(&mut by_hand);
    by_hand.pass(Duration::from_millis(300));
    assert_eq!(producer.checks(&mut by_hand), std::slice::from_ref(&half), "30 s later");
    // Another member of the group may answer.
    let other = Producing::new(2, "p");
    assert_eq!(other.answer_check(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
    assert_eq!(bodies(&mut by_hand), ["half"]);
}

/// When checks come, in seconds since the half was stored.
fn check_times(by_hand: &mut ByHand, producer: &Producing, seconds: u64) -> Vec<u64> {
    let mut times = Vec::new();
    for second in 1..=seconds {
        by_hand.pass(SECOND);
        if second % 30 == 0 {
            producer.heartbeat(by_hand);
        }
        times.extend(producer.checks(by_hand).iter().map(|_| second));
    }
    times
}

#[test]
fn unanswered_checks_back_off_and_end_and_can_be_resumed() {
    let mut by_hand = started();
    by_hand.config.check_back.at_most = 5;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let producer = Producing::new(1, "p").acknowledging();
    producer.heartbeat(&mut by_hand);
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    let times = check_times(&mut by_hand, &producer, 2_000);
    assert_eq!(times, [6, 36, 96, 216, 456], "then it is parked");
    assert_eq!(producer.end(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
    assert_eq!(bodies(&mut by_hand), ["half"], "also a parked one can be decided");
}

#[test]
fn a_group_without_members_consumes_no_checks() {
    let mut by_hand = started();
    by_hand.config.check_back.at_most = 3;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let producer = Producing::new(1, "p");
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    // An outage of a day, in which the broker restarts, too (T5).
    for _ in 0..24 {
        by_hand.pass(3_600 * SECOND);
        by_hand.kill();
        by_hand.start().expect("it opens again");
    }
    let member = Producing::new(7, "p");
    member.heartbeat(&mut by_hand);
    by_hand.settle();
    assert_eq!(member.checks(&mut by_hand), [half], "it is asked as soon as it is there");
}

#[test]
fn counters_survive_restarts() {
    let mut by_hand = started();
    by_hand.config.check_back.at_most = 4;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let producer = Producing::new(1, "p").acknowledging();
    producer.heartbeat(&mut by_hand);
    producer.send_half(&mut by_hand, "half", "").expect("stored");
    let mut times = Vec::new();
    for life in 0..20u64 {
        let found = check_times(&mut by_hand, &producer, 60);
        times.extend(found.into_iter().map(|second| life * 60 + second));
        by_hand.power_loss();
        by_hand.start().expect("it opens again");
        producer.heartbeat(&mut by_hand);
    }
    assert_eq!(times.len(), 4, "no check twice, and none too many: {times:?}");
}

#[test]
fn a_lost_check_is_repeated_over_another_connection_and_costs_none() {
    let mut by_hand = started();
    let silent = Producing::new(1, "p");
    let lively = Producing::new(2, "p");
    silent.heartbeat(&mut by_hand);
    let halves: Vec<Half> =
        (0..2).filter_map(|n| silent.send_half(&mut by_hand, &format!("h{n}"), "")).collect();
    lively.heartbeat(&mut by_hand);
    by_hand.pass(7 * SECOND);
    assert_eq!((silent.checks(&mut by_hand).len(), lively.checks(&mut by_hand).len()), (1, 1));
    // The first one's machine lost power: nothing comes from it any more.
    for _ in 0..10 {
        by_hand.pass(4 * SECOND);
        lively.heartbeat(&mut by_hand);
    }
    let checked = lively.checks(&mut by_hand);
    assert!(halves.iter().all(|half| checked.contains(half)), "{checked:?} (T13)");
    assert_eq!(silent.checks(&mut by_hand), []);
}

#[test]
fn immunity_delays_the_first_check_and_costs_none() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    producer.heartbeat(&mut by_hand);
    let immune = "CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}100\u{2}";
    producer.send_half(&mut by_hand, "half", immune).expect("stored");
    assert_eq!(check_times(&mut by_hand, &producer, 200), [100, 130, 190]);
}

#[test]
fn a_check_names_the_half_as_its_answer_did() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    producer.heartbeat(&mut by_hand);
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    by_hand.pass(7 * SECOND);
    let at = by_hand.sent.iter().position(|(_, f)| f.code == request::CHECK_TRANSACTION_STATE);
    let (conn, frame) = by_hand.sent.remove(at.expect("a check"));
    assert_eq!(conn, producer.conn);
    assert!(frame.is_one_way());
    let record = &stormglass_core::message::Record::parse_all(&frame.body).expect("a record")[0];
    assert_eq!((record.topic.as_str(), record.queue), ("orders", 0));
    assert_eq!(
        (record.queue_offset as i64, record.position.0 as i64),
        (half.number, half.position)
    );
    assert_eq!(Properties(&record.properties).get(property::PGROUP), Some("p"));
    assert_eq!(frame.fields.get("transactionId"), Some("K-half"));
    assert_eq!(frame.fields.get("offsetMsgId"), Some(half.message_id.as_str()));
}

#[test]
fn one_group_does_not_keep_another_waiting() {
    let mut by_hand = started();
    by_hand.config.check_back.per_second = 10;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let (many, few) = (Producing::new(1, "many"), Producing::new(2, "few"));
    for n in 0..300 {
        many.send_half(&mut by_hand, &format!("m{n}"), "").expect("stored");
    }
    few.send_half(&mut by_hand, "f", "").expect("stored");
    by_hand.pass(10 * SECOND);
    many.heartbeat(&mut by_hand);
    few.heartbeat(&mut by_hand);
    by_hand.pass(SECOND);
    let (of_many, of_few) = (many.checks(&mut by_hand).len(), few.checks(&mut by_hand).len());
    assert_eq!(of_few, 1);
    assert!((8..=11).contains(&of_many), "{of_many} checks in a second, 10 were allowed");
}

/// What an operator gets.
fn listed(by_hand: &mut ByHand, parked: bool) -> HalfList {
    let header =
        ListHalvesHeader { producer_group: None, parked: Some(parked), after: None, limit: 10 };
    let answer = by_hand.ask(request::LIST_HALVES, header.fields(), Vec::new()).expect("answered");
    HalfList::parse(&answer.body).expect("a list")
}

#[test]
fn operators_see_what_is_undecided_and_decide() {
    let mut by_hand = started();
    by_hand.config.check_back.at_most = 1;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let producer = Producing::new(1, "p").acknowledging();
    let halves: Vec<Half> =
        (0..3).filter_map(|n| producer.send_half(&mut by_hand, &format!("h{n}"), "")).collect();
    by_hand.pass(10 * SECOND);
    let list = listed(&mut by_hand, false);
    assert_eq!((list.open, list.parked, list.halves.len()), (3, 0, 3));
    let group = &list.groups[0];
    assert_eq!((group.group.as_str(), group.connections, group.unreachable), ("p", 0, true));
    assert_eq!(list.halves[1].message_id, halves[1].message_id);
    assert_eq!((list.halves[1].topic.as_str(), list.halves[1].size), ("orders", 2));

    assert_eq!(check_times(&mut by_hand, &producer, 100).len(), 3);
    let list = listed(&mut by_hand, true);
    assert_eq!((list.open, list.parked, list.halves.len()), (3, 3, 3), "parked, not dropped");
    assert!(list.halves.iter().all(|half| half.state == HalfState::Parked && half.checks == 1));
    by_hand.power_loss();
    by_hand.start().expect("it opens again");
    producer.heartbeat(&mut by_hand);
    assert_eq!(check_times(&mut by_hand, &producer, 100), [0u64; 0]);

    let settle = |by_hand: &mut ByHand, half: &Half, resolution| {
        let header = HalfHeader { message_id: &half.message_id, resolution: Some(resolution) };
        by_hand.ask(request::SETTLE_HALF, header.fields(), Vec::new()).map(|answer| answer.code)
    };
    assert_eq!(settle(&mut by_hand, &halves[0], Resolution::Commit), Some(code::SUCCESS));
    assert_eq!(settle(&mut by_hand, &halves[1], Resolution::Rollback), Some(code::SUCCESS));
    let contrary = settle(&mut by_hand, &halves[1], Resolution::Commit);
    assert_eq!(contrary, Some(code::ILLEGAL_OPERATION));
    let header = ResumeCheckHeader { topic: None, message_id: &halves[2].message_id };
    let resumed = by_hand.ask(request::RESUME_CHECK_HALF_MESSAGE, header.fields(), Vec::new());
    assert_eq!(resumed.map(|answer| answer.code), Some(code::SUCCESS));
    assert_eq!(producer.checks(&mut by_hand), [halves[2].clone()], "checked again at once");
    let states = halves.iter().map(|half| {
        let header = HalfHeader { message_id: &half.message_id, resolution: None };
        let answer = by_hand.ask(request::SHOW_HALF, header.fields(), Vec::new()).expect("shown");
        HalfInfo::parse(&answer.body).expect("a half").state
    });
    let states: Vec<HalfState> = states.collect();
    assert_eq!(states, [HalfState::Committed, HalfState::RolledBack, HalfState::Open]);
    assert_eq!(bodies(&mut by_hand), ["h0"]);
}

#[test]
fn a_half_that_cannot_be_read_does_not_hold_up_the_others() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    producer.heartbeat(&mut by_hand);
    for n in 0..3 {
        producer.send_half(&mut by_hand, &format!("h{n}"), "").expect("stored");
    }
    by_hand.pass(5 * SECOND);
    // A read that fails is tried three times.
    by_hand.drive.fail_reads(3);
    by_hand.pass(2 * SECOND);
    assert_eq!(producer.checks(&mut by_hand).len(), 2, "T8");
    assert!(by_hand.is_serving());
    by_hand.pass(30 * SECOND);
    assert_eq!(producer.checks(&mut by_hand).len(), 3, "the disk reads again");
}

#[test]
fn a_full_disk_stops_neither_checks_nor_their_count() {
    let mut by_hand = started();
    by_hand.config.check_back.at_most = 3;
    by_hand.kill();
    by_hand.start().expect("it opens again");
    let producer = Producing::new(1, "p").acknowledging();
    producer.heartbeat(&mut by_hand);
    let half = producer.send_half(&mut by_hand, "half", "").expect("stored");
    by_hand.drive.set_full(true);
    let full = Sent::Refused(code::SERVICE_NOT_AVAILABLE);
    for body in ["x".repeat(8 << 10), "x".into()] {
        while by_hand.send("orders", 1, &body) != full {}
    }
    // Some last commands may fit where no message does.
    while by_hand.commit("g", "orders", 1, 1) == Some(code::SUCCESS) {}
    assert_eq!(check_times(&mut by_hand, &producer, 500), [6, 36, 96], "and no more");
    let refused = producer.end(&mut by_hand, &half, Resolution::Commit);
    assert_eq!(refused, Some(code::SERVICE_NOT_AVAILABLE));
    assert_eq!(listed(&mut by_hand, true).parked, 0, "nothing could be written down");
    by_hand.drive.set_full(false);
    by_hand.pass(2 * SECOND);
    assert_eq!(listed(&mut by_hand, true).parked, 1);
    assert_eq!(producer.end(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
    assert_eq!(bodies(&mut by_hand), ["half"]);
}

#[test]
fn a_delayed_half_is_due_counted_from_its_commit() {
    let mut by_hand = started();
    let producer = Producing::new(1, "p");
    let half = producer.send_half(&mut by_hand, "half", "DELAY\u{1}3\u{2}").expect("stored");
    by_hand.pass(5 * SECOND);
    assert_eq!(producer.end(&mut by_hand, &half, Resolution::Commit), Some(code::SUCCESS));
    let contrary = producer.end(&mut by_hand, &half, Resolution::Rollback);
    assert_eq!(contrary, Some(code::ILLEGAL_OPERATION), "it is decided, though not due");
    by_hand.pass(9 * SECOND);
    assert_eq!(bodies(&mut by_hand), [] as [&str; 0]);
    by_hand.power_loss();
    by_hand.start().expect("it opens again");
    by_hand.pass(2 * SECOND);
    assert_eq!(bodies(&mut by_hand), ["half"]);
}

#[test]
fn a_half_number_lost_under_async_flush_is_never_given_again() {
    let mut by_hand = ByHand::new(Flush::Async { interval: Duration::from_secs(10) });
    by_hand.start().expect("an empty disk opens");
    let producer = Producing::new(1, "p");
    by_hand.send("orders", 0, "the topic exists");
    by_hand.pass(30 * SECOND);
    let lost = producer.send_half(&mut by_hand, "lost?", "").expect("stored");
    by_hand.power_loss_with(Unsynced::Lost);
    by_hand.start().expect("it opens again");
    let new = producer.send_half(&mut by_hand, "new", "").expect("stored");
    assert_ne!(new.number, lost.number);
    // A late decision about what the power took does not hit what came after.
    let late =
        producer.end(&mut by_hand, &Half { position: new.position, ..lost }, Resolution::Commit);
    assert_eq!(late, Some(code::SYSTEM_ERROR));
}
