use stormglass_sim::{
    history::{From, OffsetSource},
    oracle::{Breach, producer_order},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn an_ok_comes_before_what_is_sent_after_it() {
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
