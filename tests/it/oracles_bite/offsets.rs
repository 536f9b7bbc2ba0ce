use stormglass_sim::{
    history::{Answered, OffsetSource, Stop},
    oracle::{Breach, offsets},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn forward_over_what_is_acknowledged() {
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
fn nothing_older_undoes_a_reset() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    for (message, offset) in [(1, 0), (2, 1), (3, 2)] {
        start.send(message, offset);
        start.consume(member, message, offset);
    }
    start.committed("billing", 3, 3);
    let mut reset = start.clone();
    reset.reset("billing", Answered::Ok, |tale| tale.committed("billing", 1, 3));
    let mut good = reset.clone();
    good.read_from(member, 1, OffsetSource::Reset);
    for (message, offset) in [(2, 1), (3, 2)] {
        good.consume(member, message, offset);
        good.committed("billing", offset + 1, 3);
    }
    holds!(good);

    // A commit that was on its way comes late (O4).
    reset.committed("billing", 3, 3);
    breaks!(reset, Breach::Offsets(offsets::Breach::Unacked { at: 1, .. }));

    // Forwards, over what nobody has had; and without anybody's wish.
    let mut skipped = start.clone();
    skipped.send(4, 3);
    skipped.send(5, 4);
    let mut wished = skipped.clone();
    wished.reset("billing", Answered::Ok, |tale| tale.committed("billing", 4, 5));
    wished.read_from(member, 4, OffsetSource::Reset);
    wished.consume(member, 5, 4);
    holds!(wished);
    let open = skipped.deliver(member, 4, 3);
    skipped.committed("billing", 4, 5);
    skipped.ack(open);
    skipped.consume(member, 5, 4);
    breaks!(skipped, Breach::Offsets(offsets::Breach::Unacked { at: 3, .. }));

    // Refused: nothing may move.
    start.reset("billing", Answered::Refused { code: 1 }, |_| {});
    start.committed("billing", 1, 3);
    breaks!(start, Breach::Offsets(offsets::Breach::Backwards { from: 3, to: 1, .. }));
}

/// Others have worked on since, from where the group was set back to.
#[test]
fn who_learns_late_of_a_reset_resets_nothing() {
    let mut tale = Tale::new();
    let early = tale.consumer("billing", "c1");
    for (message, offset) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
        tale.send(message, offset);
        tale.consume(early, message, offset);
    }
    tale.committed("billing", 4, 4);
    tale.reset("billing", Answered::Ok, |tale| tale.committed("billing", 1, 4));
    tale.read_from(early, 1, OffsetSource::Reset);
    for (message, offset) in [(2, 1), (3, 2), (4, 3)] {
        tale.consume(early, message, offset);
    }
    tale.committed("billing", 3, 4);
    let late = tale.join("billing", "c2");
    tale.assign(early, &[]);
    tale.assign(late, &[0]);
    tale.read_from(late, 3, OffsetSource::Reset);
    let mut undone = tale.clone();
    tale.committed("billing", 4, 4);
    tale.consume(late, 4, 3);
    holds!(tale);

    undone.committed("billing", 1, 4);
    breaks!(undone, Breach::Offsets(offsets::Breach::Backwards { from: 3, to: 1, .. }));
}

#[test]
fn what_the_broker_took_back_may_be_passed() {
    let mut tale = Tale::new();
    let member = tale.retrying();
    tale.send(1, 0);
    let failed = tale.deliver(member, 1, 0);
    tale.nack(failed);
    let mut early = tale.clone();
    early.committed("billing", 1, 1);
    let mut good = tale.clone();
    good.send_back(failed, Answered::Ok);
    good.committed("billing", 1, 1);
    good.wait_secs(11);
    early.send_back(failed, Answered::Ok);
    early.wait_secs(11);
    for tale in [&mut good, &mut early] {
        let delivery = tale.deliver_again(member, 1, 0, 2);
        tale.ack(delivery);
    }
    holds!(good);
    // Before it was safe there (L18, L24).
    breaks!(early, Breach::Offsets(offsets::Breach::Unacked { at: 0, .. }));
}
