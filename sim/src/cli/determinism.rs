//! The same run thrice: in two processes, and in the second one once more after
//! everything else ran there. Or twice, for more seeds in the same time.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead, BufReader, Write},
    ops::Range,
    process::{Command, Stdio},
    thread,
};

use stormglass_sim::run::{self, Options, World};

use super::{
    Outcome, Refused, Selection, forgive_closed_pipe,
    interrupt::Interrupt,
    pool::work_on,
    print,
    selection::{self, Job, Worlds, threads, worlds},
};

#[derive(clap::Args)]
pub struct Args {
    /// Names, or paths of TOML files; all committed ones if absent
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// The seeds from 0 up to N, or from A up to B, instead of the pinned ones
    #[arg(long, value_name = "N|A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// madsim, turmoil or both
    #[arg(long, value_name = "WORLD", value_parser = worlds, default_value = "both")]
    world: Worlds,
    /// Two runs of each instead of three: the other process takes them in the
    /// opposite order, and has run others before
    #[arg(long)]
    twice: bool,
    /// Runs at a time; as many as there are cores if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

#[derive(clap::Args)]
pub struct Child {
    #[command(flatten)]
    selection: Selection,
    /// The last one first.
    #[arg(long)]
    backwards: bool,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    passes: u8,
}

#[derive(clap::Args)]
pub struct One {
    scenario: String,
    #[arg(long)]
    seed: u64,
    #[arg(long, value_parser = |name: &str| name.parse::<World>())]
    world: World,
    /// Runs it this many times and prints the last one.
    #[arg(long)]
    times: u32,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    match text.parse::<u64>() {
        Ok(0) => Err("that is no seed at all".to_owned()),
        Ok(count) => Ok(0..count),
        Err(_) => selection::seeds(text),
    }
}

/// How many differences are shown with their first diverging event.
const SHOWN: usize = 5;

/// `(pass, index of the job)` and the hash of that run.
type Hashes = BTreeMap<(u8, usize), String>;

pub fn determinism(args: &Args) -> Result<Outcome, Refused> {
    let selection = Selection {
        scenarios: args.scenarios.clone(),
        seeds: args.seeds.clone(),
        world: args.world.clone(),
        ..Selection::default()
    };
    let jobs = selection.jobs()?;
    let threads = (threads(args.jobs) / 2).max(1);
    let (each, others_way): (usize, &[&str]) =
        if args.twice { (2, &["--backwards"]) } else { (3, &["--passes", "2"]) };
    eprintln!("{} combinations of scenario, world and seed, {each} runs of each", jobs.len());
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| hashes_of_a_process(args, &[], threads));
        let other = hashes_of_a_process(args, others_way, threads);
        (one.join().expect("reading a child does not panic"), other)
    });
    let (one, other) = (one?, other?);
    let runs = one.len() + other.len();
    if runs != each * jobs.len() {
        return Err(format!("the children made {runs} runs, not {each} of each combination"));
    }

    let mut differences = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let first = &one[&(1, index)];
        let later = [(1, "in two processes"), (2, "after other runs in one process")];
        let differs = |pass| other.get(&(pass, index)).is_some_and(|hash| hash != first);
        let later = later.into_iter().filter(|(pass, _)| differs(*pass));
        differences.extend(later.map(|(_, how)| (job, how)));
    }
    let mut text = String::new();
    for (job, how) in differences.iter().take(SHOWN) {
        let Job { named, seed, world, .. } = job;
        text += &format!("{named}, seed {seed}, {world} differs {how}\n{}", divergence(job)?);
    }
    text += &format!("{runs} runs, {} differences\n", differences.len());
    print(&text)?;
    Ok(Outcome::of(differences.is_empty()))
}

/// Runs the jobs in a process of their own.
fn hashes_of_a_process(args: &Args, way: &[&str], threads: usize) -> Result<Hashes, Refused> {
    let mut child = this_program()?;
    child.arg("hashes").args(way);
    child.arg("--jobs").arg(threads.to_string()).arg("--world").arg(args.world.to_string());
    if let Some(Range { start, end }) = args.seeds {
        child.arg("--seeds").arg(format!("{start}..{end}"));
    }
    child.arg("--").args(&args.scenarios);
    let mut hashes = Hashes::new();
    for line in output_of(child)? {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or_else(|| format!("a child printed `{line}`"));
        let (pass, index, hash) = (word()?, word()?, word()?.to_owned());
        let (Ok(pass), Ok(index)) = (pass.parse(), index.parse()) else {
            return Err(format!("a child printed `{line}`"));
        };
        hashes.insert((pass, index), hash);
    }
    Ok(hashes)
}

/// The first event in which two more runs differ, each in its own process.
fn divergence(job: &Job) -> Result<String, Refused> {
    let history = |times: u32| {
        let mut child = this_program()?;
        child.arg("history").arg("--times").arg(times.to_string());
        child.arg("--seed").arg(job.seed.to_string()).arg("--world").arg(job.world.name());
        output_of({
            child.arg("--").arg(&*job.named);
            child
        })
    };
    let first = history(1)?;
    for times in [1, 3] {
        let other = history(times)?;
        let same = first.iter().zip(&other).take_while(|(a, b)| a == b).count();
        if same < first.len().max(other.len()) {
            let end = || "(ends here)".to_owned();
            let [a, b] = [&first, &other].map(|h| h.get(same).cloned().unwrap_or_else(end));
            return Ok(format!("  the same for {same} events, then\n  - {a}\n  + {b}\n"));
        }
    }
    Ok("  three more runs of it alone were the same: it depends on what ran beside it\n".to_owned())
}

fn this_program() -> Result<Command, Refused> {
    let path = env::current_exe().map_err(|error| format!("this program's file: {error}"))?;
    Ok(Command::new(path))
}

fn output_of(mut child: Command) -> Result<Vec<String>, Refused> {
    let failed = |error: io::Error| format!("a child process: {error}");
    let mut child = child.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let stdout = child.stdout.take().expect("its stdout is a pipe");
    let lines = BufReader::new(stdout).lines().collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(lines) } else { Err(format!("a child process ended with {status}")) }
}

/// The child's side: `pass index hash`, a line for each run.
pub fn print_hashes(args: &Child) -> Result<Outcome, Refused> {
    let jobs = args.selection.jobs()?;
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    if args.backwards {
        order.reverse();
    }
    for pass in 1..=args.passes {
        let hash = |index: &usize| {
            let job = &jobs[*index];
            let run = run::run(&job.scenario, job.seed, job.world, &Options::default());
            (*index, run.hash)
        };
        let threads = args.selection.threads();
        let mut printed = Ok(());
        work_on(&order, threads, &Interrupt::none(), hash, |_, (index, hash)| {
            if printed.is_ok() {
                printed = writeln!(io::stdout(), "{pass} {index} {hash:016x}");
            }
        });
        forgive_closed_pipe(printed)?;
        // What ran before a run in the second pass is not what did in the first.
        order.reverse();
    }
    Ok(Outcome::Held)
}

/// The child's side: every event of one run, as told and as recorded.
pub fn print_history(args: &One) -> Result<Outcome, Refused> {
    let scenario = selection::named(&args.scenario)?;
    let run = || run::run(&scenario, args.seed, args.world, &Options::default());
    let mut last = run();
    for _ in 1..args.times {
        last = run();
    }
    let mut text = String::new();
    for event in &last.history.events {
        let raw = serde_json::to_string(event).map_err(|error| error.to_string())?;
        text += &format!("{}  {raw}\n", last.history.tell(event));
    }
    print(&text)
}
