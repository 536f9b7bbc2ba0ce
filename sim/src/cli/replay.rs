//! One run again, told from beginning to end.

use std::io::{self, BufWriter, Write};

use stormglass_reports::{
    failure::failure_text,
    record::Record,
    transcript::{self, LogLine},
};
use stormglass_sim::{
    record,
    run::{self, Options, World},
};
use tracing::Level;

use super::{Outcome, Refused, forgive_closed_pipe, selection};

#[derive(clap::Args)]
pub struct Args {
    /// A name, or the path of a TOML file
    scenario: String,
    #[arg(long, value_name = "N")]
    seed: u64,
    /// madsim or turmoil
    #[arg(long, value_name = "WORLD", value_parser = |name: &str| name.parse::<World>())]
    world: World,
    /// Adds what the nodes log
    #[arg(long)]
    trace: bool,
}

pub fn replay(args: &Args) -> Result<Outcome, Refused> {
    let scenario = selection::named(&args.scenario)?;
    let log = args.trace.then_some(Level::TRACE);
    let run = run::run(&scenario, args.seed, args.world, &Options { log, ..Options::default() });
    let mut record = record::record(&scenario, &run);
    record.replay_as.clone_from(&args.scenario);

    let mut out = BufWriter::new(io::stdout().lock());
    forgive_closed_pipe(tell(&record, &run.log, &mut out).and_then(|()| out.flush()))?;
    Ok(Outcome::of(record.passed()))
}

fn tell(record: &Record, log: &[String], out: &mut impl Write) -> io::Result<()> {
    let log: Vec<LogLine> = log.iter().map(|line| log_line(line)).collect();
    transcript::write_history(record, &log, out)?;
    if !record.passed() {
        write!(out, "\n{}", failure_text(record))?;
    }
    writeln!(out, "\nrecord-hash: {}", record.hash)
}

/// `logging` starts its lines with the time, in seconds with six decimals.
fn log_line(line: &str) -> LogLine<'_> {
    let (time, text) = line.trim_start().split_once(' ').unwrap_or(("", line));
    LogLine { at_us: time.replace('.', "").parse().unwrap_or(0), text }
}
