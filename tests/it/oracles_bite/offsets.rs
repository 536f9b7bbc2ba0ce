use stormglass_sim::{
    history::{OffsetSource, Stop},
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
