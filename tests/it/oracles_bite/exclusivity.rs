use stormglass_sim::{
    history::{FaultKind, MemberId, OffsetSource, Pace},
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

/// An orderly member with the lock of queue 0, which has had message 1.
fn locked() -> (Tale, MemberId) {
    let mut tale = Tale::new();
    let owner = tale.join_as("ledger", "c1", |started| started.orderly = true);
    tale.locked(owner, 1);
    tale.own(owner, 0, OffsetSource::First);
    tale.send(1, 0);
    tale.send(2, 1);
    tale.consume(owner, 1, 0);
    (tale, owner)
}

#[test]
fn who_has_lost_the_lock_is_fenced() {
    let (start, owner) = locked();
    let mut good = start.clone();
    good.consume(owner, 2, 1);
    holds!(good);

    // It gave the lock back, and goes on.
    let mut released = start.clone();
    released.unlocked(owner);
    released.lock_holder(None, 1);
    released.consume(owner, 2, 1);
    breaks!(released, Breach::Exclusivity(exclusivity::Breach::NotLocked { .. }));

    // It was paused until its lease was over, and does not know (R1).
    let mut taken = start.clone();
    let heir = taken.join_as("ledger", "c2", |started| started.orderly = true);
    let mut reused = taken.clone();
    taken.locked(heir, 2);
    let mut stale = taken.clone();
    taken.own(heir, 1, OffsetSource::Committed);
    taken.consume(heir, 2, 1);
    holds!(taken);
    stale.consume(owner, 2, 1);
    breaks!(stale, Breach::Exclusivity(exclusivity::Breach::Fenced { epoch: 2, .. }));

    // A new owner with the old one's epoch.
    reused.locked(heir, 1);
    reused.own(heir, 1, OffsetSource::Committed);
    reused.consume(heir, 2, 1);
    breaks!(reused, Breach::Exclusivity(exclusivity::Breach::EpochReused { epoch: 1, .. }));
}

#[test]
fn a_fenced_owner_commits_nothing() {
    let (mut tale, owner) = locked();
    tale.committed("ledger", 1, 2);
    tale.consume(owner, 2, 1);
    let heir = tale.join_as("ledger", "c2", |started| started.orderly = true);
    tale.locked(heir, 2);
    tale.own(heir, 1, OffsetSource::Committed);
    let mut good = tale.clone();
    good.consume(heir, 2, 1);
    good.committed("ledger", 2, 2);
    holds!(good);
    tale.committed("ledger", 2, 2);
    breaks!(tale, Breach::Exclusivity(exclusivity::Breach::FencedCommit { offset: 2, at: 1, .. }));
}
