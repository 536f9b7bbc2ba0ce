//! The command line.

mod bench;
mod connect;
mod output;
mod serve;

use std::{error::Error, fmt};

use clap::{Parser, Subcommand};

/// A durable message broker that RocketMQ clients can use.
#[derive(Debug, Parser)]
#[command(name = "stormglass", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a name server and a broker on one port.
    Serve(serve::Serve),
    /// Measure a broker or a disk.
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Cli {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Bench(bench) => Ok(bench.run()?),
        }
    }
}

/// A command line that parses and still cannot be meant.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Usage {}
