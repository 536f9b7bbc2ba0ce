use stormglass_sim::oracle::{Breach, no_phantom};

use super::tale::{Got, Tale, sent};
use crate::{breaks, holds};

#[test]
fn only_what_was_sent() {
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
