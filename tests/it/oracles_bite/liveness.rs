use stormglass_sim::{
    history::Stop,
    oracle::{Breach, liveness, no_loss},
};

use super::tale::Tale;
use crate::{breaks, breaks_unfinished, holds};

#[test]
fn all_resolves_in_time() {
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
