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
pub mod on_turmoil;
#[cfg(test)]
mod tests;

use std::{future::Future, ops::RangeInclusive, pin::Pin, rc::Rc};

pub use machine::{Machine, MachineNo, Observer, Process, State};
pub use network::Network;
use stormglass_core::{ids::Name, runtime::Runtime};

use crate::{
    disk::{DiskConfig, SimDisk, Timer},
    fault::Unsynced,
};

/// What a machine runs, from its start to its end; called anew for each process.
pub type Program<R> = Rc<dyn Fn(R, SimDisk) -> Running>;
pub type Running = Pin<Box<dyn Future<Output = ()>>>;

/// What both simulators are told about the network.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// How long a delivery takes, in microseconds. turmoil rounds to its ticks
    /// of a millisecond.
    pub latency_us: RangeInclusive<u64>,
}

/// A simulator. All calls come from the one loop that walks the fault plan.
pub trait World {
    type Runtime: Runtime<Disk = SimDisk>;

    /// True time in microseconds since the start of the run.
    fn time(&self) -> Rc<dyn Timer>;
    fn now_us(&self) -> u64;

    /// Lets the cluster live until this time.
    fn advance_to(&mut self, us: u64) -> impl Future<Output = ()>;

    /// A machine joins the network.
    fn add(&mut self, machine: &Rc<Machine>);

    /// Starts a process on a machine on which none runs.
    fn start(&mut self, process: Process, disk: SimDisk, program: &Program<Self::Runtime>);

    /// Ends what runs on a machine, at once.
    fn stop(&mut self, machine: MachineNo);

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

    /// Adds a machine and starts its program.
    pub fn add(
        &mut self,
        name: Name,
        disk: DiskConfig,
        observer: Option<Observer>,
        program: Program<W::Runtime>,
    ) -> MachineNo {
        let no = MachineNo(self.nodes.len());
        let machine = Machine::new(no, name, self.seed, disk, observer);
        self.world.add(&machine);
        self.nodes.push(Node { machine, program });
        self.start(no);
        no
    }

    fn start(&mut self, no: MachineNo) {
        let node = &self.nodes[no.0];
        let time = self.world.time();
        let disk = node.machine.drive.attach(time.clone());
        let process = node.machine.start(self.network.clone(), time);
        self.world.start(process, disk, &node.program);
    }

    /// The process dies; the machine's kernel closes its connections.
    pub fn kill(&mut self, no: MachineNo) {
        let machine = self.machine(no).clone();
        if machine.state() == State::Running {
            machine.state.set(State::NoProcess);
            machine.drive.detach();
            machine.resume();
            self.network.set_process(no, false);
            self.world.stop(no);
        }
    }

    /// The machine goes silent; its unsynced pages are lost as `unsynced` says.
    pub fn power_loss(&mut self, no: MachineNo, unsynced: Unsynced) {
        let machine = self.machine(no).clone();
        if machine.state() == State::NoPower {
            return;
        }
        let ran = machine.state.replace(State::NoPower) == State::Running;
        machine.drive.power_loss(unsynced);
        self.network.set_power(no, false);
        self.update_links();
        machine.resume();
        if ran {
            self.world.stop(no);
        }
    }

    /// Starts a machine's program if none runs there.
    pub fn restart(&mut self, no: MachineNo) {
        let state = self.machine(no).state();
        if state == State::Running {
            return;
        }
        if state == State::NoPower {
            self.network.set_power(no, true);
            self.update_links();
        }
        self.start(no);
    }

    pub fn pause(&mut self, no: MachineNo) {
        if self.machine(no).state() == State::Running {
            self.machine(no).pause();
        }
    }

    pub fn resume(&mut self, no: MachineNo) {
        self.machine(no).resume();
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

    /// Undoes every fault that lasts: all machines run, all links pass, clocks
    /// are right, disks work. What was lost stays lost.
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
            machine.resume();
            self.restart(no);
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
