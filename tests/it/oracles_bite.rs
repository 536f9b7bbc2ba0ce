//! Each oracle accepts a good history, and rejects each bad one alone: what
//! breaks one promise does not set off the alarm of another.

mod tale;

use stormglass_sim::{
    history::{EventKind, FaultKind, From, Mark, Mode, OffsetSource, Pace, Stop},
    oracle::{
        Breach, PROMISES, backlog_isolation, broadcast_and_filter, durability_contract,
        durable_visibility, exclusivity, fault_honesty, honest_replies, licensed_duplicates,
        liveness, no_loss, no_phantom, no_resurrection, offsets, producer_order, shard_order,
        slot_agreement,
    },
};

use crate::{breaks, breaks_unfinished, holds};
use tale::{Got, Tale, sent};

#[test]
fn no_loss() {
    let mut good = Tale::new();
    let member = good.consumer("billing", "c1");
    good.send(1, 0);
    good.consume(member, 1, 0);
    holds!(good);

    // Answered OK and never delivered.
    let mut bad = good.clone();
    bad.send(2, 1);
    breaks!(bad, Breach::NoLoss(no_loss::Breach::NeverDelivered { acked: true, .. }));
    let mut expired = bad.clone();
    expired.expired(2);
    holds!(expired);

    // Delivered, and then nothing. A handler that forgets on purpose is its own fault.
    let delivery = bad.deliver(member, 2, 1);
    breaks!(bad, Breach::NoLoss(no_loss::Breach::NeverAcked { .. }));
    bad.forget(delivery);
    holds!(bad);

    // Unknown until one group has seen it: then every group must.
    let mut bad = good.clone();
    let other = bad.consumer("shipping", "c2");
    bad.consume(other, 1, 0);
    let op = bad.begin(2);
    bad.unknown(op);
    holds!(bad);
    bad.consume(other, 2, 1);
    breaks!(bad, Breach::NoLoss(no_loss::Breach::NeverDelivered { acked: false, .. }));
    bad.consume(member, 2, 1);
    holds!(bad);
}

#[test]
fn no_loss_knows_where_a_late_group_starts() {
    let mut late = Tale::new();
    late.send(1, 0);
    let member = late.join_as("audit", "c1", |started| started.from = From::Last);
    late.own(member, 1, OffsetSource::Last);
    holds!(late);
    late.send(2, 1);
    breaks!(late, Breach::NoLoss(no_loss::Breach::NeverDelivered { .. }));
    late.consume(member, 2, 1);
    late.committed("audit", 2, 2);
    holds!(late);

    // A queue that is younger than the group is owed from its start (L14).
    let mut grown = late.clone();
    let (broker, topic) = (grown.broker, grown.topic);
    grown.push(broker, EventKind::TopicSized { topic, queues: 3 });
    let op = grown.begin_to(3, 2);
    grown.stored_in(op, 2, 0);
    breaks!(grown, Breach::NoLoss(no_loss::Breach::NeverDelivered { .. }));

    // A group of which nobody lives is owed nothing: it only lags.
    late.send(3, 2);
    late.crash(member);
    holds!(late);
}

#[test]
fn no_phantom() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    let mut good = start.clone();
    good.consume(member, 1, 0);
    holds!(good);

    good.deliver_as(member, 1, sent(2));
    breaks!(good, Breach::NoPhantom(no_phantom::Breach::NeverSent { .. }));

    let bad = |got: Got| {
        let mut bad = start.clone();
        let delivery = bad.deliver_as(member, 0, got);
        bad.ack(delivery);
        bad
    };
    let swapped = bad(Got { body_hash: 99, ..sent(1) });
    breaks!(swapped, Breach::NoPhantom(no_phantom::Breach::WrongBody { sent: 1, got: 99, .. }));
    let retagged = bad(Got { tag: Some("red"), ..sent(1) });
    breaks!(retagged, Breach::NoPhantom(no_phantom::Breach::WrongTag { .. }));

    let mut foreign = start.clone();
    foreign.consume(member, 1, 0);
    foreign.deliver_as(member, 1, Got { message: None, ..sent(9) });
    breaks!(foreign, Breach::NoPhantom(no_phantom::Breach::ForeignBody { .. }));

    let mut strayed = start.clone();
    strayed.consume(member, 1, 0);
    let op = strayed.begin_to(2, 1);
    strayed.unknown(op);
    strayed.consume(member, 2, 1);
    breaks!(strayed, Breach::NoPhantom(no_phantom::Breach::WrongShard { .. }));
}

