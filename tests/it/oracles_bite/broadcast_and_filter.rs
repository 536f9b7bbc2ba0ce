use stormglass_sim::{
    history::{From, Mode, OffsetSource},
    oracle::{Breach, broadcast_and_filter, no_loss},
};

use super::tale::{Got, Tale, sent};
use crate::{breaks, holds};

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
        Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Missed { slot: Some((_, 0)), .. })
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
        Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Missed { slot: Some((_, 1)), .. })
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
fn in_broadcasting_nothing_is_tried_again() {
    let mut tale = Tale::new();
    let member = tale.join_as("cache", "c1", |started| started.mode = Mode::Broadcasting);
    tale.own(member, 0, OffsetSource::First);
    tale.send(1, 0);
    let failed = tale.deliver(member, 1, 0);
    tale.nack(failed);
    holds!(tale);
    tale.consume(member, 1, 0);
    breaks!(tale, Breach::BroadcastAndFilter(broadcast_and_filter::Breach::Retried { .. }));
}
