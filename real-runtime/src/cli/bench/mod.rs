//! `stormglass bench`: a lean load generator for any broker that speaks
//! RocketMQ remoting, and what the disk can do without a broker.

mod catch_up;
mod cold_reader;
mod consume;
mod e2e;
mod latency;
mod nodes;
mod pace;
mod produce;
mod quorum;
mod raw;
mod server_cpu;
mod tally;
mod target;
mod transact;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    admin::Server,
    output::{Format, Table},
};
use stormglass::on_tokio::block_on;
use tally::{Tally, millis, rounded};

/// A broker that answers nothing for so long has failed the run.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Send messages and wait for their answers.
    Produce(Load),
    /// Read a topic's messages from its beginning: until none is left, or --count.
    Consume(Read),
    /// Send and receive at the same time; latencies are from send to receipt.
    E2e(Load),
    /// Commit transactions and send plain messages by turns, and compare; or
    /// leave half messages undecided.
    Transact(Transact),
    /// Write and sync files of different preparation, without a broker.
    Disk(Disk),
    /// Send to one broker and to a set of three by turns, and compare.
    Quorum(Sets),
    /// Send to a set of three while nobody reads, while a reader of a large
    /// backlog reads from the leader, and while it goes where it is sent.
    ColdReader(Backlog),
    /// Bring up a replica of three that lost its disk.
    CatchUp(Backlog),
}

