//! 103: tells every name server on another node that this broker is here, and
//! what it is to its replica set: at once after a change or a new connection,
//! and every 30 seconds.

use std::{collections::BTreeMap, time::Duration};

use super::{Broker, Output, Phase};
use crate::{
    ids::{ConnId, Term},
    runtime::Disk,
    time::{Now, Time},
    wire::{Frame, code, header::RegisterHeader, request},
};

/// RocketMQ's heartbeat to name servers.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Before a lost name server is dialled again.
const REDIAL: Duration = Duration::from_secs(1);
/// A registration that was not answered: the connection is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a broker is to its replica set, as name servers and clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerRole {
    /// [`LEADER_ID`], or a follower's number in its set.
    pub broker_id: i64,
    /// None of a broker that has no replicas.
    pub term: Option<Term>,
}

/// RocketMQ's id of a master.
pub const LEADER_ID: i64 = 0;

pub(super) struct Registration {
    servers: Vec<Server>,
    /// What was said last, or is about to be: the role, and which topics.
    said: Option<(BrokerRole, u64)>,
    opaque: i32,
}

struct Server {
    link: Link,
    /// When to dial, to register again, or to give up.
    due: Time,
    /// Something changed since what it has not answered yet.
    is_outdated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Dialling,
    Registering(ConnId),
    Registered(ConnId),
}

impl Registration {
    pub fn new(servers: usize) -> Registration {
        let servers = (0..servers).map(|_| Server::new(Link::Down, Time::ZERO)).collect();
        Registration { servers, said: None, opaque: 0 }
    }

    pub fn connected(&mut self, number: usize, conn: ConnId) {
        if let Some(server) = self.servers.get_mut(number) {
            *server = Server::new(Link::Registered(conn), Time::ZERO);
        }
    }

    pub fn disconnected(&mut self, number: usize, now: Time) {
        if let Some(server) = self.servers.get_mut(number) {
            *server = Server::new(Link::Down, now + REDIAL);
        }
    }

    pub fn closed(&mut self, conn: ConnId, now: Time) {
        for number in 0..self.servers.len() {
            if self.servers[number].conn() == Some(conn) {
                self.disconnected(number, now);
            }
        }
    }

    pub fn answered(&mut self, conn: ConnId, frame: &Frame) {
        // Who is fenced knows less than others: its own role will change soon.
        let is_answer = matches!(frame.code, code::SUCCESS | code::FENCED);
        for server in &mut self.servers {
            if server.link == Link::Registering(conn) && is_answer {
                server.link = Link::Registered(conn);
                if !std::mem::take(&mut server.is_outdated) {
                    server.due = server.due + (HEARTBEAT - ANSWER_WITHIN);
                } else {
                    server.due = Time::ZERO;
                }
            }
        }
    }

    /// Topics or the broker's role changed: register again at once.
    fn changed(&mut self) {
        for server in &mut self.servers {
            match server.link {
                Link::Registered(_) => server.due = Time::ZERO,
                Link::Registering(_) => server.is_outdated = true,
                Link::Down | Link::Dialling => {}
            }
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.servers.iter().filter(|server| server.link != Link::Dialling);
        waiting.map(|server| server.due).min()
    }
}

impl Server {
    fn new(link: Link, due: Time) -> Server {
        Server { link, due, is_outdated: false }
    }

    fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::Registering(conn) | Link::Registered(conn) => Some(conn),
            Link::Down | Link::Dialling => None,
        }
    }
}

impl<D: Disk> Broker<D> {
    /// What this broker is to its set; none as long as that is not known (N4).
    pub fn role(&self) -> Option<BrokerRole> {
        let Some(set) = &self.config.replica_set else {
            return self.is_serving().then_some(BrokerRole { broker_id: LEADER_ID, term: None });
        };
        match self.phase {
            Phase::Serving | Phase::Full => {
                let term = Some(self.serves_in);
                Some(BrokerRole { broker_id: LEADER_ID, term })
            }
            // Its log ends somewhere; nobody is to read there.
            Phase::Recovering if self.replica.is_removed() => None,
            Phase::Recovering if self.replica.leader().is_some() => {
                let term = Some(self.replica.term());
                Some(BrokerRole { broker_id: set.id.0 as i64, term })
            }
            // Between two leaders a follower remains one.
            Phase::Recovering | Phase::Starting => self.registration.said.map(|(role, _)| role),
            Phase::Stopping | Phase::Ended => None,
        }
    }

    /// Does what is due. A broker that does not know what it is connects, so that
    /// it can speak at once when it does, and stays silent.
    pub(super) fn register(&mut self, now: Now) {
        let role = self.role();
        let is_removed = self.replica.is_removed();
        if is_removed && self.registration.said.take().is_some() {
            self.registration.changed();
        }
        if let Some(said) = role.map(|role| (role, self.state.topics_version))
            && self.registration.said.replace(said) != Some(said)
        {
            self.registration.changed();
            self.outputs.push_back(Output::Registered);
        }
        let mut outgoing: BTreeMap<usize, ConnId> = BTreeMap::new();
        for (number, server) in self.registration.servers.iter_mut().enumerate() {
            if server.due > now.mono {
                continue;
            }
            match server.link {
                Link::Down if is_removed => server.due = now.mono + REDIAL,
                Link::Down => {
                    server.link = Link::Dialling;
                    let addr = self.config.name_servers[number];
                    self.outputs.push_back(Output::Dial { name_server: number, addr });
                }
                Link::Dialling => {}
                Link::Registered(_) if role.is_none() && !is_removed => {
                    server.due = now.mono + REDIAL;
                }
                Link::Registered(conn) if !is_removed => {
                    server.link = Link::Registering(conn);
                    server.due = now.mono + ANSWER_WITHIN;
                    outgoing.insert(number, conn);
                }
                // Silence: perhaps a partition swallowed the stream, and a new
                // connection finds out. Or this replica was removed: the name
                // server forgets who hangs up.
                Link::Registering(conn) | Link::Registered(conn) => {
                    *server = Server::new(Link::Down, now.mono + REDIAL);
                    self.sessions.close(conn);
                    self.outputs.push_back(Output::Close { conn });
                }
            }
        }
        let Some(role) = role.filter(|_| !outgoing.is_empty()) else { return };
        let host = self.config.host.to_string();
        let fields = RegisterHeader {
            broker_name: &self.config.name,
            broker_addr: &host,
            cluster_name: &self.config.cluster,
            ha_server_addr: Some(&host),
            broker_id: role.broker_id,
            term: role.term.map(|term| term.0),
            compressed: Some(false),
            body_crc32: Some(0),
        }
        .fields();
        let body = self.registration().to_bytes();
        for conn in outgoing.into_values() {
            self.registration.opaque = self.registration.opaque.wrapping_add(1);
            let opaque = self.registration.opaque;
            let frame =
                Frame::request(request::REGISTER_BROKER, opaque, fields.clone(), body.clone());
            self.outputs.push_back(Output::Send { conn, packet: frame.encode() });
        }
    }
}
