//! Every committed scenario at its pinned seeds, on both simulators, as
//! `cargo sim` runs them; and one of each twice, to the last byte.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use stormglass_scenarios::{Scenario, committed_dir, load_dir};
use stormglass_sim::run::{Options, RunRecord, World, run};

/// Does something for each of these runs, as many at a time as there are cores.
fn for_each_run(
    runs: &[(&Scenario, u64, World)],
    judge: impl Fn(&Scenario, u64, World) -> Option<String> + Sync,
) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|threads| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            threads.spawn(|| {
                while let Some((scenario, seed, world)) =
                    runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Some(failure) = judge(scenario, *seed, *world) {
                        failures.lock().expect("no judge panics").push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("no judge panics")
}

fn failure(record: &RunRecord) -> Option<String> {
    if record.passed() {
        return None;
    }
    let broken = record.violations.iter().map(|violation| violation.tell(&record.history.names));
    let missing = record.missing.iter().map(|(what, why)| format!("{what}: {why}"));
    let all: Vec<String> = broken.chain(missing).chain(record.panic.clone()).collect();
    Some(format!(
        "cargo sim replay {} --seed {} --world {}\n  {}",
        record.scenario,
        record.seed,
        record.world,
        all.join("\n  ")
    ))
}

#[test]
fn every_promise_holds_at_the_pinned_seeds() {
    let scenarios = load_dir(&committed_dir()).expect("the committed scenarios");
    assert!(scenarios.len() >= 14);
    let mut runs = Vec::new();
    for scenario in &scenarios {
        for seed in &scenario.seeds {
            runs.extend(World::SIMULATED.map(|world| (scenario, *seed, world)));
        }
    }
    let failures = for_each_run(&runs, |scenario, seed, world| {
        failure(&run(scenario, seed, world, &Options::default()))
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let scenarios = load_dir(&committed_dir()).expect("the committed scenarios");
    let runs: Vec<_> = scenarios
        .iter()
        .flat_map(|scenario| World::SIMULATED.map(|world| (scenario, 4711, world)))
        .collect();
    let differences = for_each_run(&runs, |scenario, seed, world| {
        let once = run(scenario, seed, world, &Options::default());
        let again = run(scenario, seed, world, &Options::default());
        let other = run(scenario, seed + 1, world, &Options::default());
        let name = &scenario.name;
        if once.hash != again.hash || once.history.events != again.history.events {
            Some(format!("{name} on {world}: two runs of one seed differ"))
        } else if once.hash == other.hash {
            Some(format!("{name} on {world}: the seed makes no difference"))
        } else {
            None
        }
    });
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