#[test]
fn honest_replies() {
    let mut good = Tale::new();
    let member = good.consumer("billing", "c1");
    let op = good.begin(1);
    good.refused(op);
    holds!(good);

    // Refused, and visible.
    let mut bad = good.clone();
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::RefusedButVisible { .. }));

    // Sent again: then it may be visible, whatever became of the second try.
    let mut again = good.clone();
    let op = again.begin(1);
    again.unknown(op);
    again.consume(member, 1, 0);
    holds!(again);

    // Visible first, refused afterwards.
    let mut bad = Tale::new();
    let member = bad.consumer("billing", "c1");
    let op = bad.begin(1);
    bad.consume(member, 1, 0);
    bad.refused(op);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::RefusedButVisible { .. }));

    // Asked for queue 0, stored in queue 1.
    let mut bad = Tale::new();
    let op = bad.begin(1);
    bad.stored_in(op, 1, 0);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::StoredElsewhere { .. }));
}

#[test]
fn slot_agreement() {
    let mut good = Tale::new();
    let member = good.consumer("billing", "c1");
    good.send(1, 0);
    good.consume(member, 1, 0);
    good.send(2, 1);
    good.consume(member, 2, 1);
    holds!(good);

    // Two receipts for one slot.
    let mut bad = Tale::new();
    let first = bad.begin(1);
    let second = bad.begin(2);
    bad.stored(first, 0);
    bad.stored(second, 0);
    breaks!(bad, Breach::SlotAgreement(slot_agreement::Breach::TwoMessages { .. }));

    // A receipt, and a group that sees another message there.
    let mut bad = Tale::new();
    let member = bad.consumer("billing", "c1");
    let (first, second) = (bad.begin(1), bad.begin(2));
    bad.stored(first, 0);
    bad.unknown(second);
    bad.consume(member, 2, 0);
    bad.crash(member);
    breaks!(bad, Breach::SlotAgreement(slot_agreement::Breach::TwoMessages { offset: 0, .. }));

    // Power loss under async flush takes the message back, not its offset (L3).
    let mut bad = Tale::async_flush();
    bad.send(1, 0);
    bad.send(2, 1);
    bad.restart(Stop::PowerLost, 1);
    let mut jumped = bad.clone();
    jumped.send(3, 10);
    holds!(jumped);
    bad.send(3, 1);
    breaks!(bad, Breach::SlotAgreement(slot_agreement::Breach::TwoMessages { offset: 1, .. }));
}

#[test]
fn licensed_duplicates() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    start.send(2, 1);
    let first = start.deliver(member, 1, 0);

    // A nack licenses one more.
    let mut good = start.clone();
    good.nack(first);
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);
    good.deliver(member, 1, 0);
    breaks!(good, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));

    // Without a nack, none.
    let mut bad = start.clone();
    bad.consume(member, 1, 0);
    bad.ack(first);
    bad.consume(member, 2, 1);
    breaks!(bad, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));

    // A crash licenses what had not been committed (D3), once.
    let mut crashed = start.clone();
    crashed.ack(first);
    crashed.consume(member, 2, 1);
    crashed.crash(member);
    let heir = crashed.join("billing", "c2");
    crashed.own(heir, 1, OffsetSource::Committed);
    let mut good = crashed.clone();
    good.consume(heir, 2, 1);
    holds!(good);
    crashed.consume(heir, 1, 0);
    breaks!(crashed, Breach::LicensedDuplicates(licensed_duplicates::Breach::BeforeStart { .. }));

    // Two members take turns: one copy each, and no more.
    let mut turns = start.clone();
    turns.ack(first);
    turns.consume(member, 2, 1);
    let other = turns.join("billing", "c2");
    turns.own(other, 0, OffsetSource::Committed);
    turns.consume(other, 1, 0);
    turns.consume(other, 2, 1);
    holds!(turns);
    turns.consume(member, 1, 0);
    breaks!(
        turns,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::TooOften {
            deliveries: 3,
            causes: 2,
            ..
        })
    );
}

