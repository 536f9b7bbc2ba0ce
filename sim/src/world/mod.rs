//! The worlds in which a cluster lives: one small trait that each simulator
//! implements, and on top of it what happens to machines and links, which is
//! the same in both.

#[cfg(not(madsim))]
compile_error!(
    "madsim simulates only under `--cfg madsim`, which .cargo/config.toml sets. A RUSTFLAGS \
     variable overrides that file: unset it, or add `--cfg madsim --cfg tokio_unstable` to it."
);
#[cfg(not(tokio_unstable))]
compile_error!(
    "turmoil seeds tokio only under `--cfg tokio_unstable`, which .cargo/config.toml sets. A \
     RUSTFLAGS variable overrides that file: unset it, or add `--cfg madsim --cfg tokio_unstable`."
);

mod machine;
mod network;
pub mod on_madsim;
pub mod on_real;
pub mod on_turmoil;
#[cfg(test)]
mod tests;

use std::{future::Future, net::SocketAddr, ops::RangeInclusive, pin::Pin, rc::Rc};

pub use machine::{Machine, MachineNo, Process, State, Watch};
pub use network::Network;
use stormglass_core::{ids::Name, runtime::Runtime, shell::node::NodeConfig};
use tokio::sync::Notify;

use crate::{
    disk::{DiskConfig, SimDisk, Timer},
    fault::Unsynced,
    history::Stop,
};

/// What a machine runs, from its start to its end; called anew for each process.
pub type Program<R> = Rc<dyn Fn(R, SimDisk) -> Life>;
/// A process; it ends by itself only with a reason.
pub type Life = Pin<Box<dyn Future<Output = Stop>>>;
type Running = Pin<Box<dyn Future<Output = ()>>>;

/// What both simulators are told about the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// How long a delivery takes, in microseconds. turmoil rounds to its ticks
    /// of a millisecond.
    pub latency_us: RangeInclusive<u64>,
}

/// A simulator, or the real thing. All calls come from the one loop that walks
/// the fault plan.
pub trait World {
    type Runtime: Runtime<Disk = SimDisk>;

    /// Whether a probe looks into the brokers.
    const HAS_PROBE: bool = true;

    /// True time in microseconds since the start of the run.
    fn time(&self) -> Rc<dyn Timer>;
    fn now_us(&self) -> u64;

    /// Lets the cluster live until this time.
    fn advance_to(&mut self, us: u64) -> impl Future<Output = ()>;

    /// A machine joins the network.
    fn add(&mut self, machine: &Rc<Machine>);

    /// Starts a process on a machine on which none runs.
    fn start(&mut self, process: Process, disk: SimDisk, program: &Program<Self::Runtime>);

    /// Runs a server as a process of its own, if this world does that. The
    /// process stops in order once it is `asked`.
    fn process(
        _runtime: &Self::Runtime,
        _config: &NodeConfig,
        _addr: SocketAddr,
        _asked: &Rc<Notify>,
    ) -> Option<Life> {
        None
    }

    /// Ends what runs on a machine, at once.
    fn stop(&mut self, machine: MachineNo);

    /// Stops a process of its own, or lets it go on.
    fn pause(&mut self, _machine: MachineNo, _is_paused: bool) {}

    /// Lets segments pass from one machine to another, or loses them.
    fn set_link(&mut self, from: MachineNo, to: MachineNo, passes: bool);

    /// Each delivery between two machines takes this much longer.
    fn set_extra_latency(&mut self, a: MachineNo, b: MachineNo, us: u64);
}

/// The machines of a run and what can happen to them.
pub struct Cluster<W: World> {
    pub world: W,
    network: Network,
    seed: u64,
    nodes: Vec<Node<W>>,
}

struct Node<W: World> {
    machine: Rc<Machine>,
    program: Program<W::Runtime>,
}

