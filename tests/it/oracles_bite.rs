//! Each oracle accepts a good history, and rejects each bad one alone: what
//! breaks one promise does not set off the alarm of another.

mod backlog_isolation;
mod broadcast_and_filter;
mod check_back;
mod delay_accuracy;
mod durability_contract;
mod durable_visibility;
mod exclusivity;
mod fault_honesty;
mod honest_replies;
mod lease;
mod licensed_duplicates;
mod liveness;
mod no_loss;
mod no_metastable_collapse;
mod no_phantom;
mod no_resurrection;
mod offsets;
mod producer_order;
mod replica_agreement;
mod replica_sets;
mod retry_and_dlq;
mod shard_order;
mod slot_agreement;
mod tale;
mod transaction_atomicity;

use stormglass_sim::{history::OffsetSource, oracle::PROMISES};

use tale::Tale;

#[test]
fn a_violation_tells_its_story() {
    let mut bad = Tale::new();
    bad.durable(0);
    bad.send(1, 0);
    bad.comes_to_rest();
    let told = bad.told();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "durability_contract: m1 was answered OK under sync flush; it lies at log position 0, \
             durable is 0",
            "     0.004000s  producer-1    send #1 m1 of 100 bytes to orders/0@broker-1",
            "     0.005000s  producer-1    send #1 stored at orders/0@broker-1[0] (log 0)",
        ]
    );
}

#[test]
fn the_table_names_every_promise_once() {
    let numbers: Vec<u32> = PROMISES.iter().map(|promise| promise.number).collect();
    assert_eq!(
        numbers,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]
    );
}

/// A million events, and the time they take must grow with their number.
#[test]
fn a_million_events_are_judged_in_linear_time() {
    let judged = |messages: u32| {
        let tale = long_run(messages);
        let begun = std::time::Instant::now();
        assert!(tale.judged().is_empty(), "{}", tale.told());
        begun.elapsed()
    };
    let (short, long) = (judged(20_000), judged(200_000));
    let events = 200_000 * 6;
    println!("{} events per second", events as f64 / long.as_secs_f64());
    assert!(long < short * 40, "ten times the events took {long:?} after {short:?}");
}

/// Two groups, one of which restarts now and then, and everything goes well.
fn long_run(messages: u32) -> Tale {
    let mut tale = Tale::new();
    let mut members = ["billing", "shipping"].map(|group| tale.consumer(group, group));
    for n in 0..messages {
        let offset = u64::from(n);
        tale.send(n + 1, offset);
        if n % 1_000 == 999 {
            tale.crash(members[0]);
            members[0] = tale.join("billing", "billing");
            tale.own(members[0], offset, OffsetSource::Committed);
            tale.committed("billing", offset, offset + 1);
        }
        members.iter().for_each(|member| tale.consume(*member, n + 1, offset));
    }
    tale.comes_to_rest();
    tale
}
