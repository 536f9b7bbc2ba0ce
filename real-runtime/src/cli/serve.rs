//! `stormglass serve`: name server and broker in one process, on one port.

use std::{
    error::Error,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use stormglass::{
    disk::RealDisk,
    on_tokio::{OnTokio, block_on},
};
use stormglass_core::{
    broker::BrokerConfig,
    replication::Flush,
    runtime::{Listener, Runtime},
    shell::node::{Node, NodeConfig, Stopper},
};
use tokio::signal::unix::{SignalKind, signal};

use super::Usage;

#[derive(Debug, Args)]
pub struct Serve {
    /// Where messages are kept.
    #[arg(long, default_value = "./stormglass-data", value_name = "DIR")]
    data: PathBuf,
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:9876", value_name = "ADDR")]
    listen: SocketAddr,
    /// The address that clients are told, if it is not the one listened on.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<SocketAddr>,
    /// When a message is acknowledged: synced to the disk, or written to the
    /// operating system.
    #[arg(long, value_enum, default_value_t)]
    flush: FlushMode,
    /// Milliseconds between syncs with --flush async: what a power failure may
    /// take. A killed process alone loses nothing.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    flush_interval: u64,
    /// Queues of a topic that is created by the first message sent to it.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    default_queues: u32,
    /// Refuse messages to topics that nobody created.
    #[arg(long)]
    no_auto_create_topics: bool,
    /// Drop the oldest messages once the log is longer than this many MiB.
    #[arg(long, value_name = "MIB")]
    retain: Option<u64>,
    /// Drop messages that are older than this many hours, a segment at a time.
    #[arg(long, value_name = "HOURS")]
    retain_hours: Option<u64>,
    /// How many times as long or as old the log may become for groups that have
    /// not read it, before it goes on without them.
    #[arg(long, value_name = "TIMES", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    retain_at_most: u32,
    /// Refuse sends instead, until the groups have caught up.
    #[arg(long)]
    retain_or_refuse: bool,
    /// Listen on an address that other machines reach, without encryption and
    /// without authentication.
    #[arg(long)]
    insecure_plaintext: bool,
    /// What is logged to standard error.
    #[arg(long, value_enum, default_value_t)]
    log: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FlushMode {
    #[default]
    Sync,
    Async,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
}

impl Serve {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        self.check()?;
        tracing_subscriber::fmt()
            .with_writer(io::stderr)
            .with_max_level(match self.log {
                LogLevel::Error => tracing::Level::ERROR,
                LogLevel::Warn => tracing::Level::WARN,
                LogLevel::Info => tracing::Level::INFO,
                LogLevel::Debug => tracing::Level::DEBUG,
            })
            .init();
        block_on(self.serve())?
    }

    /// What can be wrong with the flags together.
    fn check(&self) -> Result<(), Usage> {
        if !self.listen.ip().is_loopback() && !self.insecure_plaintext {
            return Err(Usage(format!(
                "other machines can reach {}, and the connection is neither encrypted nor \
                 authenticated; to accept that, add --insecure-plaintext",
                self.listen
            )));
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(Usage(format!(
                "clients cannot connect to {}: name the address that they can reach with \
                 --advertise ADDR",
                self.listen
            )));
        }
        Ok(())
    }

    async fn serve(self) -> Result<(), Box<dyn Error>> {
        let runtime = OnTokio::new();
        let listener = runtime.listen(self.listen).await;
        let listener = listener.map_err(|e| format!("cannot listen on {}: {e}", self.listen))?;
        let addr = listener.local_addr()?;
        let disk = RealDisk::open(&self.data).and_then(|disk| match self.flush {
            FlushMode::Sync => disk.writing_ahead(),
            FlushMode::Async => Ok(disk),
        });
        let disk = disk.map_err(|e| format!("cannot use {}: {e}", self.data.display()))?;
        let config = NodeConfig::standalone(self.broker_config(addr));
        let node = Node::open(runtime, config, disk)?;
        stop_on_signal(node.stopper())?;
        node.serve(listener, || self.announce(addr)).await?;
        Ok(())
    }

    fn broker_config(&self, addr: SocketAddr) -> BrokerConfig {
        BrokerConfig {
            flush: match self.flush {
                FlushMode::Sync => Flush::Sync,
                FlushMode::Async => {
                    Flush::Async { interval: Duration::from_millis(self.flush_interval) }
                }
            },
            auto_create_topics: !self.no_auto_create_topics,
            default_queues: self.default_queues,
            retain_for: self
                .retain_hours
                .map(|hours| Duration::from_secs(hours.saturating_mul(3600))),
            retain_bytes: self.retain.map(|mib| mib.saturating_mul(1 << 20)),
            retain_at_most: self.retain_at_most,
            retain_or_refuse: self.retain_or_refuse,
            ..BrokerConfig::new(self.advertise.unwrap_or(addr))
        }
    }

    fn announce(&self, addr: SocketAddr) {
        let line = format!(
            "stormglass serves on {addr}: name server and broker, {} flush, data in {}",
            self.flush,
            self.data.display()
        );
        // Whoever started us may have closed the pipe: no reason to stop.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

impl fmt::Display for FlushMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FlushMode::Sync => "sync",
            FlushMode::Async => "async",
        })
    }
}

/// The first signal stops in order, a second one at once.
fn stop_on_signal(stopper: Stopper) -> io::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)?;
        let stopper = stopper.clone();
        tokio::task::spawn_local(async move {
            signals.recv().await;
            stopper.stop().await;
            signals.recv().await;
            std::process::exit(128 + kind.as_raw_value());
        });
    }
    Ok(())
}
