//! The cluster on turmoil: real tokio tasks, TCP with backpressure counted in
//! segments, and time in ticks of a millisecond.

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use stormglass_core::{
    broker::Broker,
    runtime::{self, Runtime},
    time::{Now, Time},
};
use turmoil::{
    Sim,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    Machine, MachineNo, NetConfig, Process, Program, Running, World,
    network::{Reader, Writer},
};
use crate::{
    clock,
    disk::{SimDisk, Timer},
};

/// A step of every machine, and the grain of the network's latencies. Steps are
/// most of what turmoil costs, and 2 ms would run 1.6 times as fast; but then
/// usual latencies fall into the same step, and seeds stop making a difference.
const TICK: Duration = Duration::from_millis(1);

/// Longer than any run; its own end is the scenario's business.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Segments that a connection holds before its writer has to wait.
const TCP_CAPACITY: usize = 256;

/// Runs `conduct` in a fresh world; the same seed gives the same run.
pub fn run<T>(seed: u64, net: &NetConfig, conduct: impl AsyncFnOnce(TurmoilWorld) -> T) -> T {
    let latency = Duration::from_micros(*net.latency_us.start())
        ..Duration::from_micros(*net.latency_us.end());
    let sim = turmoil::Builder::new()
        .epoch(SystemTime::UNIX_EPOCH)
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(FOREVER)
        .min_message_latency(latency.start)
        .max_message_latency(latency.end)
        .tcp_capacity(TCP_CAPACITY)
        .build();
    let world = TurmoilWorld { sim, latency, hosts: Vec::new(), ended: Rc::default() };
    // Nothing in there waits: `advance_to` steps the simulator itself.
    match pin!(conduct(world)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("only the simulated hosts may wait"),
    }
}

struct TurmoilTime;

impl Timer for TurmoilTime {
    fn now_us(&self) -> u64 {
        turmoil::sim_elapsed().map_or(0, |elapsed| elapsed.as_micros() as u64)
    }

    fn sleep_us(&self, us: u64) -> Running {
        Box::pin(tokio::time::sleep(Duration::from_micros(us)))
    }
}

pub struct TurmoilWorld {
    sim: Sim<'static>,
    latency: std::ops::Range<Duration>,
    hosts: Vec<Host>,
    /// Machines whose program has ended by itself.
    ended: Rc<RefCell<Vec<MachineNo>>>,
}

struct Host {
    /// What the host runs when it is started next.
    next: Rc<RefCell<Option<Running>>>,
    /// By machine, whether segments from this one are lost.
    cut: Vec<bool>,
}

impl World for TurmoilWorld {
    type Runtime = TurmoilRuntime;

    fn time(&self) -> Rc<dyn Timer> {
        Rc::new(TurmoilTime)
    }

    fn now_us(&self) -> u64 {
        self.sim.elapsed().as_micros() as u64
    }

    async fn advance_to(&mut self, us: u64) {
        while self.now_us() < us {
            self.sim.step().expect("hosts never end with an error, and time never runs out");
            for ended in self.ended.take() {
                self.stop(ended);
            }
        }
        clock::set_true_now_us(self.now_us());
    }

    fn add(&mut self, machine: &Rc<Machine>) {
        let next: Rc<RefCell<Option<Running>>> = Rc::default();
        self.hosts.push(Host { next: next.clone(), cut: Vec::new() });
        // A host runs at once; until it is started it has nothing to do.
        self.sim.host(machine.no.ip(), move || {
            let life = next.borrow_mut().take();
            async move {
                if let Some(life) = life {
                    life.await;
                }
                Ok(())
            }
        });
    }

    fn start(&mut self, process: Process, disk: SimDisk, program: &Program<TurmoilRuntime>) {
        let no = process.machine.no;
        let life = program(TurmoilRuntime { process: process.clone() }, disk);
        let ended = self.ended.clone();
        let task = process.clone().task(async move {
            let why = life.await;
            process.exit(why);
            ended.borrow_mut().push(no);
            // A host that has ended keeps its sockets; it is crashed instead.
            std::future::pending().await
        });
        *self.hosts[no.0].next.borrow_mut() = Some(Box::pin(task));
        self.sim.bounce(no.ip());
    }

    fn stop(&mut self, machine: MachineNo) {
        self.sim.crash(machine.ip());
    }

    fn set_link(&mut self, from: MachineNo, to: MachineNo, passes: bool) {
        let cut = &mut self.hosts[from.0].cut;
        if cut.len() <= to.0 {
            cut.resize(to.0 + 1, false);
        }
        match (std::mem::replace(&mut cut[to.0], !passes), passes) {
            (false, false) => self.sim.partition_oneway(from.ip(), to.ip()),
            (true, true) => self.sim.repair_oneway(from.ip(), to.ip()),
            _ => {}
        }
    }

    fn set_extra_latency(&mut self, a: MachineNo, b: MachineNo, us: u64) {
        let extra = Duration::from_micros(us);
        self.sim.set_link_latency(a.ip(), b.ip(), self.latency.start + extra);
        self.sim.set_link_max_message_latency(a.ip(), b.ip(), self.latency.end + extra);
    }
}

/// A process on a turmoil host.
#[derive(Clone)]
pub struct TurmoilRuntime {
    process: Process,
}

impl Runtime for TurmoilRuntime {
    type Disk = SimDisk;
    type Reader = Reader<OwnedReadHalf>;
    type Writer = Writer<OwnedWriteHalf>;
    type Listener = TurmoilListener;

    fn now(&self) -> Now {
        self.process.now()
    }

    fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static {
        self.process.sleep_until(until)
    }

    /// Local tasks are dropped in the order in which they were spawned; others
    /// in an order that depends on what the operating-system process did before.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(self.process.task(task));
    }

    fn entropy(&self) -> u64 {
        self.process.entropy()
    }

    /// turmoil binds only to all of a host's addresses, and it has but one.
    async fn listen(&self, addr: SocketAddr) -> io::Result<TurmoilListener> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, addr.port())).await?;
        let addr = SocketAddr::new(self.process.machine.no.ip(), listener.local_addr()?.port());
        Ok(TurmoilListener { process: self.process.clone(), addr, listener })
    }

    fn dial(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>> + 'static {
        let process = self.process.clone();
        async move {
            let local = process.machine.no;
            let peer = process.network.reach(local, addr.ip(), &*process.time).await?;
            Ok(split(&process, peer, TcpStream::connect(addr).await?))
        }
    }

    fn observe(&self, _now: Now, broker: &Broker<SimDisk>, unsent: &dyn Fn() -> usize) {
        self.process.observe(broker, unsent);
    }
}

pub struct TurmoilListener {
    process: Process,
    addr: SocketAddr,
    listener: TcpListener,
}

impl runtime::Listener<TurmoilRuntime> for TurmoilListener {
    async fn accept(
        &mut self,
    ) -> io::Result<(Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>, SocketAddr)> {
        let (stream, addr) = self.listener.accept().await?;
        let peer = MachineNo::of(addr.ip()).unwrap_or(self.process.machine.no);
        let (reader, writer) = split(&self.process, peer, stream);
        Ok((reader, writer, addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

fn split(
    process: &Process,
    peer: MachineNo,
    stream: TcpStream,
) -> (Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>) {
    let connection = process.network.connected(process.machine.no, peer);
    let (reader, writer) = stream.into_split();
    (Reader { connection: connection.clone(), inner: reader }, Writer { connection, inner: writer })
}
