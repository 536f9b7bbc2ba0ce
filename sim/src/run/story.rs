//! The course of a run: setup, the plan in virtual time, healing, rest.

use std::{collections::BTreeMap, rc::Rc};

use stormglass_core::ids::Name;
use stormglass_scenarios::Scenario;

use super::{
    bell::Bell,
    clocks::Clocks,
    micros,
    nodes::{self, Machines},
};
use crate::{
    clock::{self, SinceStart},
    fault::{Casting, Fault, Journal, Processes, Stage, TimedFault, apply, can_strike, plan::Plan},
    history::{EventKind, Recorder, Stop},
    oracle::Judge,
    probe::Set,
    workload::Workloads,
    world::{Cluster, MachineNo, State, World},
};

/// How often it is looked whether the servers are up, or everything has come to
/// rest, in microseconds.
const LOOK_EVERY_US: u64 = 100_000;

/// What was said last before all was quiet may still cause something.
const ECHO_US: u64 = 1_000_000;

/// Topics that cannot be created in this time are the scenario's trouble.
const SETUP_LIMIT_US: u64 = 10_000_000;

/// What is to be lived through.
pub struct Story<'a> {
    pub scenario: &'a Scenario,
    pub seed: u64,
    pub plan: &'a Plan,
    pub recorder: &'a Recorder,
}

/// What happens at a planned moment.
enum Step {
    Start(MachineNo),
    Strike(Fault),
    /// A fault that ends by itself ends.
    Ended(Fault),
}

