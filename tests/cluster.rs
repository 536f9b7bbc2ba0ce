//! A `stormglass dev` of a test: three brokers and a name server, each a
//! process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{http, server::binary};

/// What takes longer has failed: the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// What all nodes get.
const SETTINGS: [&str; 4] =
    ["--set", "broker.segment=16MiB", "--set", "broker.election_timeout=500ms"];

pub struct Cluster {
    dir: PathBuf,
    process: Child,
    lines: mpsc::Receiver<String>,
    /// Everything it said so far.
    said: Vec<String>,
    name_server: String,
    pids: BTreeMap<String, String>,
    /// Where its brokers serve metrics.
    metrics: BTreeMap<String, String>,
    leader: String,
    /// Nodes that were not there from the beginning.
    joined: Vec<Child>,
}

impl Cluster {
    /// Starts a cluster in this directory, or the one that is there, and waits
    /// until somebody leads.
    pub fn start(data: &Path) -> Cluster {
        let mut process = Command::new(binary())
            .args(["dev", "--brokers", "3", "--listen", "127.0.0.1:0"])
            .args(SETTINGS)
            .arg("--data")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let output = process.stdout.take().expect("it was asked for");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(line)));
        });
        let mut cluster = Cluster {
            dir: data.to_owned(),
            process,
            lines,
            said: Vec::new(),
            name_server: String::new(),
            pids: BTreeMap::new(),
            metrics: BTreeMap::new(),
            leader: String::new(),
            joined: Vec::new(),
        };
        let ready = cluster.wait_for("ready: -n ");
        let (_, addr) = ready.split_once("-n ").expect("that was waited for");
        cluster.name_server = addr.split(';').next().expect("a first part").to_owned();
        cluster
    }

    pub fn name_server(&self) -> &str {
        &self.name_server
    }

    /// The name of the broker that was last said to lead.
    pub fn leader(&self) -> &str {
        &self.leader
    }

    /// Waits for a line that contains this.
    pub fn wait_for(&mut self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {part:?} in time: {:#?}", self.said);
            };
            self.said.push(line.clone());
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [name, "pid", pid, .., last] => {
                    self.pids.insert(name.to_owned(), pid.to_owned());
                    let metrics = last.strip_prefix("http://").and_then(|it| it.split_once('/'));
                    let metrics = metrics.map(|(addr, _)| (name.to_owned(), addr.to_owned()));
                    self.metrics.extend(metrics);
                }
                [name, "leads", ..] => self.leader = name.to_owned(),
                _ => {}
            }
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Starts the node of one more replica, which waits to be added; where it
    /// listens for the others.
    pub fn start_another(&mut self, id: u64) -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = free.expect("a free port");
        let founder = fs::read_to_string(self.dir.join("broker-1.toml")).expect("a founder");
        let name = format!("broker-{id}");
        let lines = founder.lines().map(|line| match line.split_once(" = ") {
            Some(("data", _)) => format!("data = {:?}", self.dir.join(&name)),
            Some(("id", _)) => format!("id = {id}"),
            Some((key @ ("listen" | "metrics"), _)) => format!("{key} = \"127.0.0.1:0\""),
            Some(("peers", peers)) => {
                format!("peers = {}, {id} = \"{addr}\" }}", peers.trim_end_matches([' ', '}']))
            }
            _ => line.to_owned(),
        });
        let config = self.dir.join(format!("{name}.toml"));
        fs::write(&config, lines.collect::<Vec<_>>().join("\n")).expect("it is writable");
        let mut node = Command::new(binary());
        node.args(["serve", "--config"]).arg(config).args(SETTINGS).stdin(Stdio::null());
        self.joined.push(node.stdout(Stdio::null()).spawn().expect("the binary runs"));
        addr
    }

    /// `stormglass cluster status`, once it shows what is waited for.
    pub fn status(&self, shows: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.command(&["cluster", "status", "-o", "json"]);
            let rows = said.as_ref().map(|said| serde_json::from_str::<Vec<Value>>(said));
            match rows {
                Ok(Ok(rows)) if shows(&rows) => return rows,
                _ => assert!(Instant::now() < until, "the status is still {said:?}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until `/readyz` of a broker answers so.
    pub fn readiness(&self, name: &str, status: u16, says: &str) {
        let until = Instant::now() + PATIENCE;
        let addr = self.metrics.get(name).expect("a broker that was there from the beginning");
        loop {
            let said = http::get(addr, "/readyz");
            if said.0 == status && said.1.contains(says) {
                return;
            }
            assert!(Instant::now() < until, "{name} still says {said:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `kill -9`, or another signal, to one of its processes.
    pub fn signal(&self, signal: &str, name: &str) {
        let pid = self.pids.get(name).expect("a process of this cluster");
        let sent = Command::new("kill").args([signal, pid]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// As ^C does; the exit status.
    pub fn stop(mut self) -> i32 {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
        self.process.wait().expect("the process is ours").code().unwrap_or(-1)
    }

    /// Whether any of its processes is still there.
    pub fn pids(&self) -> Vec<String> {
        self.pids.values().cloned().collect()
    }

    /// A `stormglass` command against this cluster: what it printed.
    pub fn command(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(binary()).args(args).args(["-n", &self.name_server]).output();
        let output = output.expect("the binary runs");
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).expect("commands print text")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its own processes end with it.
        for process in self.joined.iter_mut().chain([&mut self.process]) {
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() {
            eprintln!("the cluster said: {:#?}", self.said);
        }
    }
}
