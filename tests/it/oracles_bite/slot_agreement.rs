use stormglass_sim::{
    history::Stop,
    oracle::{Breach, slot_agreement},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn one_message_for_ever() {
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
