//! A machine and the processes that live on it, one after the other.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use stormglass_core::{
    broker::Broker,
    ids::Name,
    rng::Rng,
    time::{Now, Time},
};

use super::network::Network;
use crate::{
    clock::{self, NodeClock},
    disk::{DiskConfig, Drive, SimDisk, Timer},
    fault::Unsynced,
    history::Stop,
    logging,
};

/// The number of a machine, in the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineNo(pub usize);

thread_local! {
    static NETWORK: Cell<Ipv4Addr> = const { Cell::new(Ipv4Addr::new(192, 168, 0, 0)) };
}

/// The machines of this thread's run are elsewhere than simulated ones.
pub(super) fn set_network(network: Ipv4Addr) {
    NETWORK.set(network);
}

impl MachineNo {
    /// 192.168.0.1 for the first.
    pub fn ip(self) -> IpAddr {
        let n = self.0 as u32 + 1;
        IpAddr::V4(Ipv4Addr::from(u32::from(NETWORK.get()) + n))
    }

    pub fn of(ip: IpAddr) -> Option<MachineNo> {
        let IpAddr::V4(ip) = ip else { return None };
        let first = u32::from(NETWORK.get()) + 1;
        u32::from(ip).checked_sub(first).map(|n| MachineNo(n as usize))
    }
}

/// Whether something runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// The process was killed or ended by itself; the machine answers dials
    /// with a refusal.
    NoProcess,
    /// The machine has no power; nobody answers.
    NoPower,
}

/// Who is told what happens on a machine.
pub trait Watch {
    /// A process starts, the `life`th on this machine, from 1.
    fn started(&self, life: u32);

    /// Its process is gone, or its machine lost power with or without one.
    fn stopped(&self, why: Stop, drive: &Drive);

    /// A broker has handled a batch of inputs and not yet said what follows.
    fn observe(
        &self,
        _life: u32,
        _broker: &Broker<SimDisk>,
        _unsent: &dyn Fn() -> usize,
        _drive: &Drive,
    ) {
    }
}

/// What outlives the processes: name, address, disk, clocks.
pub struct Machine {
    pub no: MachineNo,
    pub name: Name,
    pub clock: RefCell<NodeClock>,
    pub drive: Drive,
    watch: Rc<dyn Watch>,
    pub(super) state: Cell<State>,
    stopped: Cell<Option<Stop>>,
    seed: u64,
    lives: Cell<u32>,
    paused: Cell<bool>,
    /// Tasks that wanted to run while the process was paused.
    parked: RefCell<Vec<Waker>>,
}

impl Machine {
    pub fn new(
        no: MachineNo,
        name: Name,
        seed: u64,
        disk: DiskConfig,
        watch: Rc<dyn Watch>,
    ) -> Rc<Machine> {
        let seed = Rng::new(seed ^ (no.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).next();
        Rc::new(Machine {
            no,
            name,
            clock: RefCell::default(),
            drive: Drive::new(seed, disk),
            watch,
            state: Cell::new(State::NoProcess),
            stopped: Cell::new(None),
            seed,
            lives: Cell::new(0),
            paused: Cell::new(false),
            parked: RefCell::default(),
        })
    }

    pub fn state(&self) -> State {
        self.state.get()
    }

    /// Why its last process is gone; none while one runs or if none ever did.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped.get()
    }

    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    pub(super) fn pause(&self) {
        self.paused.set(true);
    }

    pub(super) fn resume(&self) {
        self.paused.set(false);
        for task in self.parked.take() {
            task.wake();
        }
    }

    /// A new process; it draws other numbers than those before it.
    pub(super) fn start(self: &Rc<Machine>, network: Network, time: Rc<dyn Timer>) -> Process {
        let life = self.lives.get() + 1;
        self.lives.set(life);
        self.state.set(State::Running);
        self.stopped.set(None);
        network.set_process(self.no, true);
        self.watch.started(life);
        let entropy = Rng::new(Rng::new(self.seed.wrapping_add(u64::from(life))).next());
        let entropy = Rc::new(RefCell::new(entropy));
        Process { machine: self.clone(), network, time, life, entropy }
    }

    /// Its process is gone. False if there was none.
    pub(super) fn stop(&self, why: Stop) -> bool {
        let ran = self.state.get() == State::Running;
        if ran {
            self.drive.detach();
            self.is_down(State::NoProcess, why);
        }
        ran
    }

    /// The machine is off. False if no process ran.
    pub(super) fn lose_power(&self, unsynced: Unsynced) -> bool {
        let ran = self.state.get() == State::Running;
        self.drive.power_loss(unsynced);
        self.is_down(State::NoPower, Stop::PowerLost);
        ran
    }

    fn is_down(&self, state: State, why: Stop) {
        self.state.set(state);
        self.stopped.set(Some(why));
        self.watch.stopped(why, &self.drive);
    }
}

/// A process on a machine: what both worlds' runtimes are made of. Clones are
/// handles to the same process.
#[derive(Clone)]
pub struct Process {
    pub machine: Rc<Machine>,
    pub network: Network,
    pub time: Rc<dyn Timer>,
    life: u32,
    entropy: Rc<RefCell<Rng>>,
}

impl Process {
    pub fn now(&self) -> Now {
        self.machine.clock.borrow().now(self.time.now_us())
    }

    pub fn entropy(&self) -> u64 {
        self.entropy.borrow_mut().next()
    }

    /// Whether this process is the one that runs on its machine.
    pub fn is_alive(&self) -> bool {
        self.machine.state() == State::Running && self.machine.lives.get() == self.life
    }

    /// Ends by itself.
    pub(super) fn exit(&self, why: Stop) {
        if self.is_alive() && self.machine.stop(why) {
            self.network.set_process(self.machine.no, false);
        }
    }

    /// Resolves once the node's monotonic clock shows `until`, whatever happens
    /// to its drift meanwhile.
    pub fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static {
        let (machine, time) = (self.machine.clone(), self.time.clone());
        async move {
            if until == Time::MAX {
                return std::future::pending().await;
            }
            loop {
                let now = time.now_us();
                let when = machine.clock.borrow().when(until);
                if when <= now {
                    return;
                }
                time.sleep_us(when - now).await;
            }
        }
    }

    pub fn observe(&self, broker: &Broker<SimDisk>, unsent: &dyn Fn() -> usize) {
        self.machine.watch.observe(self.life, broker, unsent, &self.machine.drive);
    }

    /// A task of this process: it runs only while the process does.
    pub fn task<F>(&self, inner: F) -> Task<F> {
        Task { process: self.clone(), parked: false, inner: Box::pin(inner) }
    }
}

/// See [`Process::task`].
pub struct Task<F> {
    process: Process,
    parked: bool,
    inner: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        let machine = &self.process.machine;
        if machine.is_paused() {
            if !self.parked {
                machine.parked.borrow_mut().push(cx.waker().clone());
                self.parked = true;
            }
            return Poll::Pending;
        }
        clock::set_true_now_us(self.process.time.now_us());
        logging::on_node(&machine.name);
        self.parked = false;
        self.inner.as_mut().poll(cx)
    }
}
