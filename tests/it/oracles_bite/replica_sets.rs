//! The durability contract of replica sets, in each of its modes: what the
//! mode may take, and nothing beyond it.

use stormglass_sim::{
    history::{OffsetSource, Stop},
    oracle::{
        Breach, NotAllowed, Violation, durability_contract, durable_visibility, no_loss,
        no_resurrection, offsets, replica_agreement,
    },
};

use super::tale::SetTale;
use crate::{breaks, holds};

/// The promises that a run breaks.
fn broken(tale: &super::tale::Tale) -> Vec<(&'static str, Breach)> {
    let judged = tale.judged();
    judged.into_iter().map(|v: Violation| (v.promise().name, v.breach)).collect()
}

#[test]
fn one_crash_of_three_takes_nothing() {
    let mut good = SetTale::of(3);
    good.send(1, 0, &[0, 1]);
    let member = good.tale.consumer("billing", "c1");
    good.tale.consume(member, 1, 0);
    good.stop(0, Stop::PowerLost);
    good.leads(1, 2, 1);
    good.send(2, 1, &[1, 2]);
    good.tale.consume(member, 2, 1);
    // The third replica never had the first message; now it has.
    good.start(0, 1);
    good.follows(0, 2);
    holds!(good.at_rest(1, 2));

    // A leader without it: the contract is broken, and the log with it.
    let mut bad = SetTale::of(3);
    bad.send(1, 0, &[0, 1]);
    bad.stop(0, Stop::PowerLost);
    bad.leads(2, 2, 0);
    let broken = broken(&bad.at_rest(2, 2));
    assert!(
        broken.iter().any(|(_, breach)| matches!(
            breach,
            Breach::DurabilityContract(durability_contract::Breach::Lost {
                cause: NotAllowed::SyncFlush,
                ..
            })
        )),
        "{broken:?}"
    );
}

#[test]
fn nothing_is_answered_or_seen_before_a_majority_has_it_on_disk() {
    let mut start = SetTale::of(3);
    let member = start.tale.consumer("billing", "c1");
    let op = start.tale.begin(1);
    start.synced(0, 1);
    let mut good = start.clone();
    good.synced(2, 1);
    good.tale.stored(op, 0);
    good.tale.consume(member, 1, 0);
    holds!(good.at_rest(0, 1));

    let mut bad = start.clone();
    bad.tale.stored(op, 0);
    bad.synced(1, 1);
    bad.tale.consume(member, 1, 0);
    breaks!(
        bad.at_rest(0, 1),
        Breach::DurabilityContract(durability_contract::Breach::OkBeforeDurable { .. })
    );
    let mut bad = start;
    bad.tale.consume(member, 1, 0);
    bad.synced(1, 1);
    bad.tale.stored(op, 0);
    breaks!(
        bad.at_rest(0, 1),
        Breach::DurableVisibility(durable_visibility::Breach::SeenBeforeDurable { .. })
    );
}

/// The first replica answers OK for two messages, of which only the first is
/// durable and known to all, loses its power, and another one leads.
fn async_fail_over(why: Stop, wait_secs: u64, kept: u64) -> SetTale {
    let mut tale = SetTale::async_flush();
    tale.send(1, 0, &[0, 1, 2]);
    (1..3).for_each(|at| tale.commits(at, 1));
    tale.send_unsynced(2, 1, 0);
    tale.tale.wait_secs(wait_secs);
    tale.stop(0, why);
    tale.start(0, kept);
    tale.follows(0, 1);
    tale
}

#[test]
fn async_flush_loses_what_a_replica_of_the_quorum_lost_with_its_power() {
    let lost = |mut tale: SetTale, first_lost: u64| {
        tale.leads(2, 2, first_lost);
        tale.at_rest(2, 3)
    };
    holds!(lost(async_fail_over(Stop::PowerLost, 0, 1), 1));
    // What the new leader commits before it serves lies where the lost one lay.
    let mut reused = async_fail_over(Stop::PowerLost, 0, 1);
    reused.is_elected(2, 2);
    reused.commits(2, 3);
    reused.commits(0, 3);
    reused.serves(1);
    holds!(reused.at_rest(2, 3));

    let contract = |tale: &super::tale::Tale| {
        broken(tale).into_iter().find_map(|(_, breach)| match breach {
            Breach::DurabilityContract(durability_contract::Breach::Lost { cause, .. }) => {
                Some(cause)
            }
            _ => None,
        })
    };
    let power = || async_fail_over(Stop::PowerLost, 0, 1);
    // Only the process died.
    let killed = lost(async_fail_over(Stop::Killed, 0, 2), 1);
    assert_eq!(contract(&killed), Some(NotAllowed::NoPowerLoss));
    // It was older than the flush interval.
    let old = lost(async_fail_over(Stop::PowerLost, 5, 1), 1);
    assert_eq!(contract(&old), Some(NotAllowed::TooOld));
    // It had kept it all the same.
    let kept = lost(async_fail_over(Stop::PowerLost, 0, 2), 1);
    assert_eq!(contract(&kept), Some(NotAllowed::Replicated));
    // The two others had it: whoever leads must have it.
    let mut majority = SetTale::async_flush();
    majority.send_unsynced(1, 0, 0);
    (1..3).for_each(|at| majority.commits(at, 1));
    majority.stop(0, Stop::PowerLost);
    majority.start(0, 0);
    assert_eq!(contract(&lost(majority, 0)), Some(NotAllowed::Replicated));
    // What was durable everywhere is gone too.
    assert_eq!(contract(&lost(power(), 0)), Some(NotAllowed::Replicated));
    // The scenario is stricter than the mode.
    let mut strict = power();
    strict.tale.context.may_lose_nothing = true;
    assert_eq!(contract(&lost(strict, 1)), Some(NotAllowed::ScenarioForbids));
}

