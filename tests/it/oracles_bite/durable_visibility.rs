use stormglass_sim::{
    history::Stop,
    oracle::{Breach, durable_visibility},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn nothing_is_seen_before_it_is_durable() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let op = start.begin(1);
    start.durable(0);
    let mut good = start.clone();
    good.durable(1);
    good.stored(op, 0);
    good.consume(member, 1, 0);
    holds!(good);

    // Seen, then durable; and seen in a second life before it is durable again.
    let mut bad = start.clone();
    bad.consume(member, 1, 0);
    bad.durable(1);
    bad.stored(op, 0);
    breaks!(
        bad,
        Breach::DurableVisibility(durable_visibility::Breach::SeenBeforeDurable { durable: 0, .. })
    );
    let mut bad = good.clone();
    bad.restart(Stop::Killed, 1);
    let op = bad.begin(2);
    bad.consume(member, 2, 1);
    bad.unknown(op);
    breaks!(
        bad,
        Breach::DurableVisibility(durable_visibility::Breach::SeenBeforeDurable {
            durable: 100,
            ..
        })
    );

    let mut lax = bad.clone();
    lax.context.sync_flush = false;
    holds!(lax);
}