#[test]
fn a_client_that_does_not_say_where_it_reads_is_judged_by_its_restarts() {
    let mut tale = Tale::new();
    let member = tale.join("billing", "c1");
    tale.send(1, 0);
    tale.consume(member, 1, 0);
    tale.crash(member);
    tale.join("billing", "c1");
    tale.consume(member, 1, 0);
    holds!(tale);
    tale.consume(member, 1, 0);
    breaks!(tale, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));
}

#[test]
fn licensed_duplicates_counts_stored_copies() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let op = start.begin(1);

    // The reply was lost, the message was sent again: two copies (D1).
    let mut good = start.clone();
    good.unknown(op);
    good.send(1, 1);
    good.consume(member, 1, 0);
    good.consume(member, 1, 1);
    holds!(good);

    // One request, two copies (D6).
    let mut bad = start.clone();
    bad.stored(op, 0);
    bad.consume(member, 1, 0);
    bad.consume(member, 1, 1);
    breaks!(
        bad,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::TooManyCopies {
            copies: 2,
            tries: 1,
            ..
        })
    );
}

#[test]
fn producer_order() {
    let mut good = Tale::new();
    good.send(1, 0);
    good.send(2, 1);
    // Two in flight may pass each other.
    let (third, fourth) = (good.begin(3), good.begin(4));
    good.stored(fourth, 2);
    good.stored(third, 3);
    holds!(good);

    // Sent after an OK, stored before it.
    let mut bad = Tale::new();
    bad.send(1, 1);
    bad.send(2, 0);
    breaks!(bad, Breach::ProducerOrder(producer_order::Breach::Stored { at: 1, after_at: 0, .. }));

    // The same over a stretch of sends that were in flight together.
    let mut bad = good.clone();
    bad.send(5, 9);
    bad.send(6, 8);
    breaks!(bad, Breach::ProducerOrder(producer_order::Breach::Stored { at: 9, after_at: 8, .. }));

    // A pull consumer that resets meets them in the wrong order.
    let mut bad = Tale::new();
    bad.send(1, 0);
    bad.send(2, 1);
    let member = bad.join_as("audit", "c1", |started| started.from = From::Last);
    bad.own(member, 1, OffsetSource::Last);
    bad.consume(member, 2, 1);
    bad.read_from(member, 0, OffsetSource::Reset);
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::ProducerOrder(producer_order::Breach::Delivered { .. }));
}

#[test]
fn shard_order() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let (first, second) = (start.begin(1), start.begin(2));
    start.stored(first, 0);
    start.stored(second, 1);
    let mut good = start.clone();
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);

    // Backwards, by one member and across two.
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::ShardOrder(shard_order::Breach::Backwards { offset: 0, after: 1, .. }));
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.crash(member);
    let heir = bad.join("billing", "c2");
    bad.own(heir, 0, OffsetSource::Committed);
    bad.consume(heir, 1, 0);
    breaks!(bad, Breach::ShardOrder(shard_order::Breach::Backwards { offset: 0, after: 1, .. }));

    // Orderly: the next only after the ack.
    let mut orderly = Tale::new();
    let member = orderly.join_as("ledger", "c1", |started| started.orderly = true);
    orderly.own(member, 0, OffsetSource::First);
    orderly.send(1, 0);
    orderly.send(2, 1);
    let first = orderly.deliver(member, 1, 0);
    let mut good = orderly.clone();
    good.nack(first);
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);
    orderly.consume(member, 2, 1);
    orderly.ack(first);
    breaks!(orderly, Breach::ShardOrder(shard_order::Breach::TooEarly { open: 0, .. }));
}

