use stormglass_sim::{
    history::{Answered, EventKind, FaultKind, Held},
    oracle::{Breach, delay_accuracy, no_loss},
};

use super::tale::Tale;
use crate::{breaks, holds};

const TEN_SECONDS: Held = Held::For(10_000_000);

#[test]
fn a_delayed_message_comes_when_it_is_due() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    start.consume(member, 1, 0);
    start.wait_secs(60);
    let op = start.begin_held(2, TEN_SECONDS);
    start.stored_held(op, 2);
    let after = |millis: u64| {
        let mut tale = start.clone();
        tale.wait_millis(millis);
        tale.consume(member, 2, 1);
        tale
    };
    holds!(after(10_000));
    holds!(after(12_000));
    breaks!(after(9_900), Breach::DelayAccuracy(delay_accuracy::Breach::Early { .. }));
    breaks!(after(20_000), Breach::DelayAccuracy(delay_accuracy::Breach::Late { .. }));
    breaks!(start, Breach::NoLoss(no_loss::Breach::NeverVisible { .. }));

    // Something was in its way.
    let mut late = start.clone();
    late.fault(FaultKind::Partition);
    late.wait_secs(60);
    late.consume(member, 2, 1);
    holds!(late);
}

#[test]
fn it_is_due_by_the_clock_of_its_broker() {
    let told = |ahead_us: i64| {
        let mut tale = Tale::new();
        let member = tale.consumer("billing", "c1");
        let op = tale.begin_held(1, TEN_SECONDS);
        tale.stored_held(op, 1);
        tale.wait_secs(5);
        let broker = tale.broker;
        tale.push(broker, EventKind::ClockIs { ahead_us, drift_ppm: 0 });
        tale.consume(member, 1, 0);
        tale
    };
    // It has jumped over the rest of the time.
    holds!(told(5_000_000));
    breaks!(told(4_000_000), Breach::DelayAccuracy(delay_accuracy::Breach::Early { .. }));
}

#[test]
fn what_was_taken_back_never_comes() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let op = start.begin_held(1, TEN_SECONDS);
    start.stored_held(op, 1);
    let mut good = start.clone();
    good.recall(1, Answered::Ok);
    good.wait_secs(11);
    holds!(good);
    good.consume(member, 1, 0);
    breaks!(good, Breach::DelayAccuracy(delay_accuracy::Breach::Recalled { .. }));

    // Refused: then it comes.
    start.recall(1, Answered::Refused { code: 1 });
    start.wait_secs(11);
    start.consume(member, 1, 0);
    holds!(start);
}
