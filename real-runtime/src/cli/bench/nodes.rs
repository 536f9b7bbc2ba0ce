//! A `stormglass dev` for a measurement: brokers and a name server, each a
//! process.

use std::{collections::BTreeMap, fs, io, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::server_cpu::cpu_time;
use crate::cli::admin::Server;

/// A cluster without a leader for so long has failed the run.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Nodes {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    name_server: String,
    pids: BTreeMap<String, i32>,
}

impl Nodes {
    /// Starts so many brokers of one set in this directory, or goes on with those
    /// that are there, and waits until one of them leads. `settings` are keys of
    /// a node's configuration, like `broker.flush=async`.
    pub async fn start(dir: &Path, brokers: u32, settings: &[&str]) -> io::Result<Nodes> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["dev", "--listen", "127.0.0.1:0", "--brokers", &brokers.to_string()]);
        command.arg("--data").arg(dir);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let output = process.stdout.take().expect("it was asked for");
        let mut nodes = Nodes {
            process,
            lines: BufReader::new(output).lines(),
            name_server: String::new(),
            pids: BTreeMap::new(),
        };
        let ready = nodes.wait_for("ready: -n ").await?;
        let (_, rest) = ready.split_once("-n ").expect("that was waited for");
        nodes.name_server = rest.split(';').next().unwrap_or_default().to_owned();
        Ok(nodes)
    }

    pub fn server(&self) -> Server {
        Server { name_server: self.name_server.clone(), timeout: 5000 }
    }

    /// User and system time of all brokers so far.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let brokers = self.pids.iter().filter(|(name, _)| name.starts_with("broker"));
        brokers.map(|(_, pid)| cpu_time(*pid as u32)).sum()
    }

    /// Waits until a line with this part is said.
    pub async fn wait_for(&mut self, part: &str) -> io::Result<String> {
        let heard = async {
            while let Some(line) = self.lines.next_line().await? {
                if let [name, "pid", pid, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
                    self.pids.insert(name.to_owned(), pid.parse().map_err(io::Error::other)?);
                }
                if line.contains(part) {
                    return Ok(line);
                }
            }
            Err(io::Error::other("the nodes ended by themselves"))
        };
        let late = |_| io::Error::other(format!("the nodes do not say {part:?}"));
        tokio::time::timeout(PATIENCE, heard).await.map_err(late)?
    }

    /// `kill -9` to one of the brokers; it starts again three seconds later.
    pub fn kill(&self, broker: &str) -> io::Result<()> {
        let pid = self.pids.get(broker).and_then(|pid| Pid::from_raw(*pid));
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, Signal::KILL)?)
    }

    /// Stops all of them in order.
    pub async fn stop(mut self) -> io::Result<()> {
        if let Some(pid) = self.process.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, Signal::INT)?;
        }
        self.process.wait().await.map(drop)
    }
}

/// A directory of its own for the nodes' data, removed afterwards.
pub struct Data(pub std::path::PathBuf);

impl Data {
    pub fn new(dir: &Path, name: &str) -> io::Result<Data> {
        let dir = dir.join(format!("stormglass-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Data(dir))
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // What cannot be removed stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}