#[test]
fn exclusivity() {
    let mut start = Tale::new();
    let old = start.consumer("billing", "c1");
    let op = [start.begin(1), start.begin(2)];
    start.stored(op[0], 0);
    start.stored(op[1], 1);
    start.consume(old, 1, 0);
    let new = start.join("billing", "c2");

    // The old owner goes on for a while: it has not heard of the new one yet.
    let mut overlap = start.clone();
    overlap.own(new, 1, OffsetSource::Committed);
    let mut good = overlap.clone();
    good.wait_secs(10);
    good.consume(old, 2, 1);
    holds!(good);

    // It still does so after the rebalance must be over.
    overlap.wait_secs(60);
    overlap.consume(old, 2, 1);
    breaks!(overlap, Breach::Exclusivity(exclusivity::Breach::TwoOwners { .. }));

    // It was stalled, and what it had in hand goes on.
    let mut woken = start.clone();
    woken.own(new, 1, OffsetSource::Committed);
    woken.pace(old, Pace::Stalled);
    woken.wait_secs(60);
    woken.pace(old, Pace::Normal);
    woken.consume(old, 2, 1);
    holds!(woken);

    // It has let go itself, long ago.
    let mut bad = start.clone();
    bad.assign(old, &[]);
    bad.wait_secs(60);
    bad.consume(old, 2, 1);
    breaks!(bad, Breach::Exclusivity(exclusivity::Breach::AfterRelease { .. }));

    // It was given queue 1 and handles queue 0.
    let mut bad = start.clone();
    bad.assign(new, &[1]);
    bad.consume(new, 2, 1);
    breaks!(bad, Breach::Exclusivity(exclusivity::Breach::NeverAssigned { .. }));
}

#[test]
fn exclusivity_waits_for_a_cut_off_owner() {
    let mut good = Tale::new();
    let old = good.consumer("billing", "c1");
    good.send(1, 0);
    good.fault(FaultKind::Partition);
    let new = good.join("billing", "c2");
    good.own(new, 0, OffsetSource::Committed);
    good.wait_secs(60);
    good.consume(old, 1, 0);
    holds!(good);
}

#[test]
fn offsets() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    start.send(2, 1);
    start.consume(member, 1, 0);
    let open = start.deliver(member, 2, 1);
    start.committed("billing", 1, 2);
    let mut good = start.clone();
    good.ack(open);
    good.committed("billing", 2, 2);
    holds!(good);

    let mut bad = good.clone();
    bad.committed("billing", 1, 2);
    breaks!(bad, Breach::Offsets(offsets::Breach::Backwards { from: 2, to: 1, .. }));

    let mut bad = start.clone();
    bad.committed("billing", 2, 2);
    bad.ack(open);
    breaks!(bad, Breach::Offsets(offsets::Breach::Unacked { at: 1, .. }));

    let mut bad = good.clone();
    bad.committed("billing", 3, 2);
    breaks!(bad, Breach::Offsets(offsets::Breach::BeyondEnd { offset: 3, end: 2, .. }));

    // A killed broker comes back with it (O1); a failed query is no offset (O3).
    let mut killed = good.clone();
    killed.stop_broker(Stop::Killed);
    killed.start_broker();
    let mut kept = killed.clone();
    kept.committed("billing", 2, 2);
    kept.recover(2);
    holds!(kept);
    killed.recover(2);
    breaks!(killed, Breach::Offsets(offsets::Breach::Forgotten { offset: 2, .. }));
    let mut replayed = good.clone();
    replayed.assign(member, &[]);
    replayed.own(member, 0, OffsetSource::First);
    breaks!(replayed, Breach::Offsets(offsets::Breach::ReadBehind { committed: 2, .. }));

    // Power loss under async flush may take the last commits back.
    let mut lost = Tale::async_flush();
    let member = lost.consumer("billing", "c1");
    lost.send(1, 0);
    lost.consume(member, 1, 0);
    lost.committed("billing", 1, 1);
    lost.restart(Stop::PowerLost, 1);
    lost.committed("billing", 0, 1);
    holds!(lost);
}