impl Story<'_> {
    pub async fn live<W: World>(&self, world: W, judge: &mut Judge) {
        let mut cluster = Cluster::new(world, self.seed);
        let clients = Workloads::new(
            Rc::new(self.scenario.clone()),
            self.recorder.clone(),
            Rc::new(SinceStart(cluster.world.time())),
            nodes::name_servers(self.scenario),
        );
        let machines = nodes::add_all(&mut cluster, self.scenario, self.recorder, &clients);
        self.set_clocks(&cluster);
        let origin = self.set_up(&mut cluster, &machines).await;
        if !W::HAS_PROBE {
            nodes::tell_topics(self.scenario, self.recorder);
        }

        let mut journal = Journal::new(self.recorder.clone());
        let mut casting = Casting::new(self.seed);
        let mut clocks = Clocks::default();
        clocks.tell(&cluster, self.recorder);
        for (at_us, step) in self.agenda(&machines.clients) {
            cluster.world.advance_to(origin + at_us).await;
            match step {
                Step::Start(machine) => {
                    cluster.start(machine);
                }
                Step::Ended(fault) => journal.ended(&fault),
                Step::Strike(planned) => {
                    let stage = OnStage { cluster: &cluster, sets: &machines.sets };
                    let processes = Running { clients: &clients, bells: &machines.bells };
                    for fault in casting.cast(&planned, &stage) {
                        if can_strike(&cluster, &processes, &fault) {
                            journal.strikes(&fault, &planned);
                            apply(&mut cluster, &processes, &fault)
                                .unwrap_or_else(|unknown| panic!("{unknown}"));
                            journal.has_struck();
                        }
                    }
                }
            }
            clocks.tell(&cluster, self.recorder);
            self.recorder.read(|history| judge.follow(history));
        }
        cluster.world.advance_to(origin + micros(self.scenario.run_for)).await;

        self.heal(&mut cluster, &machines, &mut journal);
        clocks.tell(&cluster, self.recorder);
        clients.end_chaos();
        self.settle(&mut cluster, &clients, judge).await;
    }

    /// Starts the servers and has the topics created. Returns when, in the
    /// world's time, the run starts.
    async fn set_up<W: World>(&self, cluster: &mut Cluster<W>, machines: &Machines) -> u64 {
        clock::begin_setup();
        for servers in [&machines.name_servers, &machines.brokers, &machines.admin] {
            for machine in servers {
                cluster.start(*machine);
            }
            cluster.world.advance_to(cluster.world.now_us() + LOOK_EVERY_US).await;
        }
        let is_done = |cluster: &Cluster<W>| {
            machines.admin.iter().all(|no| cluster.machine(*no).stopped() == Some(Stop::Graceful))
        };
        while !is_done(cluster) && cluster.world.now_us() < SETUP_LIMIT_US {
            cluster.world.advance_to(cluster.world.now_us() + LOOK_EVERY_US).await;
        }
        clock::begin_run(cluster.world.now_us());
        cluster.world.now_us()
    }

    /// Clocks that are wrong from the start.
    fn set_clocks<W: World>(&self, cluster: &Cluster<W>) {
        for wrong in &self.scenario.clock {
            if let Some(no) = cluster.find(&wrong.node) {
                let mut clock = cluster.machine(no).clock.borrow_mut();
                clock.jump(wrong.offset_ms);
                clock.set_drift(0, wrong.drift_ppm);
            }
        }
    }

    /// Everything that is planned, with its time in microseconds, in order.
    fn agenda(&self, starts: &[(u64, MachineNo)]) -> Vec<(u64, Step)> {
        let mut agenda: Vec<(u64, Step)> =
            starts.iter().map(|(at_ms, no)| (at_ms * 1000, Step::Start(*no))).collect();
        for TimedFault { at_ms, fault } in &self.plan.faults {
            agenda.push((at_ms * 1000, Step::Strike(fault.clone())));
            if let Fault::ConsumerStall { for_ms, .. } = fault {
                agenda.push(((at_ms + for_ms) * 1000, Step::Ended(fault.clone())));
            }
        }
        agenda.retain(|(at_us, _)| *at_us <= micros(self.scenario.run_for));
        agenda.sort_by_key(|(at_us, _)| *at_us);
        agenda
    }

    /// Whatever the plan left behind ends, and whoever is down starts again.
    fn heal<W: World>(&self, cluster: &mut Cluster<W>, machines: &Machines, journal: &mut Journal) {
        cluster.heal_all();
        journal.healed();
        for no in (0..cluster.machines().count()).map(MachineNo) {
            let bell = machines.bells.get(&cluster.machine(no).name);
            if bell.is_some_and(Bell::has_rung) {
                cluster.kill(no);
            }
            if bell.is_some() || cluster.machine(no).stopped() != Some(Stop::Graceful) {
                cluster.start(no);
            }
        }
        let everywhere = self.recorder.name(|names| names.lane("net"));
        self.recorder.push(everywhere, EventKind::ChaosEnded);
    }

    /// Lives on until nothing is pending any more, or the time for it is over.
    async fn settle<W: World>(
        &self,
        cluster: &mut Cluster<W>,
        clients: &Workloads,
        judge: &mut Judge,
    ) {
        let end = cluster.world.now_us() + micros(self.scenario.settle);
        let mut pending_at = cluster.world.now_us();
        while cluster.world.now_us() < end {
            cluster.world.advance_to(cluster.world.now_us() + LOOK_EVERY_US).await;
            self.recorder.read(|history| judge.follow(history));
            let now = cluster.world.now_us();
            if !clients.are_at_rest(judge.facts()) {
                pending_at = now;
            } else if now - pending_at >= ECHO_US {
                let everywhere = self.recorder.name(|names| names.lane("net"));
                self.recorder.push(everywhere, EventKind::Quiesced);
                return;
            }
        }
    }
}

/// The brokers as they are when a fault strikes.
struct OnStage<'a, W: World> {
    cluster: &'a Cluster<W>,
    sets: &'a [Rc<Set>],
}

impl<W: World> Stage for OnStage<'_, W> {
    fn members(&self, set: usize) -> Vec<Name> {
        self.sets.get(set).map(|set| set.members()).unwrap_or_default()
    }

    fn leader(&self, set: usize) -> Option<Name> {
        self.sets.get(set)?.leader().cloned()
    }

    fn is_running(&self, node: &str) -> bool {
        let machine = self.cluster.find(node).map(|no| self.cluster.machine(no));
        machine.is_some_and(|machine| machine.state() == State::Running)
    }
}

/// What runs on the machines.
struct Running<'a> {
    clients: &'a Workloads,
    bells: &'a BTreeMap<Name, Bell>,
}

impl Processes for Running<'_> {
    fn stall(&self, node: &Name, for_ms: u64) {
        self.clients.stall(node, for_ms);
    }

    fn slow(&self, node: &Name, handling_ms: u64) {
        self.clients.slow(node, handling_ms);
    }

    fn stop(&self, node: &Name) {
        if let Some(bell) = self.bells.get(node) {
            bell.ring();
        }
    }

    fn is_stopping(&self, node: &Name) -> bool {
        self.bells.get(node).is_some_and(Bell::has_rung)
    }
}
