mod cli;
mod metrics;

use std::process::ExitCode;

use clap::Parser;

/// As clap exits when it cannot parse the command line.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stormglass: {error}");
            if error.is::<cli::Usage>() { BAD_USAGE.into() } else { ExitCode::FAILURE }
        }
    }
}