#[test]
fn durable_visibility() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let op = start.begin(1);
    start.durable(0);
    let mut good = start.clone();
    good.durable(1);
    good.stored(op, 0);
    good.consume(member, 1, 0);
    holds!(good);

    // Seen, then durable; and seen in a second life before it is durable again.
    let mut bad = start.clone();
    bad.consume(member, 1, 0);
    bad.durable(1);
    bad.stored(op, 0);
    breaks!(
        bad,
        Breach::DurableVisibility(durable_visibility::Breach::SeenBeforeDurable { durable: 0, .. })
    );
    let mut bad = good.clone();
    bad.restart(Stop::Killed, 1);
    let op = bad.begin(2);
    bad.consume(member, 2, 1);
    bad.unknown(op);
    breaks!(
        bad,
        Breach::DurableVisibility(durable_visibility::Breach::SeenBeforeDurable {
            durable: 100,
            ..
        })
    );

    let mut lax = bad.clone();
    lax.context.sync_flush = false;
    holds!(lax);
}

#[test]
fn no_resurrection() {
    let mut start = Tale::async_flush();
    start.send(1, 0);
    start.send(2, 1);
    start.restart(Stop::PowerLost, 1);
    let member = start.consumer("billing", "c1");
    start.consume(member, 1, 0);
    start.send(3, 10);
    let mut good = start.clone();
    good.consume(member, 3, 10);
    holds!(good);

    // A stale segment brings back what the recovery had cut off.
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.consume(member, 3, 10);
    breaks!(bad, Breach::NoResurrection(no_resurrection::Breach::Truncated { offset: 1, .. }));

    // What has expired comes back to a member that begins afterwards.
    let mut bad = good.clone();
    bad.expired(1);
    let late = bad.consumer("audit", "c2");
    let mut fine = bad.clone();
    fine.consume(late, 3, 10);
    holds!(fine);
    bad.consume(late, 1, 0);
    bad.consume(late, 3, 10);
    breaks!(bad, Breach::NoResurrection(no_resurrection::Breach::Expired { offset: 0, .. }));
}

#[test]
fn durability_contract_under_sync_flush() {
    let mut start = Tale::new();
    start.durable(0);
    let op = start.begin(1);
    let mut good = start.clone();
    good.durable(1);
    good.stored(op, 0);
    good.restart(Stop::PowerLost, 1);
    holds!(good);

    let mut bad = start.clone();
    bad.stored(op, 0);
    breaks!(bad, Breach::DurabilityContract(durability_contract::Breach::OkBeforeDurable { .. }));

    let mut bad = start.clone();
    bad.durable(1);
    bad.stored(op, 0);
    bad.restart(Stop::PowerLost, 0);
    breaks!(bad, Breach::DurabilityContract(durability_contract::Breach::DurableLost { .. }));

    let mut bad = Tale::new();
    bad.send(1, 0);
    bad.restart(Stop::PowerLost, 0);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            cause: durability_contract::NotAllowed::SyncFlush,
            ..
        })
    );
}

#[test]
fn durability_contract_under_async_flush() {
    let mut start = Tale::async_flush();
    start.send(1, 0);
    start.wait_secs(5);
    start.send(2, 1);
    let mut good = start.clone();
    good.restart(Stop::PowerLost, 1);
    holds!(good);

    // Older than the flush interval.
    let mut bad = start.clone();
    bad.restart(Stop::PowerLost, 0);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            offset: 0,
            cause: durability_contract::NotAllowed::TooOld,
            ..
        })
    );
    // Only the process died.
    let mut bad = start.clone();
    bad.restart(Stop::Killed, 1);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            offset: 1,
            cause: durability_contract::NotAllowed::NoPowerLoss,
            ..
        })
    );
    // The scenario is stricter than the mode.
    good.context.may_lose_nothing = true;
    breaks!(
        good,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            cause: durability_contract::NotAllowed::ScenarioForbids,
            ..
        })
    );
}

