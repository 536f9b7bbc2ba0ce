//! A `stormglass serve` process of a test.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

pub use stormglass_sim::world::on_real::binary;
use tempfile::TempDir;

/// A server that is not ready by then has failed: it promises one second, and
/// the machines that run tests are busy.
const READY: Duration = Duration::from_secs(20);

/// The directory that cargo builds into, for what tests keep between runs.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its program");
    // target/<profile>/deps/<test>
    let target = exe.ancestors().nth(3).expect("cargo puts tests into target/<profile>/deps");
    target.to_owned()
}

pub struct Server {
    /// Removed with all data when the server is dropped.
    dir: TempDir,
    flags: Vec<String>,
    addr: String,
    /// Where it serves metrics, if it does.
    metrics: Option<String>,
    process: Option<Child>,
}

impl Server {
    /// Starts a server on a free port of the loopback, with an empty disk.
    pub fn start(flags: &[&str]) -> Server {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut server =
            Server { dir, flags, addr: "127.0.0.1:0".to_owned(), metrics: None, process: None };
        server.restart();
        server
    }

    /// Starts the server again, on the same port and with the same data.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let log = File::options().create(true).append(true).open(self.log_file());
        let mut process = Command::new(binary())
            .args(["serve", "--listen", &self.addr, "--data"])
            .arg(self.data())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("the temporary directory is writable"))
            .spawn()
            .expect("the binary runs");
        let output = process.stdout.take().expect("it was asked for");
        self.process = Some(process);
        let (lines, announced) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(output).read_line(&mut line);
            let _ = lines.send(line);
        });
        let line = announced.recv_timeout(READY).unwrap_or_default();
        let addr =
            line.strip_prefix("stormglass serves on ").and_then(|rest| rest.split_once(": "));
        match addr {
            Some((addr, rest)) => {
                self.addr = addr.to_owned();
                let metrics = rest.trim_end().split_once("metrics on ");
                self.metrics = metrics.map(|(_, addr)| addr.to_owned());
            }
            None => panic!("the server is not ready: it said {line:?} and {}", self.log()),
        }
    }

    /// `host:port` of the name server and the broker.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// `host:port` of its metrics; it was started with `--metrics`.
    pub fn metrics(&self) -> &str {
        self.metrics.as_deref().expect("it serves metrics")
    }

    /// Its `--data` directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Ends the process as SIGKILL does: at once, whatever it is doing.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("the process is ours");
            process.wait().expect("the process is ours");
        }
    }

    /// Asks the process to stop (SIGTERM) and returns its exit status.
    pub fn stop(&mut self) -> i32 {
        let mut process = self.process.take().expect("the server runs");
        let pid = process.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(asked.success());
        process.wait().expect("the process is ours").code().unwrap_or(-1)
    }

    /// A `stormglass` command against this server: what it printed.
    pub fn command(&self, args: &[&str]) -> String {
        let output = Command::new(binary()).args(args).args(["-n", &self.addr]).output();
        let output = output.expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "stormglass {args:?}: {errors}{}", self.log());
        String::from_utf8(output.stdout).expect("commands print text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}
