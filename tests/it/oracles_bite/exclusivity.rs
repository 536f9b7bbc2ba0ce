use stormglass_sim::{
    history::{FaultKind, OffsetSource, Pace},
    oracle::{Breach, exclusivity},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn one_owner_but_for_a_rebalance() {
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
fn a_cut_off_owner_has_not_heard() {
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
