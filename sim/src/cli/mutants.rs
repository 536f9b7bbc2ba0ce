//! Proof that the testbed works: bugs from `sim/mutants.toml` are planted in a
//! copy of the tree, all in one build and each behind a switch that only the
//! copy has; then storms run with one switched on, until an oracle finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io, iter,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use stormglass_sim::run::{self, Options, World};

use super::{
    Outcome, Refused, Selection,
    interrupt::Interrupt,
    pool::work_on,
    print,
    selection::{Job, Worlds, threads},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only the bugs with one of these in their names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Says which bugs there are, and whether each still has its place
    #[arg(long)]
    list: bool,
    /// Runs at a time; as many as there are cores if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

/// The side of the copy: looks for one bug.
#[derive(clap::Args)]
pub struct Hunt {
    name: String,
    #[arg(long)]
    jobs: u16,
}

#[derive(Deserialize)]
struct Mutants {
    mutant: Vec<Mutant>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    about: String,
    story: String,
    file: String,
    find: String,
    replace: String,
    /// What else the bug needs, where one guard stands behind another.
    #[serde(default)]
    also: Vec<Change>,
    must_fire: BTreeSet<u32>,
    scenario: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// The bug's own file if absent.
    file: Option<String>,
    find: String,
    replace: String,
}

impl Mutant {
    /// What is found in which file, and what replaces it.
    fn changes(&self) -> impl Iterator<Item = [&str; 3]> {
        let also = self.also.iter().map(|Change { file, find, replace }| {
            [file.as_ref().unwrap_or(&self.file).as_str(), find, replace]
        });
        iter::once([&*self.file, &self.find, &self.replace]).chain(also)
    }
}

/// The environment variable that switches one bug on.
const SWITCH: &str = "STORMGLASS_PLANTED";

/// What the copy's core gets, around this file. Bugs are numbered from 1.
const QUIET: &str = "#![allow(unused)]\n";
const SWITCHED: &str = "core/src/lib.rs";
const SWITCHBOARD: &str = r#"
#[allow(clippy::all)]
pub(crate) fn planted(number: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let read = || std::env::var("STORMGLASS_PLANTED").ok()?.parse().ok();
    *ON.get_or_init(|| read().unwrap_or(0)) == number
}
"#;

/// Storms go on for so long before a bug counts as missed.
const BOUND: Duration = Duration::from_secs(60);
/// A run that a bug keeps from ending is given up so long after that.
const GRACE: Duration = Duration::from_secs(30);
/// Seeds that are tried of the likeliest scenario, if there is time.
const MORE_SEEDS: u64 = 1000;

pub fn mutants(args: &Args) -> Result<Outcome, Refused> {
    let all = load()?;
    let is_chosen = |mutant: &Mutant| {
        args.names.is_empty() || args.names.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    if !all.iter().any(is_chosen) {
        return Err(format!("no planted bug has one of {:?} in its name", args.names));
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    let planted = plant_all(&all, tree)?;
    if args.list {
        for Mutant { name, about, story, .. } in all.iter().filter(|mutant| is_chosen(mutant)) {
            print(&format!("{name}  ({story})  {about}\n"))?;
        }
        return Ok(Outcome::of(true));
    }
    let program = build(all.len(), &planted, tree)?;
    let mut missed = Vec::new();
    let mut caught = 0;
    for (number, mutant) in (1..).zip(&all).filter(|(_, mutant)| is_chosen(mutant)) {
        let Mutant { name, about, story, .. } = mutant;
        print(&format!("{name}  ({story})  {about}\n"))?;
        let mut hunt = Command::new(&program);
        hunt.arg("hunt").arg(name).env(SWITCH, number.to_string());
        hunt.arg("--jobs").arg(threads(args.jobs).to_string());
        let hunt = hunt.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        match ended(hunt)? {
            Some(true) => caught += 1,
            Some(false) => missed.push(name.as_str()),
            None => {
                caught += 1;
                print("  caught: a run did not come to its end\n")?;
            }
        }
    }
    print(&format!("{caught} of {} planted bugs were caught\n", caught + missed.len()))?;
    if !missed.is_empty() {
        print(&format!("missed: {}\n", missed.join(", ")))?;
    }
    Ok(Outcome::of(missed.is_empty()))
}

fn load() -> Result<Vec<Mutant>, Refused> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants.toml");
    let parsed = toml::from_str::<Mutants>(&read(&file)?);
    Ok(parsed.map_err(|error| format!("{}: {error}", file.display()))?.mutant)
}

/// The files of the tree with all bugs planted and none switched on.
fn plant_all(mutants: &[Mutant], tree: &Path) -> Result<BTreeMap<String, String>, Refused> {
    let mut planted = BTreeMap::from([(SWITCHED.to_owned(), read(&tree.join(SWITCHED))?)]);
    for (number, mutant) in (1..).zip(mutants) {
        for [file, find, replace] in mutant.changes() {
            let text = match planted.remove(file) {
                Some(text) => text,
                None => read(&tree.join(file))?,
            };
            let text = change(number, find, replace, &text)
                .map_err(|wrong| format!("{}, in {file}: {wrong}", mutant.name))?;
            planted.insert(file.to_owned(), text);
        }
    }
    let root = planted.entry(SWITCHED.to_owned()).or_default();
    *root = format!("{QUIET}{root}{SWITCHBOARD}");
    Ok(planted)
}

/// Builds the testbed with these bugs. The copy stays, so that the next time only
/// what changed is built.
fn build(bugs: usize, planted: &BTreeMap<String, String>, tree: &Path) -> Result<PathBuf, Refused> {
    let copy = env::temp_dir().join("stormglass-mutants");
    let (source, target) = (copy.join("tree"), copy.join("target"));
    copy_tree(tree, planted, &source)?;
    eprintln!("building the testbed with {bugs} bugs in {}", copy.display());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet", "--profile", "sim", "--package", "stormglass-sim"]);
    cargo.current_dir(&source).env("CARGO_TARGET_DIR", &target);
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("the copy with the bugs does not compile: see above".to_owned());
    }
    Ok(target.join("sim").join("sim"))
}

/// Copies what git knows of the tree, or what is `planted` instead.
fn copy_tree(tree: &Path, planted: &BTreeMap<String, String>, to: &Path) -> Result<(), Refused> {
    let mut git = Command::new("git");
    git.arg("-C").arg(tree).args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    let listed = git.output().map_err(|error| format!("git: {error}"))?;
    let names = String::from_utf8_lossy(&listed.stdout);
    let names: BTreeSet<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    for name in &names {
        let original = fs::read(tree.join(name)).ok();
        // A file that was removed and not yet committed is listed all the same.
        let Some(original) = original else { continue };
        let bytes = planted.get(*name).map_or(&original[..], |text| text.as_bytes());
        let to = to.join(name);
        write_changed(&to, bytes).map_err(|error| format!("{}: {error}", to.display()))?;
    }
    match names.is_empty() {
        true => Err(format!("{} is no git work tree", tree.display())),
        false => Ok(()),
    }
}

fn write_changed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().expect("files lie in a directory"))?;
    fs::write(path, bytes)
}

