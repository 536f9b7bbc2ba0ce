//! Any sequence of what clients that lease do and machines suffer, against what
//! the clients together know.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use stormglass_core::{replication::Flush, wire::code};
use stormglass_tests::by_hand::{ByHand, Sent, small_config};

use super::{GROUP, INVISIBLE, Popped, TOPIC, ack, change, pop};
use crate::{
    crashes::{Crash, at_any_time, revive},
    orderly::Client,
};

#[derive(Clone, Debug)]
enum Step {
    Send(i32),
    Pop(u64, i32),
    /// Of those that somebody holds.
    Ack(usize),
    Change(usize, i64),
    Pass(u64),
    Crash(Crash),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2i32).prop_map(Step::Send),
        5 => (1..4u64, 1..5i32).prop_map(|(client, most)| Step::Pop(client, most)),
        4 => (0..8usize).prop_map(Step::Ack),
        2 => ((0..8usize), (0..60_000i64)).prop_map(|(which, time)| Step::Change(which, time)),
        3 => (1..40u64).prop_map(Step::Pass),
        2 => at_any_time().prop_map(Step::Crash),
    ]
}

/// What the clients together know.
#[derive(Default)]
struct Known {
    sent: BTreeSet<String>,
    done: BTreeSet<String>,
    /// Acked without an answer.
    perhaps_done: BTreeSet<String>,
    /// Each with when its lease ends.
    held: Vec<(u64, Popped)>,
    /// The end of the newest lease on each message.
    until: BTreeMap<String, u64>,
    last_times: BTreeMap<String, i32>,
}

impl Known {
    fn popped(&mut self, now: u64, message: Popped) {
        let body = &message.body;
        assert!(!self.done.contains(body), "{body} was acked and came again");
        let until = self.until.get(body).copied().unwrap_or(0);
        assert!(now >= until, "{body} came at {now}, early: its lease ends at {until}");
        let last = self.last_times.insert(body.clone(), message.times);
        assert!(last.is_none_or(|last| message.times > last), "{body}: {last:?}, {message:?}");
        self.until.insert(body.clone(), now + INVISIBLE * 1000);
        self.held.push((now + INVISIBLE * 1000, message));
    }

    fn acked(&mut self, now: u64, until: u64, message: Popped, outcome: Option<i32>) {
        match outcome {
            Some(code::SUCCESS) => drop(self.done.insert(message.body)),
            Some(code) => {
                assert_eq!(code, code::NO_MESSAGE);
                let is_known = self.perhaps_done.contains(&message.body);
                assert!(now >= until || is_known, "a running lease was refused: {message:?}");
            }
            None => drop(self.perhaps_done.insert(message.body)),
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut config = small_config(Flush::Sync);
    config.snapshot_every = 2 << 10;
    let mut by_hand = ByHand::with(config);
    by_hand.start().unwrap();
    let mut known = Known::default();
    for (nth, step) in steps.into_iter().enumerate() {
        let now = by_hand.now.mono.0;
        match step {
            Step::Send(queue) => {
                let body = format!("m{nth}");
                if matches!(by_hand.send(TOPIC, queue, &body), Sent::Ok { .. }) {
                    known.sent.insert(body);
                }
            }
            Step::Pop(client, most) if by_hand.contents_exist(TOPIC) => {
                let popped = pop(&mut by_hand, Client(client), -1, most);
                popped.into_iter().flatten().for_each(|message| known.popped(now, message));
            }
            Step::Ack(which) if which < known.held.len() => {
                let (until, message) = known.held.remove(which);
                let outcome = ack(&mut by_hand, &message);
                known.acked(now, until, message, outcome);
            }
            Step::Change(which, time) if which < known.held.len() => {
                let (_, message) = known.held.remove(which);
                match change(&mut by_hand, &message, time) {
                    Some(Ok(message)) => {
                        let until = now + time as u64 * 1000;
                        known.until.insert(message.body.clone(), until);
                        known.held.push((until, message));
                    }
                    Some(Err(_)) => {}
                    // It may be due as soon as was asked for.
                    None => drop(known.until.insert(message.body, now)),
                }
            }
            Step::Pass(seconds) => by_hand.pass(Duration::from_secs(seconds)),
            Step::Crash(crash) => crash.strike(&mut by_hand),
            Step::Pop(..) | Step::Ack(_) | Step::Change(..) => {}
        }
        revive(&mut by_hand);
    }
    // In the end somebody processes everything, on a disk that works.
    Crash::PowerLoss.strike(&mut by_hand);
    for _ in 0..4 {
        by_hand.pass(Duration::from_secs(61));
        while by_hand.contents_exist(TOPIC) {
            let popped = pop(&mut by_hand, Client(1), -1, 32).unwrap();
            if popped.is_empty() {
                break;
            }
            for message in popped {
                let now = by_hand.now.mono.0;
                known.popped(now, message.clone());
                let outcome = ack(&mut by_hand, &message);
                known.acked(now, u64::MAX, message, outcome);
            }
        }
    }
    let dead = format!("%DLQ%{GROUP}");
    let dead: Vec<(u64, String)> =
        if by_hand.contents_exist(&dead) { by_hand.contents(&dead, 0) } else { Vec::new() };
    for body in known.sent {
        let is_there = known.done.contains(&body)
            || known.perhaps_done.contains(&body)
            || dead.iter().any(|(_, dead)| *dead == body);
        assert!(is_there, "{body} was lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn never_lost_never_early_never_after_its_ack(steps in prop::collection::vec(step(), 1..70)) {
        run(steps);
    }
}
