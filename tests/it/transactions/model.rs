//! Any sequence of what clients do and machines suffer, against a model that
//! remembers everything: restarts from snapshots and logs lose nothing.

use std::time::Duration;

use proptest::prelude::*;
use stormglass_core::{
    replication::Flush,
    wire::{code, header::Resolution},
};
use stormglass_tests::by_hand::{ByHand, small_config};

use super::{Half, Producing, bodies, listed};
use crate::crashes::{Crash, between_requests};

#[derive(Clone, Debug)]
enum Step {
    Send {
        size: usize,
    },
    End {
        nth: usize,
        commit: bool,
    },
    /// Decided and not answered: the process dies first.
    EndAndKill {
        nth: usize,
        commit: bool,
    },
    Crash(Crash),
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..4_000usize).prop_map(|size| Step::Send { size }),
        4 => (0..30usize, any::<bool>()).prop_map(|(nth, commit)| Step::End { nth, commit }),
        1 => (0..30usize, any::<bool>()).prop_map(|(nth, commit)| Step::EndAndKill { nth, commit }),
        2 => between_requests().prop_map(Step::Crash),
        2 => (1..60u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

struct Known {
    half: Half,
    body: String,
    /// What it is, once somebody was told or the process died while deciding.
    fate: Option<Resolution>,
    checks: usize,
}

fn resolution(commit: bool) -> Resolution {
    if commit { Resolution::Commit } else { Resolution::Rollback }
}

struct World {
    by_hand: ByHand,
    producer: Producing,
    known: Vec<Known>,
    /// Bodies in the order of their commits.
    visible: Vec<String>,
}

impl World {
    fn new() -> World {
        let mut config = small_config(Flush::Sync);
        config.snapshot_every = 6 << 10;
        let mut by_hand = ByHand::with(config);
        by_hand.start().expect("an empty disk opens");
        by_hand.send("orders", 1, "the topic exists");
        let producer = Producing::new(1, "p").acknowledging();
        World { by_hand, producer, known: Vec::new(), visible: Vec::new() }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Send { size } => {
                let body = format!("{:x<size$}", self.known.len());
                let half = self.producer.send_half(&mut self.by_hand, &body, "");
                let half = half.expect("a healthy broker stores it");
                self.known.push(Known { half, body, fate: None, checks: 0 });
            }
            Step::End { nth, commit } => {
                let Some(known) = self.known.get_mut(nth) else { return Ok(()) };
                let wanted = resolution(commit);
                let told = self.producer.end(&mut self.by_hand, &known.half, wanted);
                let fate = *known.fate.get_or_insert_with(|| {
                    if commit {
                        self.visible.push(known.body.clone());
                    }
                    wanted
                });
                let expected = if fate == wanted { code::SUCCESS } else { code::ILLEGAL_OPERATION };
                prop_assert_eq!(told, Some(expected));
            }
            Step::EndAndKill { nth, commit } => {
                let Some(known) = self.known.get_mut(nth) else { return Ok(()) };
                let wanted = resolution(commit);
                self.producer.request_end(&mut self.by_hand, &known.half, wanted);
                if let Some(broker) = &mut self.by_hand.broker {
                    broker.advance(self.by_hand.now);
                }
                // It was given to the operating system, so it is decided.
                if known.fate.is_none() {
                    known.fate = Some(wanted);
                    if commit {
                        self.visible.push(known.body.clone());
                    }
                }
                Crash::Kill.strike(&mut self.by_hand);
            }
            Step::Crash(crash) => crash.strike(&mut self.by_hand),
            Step::Pass { seconds } => {
                self.producer.heartbeat(&mut self.by_hand);
                // Received checks are written down within a second.
                for _ in 0..seconds + 2 {
                    self.by_hand.pass(Duration::from_secs(1));
                    self.take_checks()?;
                }
            }
        }
        Ok(())
    }

    fn take_checks(&mut self) -> Result<(), TestCaseError> {
        loop {
            let checked = self.producer.checks(&mut self.by_hand);
            if checked.is_empty() {
                return Ok(());
            }
            for half in checked {
                let known = self.known.iter_mut().find(|known| known.half == half);
                let known = known.expect("a check names a half that was sent");
                prop_assert_eq!(known.fate, None, "a decided half is checked");
                known.checks += 1;
            }
        }
    }

    fn judge(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(&bodies(&mut self.by_hand), &self.visible);
        let open = self.known.iter().filter(|known| known.fate.is_none());
        let expected: Vec<&str> = open.map(|known| known.half.message_id.as_str()).collect();
        let list = listed(&mut self.by_hand, false);
        prop_assert_eq!(list.open as usize, expected.len());
        let found: Vec<&str> = list.halves.iter().map(|half| half.message_id.as_str()).collect();
        prop_assert_eq!(&found[..], &expected[..expected.len().min(10)]);
        for info in &list.halves {
            let known = self.known.iter().find(|known| known.half.message_id == info.message_id);
            // A crash may cost the count of what was received in its last second.
            prop_assert!(known.is_some_and(|known| usize::from(info.checks) <= known.checks));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn restarts_lose_nothing(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step)?;
        }
        world.judge()?;
        Crash::PowerLoss.strike(&mut world.by_hand);
        world.judge()?;
    }
}