/// Measurements that start their own nodes.
#[derive(Debug, Args)]
pub struct Sets {
    /// Where the nodes keep their data meanwhile.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Bytes of each body.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=(4 << 20)))]
    pub size: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Backlog {
    #[command(flatten)]
    pub sets: Sets,
    /// Messages that are there before.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub backlog: u64,
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    #[command(flatten)]
    pub server: Server,
    /// Topic; created if it does not exist.
    #[arg(short, long, default_value = "stormglass-bench")]
    pub topic: String,
    /// Queues of the topic if it is created.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Connections to the brokers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Report the CPU time of this process per message (Linux).
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    pub common: Common,
    /// Bytes of each body.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=(4 << 20)))]
    pub size: u32,
    /// Unanswered requests, over all connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub in_flight: u32,
    /// Messages in each request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Messages per second, in all; as many as possible if not given.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Stop after this many messages.
    #[arg(long)]
    pub count: Option<u64>,
    /// Stop after this many seconds [default: 10, unless --count is given].
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// Delay the messages, by up to so many milliseconds; the end-to-end latency
    /// counts from when a message was due.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=259_200_000))]
    #[arg(conflicts_with = "batch")]
    pub delay: Option<u64>,
    /// Then append and sync the same bytes below this directory, as many at a
    /// time as were in flight, and report how the broker compares.
    #[arg(long, value_name = "DIR")]
    pub raw_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Transact {
    #[command(flatten)]
    pub common: Common,
    /// Bytes of each body.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=(4 << 20)))]
    pub size: u32,
    /// Messages and transactions on their way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub in_flight: u32,
    /// Seconds, half of them for plain messages.
    #[arg(long, value_name = "SECONDS", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u64).range(8..=86_400))]
    pub duration: u64,
    /// Only send so many half messages, and decide none.
    #[arg(long, value_name = "COUNT")]
    pub leave_open: Option<u64>,
}

impl Common {
    /// The topic of this name, at a cluster of our own.
    fn of(server: Server, topic: &str) -> Common {
        let (topic, output) = (topic.to_owned(), Format::default());
        Common { server, topic, queues: 8, connections: 1, server_pid: None, output }
    }
}

impl Transact {
    /// The plain messages of one turn.
    fn plain(&self, seconds: u64) -> Load {
        let in_flight = self.in_flight;
        Load { in_flight, ..Load::lasting(self.common.clone(), self.size, seconds) }
    }
}

impl Load {
    /// One message after the other, as fast as they are answered.
    fn lasting(common: Common, size: u32, seconds: u64) -> Load {
        Load {
            common,
            size,
            in_flight: 1,
            batch: 1,
            rate: None,
            count: None,
            duration: Some(seconds),
            delay: None,
            raw_dir: None,
        }
    }

    fn lasts(&self) -> Duration {
        match (self.duration, self.count) {
            (Some(seconds), _) => Duration::from_secs(seconds),
            (None, Some(_)) => Duration::from_secs(24 * 3600),
            (None, None) => Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Args)]
pub struct Read {
    #[command(flatten)]
    pub common: Common,
    /// Messages asked for at a time.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Wait until this many have come.
    #[arg(long)]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Disk {
    /// Where to write.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Writes, each followed by a sync.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("not a number above 0 and up to 10000000".to_owned()),
    }
}

impl Bench {
    pub fn run(self) -> io::Result<()> {
        match self {
            Bench::Produce(load) => {
                measured(&load.common, load.raw(), || block_on(produce::run(&load))?)
            }
            Bench::E2e(load) => measured(&load.common, load.raw(), || block_on(e2e::run(&load))?),
            Bench::Transact(transact) => block_on(transact::run(&transact))?,
            Bench::Consume(read) => measured(&read.common, None, || block_on(consume::run(&read))?),
            Bench::Disk(disk) => compare_segments(&disk),
            Bench::Quorum(sets) => block_on(quorum::run(&sets))?,
            Bench::ColdReader(backlog) => block_on(cold_reader::run(&backlog))?,
            Bench::CatchUp(backlog) => block_on(catch_up::run(&backlog))?,
        }
    }
}

impl Load {
    /// The directory of the raw loop and the bytes that it syncs at a time.
    fn raw(&self) -> Option<(&Path, usize)> {
        let group = self.size as usize * self.in_flight as usize * self.batch as usize;
        self.raw_dir.as_deref().map(|dir| (dir, group))
    }
}

fn measured(
    common: &Common,
    raw: Option<(&Path, usize)>,
    run: impl FnOnce() -> io::Result<Tally>,
) -> io::Result<()> {
    let cpu = || common.server_pid.map(server_cpu::cpu_time).transpose();
    let cpu_before = cpu()?;
    let tally = run()?;
    let (seconds, cpu_after) = (tally.took.as_secs_f64().max(1e-6), cpu()?);
    let rate = tally.messages as f64 / seconds;
    let cpu_us = cpu_after.zip(cpu_before).map(|(after, before)| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / tally.messages.max(1) as f64
    });
    let raw_rate = match raw {
        Some((dir, group)) => {
            let spent = raw::time_for(dir, tally.bytes, group)?;
            Some(tally.messages as f64 / spent.as_secs_f64())
        }
        None => None,
    };
    let mut table = Table::new(&[
        "messages",
        "seconds",
        "msgs/s",
        "MB/s",
        "p50_ms",
        "p99_ms",
        "p99.9_ms",
        "max_ms",
        "failed",
        "server_cpu_us/msg",
        "raw_msgs/s",
        "of_raw",
    ]);
    let latency = |share| millis(tally.latencies.quantile(share));
    table.row([
        tally.messages.into(),
        rounded(seconds, 2),
        rounded(rate, 0),
        rounded(tally.bytes as f64 / seconds / 1e6, 1),
        latency(0.5),
        latency(0.99),
        latency(0.999),
        millis(tally.latencies.max()),
        tally.failed.into(),
        cpu_us.map_or(Value::Null, |us| rounded(us, 2)),
        raw_rate.map_or(Value::Null, |raw| rounded(raw, 0)),
        raw_rate.map_or(Value::Null, |raw| rounded(rate / raw, 3)),
    ]);
    table.print(common.output);
    match tally.first_failure {
        Some(why) => Err(io::Error::other(format!("{} requests failed: {why}", tally.failed))),
        None => Ok(()),
    }
}

fn compare_segments(disk: &Disk) -> io::Result<()> {
    let mut table =
        Table::new(&["bytes", "segment", "mean_us", "p50_us", "p99_us", "p99.9_us", "max_us"]);
    for size in [1 << 10, 64 << 10] {
        for segment in raw::Segment::ALL {
            let took = raw::append_and_sync(&disk.dir, segment, size, disk.count as usize)?;
            let micros = |d: Duration| Value::from(d.as_micros() as u64);
            table.row([
                size.into(),
                segment.name().into(),
                micros(took.total() / disk.count),
                micros(took.quantile(0.5)),
                micros(took.quantile(0.99)),
                micros(took.quantile(0.999)),
                micros(took.max()),
            ]);
        }
    }
    table.print(disk.output);
    Ok(())
}