fn read(path: &Path) -> Result<String, Refused> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The text with `replace` beside the expression that `find` points at, behind a
/// switch.
fn change(number: u32, find: &str, replace: &str, text: &str) -> Result<String, Refused> {
    let (before, rest) = find.split_once('«').unwrap_or(("", find));
    let (original, after) = rest.split_once('»').unwrap_or((rest, ""));
    let found = format!("{before}{original}{after}");
    match text.matches(&found).count() {
        1 => {}
        times => return Err(format!("{found:?} occurs {times} times, not once")),
    }
    let choice = format!("(if crate::planted({number}) {{ {replace} }} else {{ {original} }})");
    Ok(text.replace(&found, &format!("{before}{choice}{after}")))
}

/// Whether the hunt caught its bug; nothing if it had to be ended.
fn ended(mut hunt: Child) -> Result<Option<bool>, Refused> {
    let failed = |error: io::Error| format!("a child process: {error}");
    let begun = Instant::now();
    loop {
        if let Some(status) = hunt.try_wait().map_err(failed)? {
            return match status.code() {
                Some(0) => Ok(Some(true)),
                Some(1) => Ok(Some(false)),
                _ => Err(format!("a child process ended with {status}")),
            };
        }
        if begun.elapsed() > BOUND + GRACE {
            hunt.kill().map_err(failed)?;
            hunt.wait().map_err(failed)?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// In the copy: runs storms until one shows that a promise is broken which this
/// bug must break.
pub fn hunt(args: &Hunt) -> Result<Outcome, Refused> {
    let all = load()?;
    let found = all.into_iter().find(|mutant| mutant.name == args.name);
    let mutant = found.ok_or_else(|| format!("no planted bug is called {}", args.name))?;
    let jobs = storms(&mutant.scenario)?;
    let (begun, interrupt) = (Instant::now(), Interrupt::none());
    let (mut runs, mut others, mut caught) = (0, BTreeSet::new(), false);
    let live = |job: &Job| run::run(&job.scenario, job.seed, job.world, &Options::default());
    work_on(&jobs, usize::from(args.jobs), &interrupt, live, |index, run| {
        runs += 1;
        let broken = run.violations.iter().map(|violation| violation.promise());
        let broken: Vec<_> = broken.map(|promise| (promise.number, promise.name)).collect();
        let broken = broken.into_iter().chain(run.panic.iter().map(|_| (0, "panic")));
        let (right, wrong): (Vec<_>, Vec<_>) =
            broken.partition(|(number, _)| mutant.must_fire.contains(number));
        if !caught && let [(number, name), ..] = right[..] {
            let Job { scenario, world, seed, .. } = &jobs[index];
            let (name, took) = (format!("{number} {name}"), begun.elapsed().as_secs_f64());
            let place = format!("{} seed {seed} {world}", scenario.name);
            println!("  caught: {name} in {place}, run {runs}, after {took:.1} s");
            caught = true;
        }
        others.extend(wrong.into_iter().map(|(number, name)| format!("{number} {name}")));
        if !run.passed() && run.panic.is_none() && run.violations.is_empty() {
            others.insert("expectations".to_owned());
        }
        if caught || begun.elapsed() > BOUND {
            interrupt.raise();
        }
    });
    if !caught {
        let others: Vec<String> = others.into_iter().collect();
        let others = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
        println!("  MISSED by the promises it should break, in {runs} runs; what broke: {others}");
    }
    Ok(Outcome::of(caught))
}

/// The runs in the order in which they are likeliest to show the bug.
fn storms(likeliest: &str) -> Result<Vec<Job>, Refused> {
    let madsim = || Worlds::One(World::Madsim);
    let pinned = Selection { world: madsim(), ..Selection::default() }.jobs()?;
    let (mut jobs, rest): (Vec<_>, Vec<_>) =
        pinned.into_iter().partition(|job| job.scenario.name == likeliest);
    if jobs.is_empty() {
        return Err(format!("there is no scenario {likeliest}"));
    }
    let scenarios = vec![likeliest.to_owned()];
    let own = Selection { scenarios, ..Selection::default() };
    jobs.extend(Selection { world: Worlds::One(World::Turmoil), ..own.clone() }.jobs()?);
    jobs.extend(Selection { world: madsim(), seeds: Some(0..10), ..own.clone() }.jobs()?);
    jobs.extend(rest);
    jobs.extend(Selection { world: madsim(), seeds: Some(10..MORE_SEEDS), ..own }.jobs()?);
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_its_place_in_the_tree() -> Result<(), Refused> {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace above");
        let planted = plant_all(&load()?, tree)?;
        assert!(planted.len() > 1);
        Ok(())
    }
}
