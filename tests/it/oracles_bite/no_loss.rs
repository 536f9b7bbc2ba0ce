use stormglass_sim::{
    history::{EventKind, From, OffsetSource, Stop},
    oracle::{Breach, no_loss},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn owed_to_every_group() {
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
fn a_late_group_is_owed_from_its_start() {
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
fn what_retention_takes_from_a_group_is_counted() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    start.consume(member, 1, 0);
    start.committed("billing", 1, 2);
    start.send(2, 1);
    let mut fine = start.clone();
    fine.expired(1);
    fine.consume(member, 2, 1);
    holds!(fine);

    start.expired(2);
    let mut counted = start.clone();
    let (broker, group, shard) = (start.broker, start.group("billing"), start.shard(0));
    counted.push(broker, EventKind::GroupLost { group, shard, messages: 1 });
    holds!(counted);
    breaks!(start, Breach::NoLoss(no_loss::Breach::ExpiredUncounted { lost: 1, .. }));
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
