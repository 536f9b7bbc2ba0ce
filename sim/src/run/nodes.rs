//! What the machines of a run are for: name servers, brokers, the clients of
//! the workload, and the people who look after them.

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, rc::Rc, time::Duration};

use stormglass_core::{
    broker::{BrokerConfig, CheckBack},
    ids::{Name, NodeId},
    log::LogConfig,
    replication::{Flush, ReplicaSet},
    runtime::Runtime,
    shell::{
        node::{Node, NodeConfig, NodeError},
        peers::PeerConfig,
    },
};
use stormglass_scenarios::{Flush as FlushMode, Role, Scenario};

use super::{
    bell::Bell,
    lookout::Lookout,
    micros,
    operators::{CLUSTER, Office},
};
use crate::{
    disk::{DiskConfig, Drive, SimDisk},
    history::{EventKind, Mark, Recorder, Stop},
    probe::{Probe, Set, Unwatched},
    workload::Workloads,
    world::{Cluster, Life, MachineNo, Program, Watch, World},
};

const BROKER_PORT: u16 = 10_911;
const NAMES_PORT: u16 = 9_876;
const PEERS_PORT: u16 = 10_912;

/// What the replicas of a run know, and nobody else.
const SECRET: &[u8] = b"known to every replica of the run";

/// Brokers take a snapshot once in so many segments: often enough that runs
/// restart from one, and that segments expire and are used again.
const SNAPSHOT_SEGMENTS: u64 = 4;

/// The machines of a run by what they are for.
#[derive(Default)]
pub struct Machines {
    pub name_servers: Vec<MachineNo>,
    pub brokers: Vec<MachineNo>,
    /// The brokers' replica sets, in the order of their numbers.
    pub sets: Vec<Rc<Set>>,
    /// Each with the time in milliseconds at which it starts.
    pub clients: Vec<(u64, MachineNo)>,
    pub admin: Vec<MachineNo>,
    /// Of the servers.
    pub bells: BTreeMap<Name, Bell>,
}

impl Machines {
    fn bell(&mut self, server: &Name) -> Bell {
        self.bells.entry(server.clone()).or_default().clone()
    }
}

/// Adds all machines; none is started.
pub fn add_all<W: World>(
    cluster: &mut Cluster<W>,
    scenario: &Scenario,
    recorder: &Recorder,
    clients: &Workloads,
) -> Machines {
    let name_servers = name_servers(scenario);
    let disk = DiskConfig {
        sync_us: micros(scenario.disk.sync_latency.min)..=micros(scenario.disk.sync_latency.max),
        capacity: scenario.disk.capacity,
    };
    let sets = scenario.sets();
    let mut machines = Machines {
        sets: sets.iter().map(|set| Rc::new(Set::new(recorder.clone(), set))).collect(),
        ..Machines::default()
    };
    for (index, node) in scenario.nodes().into_iter().enumerate() {
        let ip = MachineNo(index).ip();
        let name: Name = node.id.as_str().into();
        let set = sets.iter().position(|set| set.nodes().any(|id| *id == node.id));
        let probe = Rc::new(match set {
            Some(set) => Probe::of_broker(recorder.clone(), &name, machines.sets[set].clone()),
            None => Probe::new(recorder.clone(), &name),
        });
        match node.role {
            Role::NameServer => {
                let server = Server {
                    config: NodeConfig::name_server(),
                    addr: SocketAddr::new(ip, NAMES_PORT),
                    probe: probe.clone(),
                    founds: Cell::new(false),
                    bell: machines.bell(&name),
                };
                let program: Program<W::Runtime> =
                    Rc::new(move |rt, disk| server.life::<W>(rt, disk));
                let no = cluster.add(name, DiskConfig::default(), probe, program);
                machines.name_servers.push(no);
            }
            Role::Broker => {
                let addr = SocketAddr::new(ip, BROKER_PORT);
                let seat = Seat::of(scenario, &name);
                let server = Server {
                    config: broker(scenario, &seat, addr, name_servers.clone()),
                    addr,
                    probe: probe.clone(),
                    founds: Cell::new(seat.is_founder()),
                    bell: machines.bell(&name),
                };
                let program: Program<W::Runtime> =
                    Rc::new(move |rt, disk| server.life::<W>(rt, disk));
                let no = cluster.add(name, disk.clone(), probe, program);
                machines.brokers.push(no);
            }
            Role::Member { .. } => {
                let start_ms = node.start_at.as_millis() as u64;
                let watch = ClientWatch { name: name.clone(), probe, clients: clients.clone() };
                let (clients, node) = (clients.clone(), name.clone());
                let program: Program<W::Runtime> =
                    Rc::new(move |rt, _disk| Box::pin(clients.clone().run(rt, node.clone())));
                let no = cluster.add(name, DiskConfig::default(), Rc::new(watch), program);
                machines.clients.push((start_ms, no));
            }
        }
    }
    let office = Office {
        scenario: Rc::new(scenario.clone()),
        name_servers,
        recorder: recorder.clone(),
        sets: machines.sets.clone(),
    };
    let mut hire = |name: &str, program: Program<W::Runtime>| {
        cluster.add(name.into(), DiskConfig::default(), Rc::new(Unwatched), program)
    };
    let (setting_up, operating) = (office.clone(), office.clone());
    machines.admin =
        vec![hire("admin", Rc::new(move |rt, _disk| Box::pin(setting_up.clone().set_up(rt))))];
    let operator =
        hire("operator", Rc::new(move |rt, _disk| Box::pin(operating.clone().operate(rt))));
    machines.clients.push((0, operator));
    if !W::HAS_PROBE {
        let lookout = Lookout::new(scenario, office.name_servers.clone(), &machines.sets);
        let lookout = hire("lookout", Rc::new(move |rt, _disk| Box::pin(lookout.clone().look(rt))));
        machines.name_servers.push(lookout);
    }
    // Nobody starts it before all that is down is started again.
    hire("auditor", Rc::new(move |rt, _disk| Box::pin(office.clone().audit(rt))));
    machines
}

