//! A name server or a broker: a process of the shipped binary.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    rc::Rc,
};

use rustix::process::{Pid, Signal, kill_process};
use stormglass_core::shell::node::NodeConfig;
use tokio::{
    process::{Child, Command},
    sync::Notify,
};

use super::{RealRuntime, binary, node_file};
use crate::{history::Stop, world::Life};

/// What a server listens on lies so far above what it seems to.
const ABOVE: u16 = 10_000;

/// Runs until the process ends, or with `asked` is told to stop and does so.
/// Dropped, the process is killed.
pub fn life(runtime: RealRuntime, config: NodeConfig, addr: SocketAddr, asked: Rc<Notify>) -> Life {
    Box::pin(async move {
        let mut child = match start(&runtime, &config, addr) {
            Ok(child) => child,
            Err(error) => panic!("a server does not start: {error}"),
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
        runtime.spawn_beside(async move {
            asked.notified().await;
            // One that is gone needs no signal.
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        });
        match child.wait().await.as_ref().map(ExitStatus::success) {
            Ok(true) => Stop::Graceful,
            _ => Stop::GaveUp,
        }
    })
}

fn start(runtime: &RealRuntime, config: &NodeConfig, addr: SocketAddr) -> io::Result<Child> {
    let machine = &runtime.process.machine;
    let dir = runtime.dir.join(&*machine.name);
    fs::create_dir_all(&dir)?;
    let peers = config.peers.as_ref().map(|peers| peers.listen);
    for seems in [Some(addr), peers].into_iter().flatten() {
        runtime.relays.listen(&runtime.process.network, machine.no, seems, beside(seems))?;
    }
    let file = dir.join("node.toml");
    fs::write(&file, node_file::text(config, addr, &dir, beside))?;
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = Command::new(binary());
    command.arg("serve").arg("--config").arg(&file);
    let set = config.broker.as_ref().and_then(|broker| broker.replica_set.as_ref());
    if set.is_some_and(|set| set.founding) {
        command.arg("--found");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    let child = command.spawn()?;
    runtime.relays.runs(child.id().ok_or(io::ErrorKind::NotFound)?, machine.no);
    Ok(child)
}

/// Where the server behind a relay listens.
fn beside(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port() + ABOVE)
}
