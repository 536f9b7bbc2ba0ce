//! The command line.

mod bench;
mod output;

use std::io;

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
    /// Measure a broker or a disk.
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Cli {
    pub fn run(self) -> io::Result<()> {
        match self.command {
            Command::Bench(bench) => bench.run(),
        }
    }
}
