//! A group on test disks, driven by a queue of events: a network that drops,
//! delays, repeats and reorders, disks that lose what was not synced, clocks
//! that run at different speeds. It checks at every step what must always hold.

mod judging;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    super::*,
    folding::{Folding, Taking},
};
use crate::{
    ids::{LogIndex, NodeId},
    log::{
        Kind,
        test_disk::{TestDisk, TestSync},
    },
    peer::{Message, codec::Session, handshake},
    rng::Rng,
};

pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(200);

enum Event {
    Deliver(Box<Message>),
    /// A sync of this node's life ends.
    Synced {
        node: usize,
        life: u64,
        failed: bool,
    },
    Wake {
        node: usize,
        life: u64,
    },
}

pub struct Node {
    disk: Option<TestDisk>,
    pub member: Option<Member<TestDisk>>,
    sync: Option<(SyncTicket, TestSync)>,
    /// Counts starts of the process.
    life: u64,
    wakes_at: Time,
    /// This node's clock runs so much faster, in parts of a thousand.
    drift: i64,
    /// Everything before this was compared with what the others committed.
    checked: Position,
    proposed: Vec<(Place, u64)>,
    founding: bool,
    folding: Folding,
    taking: Taking,
    /// How often its log was given up or filled.
    pub replaced: u64,
}

/// What the network does to messages.
#[derive(Clone, Copy)]
pub struct Weather {
    pub drop: f64,
    pub repeat: f64,
    pub latency: Duration,
}

pub const FAIR: Weather = Weather { drop: 0.0, repeat: 0.0, latency: Duration::from_millis(2) };
pub const FOUL: Weather = Weather { drop: 0.05, repeat: 0.05, latency: Duration::from_millis(30) };

#[derive(PartialEq, Eq)]
struct Committed {
    term: Term,
    kind: Kind,
    start: Position,
    parts: Vec<Bytes>,
}

/// The addresses of a group of so many. Nobody dials them.
pub fn peers(size: usize) -> BTreeMap<NodeId, SocketAddr> {
    (0..size).map(id_of).map(|id| (id, address(id))).collect()
}

