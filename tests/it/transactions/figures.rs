//! What a producer outage costs: `cargo test -p stormglass-tests --test it
//! open_halves -- --ignored --nocapture`.

use std::time::Duration;

use stormglass_core::replication::Flush;
use stormglass_tests::by_hand::{ByHand, small_config};

use super::{Producing, SECOND};

const HALVES: u64 = 100_000;
const REPORT_EVERY: u64 = 100;

/// What the broker spent so far.
#[derive(Clone, Copy, Default)]
struct Spent {
    checks: u64,
    /// Bytes of log, and on the wire.
    log: u64,
    wire: u64,
}

fn spent(by_hand: &ByHand, wire: u64) -> Spent {
    let view = by_hand.broker.as_ref().expect("it runs").view();
    Spent { checks: view.counters().checks_sent, log: view.applied().0, wire }
}

#[test]
#[ignore = "a figure, not a promise: minutes without optimisation"]
fn open_halves() {
    let mut config = small_config(Flush::Sync);
    config.log.segment_bytes = 16 << 20;
    config.snapshot_every = 64 << 20;
    let mut by_hand = ByHand::with(config);
    by_hand.start().expect("an empty disk opens");
    let producer = Producing::new(1, "p").acknowledging();
    for n in 0..HALVES {
        producer.send_half(&mut by_hand, &format!("{n:0100}"), "").expect("stored");
    }
    let stored = spent(&by_hand, 0);
    println!("{HALVES} halves of 100 bytes: {} bytes of log for each", stored.log / HALVES);

    by_hand.pass(3_600 * SECOND);
    let outage = spent(&by_hand, 0);
    let grown = outage.log - stored.log;
    println!("an hour without producers: {} checks, {grown} bytes of log", outage.checks);
    assert!(grown < 1_000 && outage.checks == 0);

    println!("then a member comes that acknowledges and never decides:");
    producer.heartbeat(&mut by_hand);
    let (mut before, mut wire, mut most) = (outage, 0, 0);
    for second in 1..=900u64 {
        let checks = spent(&by_hand, wire).checks;
        for _ in 0..10 {
            by_hand.pass(Duration::from_millis(100));
            wire += by_hand.sent.iter().map(|(_, f)| f.encode().size() as u64).sum::<u64>();
            producer.checks(&mut by_hand);
        }
        most = most.max(spent(&by_hand, wire).checks - checks);
        if second % REPORT_EVERY == 0 {
            let now = spent(&by_hand, wire);
            println!(
                "  until {second} s: {} checks, {} bytes sent, {} bytes of log",
                now.checks - before.checks,
                now.wire - before.wire,
                now.log - before.log
            );
            before = now;
            producer.heartbeat(&mut by_hand);
        }
    }
    println!("at most {most} checks in a second");
    assert!(most <= 1_100, "{most} checks in a second");
}
