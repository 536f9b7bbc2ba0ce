//! One run: a cluster and its clients live through a plan of faults, then
//! everything is healed and must come to rest, then the oracles judge.

mod bell;
mod clocks;
mod lookout;
mod nodes;
mod operators;
mod panics;
pub mod real;
mod story;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    thread,
    time::Duration,
};

use stormglass_scenarios::{Flush, MayLose, Scenario, WorkloadKind};
use tracing::Level;

use self::{panics::first_panic, story::Story};
use crate::{
    clock, coverage,
    digest::Fnv,
    fault::{
        Fault,
        plan::{Plan, plan},
    },
    history::{History, Recorder},
    logging,
    oracle::{Context, GroupRules, Judge, Violation},
    workload::producer_group,
    world::{NetConfig, on_madsim, on_real, on_turmoil},
};

/// The simulator of a run, or real processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    Madsim,
    Turmoil,
    Real,
}

impl World {
    pub const ALL: [World; 3] = [World::Madsim, World::Turmoil, World::Real];
    /// In these the same seed gives the same run.
    pub const SIMULATED: [World; 2] = [World::Madsim, World::Turmoil];

    pub fn name(self) -> &'static str {
        match self {
            World::Madsim => "madsim",
            World::Turmoil => "turmoil",
            World::Real => "real",
        }
    }

    /// Whether a promise can be judged by what this world shows.
    pub fn judges(self, promise: u32) -> bool {
        self != World::Real || real::judges(promise)
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for World {
    type Err = String;

    fn from_str(name: &str) -> Result<World, String> {
        let found = World::ALL.into_iter().find(|world| world.name() == name);
        found.ok_or_else(|| format!("`{name}` is no world, allowed: madsim, turmoil, real"))
    }
}

/// Everything about one run, the same for the same scenario, seed and world.
#[derive(Debug)]
pub struct RunRecord {
    pub scenario: String,
    pub seed: u64,
    pub world: World,
    pub plan: Plan,
    pub history: History,
    /// When it ended, in microseconds of virtual time.
    pub ended_us: u64,
    /// In the order of the events that broke the promises.
    pub violations: Vec<Violation>,
    /// How often each fault and mark of `[expect]` happened.
    pub coverage: BTreeMap<String, u64>,
    /// What should have happened more often, and how often it did.
    pub missing: Vec<(String, String)>,
    /// Why the run could not go on.
    pub panic: Option<String>,
    /// Why there was none: this world cannot do what the scenario asks for.
    pub not_applicable: Option<String>,
    /// What was logged, if it was asked for.
    pub log: Vec<String>,
    /// Over the plan and all events.
    pub hash: u64,
}

impl RunRecord {
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.missing.is_empty() && self.panic.is_none()
    }
}

/// How a run differs from the ordinary.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// This plan instead of the one computed from scenario and seed.
    pub plan: Option<Plan>,
    /// Keep what is logged up to this level.
    pub log: Option<Level>,
}

/// Runs a scenario once. The run gets a thread of its own, so that what ran
/// before it in this process cannot leave anything behind in thread-local state.
pub fn run(scenario: &Scenario, seed: u64, world: World, options: &Options) -> RunRecord {
    thread::scope(|threads| {
        let run = thread::Builder::new()
            .name(format!("{} {seed} {world}", scenario.name))
            .spawn_scoped(threads, || run_here(scenario, seed, world, options))
            .expect("the system gives another thread");
        run.join().expect("panics of a run are caught inside it")
    })
}

fn run_here(scenario: &Scenario, seed: u64, world: World, options: &Options) -> RunRecord {
    let plan = options.plan.clone().unwrap_or_else(|| plan(scenario, seed));
    let recorder = Recorder::new(clock::true_now_us);
    let mut judge = Judge::new(context(scenario, &plan));
    let latency = scenario.network.latency;
    let net = NetConfig { latency_us: micros(latency.min)..=micros(latency.max) };
    let story = Story { scenario, seed, plan: &plan, recorder: &recorder };
    let live = || match world {
        World::Madsim => on_madsim::run(seed, &net, async |w| story.live(w, &mut judge).await),
        World::Turmoil => on_turmoil::run(seed, &net, async |w| story.live(w, &mut judge).await),
        World::Real => on_real::run(async |w| story.live(w, &mut judge).await),
    };
    let live = || first_panic(live);
    let not_applicable =
        if world == World::Real { real::not_applicable(scenario, &plan) } else { None };
    let (panic, log) = match options.log {
        _ if not_applicable.is_some() => (None, Vec::new()),
        Some(level) => logging::capture(level, live),
        None => (live(), Vec::new()),
    };
    let ended_us = clock::true_now_us();
    let history = recorder.take();
    let mut violations = Vec::new();
    let judged = first_panic(|| {
        judge.follow(&history);
        if not_applicable.is_none() {
            violations = judge.finish();
        }
    });
    let panic = panic.or(judged);
    let coverage = coverage::coverage(&history);
    let expected = match world {
        World::Real => real::expects(scenario),
        World::Madsim | World::Turmoil => scenario.expect.at_least.clone(),
    };
    let missing = match &panic {
        None if not_applicable.is_none() => coverage::missing(&expected, &coverage),
        _ => Vec::new(),
    };
    let hash = digest(&plan, &history, ended_us);
    RunRecord {
        scenario: scenario.name.clone(),
        seed,
        world,
        plan,
        history,
        ended_us,
        violations,
        coverage,
        missing,
        panic,
        not_applicable,
        log,
        hash,
    }
}

