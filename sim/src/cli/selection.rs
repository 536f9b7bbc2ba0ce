//! Which runs a command means: scenarios × worlds × seeds, and a shard of them.

use std::{fmt, ops::Range, path::Path, sync::Arc, thread::available_parallelism, time::Duration};

use stormglass_scenarios::{Scenario, load, load_dir};
use stormglass_sim::run::{World, real};

use super::{Refused, tree};

#[derive(clap::Args, Clone, Default)]
pub struct Selection {
    /// Names, or paths of TOML files; all committed ones if absent
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// One seed instead of the pinned ones
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    pub seed: Option<u64>,
    /// The seeds from A up to B, without B
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// madsim, turmoil or both of them; real, or all
    #[arg(long, value_name = "WORLD", value_parser = worlds, default_value = "both")]
    pub world: Worlds,
    /// Runs in the world `real` go on for at most so many seconds, and what
    /// [expect] asks for shrinks with them
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub real_seconds: Option<u64>,
    /// Only the I-th of N equal parts of the runs
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub shard: Option<Shard>,
    /// Runs at a time; as many as there are cores if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
}

/// One run to be made.
#[derive(Clone)]
pub struct Job {
    pub scenario: Arc<Scenario>,
    /// The scenario as the user named it.
    pub named: Arc<str>,
    pub world: World,
    pub seed: u64,
}

#[derive(Clone, Default)]
pub enum Worlds {
    One(World),
    /// The simulators.
    #[default]
    Both,
    All,
}

#[derive(Clone, Copy)]
pub struct Shard {
    /// From 1.
    pub part: u64,
    pub of: u64,
}

impl fmt::Display for Worlds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Worlds::One(world) => world.fmt(f),
            Worlds::Both => f.write_str("both"),
            Worlds::All => f.write_str("all"),
        }
    }
}

impl Selection {
    /// The runs in the order in which they are reported.
    pub fn jobs(&self) -> Result<Vec<Job>, Refused> {
        let mut jobs = Vec::new();
        for (scenario, named) in chosen(&self.scenarios)? {
            for world in self.world.all() {
                let scenario = match self.real_seconds {
                    Some(secs) if world == World::Real => {
                        Arc::new(real::shortened(&scenario, Duration::from_secs(secs)))
                    }
                    _ => scenario.clone(),
                };
                for seed in self.seeds_of(&scenario) {
                    let (scenario, named) = (scenario.clone(), named.clone());
                    jobs.push(Job { scenario, named, world, seed });
                }
            }
        }
        let Some(Shard { part, of }) = self.shard else { return Ok(jobs) };
        let mine = (0..).map(|index: u64| index % of == part - 1);
        Ok(jobs.into_iter().zip(mine).filter(|(_, mine)| *mine).map(|(job, _)| job).collect())
    }

    fn seeds_of(&self, scenario: &Scenario) -> Vec<u64> {
        match (self.seed, &self.seeds) {
            (Some(seed), _) => vec![seed],
            (None, Some(range)) => range.clone().collect(),
            (None, None) => scenario.seeds.clone(),
        }
    }

    pub fn threads(&self) -> usize {
        threads(self.jobs)
    }
}

pub fn threads(jobs: Option<u16>) -> usize {
    match jobs {
        Some(jobs) => usize::from(jobs),
        None => available_parallelism().map_or(1, usize::from),
    }
}

impl Worlds {
    pub fn all(&self) -> Vec<World> {
        match self {
            Worlds::One(world) => vec![*world],
            Worlds::Both => World::SIMULATED.to_vec(),
            Worlds::All => World::ALL.to_vec(),
        }
    }
}

pub fn committed() -> Result<Vec<Scenario>, Refused> {
    load_dir(&tree().join("scenarios")).map_err(|error| error.to_string())
}

/// A scenario and the word that named it.
type Chosen = (Arc<Scenario>, Arc<str>);

