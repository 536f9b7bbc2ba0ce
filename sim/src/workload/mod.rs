//! The clients of a run. Each member of a workload lives on a machine of its
//! own, works through the client that users link, and records all it does and
//! sees in the history.

mod consume;
mod database;
mod draft;
mod member;
mod pace;
mod pop;
mod produce;
mod pull;
mod transact;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use stormglass_core::{
    client::{ClientConfig, MessageQueue},
    ids::Name,
    rng::Rng,
    runtime::Runtime,
    shell::client::{self, Client},
};
use stormglass_scenarios::{Role, Scenario, Workload, WorkloadKind};

use crate::{
    disk::Timer,
    history::{EventKind, FaultId, LaneId, MemberId, OpId, Recorder, Stop, Unanswered},
    oracle::Facts,
};
use database::{Database, Process};
use pace::Pacer;

pub use transact::group as producer_group;

/// All clients of one run. Clones are the same clients.
#[derive(Clone)]
pub struct Workloads(Rc<Shared>);

struct Shared {
    scenario: Rc<Scenario>,
    recorder: Recorder,
    time: Rc<dyn Timer>,
    name_servers: Vec<SocketAddr>,
    machines: BTreeMap<Name, Machine>,
    /// Of each producer group.
    databases: BTreeMap<String, Rc<Database>>,
    chaos_is_over: Cell<bool>,
}

/// What is known of a client's machine, over all its lives.
struct Machine {
    lane: LaneId,
    workload: usize,
    member: u32,
    start_at: Duration,
    incarnations: Cell<u32>,
    /// The membership of the consumer that runs there now.
    joined: Cell<Option<MemberId>>,
    /// A process runs there now, the so many-th.
    runs: Cell<bool>,
    lives: Cell<u32>,
    /// A producer there has work under way, or will have.
    produces: Cell<bool>,
    /// It sends more than usual.
    burst: Cell<Option<FaultId>>,
    /// Its sends without an outcome.
    open: RefCell<BTreeSet<OpId>>,
    pacer: Pacer,
    /// A broadcasting member's offsets, on its own disk.
    offsets: RefCell<BTreeMap<MessageQueue, i64>>,
}

impl Workloads {
    /// `time` is true time; members do not start or stop by their own clocks.
    pub fn new(
        scenario: Rc<Scenario>,
        recorder: Recorder,
        time: Rc<dyn Timer>,
        name_servers: Vec<SocketAddr>,
    ) -> Workloads {
        let members = scenario.nodes().into_iter().filter_map(|node| {
            let Role::Member { workload, member } = node.role else { return None };
            let machine = Machine {
                lane: recorder.name(|names| names.lane(&node.id)),
                workload,
                member,
                start_at: node.start_at,
                incarnations: Cell::new(0),
                joined: Cell::new(None),
                runs: Cell::new(false),
                lives: Cell::new(0),
                produces: Cell::new(false),
                burst: Cell::new(None),
                open: RefCell::default(),
                pacer: Pacer::default(),
                offsets: RefCell::default(),
            };
            Some((Name::from(node.id), machine))
        });
        let machines = members.collect();
        let groups = scenario.workloads.iter().filter_map(|workload| match &workload.kind {
            WorkloadKind::Transact(transact) => Some((transact::group(transact), Rc::default())),
            _ => None,
        });
        let databases = groups.collect();
        let chaos_is_over = Cell::new(false);
        Workloads(Rc::new(Shared {
            scenario,
            recorder,
            time,
            name_servers,
            machines,
            databases,
            chaos_is_over,
        }))
    }

    /// What runs on this machine, from the start of its process until the
    /// workload says that it stops.
    ///
    /// # Panics
    /// When no workload of the scenario has this node.
    pub async fn run<R: Runtime>(self, rt: R, node: Name) -> Stop {
        let scenario = self.0.scenario.clone();
        let workload = &scenario.workloads[self.0.machines[&*node].workload];
        let Some(stage) = Stage::enter(self.0, rt, node).await else {
            return Stop::Graceful;
        };
        match &workload.kind {
            WorkloadKind::Produce(produce) => {
                stage.machine().produces.set(true);
                produce::run(&stage, produce).await;
            }
            WorkloadKind::Consume(consume) => consume::run(&stage, consume).await,
            WorkloadKind::Pull(pull) => pull::run(&stage, pull, workload.members).await,
            WorkloadKind::Transact(transact) => {
                stage.machine().produces.set(true);
                transact::run(&stage, transact).await;
            }
            WorkloadKind::Pop(pop) => pop::run(&stage, pop).await,
        }
        stage.client.close().await;
        Stop::Graceful
    }

    /// To be told when a client's process is gone, however it went.
    pub fn stopped(&self, node: &str, why: Stop) {
        let Some(machine) = self.0.machines.get(node) else { return };
        machine.produces.set(false);
        machine.runs.set(false);
        let push = |kind| self.0.recorder.push(machine.lane, kind);
        if let Some(fault) = machine.burst.take() {
            push(EventKind::FaultHealed { fault });
        }
        for op in machine.open.take() {
            let (why, tries) = (Unanswered::ProducerGone, produce::MOST_TRIES);
            push(EventKind::SendUnknown { op, why, tries });
        }
        if let Some(member) = machine.joined.take() {
            machine.pacer.revive();
            push(match why {
                Stop::Graceful => EventKind::MemberStopped { member },
                _ => EventKind::MemberCrashed { member },
            });
        }
    }

    /// Producers stop; consumers go on with what is there.
    pub fn end_chaos(&self) {
        self.0.chaos_is_over.set(true);
    }