/// Bytes of messages that a broker may hold in memory, however slow its
/// consumers: a connection is given up reading at 4 MiB that its peer does not
/// take, and a pull's answer is at most 1 MiB more.
const MEMORY_LIMIT: u64 = 8 << 20;

/// What this scenario promises under these faults: what the oracles judge by.
pub fn context(scenario: &Scenario, plan: &Plan) -> Context {
    let slowest_sync = plan.faults.iter().map(|timed| match timed.fault {
        Fault::DiskSlow { max_ms, .. } => max_ms * 1000,
        _ => 0,
    });
    let slowest_sync = micros(scenario.disk.sync_latency.max) + slowest_sync.max().unwrap_or(0);
    Context {
        sync_flush: scenario.cluster.flush == Flush::Sync,
        replicas: scenario.cluster.replicas,
        // One sync may be under way when the next becomes due.
        flush_window: micros(scenario.cluster.flush_interval) + 2 * slowest_sync,
        may_lose_nothing: scenario.expect.may_lose == MayLose::Nothing,
        recovers: scenario.expect.recovers,
        settle: micros(scenario.settle),
        isolation_factor: scenario.expect.isolation_factor,
        memory_limit: MEMORY_LIMIT,
        check_after: micros(scenario.cluster.checks.after),
        check_every: micros(scenario.cluster.checks.every),
        check_longest: micros(scenario.cluster.checks.longest),
        max_checks: u32::from(scenario.cluster.checks.at_most),
        groups: group_rules(scenario),
        ..Context::default()
    }
}

/// What the groups ask for, consumers and producers.
fn group_rules(scenario: &Scenario) -> BTreeMap<String, GroupRules> {
    let mut rules: BTreeMap<String, GroupRules> = BTreeMap::new();
    for group in &scenario.cluster.groups {
        let rules = rules.entry(group.name.clone()).or_default();
        rules.max_attempts = group.max_attempts;
        if !group.back_off.is_empty() {
            rules.back_offs = group.back_off.iter().copied().map(micros).collect();
        }
    }
    for workload in &scenario.workloads {
        if let WorkloadKind::Transact(transact) = &workload.kind
            && let Some(immunity) = transact.immunity
        {
            rules.entry(producer_group(transact)).or_default().immunity = micros(immunity);
        }
    }
    rules
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn digest(plan: &Plan, history: &History, ended_us: u64) -> u64 {
    let mut digest = Fnv::default();
    (plan, history, ended_us).hash(&mut digest);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
        name = 'small'
        seeds = [1]
        run_for = '10s'
        settle = '30s'
        cluster = { topics = [{ name = 'orders', queues = 2 }] }

        [[workload]]
        kind = 'produce'
        topic = 'orders'
        rate = 20.0

        [[workload]]
        kind = 'consume'
        group = 'billing'
        topics = ['orders']
        members = 2

        [[fault]]
        kind = 'kill'
        at = '2s..4s'
        node = 'broker'
        restart_after = '500ms'

        [[fault]]
        kind = 'power-loss'
        at = '6s..8s'
        node = 'broker'
        restart_after = '1s'
    ";

    #[test]
    fn a_small_storm_is_survived_and_is_the_same_after_other_runs() {
        let scenario = stormglass_scenarios::parse("small.toml", SMALL).unwrap();
        for world in World::SIMULATED {
            let run = |seed| run(&scenario, seed, world, &Options::default());
            let first = run(1);
            let told: Vec<String> =
                first.history.events.iter().map(|e| first.history.tell(e).to_string()).collect();
            assert!(
                first.passed(),
                "{world}: {:#?} {:#?} {:?}\n{}",
                first.violations,
                first.missing,
                first.panic,
                told.join("\n")
            );
            let other = run(2);
            assert_eq!(first.hash, run(1).hash, "{world}");
            assert_ne!(first.hash, other.hash, "{world}");
        }
    }
}
