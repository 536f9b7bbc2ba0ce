//! How a node is configured: one flat table of settings, filled layer by layer
//! (embedded defaults, TOML file, `STORMGLASS_…` variables, flags). Each layer
//! is checked as it is read, so that a mistake is told where it was made.

mod file;
mod keys;
mod plan;
mod print;
mod value;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

pub use plan::NodePlan;
pub use print::Config;

use super::Usage;
use keys::KEYS;

/// What variables are called.
const VARIABLES: &str = "STORMGLASS_";
/// Names the file, as `--config` does.
const FILE_VARIABLE: &str = "STORMGLASS_CONFIG";

/// The layer of flags. Each of them has a key of the file behind it.
#[derive(Debug, Args)]
pub struct Flags {
    /// The node's configuration; see `stormglass config print`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any key of the configuration, like `broker.flush=async`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where messages are kept [default: ./stormglass-data].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address and port to listen on [default: 127.0.0.1:9876].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The address that clients are told, if it is not the one listened on.
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// When a message is acknowledged: synced to the disk (sync, the default),
    /// or written to the operating system (async).
    #[arg(long, value_name = "MODE")]
    flush: Option<String>,
    /// Milliseconds between syncs with --flush async: what a power failure may
    /// take. A killed process alone loses nothing [default: 500].
    #[arg(long, value_name = "MS")]
    flush_interval: Option<u64>,
    /// Queues of a topic that is created by the first message sent to it
    /// [default: 4].
    #[arg(long, value_name = "QUEUES")]
    default_queues: Option<String>,
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
    /// not read it, before it goes on without them [default: 2].
    #[arg(long, value_name = "TIMES")]
    retain_at_most: Option<String>,
    /// Refuse sends instead, until the groups have caught up.
    #[arg(long)]
    retain_or_refuse: bool,
    /// Address and port to serve metrics and health on, over HTTP; a port of 0 is
    /// any that is free.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Listen on an address that other machines reach, without encryption and
    /// without authentication.
    #[arg(long)]
    insecure_plaintext: bool,
    /// What is logged to standard error: error, warn (the default), info, debug.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
}

impl Flags {
    /// Each flag that was given, its key and its value.
    fn given(&self) -> Vec<(&'static str, &'static str, String)> {
        let switch = |is_on: bool, value: &str| is_on.then(|| value.to_owned());
        let flags = [
            ("--data", "data", self.data.clone()),
            ("--listen", "listen", self.listen.clone()),
            ("--advertise", "advertise", self.advertise.clone()),
            ("--flush", "broker.flush", self.flush.clone()),
            (
                "--flush-interval",
                "broker.flush_interval",
                self.flush_interval.map(|ms| format!("{ms}ms")),
            ),
            ("--default-queues", "broker.default_queues", self.default_queues.clone()),
            (
                "--no-auto-create-topics",
                "broker.auto_create_topics",
                switch(self.no_auto_create_topics, "false"),
            ),
            ("--retain", "broker.retain", self.retain.map(|mib| format!("{mib}MiB"))),
            ("--retain-hours", "broker.retain_for", self.retain_hours.map(|h| format!("{h}h"))),
            ("--retain-at-most", "broker.retain_at_most", self.retain_at_most.clone()),
            (
                "--retain-or-refuse",
                "broker.retain_or_refuse",
                switch(self.retain_or_refuse, "true"),
            ),
            ("--metrics", "metrics", self.metrics.clone()),
            ("--insecure-plaintext", "insecure_plaintext", switch(self.insecure_plaintext, "true")),
            ("--log", "log", self.log.clone()),
        ];
        flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect()
    }

    /// All layers, the strongest last.
    pub fn settings(&self) -> Result<Settings, Usage> {
        let mut settings = Settings::defaults();
        let from_environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(VARIABLES))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        let named = from_environment.get(FILE_VARIABLE).map(PathBuf::from);
        if let Some(file) = self.config.clone().or(named) {
            file::read(&file, &mut settings)?;
        }
        for (name, value) in from_environment.iter().filter(|(name, _)| *name != FILE_VARIABLE) {
            let source = Source::Variable(name.clone());
            let key = keys::of_variable(&name[VARIABLES.len()..]);
            let key = key.ok_or_else(|| problem(&source, "no key of the configuration"))?;
            settings.set(&key, value, source)?;
        }
        for setting in &self.set {
            let source = Source::Flag("--set");
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                problem(&source, format!("`{setting}` is not allowed: KEY=VALUE"))
            })?;
            settings.set(key.trim(), value.trim(), source)?;
        }
        for (flag, key, value) in self.given() {
            settings.set(key, &value, Source::Flag(flag))?;
        }
        Ok(settings)
    }
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File { file: String, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { file, line } => write!(f, "{file}:{line}"),
            Source::Variable(name) => f.write_str(name),
            Source::Flag(flag) => f.write_str(flag),
        }
    }
}

struct Setting {
    text: String,
    source: Source,
}

/// What every key is set to, as text that its key accepts.
pub struct Settings(BTreeMap<String, Setting>);

impl Settings {
    fn defaults() -> Settings {
        let set = KEYS.iter().filter_map(|key| Some((key, key.default?)));
        let setting = |text: &str| Setting { text: text.to_owned(), source: Source::Default };
        Settings(set.map(|(key, text)| (key.name.to_owned(), setting(text))).collect())
    }

    /// Of a file alone.
    pub fn of_file(path: &Path) -> Result<Settings, Usage> {
        let mut settings = Settings::defaults();
        file::read(path, &mut settings)?;
        Ok(settings)
    }

    fn set(&mut self, key: &str, text: &str, source: Source) -> Result<(), Usage> {
        let Some(known) = keys::find(key) else {
            return Err(problem(&source, format!("{key}: {}", keys::unknown(key))));
        };
        if let Err(allowed) = known.kind.check(text) {
            let shown = if known.is_secret() { "this" } else { &format!("`{text}`") };
            return Err(problem(&source, format!("{key}: {shown} is not allowed: {allowed}")));
        }
        self.0.insert(key.to_owned(), Setting { text: text.to_owned(), source });
        Ok(())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|setting| setting.text.as_str())
    }

    fn owned(&self, key: &str) -> Option<String> {
        self.text(key).map(str::to_owned)
    }

    fn is_on(&self, key: &str) -> bool {
        self.text(key) == Some("true")
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    fn time(&self, key: &str) -> Option<Duration> {
        value::time(self.text(key)?)
    }

    fn size(&self, key: &str) -> Option<u64> {
        value::size(self.text(key)?)
    }

    /// The numbers that follow this prefix: which replicas, which peers.
    fn numbers_below(&self, prefix: &str) -> Vec<u64> {
        let below = self.0.keys().filter_map(|key| key.strip_prefix(prefix)?.strip_prefix('.'));
        let number = |rest: &str| rest.split('.').next()?.parse().ok();
        let mut numbers: Vec<u64> = below.filter_map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// A mistake in what this key is set to, told where it was set.
    fn wrong(&self, key: &str, why: impl fmt::Display) -> Usage {
        match self.0.get(key) {
            Some(setting) => problem(&setting.source, format!("{key}: {why}")),
            None => Usage(format!("{key}: {why}")),
        }
    }
}

fn problem(source: &Source, what: impl fmt::Display) -> Usage {
    Usage(format!("{source}: {what}"))
}
