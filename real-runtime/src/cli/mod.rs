//! The command line.

mod admin;
mod bench;
mod cluster;
mod config;
mod consume;
mod dev;
mod dlq;
mod duration;
mod group;
mod link;
mod members;
mod output;
mod produce;
mod reset;
mod serve;
mod topic;
mod txn;

use std::{error::Error, fmt};

use clap::{Parser, Subcommand};
use stormglass::on_tokio::block_on;

/// A durable message broker that RocketMQ clients can use.
#[derive(Debug, Parser)]
#[command(name = "stormglass", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: a name server and a broker on one port, or what its
    /// configuration says.
    Serve(serve::Serve),
    /// Look at a node's configuration.
    #[command(subcommand)]
    Config(config::Config),
    /// Run a cluster on this machine: a name server and brokers, each a process.
    Dev(dev::Dev),
    /// Look at replica sets, and change who is in them.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Create and look at topics.
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Look at consumer groups, and set how they retry.
    #[command(subcommand)]
    Group(group::Group),
    /// Look at what groups could not process, and replay it.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Look at transactions that nobody decided, and decide them.
    #[command(subcommand)]
    Txn(txn::Txn),
    /// Send messages.
    Produce(produce::Produce),
    /// Receive messages.
    Consume(consume::Consume),
    /// Measure a broker or a disk.
    #[command(subcommand)]
    Bench(bench::Bench),
}

impl Cli {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Config(config) => Ok(config.run()?),
            Command::Dev(dev) => block_on(dev.run())?,
            Command::Cluster(cluster) => Ok(block_on(cluster.run())??),
            Command::Topic(topic) => Ok(block_on(topic.run())??),
            Command::Group(group) => Ok(block_on(group.run())??),
            Command::Dlq(dlq) => Ok(block_on(dlq.run())??),
            Command::Txn(txn) => Ok(block_on(txn.run())??),
            Command::Produce(produce) => block_on(produce.run())?,
            Command::Consume(consume) => block_on(consume.run())?,
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