#[test]
fn what_the_recovered_log_kept_is_owed_whatever_its_age() {
    let mut bad = Tale::async_flush();
    bad.send(1, 0);
    bad.send(2, 1);
    bad.restart(Stop::PowerLost, 1);
    bad.consumer("billing", "c1");
    breaks!(bad, Breach::NoLoss(no_loss::Breach::NeverDelivered { offset: 0, .. }));
}

#[test]
fn liveness() {
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
fn backlog_isolation() {
    let told = |beside_millis: u64| {
        let mut tale = Tale::new();
        let fast = tale.consumer("fast", "c1");
        let stalled = tale.consumer("stalled", "c2");
        tale.wait_secs(5);
        for n in 0..200 {
            if n == 100 {
                tale.pace(stalled, Pace::Stalled);
            }
            tale.send(n + 1, n.into());
            tale.wait_millis(if n < 100 { 10 } else { beside_millis });
            tale.consume(fast, n + 1, n.into());
        }
        tale
    };
    let good = told(15);
    holds!(good);
    let bad = told(60);
    breaks!(bad, Breach::BacklogIsolation(backlog_isolation::Breach::Slowed { .. }));

    let mut hoarding = good.clone();
    let broker = hoarding.broker;
    hoarding.push(broker, EventKind::Memory { bytes: hoarding.context.memory_limit });
    holds!(hoarding);
    hoarding.push(broker, EventKind::Memory { bytes: hoarding.context.memory_limit + 1 });
    breaks!(hoarding, Breach::BacklogIsolation(backlog_isolation::Breach::Hoarding { .. }));
}

#[test]
fn broadcast() {
    let mut start = Tale::new();
    let members = ["c1", "c2"].map(|client| {
        let member = start.join_as("cache", client, |started| started.mode = Mode::Broadcasting);
        start.own(member, 0, OffsetSource::First);
        member
    });
    start.send(1, 0);
    start.consume(members[0], 1, 0);
    let mut good = start.clone();
    // In broadcasting a message counts as delivered, acknowledged or not (L16).
    good.deliver(members[1], 1, 0);
    holds!(good);

    breaks!(
        start,
        Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Missed { offset: 0, .. })
    );

    // Who starts at the end misses what came while it was away, and no more.
    let mut away = Tale::new();
    let come = |tale: &mut Tale, offset| {
        let member = tale.join_as("cache", "c1", |started| {
            (started.mode, started.from) = (Mode::Broadcasting, From::Last);
        });
        tale.own(member, offset, OffsetSource::Last);
        member
    };
    let member = come(&mut away, 0);
    away.crash(member);
    away.send(1, 0);
    come(&mut away, 1);
    holds!(away);
    away.send(2, 1);
    breaks!(
        away,
        Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Missed { offset: 1, .. })
    );
}

#[test]
fn filter() {
    let mut start = Tale::new();
    let red = start.tag("red");
    let member = start.join_as("billing", "c1", |started| {
        started.subscriptions[0].tags = vec![red];
    });
    start.own(member, 0, OffsetSource::First);
    start.send_tagged(1, 0, "blue");
    start.send_tagged(2, 1, "red");
    let got = |number, tag| Got { tag: Some(tag), ..sent(number) };
    let mut good = start.clone();
    let delivery = good.deliver_as(member, 1, got(2, "red"));
    good.ack(delivery);
    holds!(good);

    // A tag that was not asked for; and none at all.
    let mut bad = start.clone();
    bad.deliver_as(member, 0, got(1, "blue"));
    let delivery = bad.deliver_as(member, 1, got(2, "red"));
    bad.ack(delivery);
    breaks!(bad, Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Unwanted { .. }));
    let mut bad = good.clone();
    bad.send(3, 2);
    bad.deliver(member, 3, 2);
    breaks!(
        bad,
        Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Unwanted { tag: None, .. })
    );

    // What was asked for and did not come is a loss.
    breaks!(start, Breach::NoLoss(no_loss::Breach::NeverDelivered { offset: 1, .. }));
}

