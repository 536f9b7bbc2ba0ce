//! The cluster for real. Each name server and broker is a process of the
//! shipped binary, on a loopback address of its own machine; the clients are
//! the same as elsewhere, on tokio in this process. Between any two machines
//! stands a relay, which a partition stops and a latency slows down.
//!
//! What cannot be done to a real machine from here (power loss, its disk, its
//! clock) makes a scenario not applicable. Nothing looks into the brokers: the
//! history has what clients saw, and when processes began and ended.

mod dialler;
mod node_file;
mod relay;
mod server;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process,
    rc::Rc,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};
use stormglass_core::{
    runtime::{self, Runtime},
    shell::node::NodeConfig,
    time::{Now, Time},
};
use tokio::{
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::{JoinHandle, LocalSet, spawn_local},
};

use self::relay::Relays;
use super::{Life, Machine, MachineNo, Process, Program, Running, World, machine};
use crate::{
    clock,
    disk::{SimDisk, Timer},
};

/// Runs `conduct` in a fresh world. Nothing about it is the same twice.
pub fn run<T>(conduct: impl AsyncFnOnce(RealWorld) -> T) -> T {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    clock::set_wall_at_start(since_epoch.as_millis() as i64);
    machine::set_network(network());
    // Goes last, after all processes.
    let dir = Directory::new().expect("the temporary directory is writable");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system gives another runtime");
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let world = RealWorld {
            time: RealTime(Instant::now()),
            dir: dir.0.as_path().into(),
            relays: Relays::start(),
            running: BTreeMap::new(),
        };
        conduct(world).await
    })
}

/// A piece of the loopback network that no other run uses: relays listen where
/// the machines of the run seem to be.
fn network() -> Ipv4Addr {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = process::id().wrapping_add(RUNS.fetch_add(1, Ordering::Relaxed).wrapping_mul(97));
    Ipv4Addr::new(127, 64 + (run >> 8 & 127) as u8, run as u8, 0)
}

/// The shipped binary of this program's profile, built if need be.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let exe = std::env::current_exe().expect("a process knows its program");
        // target/<profile>/sim, or target/<profile>/deps/<test>
        let mut profile_dir = exe.parent().expect("a program is in a directory");
        if profile_dir.ends_with("deps") {
            profile_dir = profile_dir.parent().expect("cargo puts deps into a profile");
        }
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let target = profile_dir.parent().expect("cargo puts profiles into the target directory");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = process::Command::new(cargo)
            .args(["build", "--quiet", "--package", "stormglass", "--bin", "stormglass"])
            .args(["--profile", profile, "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the stormglass binary does not build");
        profile_dir.join("stormglass")
    })
}

#[derive(Clone, Copy)]
struct RealTime(Instant);

impl Timer for RealTime {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    fn sleep_us(&self, us: u64) -> Running {
        Box::pin(tokio::time::sleep(Duration::from_micros(us)))
    }
}

/// Removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Directory> {
        let name = format!("stormglass-{}-{}", process::id(), network());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(Directory(dir))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed stays in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct RealWorld {
    time: RealTime,
    relays: Relays,
    running: BTreeMap<MachineNo, JoinHandle<()>>,
    dir: Rc<Path>,
}

impl World for RealWorld {
    type Runtime = RealRuntime;

    const HAS_PROBE: bool = false;

    fn time(&self) -> Rc<dyn Timer> {
        Rc::new(self.time)
    }

    fn now_us(&self) -> u64 {
        self.time.now_us()
    }

    async fn advance_to(&mut self, us: u64) {
        self.time.sleep_us(us.saturating_sub(self.now_us())).await;
        clock::set_true_now_us(self.now_us());
    }

    fn add(&mut self, _machine: &Rc<Machine>) {}

    fn start(&mut self, process: Process, disk: SimDisk, program: &Program<RealRuntime>) {
        let no = process.machine.no;
        let (relays, dir) = (self.relays.clone(), self.dir.clone());
        let runtime = RealRuntime { process: process.clone(), relays, dir };
        let life = program(runtime, disk);
        let running = process.clone().task(async move { process.exit(life.await) });
        // Everything that it spawns goes with it.
        let tasks = LocalSet::new();
        let all_of_it = async move { tasks.run_until(running).await };
        self.running.insert(no, spawn_local(all_of_it));
    }

    fn stop(&mut self, machine: MachineNo) {
        if let Some(life) = self.running.remove(&machine) {
            life.abort();
        }
    }

    /// A client's tasks see it themselves.
    fn pause(&mut self, machine: MachineNo, is_paused: bool) {
        let signal = if is_paused { Signal::STOP } else { Signal::CONT };
        for pid in self.relays.pids_on(machine) {
            // One that is gone needs no signal.
            let _ = Pid::from_raw(pid as i32).map(|pid| kill_process(pid, signal));
        }
    }

    fn process(
        runtime: &RealRuntime,
        config: &NodeConfig,
        addr: SocketAddr,
        asked: &Rc<Notify>,
    ) -> Option<Life> {
        Some(server::life(runtime.clone(), config.clone(), addr, asked.clone()))
    }

    /// The relays look at the network themselves.
    fn set_link(&mut self, _from: MachineNo, _to: MachineNo, _passes: bool) {
        self.relays.links_changed();
    }

    fn set_extra_latency(&mut self, _a: MachineNo, _b: MachineNo, _us: u64) {}
}

/// What runs on a machine: of a client, a group of tasks; of a server, a task
/// that looks after its process.
#[derive(Clone)]
pub struct RealRuntime {
    process: Process,
    relays: Relays,
    /// Where servers keep their data.
    dir: Rc<Path>,
}

impl RealRuntime {
    /// Goes on also while the process is paused, and ends with it.
    fn spawn_beside(&self, task: impl Future<Output = ()> + 'static) {
        spawn_local(task);
    }
}

impl Runtime for RealRuntime {
    type Disk = SimDisk;
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;
    type Listener = NoListener;

    fn now(&self) -> Now {
        self.process.now()
    }

    fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static {
        self.process.sleep_until(until)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        spawn_local(self.process.task(task));
    }

    fn entropy(&self) -> u64 {
        self.process.entropy()
    }

    async fn listen(&self, _addr: SocketAddr) -> io::Result<NoListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn dial(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<(OwnedReadHalf, OwnedWriteHalf)>> + 'static {
        let (relays, no) = (self.relays.clone(), self.process.machine.no);
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
            relays.dials(socket.local_addr()?.port(), no);
            let stream = socket.connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(stream.into_split())
        }
    }
}

/// Clients listen to nobody.
pub enum NoListener {}

impl runtime::Listener<RealRuntime> for NoListener {
    async fn accept(&mut self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf, SocketAddr)> {
        match *self {}
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match *self {}
    }
}
