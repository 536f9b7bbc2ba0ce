use stormglass_sim::{
    history::{FaultKind, Stop},
    oracle::{Breach, liveness, no_loss},
};

use super::tale::{SetTale, Tale};
use crate::{breaks, breaks_unfinished, holds};

#[test]
fn all_resolves_in_time() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    let mut good = start.clone();
    good.consume(member, 1, 0);
    holds!(good);

    breaks_unfinished!(start, Breach::Liveness(liveness::Breach::StillWaiting { .. }));
    breaks_unfinished!(good, Breach::Liveness(liveness::Breach::NeverAtRest));

    // What the group has gone past is not late, it is lost.
    let mut lost = start.clone();
    lost.send(2, 1);
    lost.consume(member, 2, 1);
    breaks_unfinished!(lost, Breach::NoLoss(no_loss::Breach::NeverDelivered { offset: 0, .. }));

    let mut bad = good.clone();
    bad.begin(2);
    breaks!(bad, Breach::Liveness(liveness::Breach::NeverAnswered { .. }));

    let mut bad = good.clone();
    bad.stop_broker(Stop::GaveUp);
    breaks!(bad, Breach::Liveness(liveness::Breach::NodeDown { .. }));

    // Slow while faults strike is no harm; slow once they are over is.
    let mut slow = good.clone();
    let op = slow.begin(2);
    slow.wait_secs(100);
    let mut fine = slow.clone();
    fine.unknown(op);
    holds!(fine);
    slow.chaos_ends();
    slow.wait_secs(40);
    slow.unknown(op);
    breaks_unfinished!(slow, Breach::Liveness(liveness::Breach::AnsweredLate { .. }));

    // Where damage must only be refused, nobody waits for deliveries.
    start.stop_broker(Stop::GaveUp);
    start.context.recovers = false;
    holds!(start);
}

#[test]
fn a_set_whose_majority_lives_has_a_leader_soon() {
    let mut start = SetTale::of(3);
    start.stop(0, Stop::Killed);
    start.is_leaderless();
    let served = |mut tale: SetTale, after_secs: u64| {
        tale.tale.wait_secs(after_secs);
        tale.leads(2, 2, 0);
        tale.start(0, 0);
        tale.at_rest(2, 1)
    };
    holds!(served(start.clone(), 2));
    breaks!(served(start.clone(), 20), Breach::Liveness(liveness::Breach::NoLeader { .. }));

    // Only one of three lives, or those that live do not reach each other.
    let mut alone = start.clone();
    alone.stop(1, Stop::Killed);
    alone.tale.wait_secs(20);
    alone.start(1, 0);
    holds!(served(alone, 2));
    let mut cut = start.clone();
    let fault = cut.cut(&[1], &[2]);
    cut.tale.wait_secs(20);
    cut.heal(fault);
    holds!(served(cut, 2));
    // That the dead one cannot be reached is no excuse.
    start.cut(&[0], &[1, 2]);
    breaks!(served(start, 20), Breach::Liveness(liveness::Breach::NoLeader { .. }));
}

#[test]
fn while_a_minority_is_away_everything_goes_on() {
    let fails_late = |strike: &dyn Fn(&mut SetTale)| {
        let mut tale = SetTale::of(3);
        strike(&mut tale);
        tale.tale.wait_secs(30);
        let op = tale.tale.begin(1);
        tale.tale.refused(op);
        tale.at_rest(0, 1)
    };
    let calm = |tale: Tale| breaks!(tale, Breach::Liveness(liveness::Breach::FailedInCalm { .. }));
    calm(fails_late(&|tale| _ = tale.cut(&[1], &[0, 2])));
    calm(fails_late(&|tale| {
        let slow = tale.replicas[2];
        tale.tale.fault_at(slow, FaultKind::Pause);
    }));
    holds!(fails_late(&|tale| {
        tale.cut(&[1], &[0, 2]);
        tale.cut(&[0], &[2]);
    }));
    holds!(fails_late(&|tale| {
        let (client, replica) = (tale.tale.lane("producer-1"), tale.replicas[0]);
        tale.tale.fault_between(&[replica, client], &[tale.replicas[1]], FaultKind::Partition);
    }));
}

/// P1, D1: a request is repeated only where something is wrong.
#[test]
fn in_calm_the_first_request_is_answered() {
    let sent_twice_after = |secs: u64| {
        let mut tale = Tale::new();
        let member = tale.consumer("billing", "c1");
        tale.wait_secs(secs);
        let op = tale.begin(1);
        tale.stored_after(op, 0, 0, 2);
        tale.consume(member, 1, 0);
        tale
    };
    holds!(sent_twice_after(10));
    breaks!(sent_twice_after(60), Breach::Liveness(liveness::Breach::RepeatedInCalm { .. }));
}

/// D2: what nobody has fetched is late whenever the calm ends, also by a fault.
#[test]
fn what_waits_through_a_calm_is_late_when_it_ends() {
    let fetched_after = |secs: u64| {
        let mut tale = Tale::new();
        let member = tale.consumer("billing", "c1");
        tale.wait_secs(60);
        tale.send(1, 0);
        tale.wait_secs(secs);
        tale.fault(FaultKind::ClockJump);
        tale.consume(member, 1, 0);
        tale
    };
    holds!(fetched_after(5));
    breaks!(fetched_after(30), Breach::Liveness(liveness::Breach::StillWaiting { .. }));
}
