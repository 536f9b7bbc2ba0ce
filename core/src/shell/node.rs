//! A node: its connections, and the broker, the name server or both behind
//! them. One loop owns the values; everything else only moves bytes.

mod tasks;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    connection::Outbox,
    peers::{PeerConfig, PeerEvent, Peers},
};
use crate::{
    broker::{Broker, BrokerConfig, Input, LEADER_ID, Output},
    error::StoreError,
    ids::ConnId,
    log::SyncTicket,
    nameserver::{self, NameServer, Registration},
    peer::handshake::Membership,
    runtime::Runtime,
    time::{Now, Time},
    wire::{Fields, Frame, code, frame::Packet},
};

/// Batches of frames that wait for the loop. With what a batch may hold this
/// bounds the memory of all that was read and not handled.
const EVENTS: usize = 256;
/// Events handled before what they want done is done.
const BATCH: usize = 128;

/// A connection that is silent for so long is closed (RocketMQ): after a power
/// failure of the other side nothing else tells that it is gone.
const IDLE: Duration = Duration::from_secs(120);
/// How often idle connections are looked for (RocketMQ).
const IDLE_SCAN: Duration = Duration::from_secs(10);

/// Which roles a node plays. At least one.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub broker: Option<BrokerConfig>,
    pub name_server: bool,
    /// How this node speaks with the other replicas of its broker's set, if it
    /// has one.
    pub peers: Option<PeerConfig>,
    /// Connections beyond this are closed at once.
    pub max_connections: usize,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig { broker: None, name_server: false, peers: None, max_connections: 10_000 }
    }
}

impl NodeConfig {
    /// A broker and a name server on one port.
    pub fn standalone(broker: BrokerConfig) -> NodeConfig {
        NodeConfig { broker: Some(broker), name_server: true, ..NodeConfig::default() }
    }

    /// A broker that registers with name servers elsewhere.
    pub fn broker(broker: BrokerConfig) -> NodeConfig {
        NodeConfig { broker: Some(broker), ..NodeConfig::default() }
    }

    pub fn name_server() -> NodeConfig {
        NodeConfig { name_server: true, ..NodeConfig::default() }
    }
}

/// Why a node ended.
#[derive(Debug)]
pub enum NodeError {
    Open(StoreError),
    Accept(io::Error),
    Store(StoreError),
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NodeError::Open(error) => write!(f, "cannot open the store: {error}"),
            NodeError::Accept(error) => write!(f, "cannot accept connections: {error}"),
            NodeError::Store(error) => write!(f, "the store failed: {error}"),
        }
    }
}

impl std::error::Error for NodeError {}

enum Event {
    Accepted { conn: ConnId, peer: SocketAddr, outbox: Outbox },
    Dialled { conn: ConnId, peer: SocketAddr, outbox: Outbox, name_server: usize },
    DialFailed { name_server: usize },
    AcceptFailed(io::Error),
    Frames { conn: ConnId, frames: Vec<Frame> },
    Closed { conn: ConnId },
    Synced { ticket: SyncTicket, result: io::Result<()> },
    Peer(PeerEvent),
    Stop,
}

/// Asks a running node to stop in order.
#[derive(Clone)]
pub struct Stopper(mpsc::Sender<Event>);

impl Stopper {
    pub async fn stop(&self) {
        // A node that is gone has stopped.
        let _ = self.0.send(Event::Stop).await;
    }
}

struct Connection {
    outbox: Outbox,
    heard: Time,
}

/// A node that is about to serve.
pub struct Node<R: Runtime> {
    runtime: R,
    config: NodeConfig,
    broker: Option<Broker<R::Disk>>,
    names: Option<NameServer>,
    peers: Option<Peers<R, Event>>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    connections: BTreeMap<ConnId, Connection>,
    idle_scan: Time,
    next_conn: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Runtime> Node<R> {
    /// Opens the disk. A node without the broker's role leaves it alone.
    pub fn open(runtime: R, config: NodeConfig, disk: R::Disk) -> Result<Node<R>, NodeError> {
        let broker = match &config.broker {
            Some(broker) => {
                let opened = Broker::open(broker.clone(), disk, runtime.entropy());
                Some(opened.map_err(NodeError::Open)?)
            }
            None => None,
        };
        Ok(Node::new(runtime, config, broker))
    }

    /// A name server alone: it needs no disk.
    pub fn of_name_server(runtime: R) -> Node<R> {
        Node::new(runtime, NodeConfig::name_server(), None)
    }

    fn new(runtime: R, config: NodeConfig, broker: Option<Broker<R::Disk>>) -> Node<R> {
        let now = runtime.now();
        let is_alone =
            |broker: &BrokerConfig| broker.name_servers.is_empty() && broker.replica_set.is_none();
        let is_embedded = config.broker.as_ref().is_some_and(is_alone);
        let names = config.name_server.then(|| NameServer::new(now, is_embedded));
        let (events, inbox) = mpsc::channel(EVENTS);
        Node {
            runtime,
            config,
            broker,
            names,
            peers: None,
            events,
            inbox,
            connections: BTreeMap::new(),
            idle_scan: now.mono + IDLE_SCAN,
            next_conn: Default::default(),
        }
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.events.clone())
    }

