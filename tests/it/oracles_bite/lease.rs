use stormglass_sim::{
    history::{Access, Answered, EventKind, MemberId},
    oracle::{Breach, lease},
};

use super::tale::Tale;
use crate::{breaks, holds};

/// Two members that lease for thirty seconds; one has message 1.
fn leased() -> (Tale, [MemberId; 2], stormglass_sim::history::DeliveryId) {
    let mut tale = Tale::new();
    let members = ["c1", "c2"]
        .map(|client| tale.join_as("billing", client, |started| started.access = Access::Pop));
    tale.send(1, 0);
    let delivery = tale.lease(members[0], 1, 0, 30);
    (tale, members, delivery)
}

#[test]
fn a_lease_is_exclusive_until_it_ends() {
    let (start, [_, other], _) = leased();
    let after = |secs: u64| {
        let mut tale = start.clone();
        tale.wait_secs(secs);
        let delivery = tale.lease(other, 1, 0, 30);
        tale.ack(delivery);
        tale.ack_answered(delivery, Answered::Ok);
        tale
    };
    holds!(after(30));
    breaks!(after(25), Breach::Lease(lease::Breach::Early { .. }));
    breaks!(after(60), Breach::Lease(lease::Breach::Late { .. }));
}

/// A wall clock that is set back while a lease runs neither ends nor lengthens it.
#[test]
fn a_lease_runs_by_a_clock_that_nobody_sets() {
    let after = |secs: u64| {
        let mut tale = Tale::new();
        let members = ["c1", "c2"]
            .map(|client| tale.join_as("billing", client, |started| started.access = Access::Pop));
        let broker = tale.broker;
        tale.push(broker, EventKind::ClockIs { ahead_us: 20_000_000, drift_ppm: 0 });
        tale.wait_secs(60);
        tale.send(1, 0);
        // Thirty seconds, told by the clock that is ahead.
        tale.lease(members[0], 1, 0, 50);
        tale.wait_secs(1);
        tale.push(broker, EventKind::ClockIs { ahead_us: 0, drift_ppm: 0 });
        tale.wait_secs(secs);
        let again = tale.lease(members[1], 1, 0, 30);
        tale.ack(again);
        tale
    };
    holds!(after(29));
    breaks!(after(25), Breach::Lease(lease::Breach::Early { .. }));
}

#[test]
fn acknowledged_is_done() {
    let (start, [_, other], delivery) = leased();
    let mut acked = start.clone();
    acked.ack(delivery);
    let unanswered = acked.clone();
    acked.ack_answered(delivery, Answered::Ok);
    holds!(acked);

    for (tale, is_good) in [(unanswered, true), (acked, false)] {
        let mut tale = tale.clone();
        tale.wait_secs(31);
        let again = tale.lease(other, 1, 0, 30);
        tale.ack(again);
        if is_good {
            holds!(tale);
        } else {
            breaks!(tale, Breach::Lease(lease::Breach::AckedRevived { .. }));
        }
    }
}

#[test]
fn a_lease_can_be_made_longer_or_shorter() {
    let (start, [_, other], delivery) = leased();
    let asked = |for_us: u64, until: u64| {
        let mut tale = start.clone();
        let lane = tale.lane("c1");
        tale.push(lane, EventKind::LeaseAsked { delivery, for_us });
        let (answered, until) = (Answered::Ok, Some(until));
        tale.push(lane, EventKind::LeaseAnswered { delivery, answered, until });
        tale
    };
    let take = |mut tale: Tale, secs: u64| {
        tale.wait_secs(secs);
        let again = tale.lease(other, 1, 0, 30);
        tale.ack(again);
        tale
    };
    holds!(take(asked(2_000_000, 2_010_000), 3));
    let longer = asked(60_000_000, 60_010_000);
    holds!(take(longer.clone(), 61));
    breaks!(take(longer, 40), Breach::Lease(lease::Breach::Early { .. }));
}