#[test]
fn what_async_flush_took_back_does_not_come_again() {
    let mut lost = async_fail_over(Stop::PowerLost, 0, 1);
    lost.leads(2, 2, 1);
    let member = lost.tale.consumer("billing", "c1");
    lost.tale.consume(member, 1, 0);
    holds!(lost.clone().at_rest(2, 3));
    lost.tale.consume(member, 2, 1);
    breaks!(
        lost.at_rest(2, 3),
        Breach::NoResurrection(no_resurrection::Breach::Truncated { offset: 1, .. })
    );
}

#[test]
fn what_has_expired_may_be_read_from_a_replica_that_still_has_it() {
    let mut start = SetTale::of(3);
    start.send(1, 0, &[0, 1]);
    start.expired(0, 1);
    start.expired(1, 1);
    let mut good = start.clone();
    let member = good.tale.consumer("billing", "c1");
    good.tale.consume(member, 1, 0);
    holds!(good.at_rest(0, 1));

    start.expired(2, 1);
    let member = start.tale.consumer("billing", "c1");
    start.tale.consume(member, 1, 0);
    breaks!(
        start.at_rest(0, 1),
        Breach::NoResurrection(no_resurrection::Breach::Expired { below: 1, .. })
    );
}

#[test]
fn what_no_crash_can_have_taken_is_owed() {
    let mut bad = async_fail_over(Stop::PowerLost, 0, 1);
    bad.tale.consumer("billing", "c1");
    let member = bad.tale.join("shipping", "c2");
    bad.tale.own(member, 0, OffsetSource::First);
    // The second replica leads, and has both: nothing is lost, and it serves only one.
    bad.leads(1, 2, 2);
    for (message, offset) in [(1, 0), (2, 1)] {
        bad.tale.consume(member, message, offset);
    }
    let mut tale = bad.clone();
    let billing = tale.tale.join("billing", "c1");
    tale.tale.own(billing, 0, OffsetSource::First);
    tale.tale.consume(billing, 1, 0);
    breaks!(tale.at_rest(1, 3), Breach::NoLoss(no_loss::Breach::NeverDelivered { offset: 1, .. }));
}

#[test]
fn offsets_go_on_where_the_last_leader_was() {
    let mut start = SetTale::of(3);
    let member = start.tale.consumer("billing", "c1");
    start.send(1, 0, &[0, 1]);
    start.tale.consume(member, 1, 0);
    start.synced(0, 2);
    start.synced(2, 2);
    start.commits(0, 2);
    start.tale.committed("billing", 1, 1);
    start.stop(0, Stop::Killed);
    start.is_elected(2, 2);
    let goes_on = |mut tale: SetTale, offset: u64| {
        tale.tale.assign(member, &[]);
        tale.tale.own(member, offset, OffsetSource::Committed);
        tale.start(0, 2);
        tale.at_rest(2, 3)
    };
    let mut good = start.clone();
    good.tale.committed("billing", 1, 1);
    good.serves(2);
    holds!(goes_on(good.clone(), 1));
    // The new leader answers before it has applied its log (R5).
    breaks!(goes_on(good, 0), Breach::Offsets(offsets::Breach::ReadBehind { committed: 1, .. }));
    // It has only what a follower once fetched (O1, O2).
    let mut bad = start.clone();
    bad.serves(2);
    breaks!(goes_on(bad, 1), Breach::Offsets(offsets::Breach::Forgotten { offset: 1, .. }));
    start.tale.committed("billing", 0, 1);
    start.serves(2);
    breaks!(goes_on(start, 1), Breach::Offsets(offsets::Breach::Backwards { from: 1, to: 0, .. }));
}

/// Majorities are those of the members of the moment.
#[test]
fn a_set_whose_members_changed_is_judged_by_the_new_ones() {
    let mut start = SetTale::with_spare();
    start.send(1, 0, &[0, 1]);
    start.synced(2, 1);
    start.synced(3, 1);
    start.replaced(2, 3);

    // The first and the newcomer are a majority; the one who left does not count.
    let mut good = start.clone();
    good.send(2, 1, &[0, 3]);
    holds!(good.at_rest(0, 2));
    let mut bad = start.clone();
    [0, 2].into_iter().for_each(|at| bad.synced(at, 2));
    bad.commits(0, 2);
    breaks!(
        bad.at_rest(0, 2),
        Breach::ReplicaAgreement(replica_agreement::Breach::CommittedEarly { .. })
    );
    // Who left need not know what came afterwards; who joined must.
    let mut bad = start;
    bad.send(2, 1, &[0, 1]);
    bad.commits(1, 2);
    bad.tale.wait_secs(6);
    breaks!(bad.tale, Breach::ReplicaAgreement(replica_agreement::Breach::Behind { .. }));
}
