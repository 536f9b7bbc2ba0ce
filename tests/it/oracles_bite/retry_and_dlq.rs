use stormglass_sim::{
    history::{Access, Answered, DeliveryId, FaultKind, MemberId, Stop},
    oracle::{Breach, GroupRules, licensed_duplicates, no_loss, retry_and_dlq},
};

use super::tale::{Got, Tale, sent};
use crate::{breaks, holds};

/// A group that tries three times, after one and two seconds; its first attempt
/// at message 1 has failed.
fn failed_once() -> (Tale, MemberId, DeliveryId) {
    let mut tale = Tale::new();
    let rules = GroupRules {
        max_attempts: 3,
        back_offs: vec![1_000_000, 2_000_000],
        ..GroupRules::default()
    };
    tale.context.groups.insert("billing".to_owned(), rules);
    let member = tale.retrying();
    tale.send(1, 0);
    let first = tale.deliver(member, 1, 0);
    tale.nack(first);
    tale.send_back(first, Answered::Ok);
    (tale, member, first)
}

/// All three attempts have failed.
fn exhausted() -> Tale {
    let (mut tale, member, _) = failed_once();
    for attempt in [2, 3] {
        tale.wait_secs(3);
        let delivery = tale.deliver_again(member, 1, u64::from(attempt) - 2, attempt);
        tale.fail(delivery);
    }
    tale
}

#[test]
fn what_is_sent_back_comes_again_after_its_back_off() {
    let (start, member, _) = failed_once();
    breaks!(start, Breach::NoLoss(no_loss::Breach::NeverAcked { .. }));
    let again = |millis: u64, attempt: u32| {
        let mut tale = start.clone();
        tale.wait_millis(millis);
        let delivery = tale.deliver_again(member, 1, 0, attempt);
        tale.ack(delivery);
        tale
    };
    holds!(again(1_000, 2));
    breaks!(again(900, 2), Breach::RetryAndDlq(retry_and_dlq::Breach::TooSoon { .. }));
    breaks!(again(1_000, 3), Breach::RetryAndDlq(retry_and_dlq::Breach::Miscounted { .. }));
    breaks!(again(1_000, 4), Breach::RetryAndDlq(retry_and_dlq::Breach::TooManyAttempts { .. }));

    // One send-back, two retries.
    let mut bad = again(1_000, 2);
    let delivery = bad.deliver_again(member, 1, 1, 2);
    bad.ack(delivery);
    breaks!(
        bad,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::NotSentBack {
            copies: 2,
            send_backs: 1,
            ..
        })
    );
}

#[test]
fn a_late_retry_is_late_if_nothing_was_in_its_way() {
    let (mut start, member, _) = failed_once();
    start.wait_secs(2);
    let delivery = start.deliver_again(member, 1, 0, 2);
    start.ack(delivery);
    start.wait_secs(30);
    start.send(2, 1);
    let failed = start.deliver(member, 2, 1);
    start.fail(failed);
    let after = |secs: u64| {
        let mut tale = start.clone();
        tale.wait_secs(secs);
        let delivery = tale.deliver_again(member, 2, 1, 2);
        tale.ack(delivery);
        tale
    };
    holds!(after(3));
    breaks!(after(30), Breach::RetryAndDlq(retry_and_dlq::Breach::TooLate { .. }));
}

#[test]
fn after_the_last_attempt_it_is_one_dead_letter() {
    let start = exhausted();
    breaks!(start, Breach::NoLoss(no_loss::Breach::NeverAcked { .. }));
    let mut good = start.clone();
    good.dead_letter(1, 0, sent(1));
    // Its reader reads it again after a restart.
    good.dead_letter(1, 0, sent(1));
    holds!(good);

    good.dead_letter(1, 1, sent(1));
    breaks!(good, Breach::RetryAndDlq(retry_and_dlq::Breach::TwoDeadLetters { copies: 2, .. }));
    let mut altered = start.clone();
    altered.dead_letter(1, 0, Got { body_hash: 99, ..sent(1) });
    breaks!(altered, Breach::RetryAndDlq(retry_and_dlq::Breach::Altered { .. }));

    // One attempt has failed, two are left.
    let (mut early, member, _) = failed_once();
    early.dead_letter(1, 0, sent(1));
    breaks!(early, Breach::RetryAndDlq(retry_and_dlq::Breach::Premature { .. }));

    // The last attempt was acknowledged.
    let (mut both, ..) = failed_once();
    for attempt in [2, 3] {
        both.wait_secs(3);
        let delivery = both.deliver_again(member, 1, attempt - 2, attempt as u32);
        both.send_back(delivery, Answered::Ok);
        if attempt == 3 {
            both.ack(delivery);
        }
    }
    both.dead_letter(1, 0, sent(1));
    breaks!(both, Breach::RetryAndDlq(retry_and_dlq::Breach::AckedAndDead { .. }));
}

/// L19: a lease counts although the answer that told of it was lost, and only then.
#[test]
fn a_lease_that_nobody_heard_of_was_an_attempt() {
    let mut start = Tale::new();
    let rules = GroupRules { max_attempts: 3, ..GroupRules::default() };
    start.context.groups.insert("billing".to_owned(), rules);
    let member = start.join_as("billing", "c1", |started| started.access = Access::Pop);
    start.send(1, 0);
    start.lease(member, 1, 0, 5);
    start.wait_secs(6);
    start.lease_again(member, 1, 0, 2, 5);
    let dead = |between: &dyn Fn(&mut Tale)| {
        let mut tale = start.clone();
        between(&mut tale);
        tale.wait_secs(20);
        tale.dead_letter(1, 0, sent(1));
        tale
    };
    holds!(dead(&|tale| tale.restart(Stop::Killed, 1)));
    holds!(dead(&|tale| _ = tale.fault(FaultKind::Partition)));
    let premature = dead(&|_| {});
    breaks!(premature, Breach::RetryAndDlq(retry_and_dlq::Breach::Premature { .. }));
}

/// L1: power loss under async flush takes what was taken back just before it, and
/// nothing that is older or lies before what is still there.
#[test]
fn a_send_back_can_be_lost_with_the_end_of_the_log() {
    let after = |wait_millis: u64, survivor: bool| {
        let mut tale = Tale::async_flush();
        let member = tale.retrying();
        tale.send(1, 0);
        let first = tale.deliver(member, 1, 0);
        tale.fail(first);
        if survivor {
            tale.send(2, 1);
            tale.consume(member, 2, 1);
        }
        tale.wait_millis(wait_millis);
        tale.restart(Stop::PowerLost, 1 + u64::from(survivor));
        tale
    };
    holds!(after(100, false));
    let never_acked =
        |tale: Tale| breaks!(tale, Breach::NoLoss(no_loss::Breach::NeverAcked { .. }));
    never_acked(after(100, true));
    never_acked(after(2_000, false));
}

/// L17: a delivery that was sent back has one successor, however often its member
/// asked; what is sent anew is another copy.
#[test]
fn a_send_back_that_is_repeated_makes_one_retry() {
    for (resent, is_good) in [(true, true), (false, false)] {
        let (mut tale, member, first) = failed_once();
        tale.send_back_as(first, resent, Answered::Ok);
        for offset in [0, 1] {
            tale.wait_secs(2);
            let delivery = tale.deliver_again(member, 1, offset, 2);
            tale.ack(delivery);
        }
        match is_good {
            true => holds!(tale),
            false => breaks!(
                tale,
                Breach::LicensedDuplicates(licensed_duplicates::Breach::NotSentBack { .. })
            ),
        }
    }
}