/// What a probe would tell of the topics that were created.
pub fn tell_topics(scenario: &Scenario, recorder: &Recorder) {
    for set in scenario.sets() {
        let lane = recorder.name(|names| names.lane(&set.name));
        for topic in &scenario.cluster.topics {
            let name = recorder.name(|names| names.topic(&topic.name));
            recorder.push(lane, EventKind::TopicSized { topic: name, queues: topic.queues });
        }
    }
}

/// Where clients find the brokers of a scenario.
pub fn brokers(scenario: &Scenario) -> Vec<(Name, SocketAddr)> {
    let nodes = scenario.nodes().into_iter().enumerate();
    nodes
        .filter(|(_, node)| node.role == Role::Broker)
        .map(|(index, node)| {
            let addr = SocketAddr::new(MachineNo(index).ip(), BROKER_PORT);
            (node.id.as_str().into(), addr)
        })
        .collect()
}

/// Where the name servers of a scenario are.
pub fn name_servers(scenario: &Scenario) -> Vec<SocketAddr> {
    let nodes = scenario.nodes();
    (0..nodes.len())
        .filter(|index| nodes[*index].role == Role::NameServer)
        .map(|index| SocketAddr::new(MachineNo(index).ip(), NAMES_PORT))
        .collect()
}

/// A broker's place in its replica set.
struct Seat {
    set: stormglass_scenarios::ReplicaSet,
    id: NodeId,
    /// Where replicas listen for each other: all that it needs to know.
    addresses: BTreeMap<NodeId, SocketAddr>,
}

/// Where the replicas of a set listen for each other, and where those would that
/// may join it.
pub fn peer_addresses(
    scenario: &Scenario,
    set: &stormglass_scenarios::ReplicaSet,
) -> BTreeMap<NodeId, SocketAddr> {
    let nodes = scenario.nodes();
    let address = |replica: &String| {
        let machine = nodes.iter().position(|node| node.id == *replica);
        let ip = MachineNo(machine.expect("brokers are nodes")).ip();
        SocketAddr::new(ip, PEERS_PORT)
    };
    (1..).map(NodeId).zip(set.nodes().map(address)).collect()
}

impl Seat {
    fn of(scenario: &Scenario, broker: &str) -> Seat {
        let mut sets = scenario.sets().into_iter();
        let found = sets.find_map(|set| {
            let at = set.nodes().position(|id| id == broker)?;
            Some((NodeId(at as u64 + 1), set))
        });
        let (id, set) = found.expect("every broker has a seat at a set");
        let mut seat = Seat { addresses: peer_addresses(scenario, &set), id, set };
        if seat.is_founder() {
            let founders = seat.set.brokers.len() as u64;
            seat.addresses.retain(|seat, _| seat.0 <= founders);
        }
        seat
    }

