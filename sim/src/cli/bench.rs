//! How fast the testbed is: simulated time against real time on one core, and
//! what the oracles cost of it.

use std::time::{Duration, Instant};

use stormglass_scenarios::{Scenario, parse};
use stormglass_sim::{
    oracle, record,
    run::{self, Options, World},
};

use super::{
    Outcome, Refused, print,
    selection::{Worlds, named, worlds},
};

#[derive(clap::Args)]
pub struct Args {
    /// A name, or the path of a TOML file; a built-in minute of storm if absent
    scenario: Option<String>,
    /// The built-in storm strikes a set of three replicas
    #[arg(long, conflicts_with = "scenario")]
    replicated: bool,
    /// madsim, turmoil or both
    #[arg(long, value_name = "WORLD", value_parser = worlds, default_value = "both")]
    world: Worlds,
    /// Runs in each world, each with its own seed, one after the other
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
}

const ALONE: &str = include_str!("bench.toml");
const REPLICATED: &str = include_str!("bench-replicated.toml");

fn built_in(file: &str, text: &str) -> Result<Scenario, Refused> {
    parse(file, text).map_err(|error| error.to_string())
}

pub fn bench(args: &Args) -> Result<Outcome, Refused> {
    let scenario = match &args.scenario {
        Some(word) => named(word)?,
        None if args.replicated => built_in("bench-replicated.toml", REPLICATED)?,
        None => built_in("bench.toml", ALONE)?,
    };
    let mut held = true;
    let mut text = format!("{}, {} runs in each world, one core\n", scenario.name, args.runs);
    for world in args.world.all() {
        let cost = measure(&scenario, world, args.runs);
        held &= cost.held;
        text += &cost.tell(world, args.runs);
    }
    print(&text)?;
    Ok(Outcome::of(held))
}

#[derive(Default)]
struct Cost {
    simulated: Duration,
    /// Whole runs, oracles included.
    real: Duration,
    /// Of that, what this process computed: other work on the machine makes
    /// `real` longer, but not this. Unknown where there is no `/proc`.
    computed: Option<Duration>,
    oracles: Duration,
    records: Duration,
    events: u64,
    held: bool,
}

fn measure(scenario: &Scenario, world: World, runs: u64) -> Cost {
    let mut cost = Cost { held: true, computed: Some(Duration::ZERO), ..Cost::default() };
    for seed in 1..=runs {
        let (started, computed) = (Instant::now(), computed_so_far());
        let run = run::run(scenario, seed, world, &Options::default());
        cost.real += started.elapsed();
        let computed = computed_so_far().zip(computed).map(|(after, before)| after - before);
        cost.computed = cost.computed.zip(computed).map(|(sum, more)| sum + more);

        let started = Instant::now();
        let violations = oracle::judge(&run.history, run::context(scenario, &run.plan));
        cost.oracles += started.elapsed();
        assert_eq!(violations.len(), run.violations.len(), "judged again, it is another verdict");

        let started = Instant::now();
        let record = record::record(scenario, &run);
        cost.records += started.elapsed();

        cost.held &= record.passed();
        cost.simulated += Duration::from_micros(run.ended_us);
        cost.events += run.history.events.len() as u64;
    }
    cost
}

/// Processor time of this process, to a hundredth of a second.
fn computed_so_far() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name and may hold anything but `)`.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

impl Cost {
    fn tell(&self, world: World, runs: u64) -> String {
        let real = self.real.as_secs_f64();
        let simulated = self.simulated.as_secs_f64();
        let computed = self.computed.map(|computed| computed.as_secs_f64()).filter(|c| *c > 0.0);
        let of_processor = match computed {
            Some(computed) => format!(
                "; of processor time {:.0} : 1, {:.0} runs an hour",
                simulated / computed,
                runs as f64 / computed * 3600.0
            ),
            None => String::new(),
        };
        format!(
            "{world}{}\n  simulated to real time {:.0} : 1, {:.0} runs per core and hour{of_processor}\n  \
             oracles {:.1} % of a run, {:.1} M events/s\n  \
             {} events a run, its full record in {:.0} ms\n",
            if self.held { "" } else { ": BROKEN" },
            simulated / real,
            runs as f64 / real * 3600.0,
            self.oracles.as_secs_f64() / real * 100.0,
            self.events as f64 / self.oracles.as_secs_f64() / 1e6,
            self.events / runs,
            self.records.as_secs_f64() / runs as f64 * 1e3,
        )
    }
}
