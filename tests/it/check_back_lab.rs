//! The check-back lab: one transaction, and every way in which up to three
//! faults can hit it. A fault strikes at each step of the protocol that a run
//! really comes to: the producer dies or vanishes, the broker is killed or loses
//! power. Producers answer at once, late, not knowing, twice, contrarily, or
//! through another member. What their database says is the truth.

mod judge;
mod lab;

use judge::judge;
use lab::{Answering, Fault, Strike, run};
use stormglass_core::wire::header::Resolution;

const ALL: &[Fault] =
    &[Fault::ProducerDies, Fault::ProducerVanishes, Fault::BrokerKill, Fault::PowerLoss];
/// Those that leave the least behind, for long tales.
const HARSH: &[Fault] = &[Fault::ProducerVanishes, Fault::PowerLoss];

/// What may strike, and how often in one run.
#[derive(Clone, Copy)]
struct Storm {
    faults: &'static [Fault],
    most: usize,
}

/// Runs the plan, and then every longer one that strikes later. Returns the
/// number of runs.
fn explore(storm: Storm, answering: Answering, truth: Resolution, plan: &mut Vec<Strike>) -> usize {
    let (tale, steps) = run(answering, truth, plan);
    if let Err(why) = judge(&tale) {
        panic!("{answering:?}, {truth:?}, {plan:?}: {why}\nsteps {steps:?}\n{tale:#?}");
    }
    let mut runs = 1;
    if plan.len() < storm.most {
        let from = plan.last().map_or(0, |strike| strike.at + 1);
        for at in from..steps.len() {
            for &fault in storm.faults {
                plan.push(Strike { at, fault });
                runs += explore(storm, answering, truth, plan);
                plan.pop();
            }
        }
    }
    runs
}

fn explore_all(faults: &'static [Fault], most: usize, answering: Answering, at_least: usize) {
    let storm = Storm { faults, most };
    let truths = [Resolution::Commit, Resolution::Rollback];
    let explored = truths.map(|truth| explore(storm, answering, truth, &mut Vec::new()));
    let runs: usize = explored.iter().sum();
    println!("{answering:?}, {most} faults at most: {runs} runs");
    assert!(runs >= at_least, "only {runs} runs: the lab does not come to its steps any more");
}

#[test]
fn a_producer_that_decides_at_once() {
    explore_all(ALL, 3, Answering::AtOnce, 5_000);
}

#[test]
fn a_producer_that_answers_late() {
    explore_all(ALL, 3, Answering::Late, 15_000);
}

#[test]
fn a_producer_that_does_not_know_yet() {
    explore_all(HARSH, 2, Answering::Unknown { rounds: 4 }, 1_000);
    explore_all(HARSH, 3, Answering::Unknown { rounds: 1 }, 3_000);
}

#[test]
fn a_producer_that_says_everything_twice() {
    explore_all(ALL, 3, Answering::Twice, 8_000);
}

#[test]
fn a_producer_that_contradicts_itself() {
    explore_all(ALL, 3, Answering::Contrary, 8_000);
}

#[test]
fn another_member_that_answers() {
    explore_all(ALL, 3, Answering::ThroughAnother, 5_000);
}