    fn is_founder(&self) -> bool {
        self.id.0 <= self.set.brokers.len() as u64
    }

    fn replica_set(&self, election_timeout: Duration) -> Option<ReplicaSet> {
        let (id, peers) = (self.id, self.addresses.clone());
        let is_alone = peers.len() == 1;
        (!is_alone).then_some(ReplicaSet { id, peers, election_timeout, founding: true })
    }

    fn peers(&self) -> PeerConfig {
        PeerConfig { listen: self.addresses[&self.id], secret: SECRET.to_vec() }
    }
}

fn broker(
    scenario: &Scenario,
    seat: &Seat,
    addr: SocketAddr,
    name_servers: Vec<SocketAddr>,
) -> NodeConfig {
    let cluster = &scenario.cluster;
    let usual = BrokerConfig::new(addr);
    let config = NodeConfig::broker(BrokerConfig {
        name: seat.set.name.clone(),
        cluster: CLUSTER.to_owned(),
        name_servers,
        flush: match cluster.flush {
            FlushMode::Sync => Flush::Sync,
            FlushMode::Async => Flush::Async { interval: cluster.flush_interval },
        },
        snapshot_every: SNAPSHOT_SEGMENTS * cluster.segment_bytes,
        retain_bytes: cluster.retain_bytes,
        log: LogConfig { segment_bytes: cluster.segment_bytes, ..LogConfig::default() },
        retain_for: cluster.retain_for,
        far_behind: cluster.far_behind.unwrap_or(usual.far_behind),
        auto_create_topics: false,
        lock_lease: cluster.lock_lease,
        check_back: CheckBack {
            first: cluster.checks.after,
            every: cluster.checks.every,
            longest: cluster.checks.longest,
            at_most: cluster.checks.at_most,
            ..CheckBack::default()
        },
        replica_set: seat.replica_set(cluster.election_timeout),
        ..usual
    });
    let peers = (seat.addresses.len() > 1).then(|| seat.peers());
    NodeConfig { peers, ..config }
}

/// A name server or a broker.
struct Server {
    config: NodeConfig,
    addr: SocketAddr,
    probe: Rc<Probe>,
    /// Its replica set is new and it is one of the first members: never again
    /// after its first start.
    founds: Cell<bool>,
    bell: Bell,
}

impl Server {
    fn life<W: World>(&self, runtime: W::Runtime, disk: SimDisk) -> Life {
        let (mut config, addr, probe) = (self.config.clone(), self.addr, self.probe.clone());
        if let Some(set) = config.broker.as_mut().and_then(|broker| broker.replica_set.as_mut()) {
            set.founding = self.founds.replace(false);
        }
        let asked = self.bell.for_a_new_life();
        if let Some(process) = W::process(&runtime, &config, addr, &asked) {
            return process;
        }
        Box::pin(async move {
            let opened = Node::open(runtime.clone(), config, disk);
            let served = match (opened, runtime.listen(addr).await) {
                (Ok(node), Ok(listener)) => {
                    let stopper = node.stopper();
                    runtime.spawn(async move {
                        asked.notified().await;
                        stopper.stop().await;
                    });
                    node.serve(listener, || ()).await
                }
                (Ok(_), Err(error)) => Err(NodeError::Accept(error)),
                (Err(error), _) => Err(error),
            };
            let Err(error) = served else { return Stop::Graceful };
            tracing::warn!(%error, "gave up");
            match error {
                NodeError::Open(_) => probe.failed(Mark::RefusedStart),
                NodeError::Store(_) => probe.failed(Mark::StoreStopped),
                NodeError::Accept(_) => {}
            }
            Stop::GaveUp
        })
    }
}

/// Tells the workload when one of its processes is gone.
struct ClientWatch {
    name: Name,
    probe: Rc<Probe>,
    clients: Workloads,
}

impl Watch for ClientWatch {
    fn started(&self, life: u32) {
        self.probe.started(life);
    }

    fn stopped(&self, why: Stop, drive: &Drive) {
        self.probe.stopped(why, drive);
        self.clients.stopped(&self.name, why);
    }
}
