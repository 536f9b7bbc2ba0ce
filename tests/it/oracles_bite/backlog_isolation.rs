use stormglass_sim::{
    history::{EventKind, Pace},
    oracle::{Breach, backlog_isolation},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn a_stalled_group_slows_nobody() {
    let told = |beside_millis: u64| {
        let mut tale = Tale::new();
        let fast = tale.consumer("fast", "c1");
        let stalled = tale.consumer("stalled", "c2");
        tale.wait_secs(5);
        for n in 0..200 {
            if n == 100 {
                tale.pace(stalled, Pace::Stalled);
            }
            tale.send(n + 1, n.into());
            tale.wait_millis(if n < 100 { 10 } else { beside_millis });
            tale.consume(fast, n + 1, n.into());
        }
        tale
    };
    let good = told(15);
    holds!(good);
    let bad = told(60);
    breaks!(bad, Breach::BacklogIsolation(backlog_isolation::Breach::Slowed { .. }));

    let mut hoarding = good.clone();
    let broker = hoarding.broker;
    hoarding.push(broker, EventKind::Memory { bytes: hoarding.context.memory_limit });
    holds!(hoarding);
    hoarding.push(broker, EventKind::Memory { bytes: hoarding.context.memory_limit + 1 });
    breaks!(hoarding, Breach::BacklogIsolation(backlog_isolation::Breach::Hoarding { .. }));
}