#[test]
fn fault_honesty() {
    // Rot that is noticed: no message is better than a wrong one.
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.context.recovers = false;
    start.send(1, 0);
    start.fault(FaultKind::BitRot);
    holds!(start);
    for got in [Got { body_hash: 99, ..sent(1) }, Got { message: None, ..sent(99) }] {
        let mut bad = start.clone();
        bad.deliver_as(member, 0, got);
        breaks!(bad, Breach::FaultHonesty(fault_honesty::Breach::WrongBytes { .. }));
    }

    // After a failed sync: refusals, no OK, no more durability (L2).
    let mut failed = Tale::new();
    failed.durable(1);
    failed.mark(Mark::SyncFailed);
    let op = failed.begin(1);
    let mut good = failed.clone();
    good.refused(op);
    holds!(good);
    let mut bad = failed.clone();
    bad.durable(2);
    bad.refused(op);
    breaks!(bad, Breach::FaultHonesty(fault_honesty::Breach::DurableAfterFailedSync { .. }));
    failed.stored(op, 0);
    breaks!(failed, Breach::FaultHonesty(fault_honesty::Breach::OkAfterFailedSync { .. }));

    // Async flush answers until it hears of it, and not for long.
    let mut lax = Tale::async_flush();
    lax.mark(Mark::SyncFailed);
    lax.send(1, 0);
    holds!(lax);
    lax.wait_secs(1);
    lax.send(2, 1);
    breaks!(lax, Breach::FaultHonesty(fault_honesty::Breach::OkAfterFailedSync { .. }));

    // A restart is a new beginning.
    good.restart(Stop::GaveUp, 1);
    good.durable(2);
    good.send(2, 1);
    holds!(good);
}

#[test]
fn a_full_disk_is_answered() {
    let mut full = Tale::new();
    full.wait_secs(20);
    full.fault(FaultKind::DiskFull);
    let op = full.begin(1);
    let mut good = full.clone();
    good.refused(op);
    holds!(good);
    full.unknown(op);
    breaks!(full, Breach::FaultHonesty(fault_honesty::Breach::Silence { .. }));
}

#[test]
fn a_violation_tells_its_story() {
    let mut bad = Tale::new();
    bad.durable(0);
    bad.send(1, 0);
    bad.comes_to_rest();
    let told = bad.told();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "durability_contract: m1 was answered OK under sync flush; it lies at log position 0, \
             durable is 0",
            "     0.004000s  producer-1    send #1 m1 of 100 bytes to orders/0@broker-1",
            "     0.005000s  producer-1    send #1 stored at orders/0@broker-1[0] (log 0)",
        ]
    );
}

#[test]
fn the_table_names_every_promise_once() {
    let numbers: Vec<u32> = PROMISES.iter().map(|promise| promise.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 16, 18, 22, 23]);
}

/// A million events, and the time they take must grow with their number.
#[test]
fn a_million_events_are_judged_in_linear_time() {
    let judged = |messages: u32| {
        let tale = long_run(messages);
        let begun = std::time::Instant::now();
        assert!(tale.judged().is_empty(), "{}", tale.told());
        begun.elapsed()
    };
    let (short, long) = (judged(20_000), judged(200_000));
    let events = 200_000 * 6;
    println!("{} events per second", events as f64 / long.as_secs_f64());
    assert!(long < short * 40, "ten times the events took {long:?} after {short:?}");
}

/// Two groups, one of which restarts now and then, and everything goes well.
fn long_run(messages: u32) -> Tale {
    let mut tale = Tale::new();
    let mut members = ["billing", "shipping"].map(|group| tale.consumer(group, group));
    for n in 0..messages {
        let offset = u64::from(n);
        tale.send(n + 1, offset);
        if n % 1_000 == 999 {
            tale.crash(members[0]);
            members[0] = tale.join("billing", "billing");
            tale.own(members[0], offset, OffsetSource::Committed);
            tale.committed("billing", offset, offset + 1);
        }
        members.iter().for_each(|member| tale.consume(*member, n + 1, offset));
    }
    tale.comes_to_rest();
    tale
}
