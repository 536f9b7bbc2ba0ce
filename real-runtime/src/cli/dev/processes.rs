//! The processes of a cluster. They end when this one does, however it ends.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use super::{Event, layout::Member};

pub const TERMINATE: Signal = Signal::TERM;

pub struct Processes {
    events: mpsc::Sender<Event>,
    /// What each of them gets with `--set`.
    settings: Vec<String>,
    running: BTreeMap<usize, u32>,
}

impl Processes {
    pub fn new(events: mpsc::Sender<Event>, settings: Vec<String>) -> Processes {
        Processes { events, settings, running: BTreeMap::new() }
    }

    pub fn start(&mut self, number: usize, member: &Member, is_founded: bool) -> io::Result<()> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--config").arg(&member.config);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if !is_founded && member.plan.is_empty_replica() {
            command.arg("--found");
        }
        // ^C is for us: they stop in order.
        command.process_group(0);
        // SAFETY: one system call and no allocation between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(TERMINATE))?)) };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        self.running.extend(child.id().map(|pid| (number, pid)));
        tokio::task::spawn_local(attend(number, child.stdout.take(), child, self.events.clone()));
        Ok(())
    }

    pub fn signal(&self, number: usize, signal: Signal) {
        let pid = self.running.get(&number).and_then(|pid| Pid::from_raw(*pid as i32));
        if let Some(pid) = pid {
            // One that is gone needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    pub fn runs(&self, number: usize) -> bool {
        self.running.contains_key(&number)
    }

    pub fn ended(&mut self, number: usize) {
        self.running.remove(&number);
    }

    pub fn shown(&self, number: usize, member: &Member) -> String {
        let pid = self.running.get(&number).copied().unwrap_or_default();
        format!("{:<11}  pid {pid:<7}", member.name)
    }
}

/// Tells of the line that says that it listens, and of its end.
async fn attend(
    number: usize,
    output: Option<tokio::process::ChildStdout>,
    mut child: Child,
    events: mpsc::Sender<Event>,
) {
    let mut lines = BufReader::new(output.expect("it was asked for")).lines();
    if let Ok(Some(_)) = lines.next_line().await {
        let _ = events.send(Event::Listens(number)).await;
        while let Ok(Some(_)) = lines.next_line().await {}
    }
    let how = match child.wait().await {
        Ok(status) => told(status),
        Err(error) => format!("was lost: {error}"),
    };
    let _ = events.send(Event::Ended(number, how)).await;
}

fn told(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, code) => format!("ended with status {}", code.unwrap_or_default()),
    }
}