impl<W: World> Cluster<W> {
    pub fn new(world: W, seed: u64) -> Cluster<W> {
        Cluster { world, network: Network::default(), seed, nodes: Vec::new() }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn machine(&self, no: MachineNo) -> &Rc<Machine> {
        &self.nodes[no.0].machine
    }

    pub fn machines(&self) -> impl Iterator<Item = &Rc<Machine>> {
        self.nodes.iter().map(|node| &node.machine)
    }

    pub fn find(&self, name: &str) -> Option<MachineNo> {
        self.machines().find(|machine| *machine.name == *name).map(|machine| machine.no)
    }

    /// Adds a machine on which `program` will run.
    pub fn add(
        &mut self,
        name: Name,
        disk: DiskConfig,
        watch: Rc<dyn Watch>,
        program: Program<W::Runtime>,
    ) -> MachineNo {
        let no = MachineNo(self.nodes.len());
        let machine = Machine::new(no, name, self.seed, disk, watch);
        self.world.add(&machine);
        self.network.set_process(no, false);
        self.nodes.push(Node { machine, program });
        no
    }

    /// Starts a machine's program if none runs there. False if one does.
    pub fn start(&mut self, no: MachineNo) -> bool {
        let node = &self.nodes[no.0];
        match node.machine.state() {
            State::Running => return false,
            State::NoPower => {
                self.network.set_power(no, true);
                self.update_links();
            }
            State::NoProcess => {}
        }
        let node = &self.nodes[no.0];
        let time = self.world.time();
        let disk = node.machine.drive.attach(time.clone());
        let process = node.machine.start(self.network.clone(), time);
        self.world.start(process, disk, &node.program);
        true
    }

    /// The process dies; the machine's kernel closes its connections. False if
    /// there was none.
    pub fn kill(&mut self, no: MachineNo) -> bool {
        let machine = self.machine(no).clone();
        let ran = machine.state() == State::Running && machine.stop(Stop::Killed);
        if ran {
            machine.resume();
            self.network.set_process(no, false);
            self.world.stop(no);
        }
        ran
    }

    /// The machine goes silent; its unsynced pages are lost as `unsynced` says.
    /// False if it had no power.
    pub fn power_loss(&mut self, no: MachineNo, unsynced: Unsynced) -> bool {
        let machine = self.machine(no).clone();
        if machine.state() == State::NoPower {
            return false;
        }
        let ran = machine.lose_power(unsynced);
        self.network.set_power(no, false);
        self.update_links();
        machine.resume();
        if ran {
            self.world.stop(no);
        }
        true
    }

    /// The process stops running, its machine goes on. False if there is none.
    pub fn pause(&mut self, no: MachineNo) -> bool {
        let runs = self.machine(no).state() == State::Running;
        if runs {
            self.machine(no).pause();
            self.world.pause(no, true);
        }
        runs
    }

    pub fn resume(&mut self, no: MachineNo) {
        self.machine(no).resume();
        self.world.pause(no, false);
    }

    /// Cuts all links from `a` to `b` and, unless `one_way`, back.
    pub fn partition(&mut self, a: &[MachineNo], b: &[MachineNo], one_way: bool) {
        for (from, to) in links(a, b, one_way) {
            self.network.cut(from, to);
        }
        self.update_links();
    }

    /// Undoes a partition with the same sides.
    pub fn heal(&mut self, a: &[MachineNo], b: &[MachineNo], one_way: bool) {
        for (from, to) in links(a, b, one_way) {
            self.network.uncut(from, to);
        }
        self.update_links();
    }

    pub fn set_extra_latency(&mut self, a: &[MachineNo], b: &[MachineNo], us: u64) {
        for (a, b) in links(a, b, true) {
            self.network.set_extra_latency(a, b, us);
            self.world.set_extra_latency(a, b, us);
        }
    }

    pub fn drop_connections(&mut self, a: &[MachineNo], b: &[MachineNo]) {
        for (a, b) in links(a, b, true) {
            self.network.reset(a, b);
        }
    }

    pub fn silence_connections(&mut self, a: &[MachineNo], b: &[MachineNo]) {
        for (a, b) in links(a, b, true) {
            self.network.silence(a, b);
        }
    }

    /// Undoes every fault that lasts: all links pass, clocks are right, disks
    /// work, nobody is paused. What was lost stays lost, what is down stays down.
    pub fn heal_all(&mut self) {
        self.network.uncut_all();
        for (a, b) in self.network.slow_links() {
            self.network.set_extra_latency(a, b, 0);
            self.world.set_extra_latency(a, b, 0);
        }
        self.update_links();
        let now = self.world.now_us();
        for no in (0..self.nodes.len()).map(MachineNo) {
            let machine = self.machine(no);
            machine.drive.repair();
            machine.clock.borrow_mut().correct(now);
            self.resume(no);
        }
    }

    /// Tells the simulator about links whose state has changed.
    fn update_links(&mut self) {
        for from in (0..self.nodes.len()).map(MachineNo) {
            for to in (0..self.nodes.len()).map(MachineNo).filter(|to| *to != from) {
                self.world.set_link(from, to, self.network.passes(from, to));
            }
        }
        self.network.break_silence();
    }
}

/// The one-way links between two sets of machines.
fn links(a: &[MachineNo], b: &[MachineNo], one_way: bool) -> Vec<(MachineNo, MachineNo)> {
    let pairs = a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
    if one_way { pairs.collect() } else { pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect() }
}
