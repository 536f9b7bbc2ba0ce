use stormglass_sim::{
    history::{FaultKind, Mark, Stop},
    oracle::{Breach, fault_honesty},
};

use super::tale::{Got, Tale, sent};
use crate::{breaks, holds};

#[test]
fn damage_is_refused() {
    // Rot that is noticed: no message is better than a wrong one.
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.context.recovers = false;
    start.send(1, 0);
    start.fault(FaultKind::BitRot);
    holds!(start);
    for got in [Got { body_hash: 99, ..sent(1) }, Got { message: None, ..sent(99) }] {
        let mut bad = start.clone();
        bad.deliver_as(member, 0, got);
        breaks!(bad, Breach::FaultHonesty(fault_honesty::Breach::WrongBytes { .. }));
    }

    // After a failed sync: refusals, no OK, no more durability (L2).
    let mut failed = Tale::new();
    failed.durable(1);
    failed.mark(Mark::SyncFailed);
    let op = failed.begin(1);
    let mut good = failed.clone();
    good.refused(op);
    holds!(good);
    let mut bad = failed.clone();
    bad.durable(2);
    bad.refused(op);
    breaks!(bad, Breach::FaultHonesty(fault_honesty::Breach::DurableAfterFailedSync { .. }));
    failed.stored(op, 0);
    breaks!(failed, Breach::FaultHonesty(fault_honesty::Breach::OkAfterFailedSync { .. }));

    // Async flush answers until it hears of it, and not for long.
    let mut lax = Tale::async_flush();
    lax.mark(Mark::SyncFailed);
    lax.send(1, 0);
    holds!(lax);
    lax.wait_secs(1);
    lax.send(2, 1);
    breaks!(lax, Breach::FaultHonesty(fault_honesty::Breach::OkAfterFailedSync { .. }));

    // A restart is a new beginning.
    good.restart(Stop::GaveUp, 1);
    good.durable(2);
    good.send(2, 1);
    holds!(good);
}

#[test]
fn a_full_disk_is_answered() {
    let mut full = Tale::new();
    full.wait_secs(20);
    full.fault(FaultKind::DiskFull);
    let op = full.begin(1);
    let mut good = full.clone();
    good.refused(op);
    holds!(good);
    full.unknown(op);
    breaks!(full, Breach::FaultHonesty(fault_honesty::Breach::Silence { .. }));
}
