//! The name server as a value: who serves which topic. Name servers share
//! nothing; every broker registers with each of them, and all is forgotten at
//! a restart.

mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

pub use self::registry::Registration;
use self::registry::{Found, Registry};
use crate::{
    broker::BrokerRole,
    error::Rejected,
    ids::{ConnId, Term},
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{RegisterBody, TopicConfig, TopicList},
        code,
        frame::{Packet, ReplyTo},
        header::{RegisterHeader, TopicHeader},
        request,
    },
};

/// How often silent brokers are looked for (RocketMQ 5).
const SCAN: Duration = Duration::from_secs(5);
/// After a start, a topic that is unknown may belong to a broker that has not
/// come back yet: for one heartbeat and a little, the answer is "not ready" and
/// not "does not exist" (N2).
const WARM_UP: Duration = Duration::from_secs(35);

/// A name server. Answers leave through `poll_output`.
pub struct NameServer {
    registry: Registry,
    started: Time,
    /// The only broker there is lives on this node, so nobody is waited for.
    is_embedded: bool,
    next_scan: Time,
    outputs: VecDeque<(ConnId, Packet)>,
}

/// Whether a request code belongs to name servers.
pub fn serves(code: i32) -> bool {
    matches!(
        code,
        request::REGISTER_BROKER
            | request::UNREGISTER_BROKER
            | request::GET_ROUTEINFO_BY_TOPIC
            | request::GET_BROKER_CLUSTER_INFO
            | request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER
    )
}

impl NameServer {
    /// `is_embedded`: the only broker of the cluster lives on the same node and
    /// registers by [`register_local`](Self::register_local).
    pub fn new(now: Now, is_embedded: bool) -> NameServer {
        NameServer {
            registry: Registry::default(),
            started: now.mono,
            is_embedded,
            next_scan: now.mono + SCAN,
            outputs: VecDeque::new(),
        }
    }

    pub fn frame(&mut self, now: Now, conn: ConnId, frame: &Frame) {
        self.advance(now);
        let reply_to = frame.reply_to();
        let answer = match frame.code {
            request::GET_ROUTEINFO_BY_TOPIC => self.route(now, frame),
            request::REGISTER_BROKER => self.register(now, conn, frame),
            request::UNREGISTER_BROKER => self.unregister(frame),
            request::GET_BROKER_CLUSTER_INFO => Ok(self.registry.cluster_info().to_bytes()),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => Ok(self.topic_list().to_bytes()),
            other => Err(Rejected::new(
                code::REQUEST_CODE_NOT_SUPPORTED,
                format!("request code {other} is not supported by a name server"),
            )),
        };
        match answer {
            Ok(body) => self.reply(conn, reply_to, code::SUCCESS, "", body),
            Err(refused) => self.reply(conn, reply_to, refused.code, &refused.remark, Bytes::new()),
        }
    }

    /// Forgets what that connection registered.
    pub fn closed(&mut self, now: Now, conn: ConnId) {
        self.registry.closed(now.mono, Some(conn));
    }

    /// Takes the registration of the broker on this node. A stale one is
    /// ignored: the broker will know better soon.
    pub fn register_local(&mut self, now: Now, said: Registration) {
        if let Err(refused) = self.registry.register(now.mono, said) {
            tracing::info!(%refused, "a registration came too late");
        }
    }

    /// The broker on this node ended.
    pub fn unregister_local(&mut self, now: Now) {
        self.registry.closed(now.mono, None);
    }

    /// Forgets brokers that have been silent for too long.
    pub fn advance(&mut self, now: Now) {
        if now.mono >= self.next_scan {
            self.next_scan = now.mono + SCAN;
            self.registry.expire(now.mono);
        }
    }

    pub fn deadline(&self) -> Time {
        self.next_scan
    }

    pub fn poll_output(&mut self) -> Option<(ConnId, Packet)> {
        self.outputs.pop_front()
    }

    fn route(&self, now: Now, frame: &Frame) -> Result<Bytes, Rejected> {
        let header = TopicHeader::parse(&frame.fields)?;
        let topic = header.topic;
        let is_warm = match self.is_embedded {
            true => !self.registry.is_empty(),
            false => now.mono.since(self.started) >= WARM_UP,
        };
        match self.registry.route(topic) {
            Found::Route(route) => Ok(route.to_bytes()),
            Found::Nowhere if is_warm => {
                let remark = format!("no broker serves the topic {topic}");
                Err(Rejected::new(code::TOPIC_NOT_EXIST, remark))
            }
            Found::Nowhere => {
                let remark = "this name server just started and does not know every broker yet";
                Err(Rejected::new(code::SYSTEM_BUSY, remark))
            }
            Found::Away => {
                let remark = format!("the brokers that serve the topic {topic} are away");
                Err(Rejected::new(code::SYSTEM_BUSY, remark))
            }
        }
    }

    fn register(&mut self, now: Now, conn: ConnId, frame: &Frame) -> Result<Bytes, Rejected> {
        let header = RegisterHeader::parse(&frame.fields)?;
        if header.compressed == Some(true) {
            let why = "is true: compressed registrations are not supported";
            return Err(Rejected::bad_field("compressed", why));
        }
        if header.addr_is_unusable() {
            return Err(Rejected::bad_field("brokerAddr", "is not an address with a port"));
        }
        let said = Registration {
            cluster: header.cluster_name,
            name: header.broker_name,
            addr: header.broker_addr,
            role: BrokerRole { broker_id: header.broker_id, term: header.term.map(Term) },
            conn: Some(conn),
            topics: by_name(RegisterBody::parse(&frame.body)?),
        };
        self.registry.register(now.mono, said)?;
        // The answer's body is the table of ordered topics, of which there are none.
        Ok(Bytes::from_static(b"{\"table\":{}}"))
    }

    fn unregister(&mut self, frame: &Frame) -> Result<Bytes, Rejected> {
        let header = RegisterHeader::parse(&frame.fields)?;
        self.registry.unregister(header.broker_name, header.broker_id, header.broker_addr);
        Ok(Bytes::new())
    }

    fn topic_list(&self) -> TopicList {
        TopicList { topics: self.registry.topics().into_iter().collect() }
    }

    fn reply(&mut self, conn: ConnId, reply_to: ReplyTo, code: i32, remark: &str, body: Bytes) {
        if !reply_to.one_way {
            let body = if body.is_empty() { Vec::new() } else { vec![body] };
            let packet = reply_to.answer(code, remark, Fields::default(), body);
            self.outputs.push_back((conn, packet));
        }
    }
}

impl RegisterHeader<'_> {
    fn addr_is_unusable(&self) -> bool {
        match self.broker_addr.rsplit_once(':') {
            Some((host, port)) => host.is_empty() || port.parse::<u16>().is_err(),
            None => true,
        }
    }
}

/// The topics of a registration, by name.
pub fn by_name(body: RegisterBody) -> BTreeMap<String, TopicConfig> {
    body.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect()
}
