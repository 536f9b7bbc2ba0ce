//! Many runs: progress, what broke, the table, and the files that were asked for.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use stormglass_reports::{
    failure::failure_text,
    html::{self, EVENTS_OF_A_FAILURE, EVENTS_OF_A_SAMPLE, EVENTS_OF_FAILURES, FAILURES},
    json, junit,
    record::Record,
    suite::Suite,
    summary,
};
use stormglass_sim::{
    record,
    run::{self, Options},
};

use super::{
    Outcome, Refused, Selection, interrupt::Interrupt, pool::work_on, print, progress::Progress,
    selection::Job, tree,
};

#[derive(clap::Args, Default)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Writes JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Writes every run with its verdicts
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the page with the timelines
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes a summary for a pull request
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// How many failures are printed in full; of the others, the command.
const PRINTED: usize = 5;

/// The events around a violation, for failures beyond those that get a timeline.
const EVENTS_OF_A_TEXT: usize = 200;

/// Every scenario at its pinned seeds in both worlds, and the page about it.
pub fn whole_suite() -> Result<Outcome, Refused> {
    let out = out_dir();
    for stale in fs::read_dir(&out).into_iter().flatten().flatten() {
        if stale.path().extension().is_some_and(|e| e == "json" || e == "html") {
            fs::remove_file(stale.path()).map_err(|error| unwritable(&stale.path(), &error))?;
        }
    }
    run(&Args { html: Some(out.join("index.html")), ..Args::default() })
}

pub fn run(args: &Args) -> Result<Outcome, Refused> {
    let jobs = args.selection.jobs()?;
    if jobs.is_empty() {
        return Err("this shard holds no run".to_owned());
    }
    let files = Files::create(args)?;
    let started = Instant::now();
    let interrupt = Interrupt::listen();
    let suite = run_all(&jobs, args, &interrupt)?;

    let mut text = failures_text(&suite);
    text += &summary::terminal_table(&suite);
    text += &format!("took {:.1} s", started.elapsed().as_secs_f64());
    if interrupt.came() {
        text += &format!("; interrupted after {} of {} runs", suite.runs().len(), jobs.len());
    }
    text += "\n";
    if let Some(page) = &args.html {
        text += &format!("{}\n", from_here(page).display());
    }
    files.write(&suite)?;
    print(&text)?;
    Ok(if interrupt.came() { Outcome::Interrupted } else { Outcome::of(suite.passed()) })
}

fn run_all(jobs: &[Job], args: &Args, interrupt: &Interrupt) -> Result<Suite, Refused> {
    let mut progress = Progress::new(jobs.len());
    let mut records: Vec<Option<Record>> = jobs.iter().map(|_| None).collect();
    let mut told = BTreeSet::new();
    let mut unsaved = None;
    let indexes: Vec<usize> = (0..jobs.len()).collect();
    let work = |index: &usize| {
        let sample = args.html.is_some() && is_first_of_its_scenario(jobs, *index);
        let mut record = run_one(&jobs[*index], sample);
        let saved = if record.passed() { Ok(()) } else { save(&record) };
        record.trim(if record.passed() { EVENTS_OF_A_SAMPLE } else { EVENTS_OF_A_FAILURE });
        (record, saved)
    };
    let threads = args.selection.threads();
    work_on(&indexes, threads, interrupt, work, |index, (record, saved)| {
        progress.ended(index, &record);
        unsaved = unsaved.take().or(saved.err());
        if !record.passed() {
            told.insert(index);
        }
        records[index] = Some(record);
        // Which failures are told does not depend on which thread was first.
        if told.len() > FAILURES
            && let Some(last) = told.pop_last()
            && let Some(record) = &mut records[last]
        {
            record.trim(EVENTS_OF_A_TEXT);
        }
    });
    progress.finish();
    for index in &told {
        if let Some(record) = &mut records[*index] {
            record.trim(EVENTS_OF_FAILURES / told.len());
        }
    }
    match unsaved {
        Some(error) => Err(error),
        None => Ok(Suite::new(records.into_iter().flatten().collect())),
    }
}

/// One run of each scenario is shown also if it passed.
fn is_first_of_its_scenario(jobs: &[Job], index: usize) -> bool {
    index == 0 || jobs[index - 1].scenario.name != jobs[index].scenario.name
}

/// Runs one job; its history is kept if it failed or is a sample.
fn run_one(job: &Job, sample: bool) -> Record {
    let run = run::run(&job.scenario, job.seed, job.world, &Options::default());
    let mut record = match run.passed() && !sample {
        true => record::summary(&job.scenario, &run),
        false => record::record(&job.scenario, &run),
    };
    record.replay_as = job.named.to_string();
    record
}

/// What broke, each scenario and promise once in full, and every command.
fn failures_text(suite: &Suite) -> String {
    let mut seen = BTreeSet::new();
    let (told, others): (Vec<_>, Vec<_>) = suite.failures().partition(|record| {
        let promise = record.first_broken().map(|(verdict, _)| &verdict.name);
        seen.len() < PRINTED && seen.insert((&record.scenario, promise))
    });
    let mut text: String = told.into_iter().map(|record| failure_text(record) + "\n").collect();
    if !others.is_empty() {
        text += "Also broken:\n";
        for record in others {
            let title = record.first_broken().map_or(String::new(), |(verdict, _)| verdict.title());
            text += &format!("{}  # {title}\n", record.repro_line());
        }
        text += "\n";
    }
    text
}

fn out_dir() -> PathBuf {
    tree().join("reports").join("out")
}

/// The path as it reads from the current directory.
fn from_here(path: &Path) -> &Path {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path)
}

/// The whole record of a failing run, under `reports/out`.
fn save(record: &Record) -> Result<(), Refused> {
    let Record { scenario, world, seed, .. } = record;
    let path = out_dir().join(format!("{scenario}-{world}-{seed}.json"));
    let write = || -> io::Result<()> {
        fs::create_dir_all(out_dir())?;
        let mut out = BufWriter::new(File::create(&path)?);
        record.write_json(&mut out)?;
        out.flush()
    };
    write().map_err(|error| unwritable(&path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Refused {
    format!("{} cannot be written: {error}", from_here(path).display())
}

type Writer = fn(&Suite, &mut BufWriter<File>) -> io::Result<()>;

/// The files that were asked for, opened before the runs: a typing error in a
/// path should not cost minutes.
struct Files(Vec<(PathBuf, BufWriter<File>, Writer)>);

impl Files {
    fn create(args: &Args) -> Result<Files, Refused> {
        let markdown: Writer = |suite, out| out.write_all(summary::markdown(suite).as_bytes());
        let asked: [(&Option<PathBuf>, Writer); 4] = [
            (&args.junit, |suite, out| junit::write_junit(suite, out)),
            (&args.json, |suite, out| json::write_json(suite, out)),
            (&args.html, |suite, out| html::write_page(suite, out)),
            (&args.markdown, markdown),
        ];
        let mut files = Vec::new();
        for (path, writer) in asked {
            let Some(path) = path else { continue };
            let create = || -> io::Result<File> {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                File::create(path)
            };
            let file = create().map_err(|error| unwritable(path, &error))?;
            files.push((path.clone(), BufWriter::new(file), writer));
        }
        Ok(Files(files))
    }

    fn write(self, suite: &Suite) -> Result<(), Refused> {
        for (path, mut out, writer) in self.0 {
            let written = writer(suite, &mut out).and_then(|()| out.flush());
            written.map_err(|error| unwritable(&path, &error))?;
        }
        Ok(())
    }
}