    /// Serves until it is stopped or its store fails. `ready` is called once
    /// the broker serves (at once for a mere name server).
    pub async fn serve(
        mut self,
        listener: R::Listener,
        ready: impl FnOnce(),
    ) -> Result<(), NodeError> {
        self.spawn_accept(listener);
        self.start_peers().await?;
        let mut ready = Some(ready);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let now = self.runtime.now();
            for event in batch.drain(..) {
                if let Some(ended) = self.event(now, event) {
                    return ended;
                }
            }
            if let Some(ended) = self.advance(now, &mut ready) {
                return ended;
            }
            let deadline = self.deadline();
            wait(&self.runtime, &mut self.inbox, deadline, &mut batch).await;
        }
    }

    async fn start_peers(&mut self) -> Result<(), NodeError> {
        let (Some(peers), Some(broker)) = (&self.config.peers, &self.config.broker) else {
            return Ok(());
        };
        let Some(set) = &broker.replica_set else { return Ok(()) };
        let membership = Membership {
            group: format!("{}/{}", broker.cluster, broker.name),
            secret: peers.secret.clone(),
            segment_bytes: broker.log.segment_bytes,
        };
        let (runtime, events) = (&self.runtime, &self.events);
        let started = Peers::start(runtime, set.id, peers, membership, events, Event::Peer).await;
        let mut started = started.map_err(NodeError::Accept)?;
        started.follow(&set.peers);
        self.peers = Some(started);
        Ok(())
    }

    fn event(&mut self, now: Now, event: Event) -> Option<Result<(), NodeError>> {
        match event {
            Event::Accepted { conn, peer, outbox } => {
                if self.connections.len() >= self.config.max_connections {
                    outbox.close();
                    return None;
                }
                self.connections.insert(conn, Connection { outbox, heard: now.mono });
                self.input(now, Input::Connected { conn, peer, name_server: None });
            }
            Event::Dialled { conn, peer, outbox, name_server } => {
                self.connections.insert(conn, Connection { outbox, heard: now.mono });
                let name_server = Some(name_server);
                self.input(now, Input::Connected { conn, peer, name_server });
            }
            Event::DialFailed { name_server } => self.input(now, Input::DialFailed { name_server }),
            Event::AcceptFailed(error) => return Some(Err(NodeError::Accept(error))),
            Event::Frames { conn, frames } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.heard = now.mono;
                }
                frames.into_iter().for_each(|frame| self.frame(now, conn, frame));
            }
            Event::Closed { conn } => {
                if self.connections.remove(&conn).is_some() {
                    self.closed(now, conn);
                }
            }
            Event::Synced { ticket, result } => self.input(now, Input::Synced { ticket, result }),
            Event::Peer(PeerEvent::Message(message)) => self.input(now, Input::Peer(message)),
            Event::Peer(PeerEvent::Lost(peer)) => self.input(now, Input::PeerLost(peer)),
            Event::Stop if self.broker.is_none() => return Some(Ok(())),
            Event::Stop => self.input(now, Input::Stop),
        }
        None
    }

    fn input(&mut self, now: Now, input: Input) {
        if let Some(broker) = &mut self.broker {
            broker.handle(now, input);
        }
    }

    fn frame(&mut self, now: Now, conn: ConnId, frame: Frame) {
        let is_for_names = !frame.is_response() && nameserver::serves(frame.code);
        match (&mut self.names, &mut self.broker) {
            (Some(names), _) if is_for_names => {
                names.frame(now, conn, &frame);
            }
            (_, Some(broker)) => broker.handle(now, Input::Frame { conn, frame }),
            (Some(names), None) => names.frame(now, conn, &frame),
            (None, None) => {
                let remark = "this node has no role that serves this request";
                let packet = frame.reply_to().answer(
                    code::REQUEST_CODE_NOT_SUPPORTED,
                    remark,
                    Fields::default(),
                    Vec::new(),
                );
                self.send(conn, packet);
            }
        }
    }

    /// Lets the values do what is due, and does what they want done.
    fn advance(
        &mut self,
        now: Now,
        ready: &mut Option<impl FnOnce()>,
    ) -> Option<Result<(), NodeError>> {
        if self.broker.is_none()
            && let Some(ready) = ready.take()
        {
            ready();
        }
        self.close_idle(now);
        let mut ended = None;
        if let Some(broker) = &mut self.broker {
            broker.advance(now);
            let connections = &self.connections;
            let unsent = || connections.values().map(|known| known.outbox.queued()).sum();
            self.runtime.observe(now, broker, &unsent);
        }
        while let Some(output) = self.broker.as_mut().and_then(Broker::poll_output) {
            match output {
                Output::Send { conn, packet } => self.send(conn, packet),
                Output::Close { conn } => self.close(now, conn),
                Output::Sync { ticket, done } => self.spawn_sync(ticket, done),
                Output::Dial { name_server, addr } => self.spawn_dial(name_server, addr),
                Output::Registered => {
                    self.register_local(now);
                    if self.leads()
                        && let Some(ready) = ready.take()
                    {
                        ready();
                    }
                }
                Output::Peer(message) => {
                    if let Some(peers) = &self.peers {
                        peers.send(now.mono, &message);
                    }
                }
                Output::Peers(addresses) => {
                    if let Some(peers) = &mut self.peers {
                        peers.follow(&addresses);
                    }
                }
                Output::Stopped => ended = Some(Ok(())),
                Output::Failed(StoreError::NotLeader | StoreError::Replaced) => {
                    if let Err(error) = self.reopen_broker(now) {
                        ended = Some(Err(NodeError::Open(error)));
                    }
                }
                Output::Failed(error) => ended = Some(Err(NodeError::Store(error))),
            }
        }
        if let Some(names) = &mut self.names {
            names.advance(now);
            while let Some((conn, packet)) = self.names.as_mut().and_then(NameServer::poll_output) {
                self.send(conn, packet);
            }
        }
        if ended.is_some() {
            self.connections.values().for_each(|connection| connection.outbox.close());
        }
        ended
    }

    /// Another replica leads, or the log was replaced: what this broker believed
    /// beyond its disk is void.
    fn reopen_broker(&mut self, now: Now) -> Result<(), StoreError> {
        if let Some(names) = &mut self.names {
            names.unregister_local(now);
        }
        if let (Some(broker), Some(config)) = (self.broker.take(), &self.config.broker) {
            let disk = broker.into_disk();
            self.broker = Some(Broker::open(config.clone(), disk, self.runtime.entropy())?);
        }
        Ok(())
    }

    fn leads(&self) -> bool {
        let role = self.broker.as_ref().and_then(Broker::role);
        role.is_some_and(|role| role.broker_id == LEADER_ID)
    }

    fn register_local(&mut self, now: Now) {
        let (Some(names), Some(broker), Some(config)) =
            (&mut self.names, &self.broker, &self.config.broker)
        else {
            return;
        };
        let Some(role) = broker.role() else { return };
        let addr = config.host.to_string();
        let said = Registration {
            cluster: &config.cluster,
            name: &config.name,
            addr: &addr,
            role,
            conn: None,
            topics: nameserver::by_name(broker.registration()),
        };
        names.register_local(now, said);
    }

    fn deadline(&self) -> Time {
        let broker = self.broker.as_ref().map_or(Time::MAX, Broker::deadline);
        let names = self.names.as_ref().map_or(Time::MAX, NameServer::deadline);
        broker.min(names).min(self.idle_scan)
    }

    fn send(&mut self, conn: ConnId, packet: Packet) {
        if let Some(connection) = self.connections.get(&conn) {
            connection.outbox.send(packet);
        }
    }

    fn close(&mut self, now: Now, conn: ConnId) {
        if let Some(connection) = self.connections.remove(&conn) {
            connection.outbox.close();
            self.closed(now, conn);
        }
    }

    fn closed(&mut self, now: Now, conn: ConnId) {
        if let Some(names) = &mut self.names {
            names.closed(now, conn);
        }
        self.input(now, Input::Closed { conn });
    }

    fn close_idle(&mut self, now: Now) {
        if now.mono < self.idle_scan {
            return;
        }
        self.idle_scan = now.mono + IDLE_SCAN;
        let is_idle = |connection: &Connection| now.mono.since(connection.heard) > IDLE;
        let idle = self.connections.iter().filter(|(_, connection)| is_idle(connection));
        let idle: Vec<ConnId> = idle.map(|(conn, _)| *conn).collect();
        idle.into_iter().for_each(|conn| self.close(now, conn));
    }
}

/// Waits for events, or for the deadline. Events win, in the order in which
/// they came.
async fn wait<R: Runtime>(
    runtime: &R,
    inbox: &mut mpsc::Receiver<Event>,
    deadline: Time,
    batch: &mut Vec<Event>,
) {
    let mut timer = pin!(runtime.sleep_until(deadline));
    poll_fn(|cx| {
        if inbox.poll_recv_many(cx, batch, BATCH).is_ready() {
            return Poll::Ready(());
        }
        timer.as_mut().poll(cx)
    })
    .await;
}