pub fn id_of(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn address(id: NodeId) -> SocketAddr {
    ([127, 0, 0, 1], id.0 as u16).into()
}

impl Node {
    fn new(founding: bool, rng: &mut Rng) -> Node {
        Node {
            disk: Some(TestDisk::default()),
            member: None,
            sync: None,
            life: 0,
            wakes_at: Time::MAX,
            drift: rng.below(41) as i64 - 20,
            checked: Position(0),
            proposed: Vec::new(),
            founding,
            folding: Folding::default(),
            taking: Taking::Idle,
            replaced: 0,
        }
    }
}

pub struct Cluster {
    pub now: Time,
    pub rng: Rng,
    pub nodes: Vec<Node>,
    pub weather: Weather,
    flush: Flush,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    /// Messages between these do not arrive: (from, to).
    pub cut: Vec<(usize, usize)>,
    leaders: BTreeMap<Term, NodeId>,
    founders: usize,
    /// Power was lost under async flush: what was acknowledged may give way to
    /// what a new leader commits.
    pub may_lose: bool,
    /// What any replica committed, by index from 1.
    committed: Vec<Committed>,
    /// What folding all of it up to an index gives.
    digests: BTreeMap<LogIndex, u64>,
    next_id: u64,
    /// Ids of proposals that were acknowledged, with their index.
    pub acked: BTreeMap<u64, LogIndex>,
}

impl Cluster {
    pub fn new(seed: u64, size: usize, flush: Flush) -> Cluster {
        let mut rng = Rng::new(seed);
        let nodes = (0..size).map(|_| Node::new(true, &mut rng)).collect();
        let mut cluster = Cluster {
            now: Time(1_000_000),
            rng,
            nodes,
            weather: FAIR,
            flush,
            events: BTreeMap::new(),
            sequence: 0,
            cut: Vec::new(),
            leaders: BTreeMap::new(),
            founders: size,
            may_lose: false,
            committed: Vec::new(),
            digests: BTreeMap::new(),
            next_id: 0,
            acked: BTreeMap::new(),
        };
        (0..size).for_each(|node| cluster.start(node));
        cluster
    }

    pub fn start(&mut self, at: usize) {
        let peers = peers(self.founders);
        let node = &mut self.nodes[at];
        let set = ReplicaSet {
            id: NodeId(at as u64 + 1),
            peers,
            election_timeout: ELECTION_TIMEOUT,
            founding: node.founding,
        };
        let mut disk = node.disk.take().expect("only what is down starts");
        let log = LogConfig {
            segment_bytes: 16 << 10,
            spare_segments: 1,
            birth_id: self.rng.next(),
            ..LogConfig::default()
        };
        let seed = self.rng.next();
        let (folding, folded) = Folding::restore(&mut disk);
        let (member, found) = Member::open(disk, log, self.flush, folded, &set, seed).unwrap();
        node.folding = if found.base == folding.base { folding } else { Folding::default() };
        if let Some(known) = self.digests.get(&node.folding.base.index) {
            assert_eq!(node.folding.digest, *known, "a snapshot is what was committed");
        }
        node.taking = Taking::Idle;
        node.member = Some(member);
        node.founding = false;
        node.life += 1;
        node.wakes_at = Time::MAX;
        node.checked = found.base.position;
        self.advance(at);
    }

    /// Ends the process; its disk keeps what was written.
    pub fn kill(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(member) = node.member.take() {
            node.disk = Some(member.into_disk());
            node.sync = None;
            node.proposed.clear();
        }
    }

    /// Ends the process and takes what was not synced.
    pub fn cut_power(&mut self, at: usize) {
        self.kill(at);
        if let Some(disk) = &mut self.nodes[at].disk {
            disk.power_failure(&mut self.rng);
        }
    }

    /// The disk of a node that is down.
    pub fn disk(&mut self, at: usize) -> &mut TestDisk {
        self.nodes[at].disk.as_mut().expect("it is down")
    }

    /// A new disk in the place of the old one.
    pub fn replace_disk(&mut self, at: usize) {
        *self.disk(at) = TestDisk::default();
    }

    pub fn is_up(&self, at: usize) -> bool {
        self.nodes[at].member.is_some()
    }

    /// Cuts the group in two.
    pub fn isolate(&mut self, side: &[usize]) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if side.contains(&a) != side.contains(&b) {
                    self.cut.push((a, b));
                }
            }
        }
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.member.as_ref().is_some_and(|m| m.is_established());
        let leaders = (0..self.nodes.len()).filter(|at| leads(&self.nodes[*at]));
        leaders.max_by_key(|at| self.member(*at).term())
    }

    pub fn member(&self, at: usize) -> &Member<TestDisk> {
        self.nodes[at].member.as_ref().expect("it is up")
    }

    fn clock(&self, at: usize) -> Time {
        let drift = self.nodes[at].drift;
        Time((self.now.0 as i64 + self.now.0 as i64 * drift / 1000) as u64)
    }

    fn at(&mut self, time: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    /// A process ends when its log is replaced, and starts again at once.
    fn is_replaced(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut Member<TestDisk>) -> Result<(), StoreError>,
    ) -> bool {
        let Some(member) = &mut self.nodes[at].member else { return true };
        match what(member) {
            Ok(()) => return false,
            Err(StoreError::Replaced) => {}
            Err(error) => panic!("{error}"),
        }
        self.nodes[at].replaced += 1;
        self.kill(at);
        self.start(at);
        true
    }

    /// A new node that does not belong to the group yet.
    pub fn new_node(&mut self) -> usize {
        let node = Node::new(false, &mut self.rng);
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.start(at);
        at
    }

    /// Asks the leader for a change of members.
    pub fn change(&mut self, change: Change) -> Result<(), Refused> {
        let leader = self.leader().ok_or(Refused::NotLeader)?;
        let member = self.nodes[leader].member.as_mut().expect("it leads");
        let changed = member.change(change).unwrap();
        self.advance(leader);
        changed.map(drop)
    }

    pub fn add(&mut self, at: usize, replaces: Option<usize>) -> Result<(), Refused> {
        let (id, replaces) = (id_of(at), replaces.map(id_of));
        self.change(Change::Add { id, address: address(id), replaces })
    }

    /// Proposes a message to a node that thinks it leads.
    pub fn propose(&mut self, at: usize) -> Option<u64> {
        let id = self.next_id;
        let size = self.rng.below(600) as usize;
        let durable = self.rng.chance(0.1);
        let member = self.nodes[at].member.as_mut()?;
        let mut draft = Draft::default();
        draft.clear(Kind::Command);
        draft.part(|out| {
            out.extend_from_slice(&id.to_le_bytes());
            out.resize(out.len() + size, id as u8);
        });
        let needs = if durable { Needs::Durable } else { Needs::Flush };
        match member.propose(&mut draft, needs, |_, _| {}) {
            Ok(place) => {
                self.nodes[at].proposed.push((place, id));
                self.next_id += 1;
                Some(id)
            }
            Err(StoreError::NotLeader) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Proposes here and there until `until`.
    pub fn run_with_traffic(&mut self, until: Time) {
        while self.now < until {
            let at = self.rng.below(self.nodes.len() as u64) as usize;
            for _ in 0..self.rng.below(4) {
                self.propose(at);
            }
            if self.is_up(at) {
                self.advance(at);
            }
            let pause = Duration::from_micros(self.rng.below(8000));
            self.run_until((self.now + pause).min(until));
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    pub fn run_until(&mut self, until: Time) {
        while let Some((&(time, _), _)) = self.events.first_key_value()
            && time <= until
        {
            let ((time, _), event) = self.events.pop_first().expect("there is one");
            self.now = time;
            self.happen(event);
        }
        self.now = until;
    }

    /// Runs until `done`; panics if it takes too long.
    pub fn run_till(&mut self, what: &str, mut done: impl FnMut(&mut Cluster) -> bool) {
        let limit = self.now + Duration::from_secs(20);
        while !done(self) {
            assert!(self.now < limit, "after 20 s there is still no {what}:\n{}", self.states());
            self.run_for(Duration::from_millis(20));
        }
    }

    /// What each replica thinks, for whoever reads a failure.
    fn states(&self) -> String {
        let state = |node: &Node| match &node.member {
            None => "down\n".to_owned(),
            Some(member) => {
                let log = member.log();
                format!(
                    "{:?} in term {}: log to {} ({}), committed {}, distrusted {}, repairing {}, \
                     blank {}, members {:?}\n",
                    member.role(),
                    member.term(),
                    log.last_index(),
                    log.last_term(),
                    member.committed_index(),
                    log.is_distrusted(),
                    log.is_repairing(),
                    log.is_blank(),
                    member.configuration().seats,
                )
            }
        };
        self.nodes.iter().map(state).collect()
    }

    fn happen(&mut self, event: Event) {
        let at = match event {
            Event::Deliver(message) => {
                let (from, to) = (message.from.0 as usize - 1, message.to.0 as usize - 1);
                if self.cut.contains(&(from, to)) || to >= self.nodes.len() {
                    return;
                }
                let now = self.clock(to);
                if self.is_replaced(to, |member| member.receive(now, *message)) {
                    return;
                }
                to
            }
            Event::Synced { node, life, failed } => {
                if self.nodes[node].life != life || !self.is_up(node) {
                    return;
                }
                let now = self.clock(node);
                let (ticket, sync) = self.nodes[node].sync.take().expect("it was begun");
                let member = self.nodes[node].member.as_mut().expect("it is up");
                if failed {
                    // The process ends at once (L2).
                    let error = member.parts().1.fail(sync, &mut self.rng);
                    assert!(member.synced(now, ticket, Err(error)).is_err());
                    return self.kill(node);
                }
                let outcome = member.parts().1.finish(sync);
                member.synced(now, ticket, outcome).unwrap();
                member.prepare().unwrap();
                let Node { folding, taking, member, .. } = &mut self.nodes[node];
                let member = member.as_mut().expect("it is up");
                folding.synced(taking, member, ticket, &mut self.rng);
                node
            }
            Event::Wake { node, life } => {
                if self.nodes[node].life != life || self.nodes[node].wakes_at > self.now {
                    return;
                }
                self.nodes[node].wakes_at = Time::MAX;
                node
            }
        };
        if self.is_up(at) {
            self.advance(at);
        }
    }

    /// What a shell does after each batch of inputs.
    fn advance(&mut self, at: usize) {
        let now = self.clock(at);
        let life = self.nodes[at].life;
        if self.is_replaced(at, |member| member.write(now)) {
            return;
        }
        let node = &mut self.nodes[at];
        let member = node.member.as_mut().expect("it is up");
        let mut messages = Vec::new();
        while let Some(message) = member.poll_message() {
            messages.push(message);
        }
        let of_snapshot = node.folding.advance(&mut node.taking, member, now);
        if let Some(sync) = of_snapshot.or_else(|| member.begin_sync(now)) {
            self.nodes[at].sync = Some(sync);
            let takes = Duration::from_micros(100 + self.rng.below(3000));
            self.at(self.now + takes, Event::Synced { node: at, life, failed: false });
        }
        messages.into_iter().for_each(|message| self.send(message));
        let wake = self.member(at).deadline().unwrap_or(Time::MAX);
        let drift = self.nodes[at].drift;
        let wake = Time((wake.0.min(1 << 50) as i128 * 1000 / (1000 + drift) as i128) as u64 + 1);
        let wake = wake.max(self.now + Duration::from_micros(1));
        if wake < self.nodes[at].wakes_at {
            self.nodes[at].wakes_at = wake;
            self.at(wake, Event::Wake { node: at, life });
        }
        self.check(at);
    }

    fn send(&mut self, message: Message) {
        let message = through_the_codec(&message);
        let copies = if self.rng.chance(self.weather.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.chance(self.weather.drop) {
                continue;
            }
            let latency = self.weather.latency.as_micros() as u64;
            let takes = Duration::from_micros(50 + self.rng.below(latency));
            self.at(self.now + takes, Event::Deliver(Box::new(message.clone())));
        }
    }

    /// A sync that is running on this node fails when it ends.
    pub fn fail_sync(&mut self, at: usize) {
        let life = self.nodes[at].life;
        if self.nodes[at].sync.is_some() {
            self.happen(Event::Synced { node: at, life, failed: true });
        }
    }
}

/// Messages arrive as what a peer would decode.
fn through_the_codec(message: &Message) -> Message {
    let (mut sends, mut receives) = sessions();
    let mut bytes = Vec::new();
    sends.encode(message, false, &mut bytes);
    let mut buffer = BytesMut::from(&bytes.concat()[..]);
    let arrived = receives.decode(&mut buffer).unwrap().expect("all of it is there");
    assert_eq!(arrived.message, *message);
    arrived.message
}

fn sessions() -> (Session, Session) {
    (handshake::test_session(), handshake::test_session())
}
