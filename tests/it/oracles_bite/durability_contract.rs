use stormglass_sim::{
    history::Stop,
    oracle::{Breach, NotAllowed, durability_contract},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn sync_flush_loses_nothing() {
    let mut start = Tale::new();
    start.durable(0);
    let op = start.begin(1);
    let mut good = start.clone();
    good.durable(1);
    good.stored(op, 0);
    good.restart(Stop::PowerLost, 1);
    holds!(good);

    let mut bad = start.clone();
    bad.stored(op, 0);
    breaks!(bad, Breach::DurabilityContract(durability_contract::Breach::OkBeforeDurable { .. }));

    let mut bad = start.clone();
    bad.durable(1);
    bad.stored(op, 0);
    bad.restart(Stop::PowerLost, 0);
    breaks!(bad, Breach::DurabilityContract(durability_contract::Breach::DurableLost { .. }));

    let mut bad = Tale::new();
    bad.send(1, 0);
    bad.restart(Stop::PowerLost, 0);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            cause: NotAllowed::SyncFlush,
            ..
        })
    );
}

#[test]
fn async_flush_loses_the_end_of_the_log() {
    let mut start = Tale::async_flush();
    start.send(1, 0);
    start.wait_secs(5);
    start.send(2, 1);
    let mut good = start.clone();
    good.restart(Stop::PowerLost, 1);
    holds!(good);

    // Older than the flush interval.
    let mut bad = start.clone();
    bad.restart(Stop::PowerLost, 0);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            offset: 0,
            cause: NotAllowed::TooOld,
            ..
        })
    );
    // Only the process died.
    let mut bad = start.clone();
    bad.restart(Stop::Killed, 1);
    breaks!(
        bad,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            offset: 1,
            cause: NotAllowed::NoPowerLoss,
            ..
        })
    );
    // The scenario is stricter than the mode.
    good.context.may_lose_nothing = true;
    breaks!(
        good,
        Breach::DurabilityContract(durability_contract::Breach::Lost {
            cause: NotAllowed::ScenarioForbids,
            ..
        })
    );
}