    /// Whether no producer will send any more, and by the facts of the history
    /// nobody waits for anything.
    pub fn are_at_rest(&self, facts: &Facts) -> bool {
        !self.0.machines.values().any(|machine| machine.produces.get()) && !facts.is_pending()
    }

    /// The handlers of this node do not return before `for_ms` have passed.
    pub fn stall(&self, node: &Name, for_ms: u64) {
        let Some(machine) = self.0.machines.get(node) else { return };
        machine.pacer.stall_until(self.0.time.now_us() + for_ms * 1000);
        self.0.tell_pace(machine);
    }

    /// The handlers of this node take so long for a message; 0 for as long as
    /// they normally do.
    pub fn slow(&self, node: &Name, handling_ms: u64) {
        let Some(machine) = self.0.machines.get(node) else { return };
        machine.pacer.slow(Duration::from_millis(handling_ms));
        self.0.tell_pace(machine);
    }
}

impl Shared {
    fn workload(&self, node: &Name) -> &Workload {
        &self.scenario.workloads[self.machines[node].workload]
    }

    /// Whether this member was to begin nothing new by now.
    fn is_over(&self, node: &Name) -> bool {
        let now = Duration::from_micros(self.time.now_us());
        let produces = self.workload(node).consumer_group().is_none();
        let chaos_is_over = self.chaos_is_over.get() || now >= self.scenario.run_for;
        (produces && chaos_is_over) || self.has_left(node)
    }

    /// Whether the file says that it is gone by now.
    fn has_left(&self, node: &Name) -> bool {
        let now = Duration::from_micros(self.time.now_us());
        self.workload(node).stop_at.is_some_and(|stop_at| now >= stop_at)
    }

    /// Whether it still runs, though it may not be well.
    fn is_alive(&self, process: Process) -> bool {
        let machine = self.machines.values().find(|machine| machine.lane == process.lane);
        machine.is_some_and(|m| m.runs.get() && m.lives.get() == process.life)
    }

    fn database(&self, group: &str) -> Rc<Database> {
        self.databases[group].clone()
    }

    /// Records a member's pace if it is another one than before.
    fn tell_pace(&self, machine: &Machine) {
        if let Some(member) = machine.joined.get()
            && let Some(pace) = machine.pacer.changed(self.time.now_us())
        {
            self.recorder.push(machine.lane, EventKind::MemberPaced { member, pace });
        }
    }
}

/// One process of a client.
#[derive(Clone)]
struct Stage<R> {
    shared: Rc<Shared>,
    rt: R,
    node: Name,
    client: Client,
}

impl<R: Runtime> Stage<R> {
    /// Waits for its time to start. None if its time is over.
    async fn enter(shared: Rc<Shared>, rt: R, node: Name) -> Option<Stage<R>> {
        let now = Duration::from_micros(shared.time.now_us());
        let wait = shared.machines[&node].start_at.saturating_sub(now);
        rt.sleep_until(rt.now().mono + wait).await;
        if shared.is_over(&node) {
            return None;
        }
        let mut config = ClientConfig::new(shared.name_servers.clone());
        config.client_id = Some(node.to_string());
        config.producer_group = match &shared.workload(&node).kind {
            WorkloadKind::Transact(transact) => transact::group(transact),
            _ => format!("{node}-group"),
        };
        // Topics are what the scenario says; nobody makes up another one.
        config.default_topic = None;
        config.send_retries = u32::from(produce::MOST_TRIES) - 1;
        config.idempotent = matches!(
            &shared.workload(&node).kind,
            WorkloadKind::Produce(produce) if produce.idempotent
        );
        let machine = &shared.machines[&node];
        machine.runs.set(true);
        machine.lives.set(machine.lives.get() + 1);
        let client = client::start(rt.clone(), config);
        Some(Stage { shared, rt, node, client })
    }

    fn machine(&self) -> &Machine {
        &self.shared.machines[&*self.node]
    }

    fn process(&self) -> Process {
        let machine = self.machine();
        Process { lane: machine.lane, life: machine.lives.get() }
    }

    fn push(&self, kind: EventKind) {
        self.shared.recorder.push(self.machine().lane, kind);
    }

    fn is_over(&self) -> bool {
        self.shared.is_over(&self.node)
    }

    fn has_left(&self) -> bool {
        self.shared.has_left(&self.node)
    }

    async fn sleep(&self, duration: Duration) {
        self.rt.sleep_until(self.rt.now().mono + duration).await;
    }

    /// The outcome of `work`; none if the member is to stop before it is there.
    async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        while !self.is_over() {
            if let Some(done) = race(work.as_mut(), self.sleep(GLANCE)).await {
                return Some(done);
            }
        }
        None
    }
}

/// How often a member that waits looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(200);

/// What `work` gives if it is done before `limit`. A select that looks at both
/// in a fixed order, so that the seed alone decides.
async fn race<T>(work: impl Future<Output = T>, limit: impl Future) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => limit.as_mut().poll(cx).map(|_| None),
    })
    .await
}

/// What `work` gives. Meanwhile `aside` goes on, and is always looked at first.
async fn beside<T>(aside: impl Future, work: impl Future<Output = T>) -> T {
    let (mut aside, mut work) = (pin!(aside), pin!(work));
    let mut is_over = false;
    poll_fn(|cx| {
        is_over = is_over || aside.as_mut().poll(cx).is_ready();
        work.as_mut().poll(cx)
    })
    .await
}

/// A length of time within a range of them.
fn draw(rng: &mut Rng, range: stormglass_scenarios::DurationRange) -> Duration {
    let spread = range.max.saturating_sub(range.min).as_micros() as u64;
    range.min + Duration::from_micros(rng.below(spread + 1))
}
