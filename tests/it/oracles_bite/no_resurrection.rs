use stormglass_sim::{
    history::Stop,
    oracle::{Breach, no_resurrection},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn gone_is_gone() {
    let mut start = Tale::async_flush();
    start.send(1, 0);
    start.send(2, 1);
    start.restart(Stop::PowerLost, 1);
    let member = start.consumer("billing", "c1");
    start.consume(member, 1, 0);
    start.send(3, 10);
    let mut good = start.clone();
    good.consume(member, 3, 10);
    holds!(good);

    // A stale segment brings back what the recovery had cut off.
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.consume(member, 3, 10);
    breaks!(bad, Breach::NoResurrection(no_resurrection::Breach::Truncated { offset: 1, .. }));

    // What has expired comes back to a member that begins afterwards.
    let mut bad = good.clone();
    bad.expired(1);
    let late = bad.consumer("audit", "c2");
    let mut fine = bad.clone();
    fine.consume(late, 3, 10);
    holds!(fine);
    bad.consume(late, 1, 0);
    bad.consume(late, 3, 10);
    breaks!(bad, Breach::NoResurrection(no_resurrection::Breach::Expired { offset: 0, .. }));
}
