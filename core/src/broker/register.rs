//! 103: tells every name server on another node that this broker is here, at
//! once after a change or a new connection, and every 30 seconds.

use std::{collections::BTreeMap, time::Duration};

use super::{Broker, Output, Phase};
use crate::{
    ids::ConnId,
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

pub(super) struct Registration {
    servers: Vec<Server>,
    opaque: i32,
}

struct Server {
    link: Link,
    /// When to dial, to register again, or to give up.
    due: Time,
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
        let servers = (0..servers).map(|_| Server { link: Link::Down, due: Time::ZERO }).collect();
        Registration { servers, opaque: 0 }
    }

    pub fn connected(&mut self, number: usize, conn: ConnId) {
        if let Some(server) = self.servers.get_mut(number) {
            *server = Server { link: Link::Registered(conn), due: Time::ZERO };
        }
    }

    pub fn disconnected(&mut self, number: usize, now: Time) {
        if let Some(server) = self.servers.get_mut(number) {
            *server = Server { link: Link::Down, due: now + REDIAL };
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
        for server in &mut self.servers {
            if server.link == Link::Registering(conn) && frame.code == code::SUCCESS {
                server.link = Link::Registered(conn);
                server.due = server.due + (HEARTBEAT - ANSWER_WITHIN);
            }
        }
    }

    /// Topics changed: register again at once.
    pub fn changed(&mut self, now: Time) {
        for server in &mut self.servers {
            if let Link::Registered(_) = server.link {
                server.due = now;
            }
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        let waiting = self.servers.iter().filter(|server| server.link != Link::Dialling);
        waiting.map(|server| server.due).min()
    }
}

impl Server {
    fn conn(&self) -> Option<ConnId> {
        match self.link {
            Link::Registering(conn) | Link::Registered(conn) => Some(conn),
            Link::Down | Link::Dialling => None,
        }
    }
}

impl<D: Disk> Broker<D> {
    /// Does what is due. A broker that is not ready stays silent (N4).
    pub(super) fn register(&mut self, now: Now) {
        if self.phase != Phase::Serving {
            for server in &mut self.registration.servers {
                server.due = server.due.max(now.mono + REDIAL);
            }
            return;
        }
        let mut outgoing: BTreeMap<usize, ConnId> = BTreeMap::new();
        for (number, server) in self.registration.servers.iter_mut().enumerate() {
            if server.due > now.mono {
                continue;
            }
            match server.link {
                Link::Down => {
                    server.link = Link::Dialling;
                    let addr = self.config.name_servers[number];
                    self.outputs.push_back(Output::Dial { name_server: number, addr });
                }
                Link::Dialling => {}
                Link::Registering(conn) => {
                    // Silence: perhaps a partition swallowed the stream. A new
                    // connection finds out.
                    *server = Server { link: Link::Down, due: now.mono + REDIAL };
                    self.sessions.close(conn);
                    self.outputs.push_back(Output::Close { conn });
                }
                Link::Registered(conn) => {
                    server.link = Link::Registering(conn);
                    server.due = now.mono + ANSWER_WITHIN;
                    outgoing.insert(number, conn);
                }
            }
        }
        if outgoing.is_empty() {
            return;
        }
        let host = self.config.host.to_string();
        let fields = RegisterHeader {
            broker_name: &self.config.name,
            broker_addr: &host,
            cluster_name: &self.config.cluster,
            ha_server_addr: Some(&host),
            broker_id: 0,
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