/// Scenarios by name or file, each once.
fn chosen(words: &[String]) -> Result<Vec<Chosen>, Refused> {
    let mut chosen: Vec<Chosen> = Vec::new();
    if words.is_empty() {
        for scenario in committed()? {
            let name = scenario.name.as_str().into();
            chosen.push((Arc::new(scenario), name));
        }
    }
    for word in words {
        let scenario = named(word)?;
        match chosen.iter().find(|(known, _)| known.name == scenario.name) {
            Some((known, _)) if **known == scenario => {}
            Some((known, _)) => {
                let (name, a, b) = (&scenario.name, &known.file, &scenario.file);
                return Err(format!("{a} and {b} are both called `{name}`: rename one of them"));
            }
            None => chosen.push((Arc::new(scenario), word.as_str().into())),
        }
    }
    Ok(chosen)
}

/// The scenario with this name, or in this file.
pub fn named(word: &str) -> Result<Scenario, Refused> {
    let path = Path::new(word);
    if word.contains('/') || path.extension().is_some_and(|e| e == "toml") {
        return load(path).map_err(|error| error.to_string());
    }
    let mut scenarios = committed()?;
    if let Some(index) = scenarios.iter().position(|scenario| scenario.name == word) {
        return Ok(scenarios.swap_remove(index));
    }
    let nearest = scenarios
        .iter()
        .map(|scenario| (strsim::jaro_winkler(word, &scenario.name), &scenario.name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => "`cargo sim list` shows them all".to_owned(),
    };
    Err(format!("there is no scenario `{word}`: {hint}"))
}

pub fn seeds(text: &str) -> Result<Range<u64>, String> {
    let range = text.split_once("..").and_then(|(from, to)| {
        Some(from.trim().parse::<u64>().ok()?..to.trim().parse::<u64>().ok()?)
    });
    match range {
        None => Err("a range of seeds is written A..B, as in 0..100".to_owned()),
        Some(range) if range.is_empty() => {
            Err(format!("it holds no seed: {} must be below {}", range.start, range.end))
        }
        Some(range) => Ok(range),
    }
}

pub fn worlds(text: &str) -> Result<Worlds, String> {
    match text {
        "both" => Ok(Worlds::Both),
        "all" => Ok(Worlds::All),
        name => {
            let allowed = "allowed: madsim, turmoil, both, real, all";
            name.parse().map(Worlds::One).map_err(|_| allowed.to_owned())
        }
    }
}

fn shard(text: &str) -> Result<Shard, String> {
    let shard = text
        .split_once('/')
        .and_then(|(part, of)| Some(Shard { part: part.parse().ok()?, of: of.parse().ok()? }));
    match shard {
        None => Err("a shard is written I/N, as in 1/4".to_owned()),
        Some(Shard { part, of }) if part < 1 || part > of => {
            Err(format!("of {of} shards there is no number {part}: the first is 1/{of}"))
        }
        Some(shard) => Ok(shard),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(selection: &Selection) -> Vec<(String, World, u64)> {
        let jobs = selection.jobs().unwrap();
        jobs.iter().map(|job| (job.scenario.name.clone(), job.world, job.seed)).collect()
    }

    #[test]
    fn shards_share_the_runs_out_without_loss_or_overlap() {
        let whole = Selection { seeds: Some(0..5), ..Selection::default() };
        let mut parts: Vec<_> = (1..=3)
            .flat_map(|part| {
                all(&Selection { shard: Some(Shard { part, of: 3 }), ..whole.clone() })
            })
            .collect();
        let mut expected = all(&whole);
        parts.sort();
        expected.sort();
        assert!(expected.len() > 100);
        assert_eq!(parts, expected);
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_the_nearest_name() {
        let known = committed().unwrap().swap_remove(0).name;
        let error = named(&known[..known.len() - 1]).unwrap_err();
        assert!(error.ends_with(&format!("did you mean `{known}`?")), "{error}");
        let error = named("zzz").unwrap_err();
        assert!(error.contains("cargo sim list"), "{error}");
    }

    #[test]
    fn a_range_of_seeds_must_hold_one() {
        assert_eq!(seeds("0..100"), Ok(0..100));
        for bad in ["5..2", "3..3", "5", "a..b", "..", "1..-2"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shard_must_exist() {
        assert!(shard("3/3").is_ok());
        for bad in ["3/2", "0/2", "1/0", "1", "x/y"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }
}
