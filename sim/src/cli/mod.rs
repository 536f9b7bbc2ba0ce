//! The testbed's command line. What went wrong with a command goes to stderr
//! and ends with status 2; a broken promise ends with status 1.

mod bench;
mod determinism;
mod failover;
mod interrupt;
mod lateness;
mod mutants;
mod pool;
mod progress;
mod replay;
mod selection;
mod suite;

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use stormglass_reports::transcript::OneLine;

use self::selection::Selection;

/// Runs seeded storms against the broker and judges what its clients saw.
///
/// Without a command: every scenario at its pinned seeds in both worlds, and a
/// page about it under reports/out.
#[derive(Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the scenarios
    List,
    /// Runs scenarios and judges them
    Run(suite::Args),
    /// Repeats one run and prints its history, with virtual times
    Replay(replay::Args),
    /// Checks that runs are the same in every process, whatever ran before them
    Determinism(determinism::Args),
    /// Measures how fast the testbed is
    Bench(bench::Args),
    /// Measures how long clients wait when a leader is lost
    Failover(failover::Args),
    /// Measures how late delayed messages come
    Lateness(Selection),
    /// Plants bugs in a copy of the tree and looks for each with storms
    Mutants(mutants::Args),
    /// Looks for one planted bug
    #[command(hide = true)]
    Hunt(mutants::Hunt),
    /// Prints the hash of each run, once for each pass
    #[command(hide = true)]
    Hashes(determinism::Child),
    /// Prints the raw history of one run
    #[command(hide = true)]
    History(determinism::One),
}

/// How a command ended that could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    Broken,
    Interrupted,
}

impl Outcome {
    fn of(held: bool) -> Outcome {
        if held { Outcome::Held } else { Outcome::Broken }
    }
}

/// What kept a command from being carried out, as a sentence for its user.
type Refused = String;

pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        None => suite::whole_suite(),
        Some(Command::List) => list(),
        Some(Command::Run(args)) => suite::run(&args),
        Some(Command::Replay(args)) => replay::replay(&args),
        Some(Command::Determinism(args)) => determinism::determinism(&args),
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Failover(args)) => failover::failover(&args),
        Some(Command::Lateness(selection)) => lateness::lateness(&selection),
        Some(Command::Mutants(args)) => mutants::mutants(&args),
        Some(Command::Hunt(args)) => mutants::hunt(&args),
        Some(Command::Hashes(args)) => determinism::print_hashes(&args),
        Some(Command::History(args)) => determinism::print_history(&args),
    };
    match outcome {
        Ok(Outcome::Held) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(refused) => {
            eprintln!("error: {refused}");
            ExitCode::from(2)
        }
    }
}

fn list() -> Result<Outcome, Refused> {
    let scenarios = selection::committed()?;
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut area = "";
    for scenario in &scenarios {
        if scenario.area != area {
            area = &scenario.area;
            text += &format!("{}{area}\n", if text.is_empty() { "" } else { "\n" });
        }
        let seeds: Vec<String> = scenario.seeds.iter().map(u64::to_string).collect();
        text += &format!(
            "  {:<width$}  {:<14}  {}\n  {:<width$}  {}\n",
            scenario.name,
            scenario.story.join(" "),
            OneLine(&scenario.about),
            "",
            format_args!("{}s, seeds {}", scenario.run_for.as_secs(), seeds.join(" ")),
        );
    }
    print(&text)
}

/// The tree whose scenarios run: that of the command being typed, which need
/// not be the one that this binary was compiled in, if they share a target.
fn tree() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map_or(package.clone(), PathBuf::from)
}

/// Prints to stdout; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<Outcome, Refused> {
    forgive_closed_pipe(io::stdout().lock().write_all(text.as_bytes()))?;
    Ok(Outcome::Held)
}

fn forgive_closed_pipe(written: io::Result<()>) -> Result<(), Refused> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_do_not_contradict_themselves() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
