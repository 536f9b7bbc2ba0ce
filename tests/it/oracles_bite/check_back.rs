use stormglass_sim::{
    history::{EventKind, FaultKind, LaneId, Stop, Told},
    oracle::{Breach, GroupRules, check_back},
};

use super::tale::Tale;
use crate::{breaks, breaks_unfinished, holds};

/// A half, and the two who may be asked about it.
fn undecided() -> (Tale, [LaneId; 2]) {
    let mut tale = Tale::new();
    let producers = tale.producers();
    tale.wait_secs(30);
    tale.half(1);
    (tale, producers)
}

#[test]
fn what_is_undecided_is_asked_about_in_time() {
    let (start, [producer, colleague]) = undecided();
    // Anybody of the group can answer.
    for asked in [producer, colleague] {
        let mut good = start.clone();
        good.wait_secs(8);
        good.check(asked, 1);
        good.end(1, Told::Rollback);
        good.wait_secs(300);
        holds!(good);
    }

    let mut silent = start.clone();
    silent.wait_secs(45);
    breaks!(silent, Breach::CheckBack(check_back::Breach::NotAsked { .. }));

    // And again, later each time.
    for (secs, is_late) in [(60, false), (80, true)] {
        let mut again = start.clone();
        again.wait_secs(8);
        again.check(producer, 1);
        again.wait_secs(secs);
        again.end(1, Told::Rollback);
        match is_late {
            false => holds!(again),
            true => breaks!(again, Breach::CheckBack(check_back::Breach::NotAsked { .. })),
        }
    }

    // Not while its producers are away, or cut off, and not before long (T5).
    let mut away = start.clone();
    for lane in [producer, colleague] {
        away.push(lane, stormglass_sim::history::EventKind::NodeStopped { why: Stop::Killed });
    }
    away.wait_secs(300);
    breaks_unfinished!(
        {
            let mut tale = away.clone();
            tale.chaos_ends();
            tale
        },
        Breach::Liveness(_)
    );
    let mut cut = start.clone();
    cut.fault(FaultKind::Partition);
    cut.wait_secs(300);
    cut.check(producer, 1);
    cut.end(1, Told::Rollback);
    holds!(cut);
}

#[test]
fn not_too_early() {
    let (start, [producer, _]) = undecided();
    let mut early = start.clone();
    early.wait_secs(4);
    early.check(producer, 1);
    early.end(1, Told::Rollback);
    breaks!(early, Breach::CheckBack(check_back::Breach::AskedTooEarly { .. }));

    // Who asked for time gets it (T7).
    let mut immune = start.clone();
    let rules = GroupRules { immunity: 20_000_000, ..GroupRules::default() };
    immune.context.groups.insert("orders-producers".to_owned(), rules);
    immune.wait_secs(10);
    let mut good = immune.clone();
    good.wait_secs(12);
    for tale in [&mut good, &mut immune] {
        tale.check(producer, 1);
        tale.end(1, Told::Rollback);
    }
    holds!(good);
    breaks!(immune, Breach::CheckBack(check_back::Breach::AskedTooEarly { .. }));
}

/// Whoever looked at the clock while it was ahead waits by one that nobody sets.
#[test]
fn a_clock_that_is_set_back_calls_nothing_early() {
    let (start, [producer, _]) = undecided();
    let asked_after = |millis: u64| {
        let mut tale = start.clone();
        let broker = tale.broker;
        for (ahead_us, millis) in [(3_000_000, 1_000), (0, millis - 1_000)] {
            tale.push(broker, EventKind::ClockIs { ahead_us, drift_ppm: 0 });
            tale.wait_millis(millis);
        }
        tale.check(producer, 1);
        tale.end(1, Told::Rollback);
        tale
    };
    holds!(asked_after(3_500));
    breaks!(asked_after(2_500), Breach::CheckBack(check_back::Breach::AskedTooEarly { .. }));
}

#[test]
fn of_the_right_producer_and_not_once_it_is_decided() {
    let (start, [producer, _]) = undecided();
    let mut bad = start.clone();
    let group = bad.group("others");
    let stranger = bad.lane("producer-9");
    bad.push(stranger, EventKind::ProducerJoined { group });
    bad.wait_secs(10);
    bad.check(stranger, 1);
    bad.end(1, Told::Rollback);
    breaks!(bad, Breach::CheckBack(check_back::Breach::WrongProducer { .. }));

    let mut decided = start.clone();
    decided.wait_secs(10);
    decided.end(1, Told::Rollback);
    let mut good = decided.clone();
    // One was on its way.
    good.wait_secs(1);
    good.check(producer, 1);
    holds!(good);
    decided.wait_secs(30);
    decided.check(producer, 1);
    breaks!(decided, Breach::CheckBack(check_back::Breach::AskedAfterDecision { .. }));
}

#[test]
fn given_up_on_after_the_agreed_checks_and_once() {
    let (mut asked, [producer, colleague]) = undecided();
    asked.context.max_checks = 3;
    asked.wait_secs(20);
    for lane in [producer, colleague] {
        asked.wait_secs(10);
        asked.check(lane, 1);
    }
    // Two checks, or none that reached anybody (T5).
    let mut early = asked.clone();
    early.park(1);
    breaks!(early, Breach::CheckBack(check_back::Breach::ParkedTooEarly { checks: 2, .. }));

    asked.wait_secs(10);
    asked.check(producer, 1);
    let mut good = asked.clone();
    good.park(1);
    holds!(good);
    let mut twice = good.clone();
    twice.park(1);
    breaks!(twice, Breach::CheckBack(check_back::Breach::ParkedTwice { .. }));

    // An operator has it asked about again: then it counts from the start.
    good.resume(1);
    for _ in 0..3 {
        good.wait_secs(10);
        good.check(producer, 1);
    }
    good.park(1);
    holds!(good);

    // Something must become of it.
    let mut forgotten = asked.clone();
    forgotten.wait_secs(200);
    breaks!(forgotten, Breach::CheckBack(check_back::Breach::NotParked { checks: 3, .. }));

    asked.wait_secs(10);
    asked.check(producer, 1);
    asked.end(1, Told::Rollback);
    breaks!(asked, Breach::CheckBack(check_back::Breach::AskedTooOften { checks: 4, .. }));
}

/// A receipt that was lost with a process may be asked for again, but not one that
/// came when all had been well for long.
#[test]
fn what_once_went_wrong_is_no_licence_for_ever() {
    // Four times, the first one so long after somebody was gone.
    let asked = |after_secs| {
        let (mut asked, [producer, colleague]) = undecided();
        asked.context.max_checks = 3;
        asked.push(colleague, EventKind::NodeStopped { why: Stop::Killed });
        asked.wait_secs(after_secs);
        for _ in 0..4 {
            asked.check(producer, 1);
            asked.wait_secs(15);
        }
        asked
    };
    let mut soon = asked(10);
    soon.park(1);
    holds!(soon);
    let mut late = asked(30);
    late.park(1);
    breaks!(late, Breach::CheckBack(check_back::Breach::AskedTooOften { checks: 4, .. }));
}
