//! The name server as a value: who serves which topic. Name servers share
//! nothing; every broker registers with each of them, and all is forgotten at
//! a restart.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::Rejected,
    ids::ConnId,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{
            BrokerData, ClusterInfo, QueueData, RegisterBody, TopicConfig, TopicList, TopicRoute,
        },
        code,
        frame::{Packet, ReplyTo},
        header::{RegisterHeader, TopicHeader},
        request,
    },
};

/// A broker that has not been heard for so long is forgotten (RocketMQ).
const EXPIRY: Duration = Duration::from_secs(120);
/// How often that is looked at (RocketMQ 5).
const SCAN: Duration = Duration::from_secs(5);
/// After a start, a topic that is unknown may belong to a broker that has not
/// come back yet: for one heartbeat and a little, the answer is "not ready" and
/// not "does not exist" (N2).
const WARM_UP: Duration = Duration::from_secs(35);
/// The largest number of brokers.
const MAX_BROKERS: usize = 10_000;

/// One registered broker.
struct Registered {
    cluster: String,
    addr: String,
    /// Who registered it: only the end of this very connection, or this very
    /// registration's age, may end it (N3).
    conn: Option<ConnId>,
    heard: Time,
    topics: BTreeMap<String, TopicConfig>,
}

/// A name server. Answers leave through `poll_output`.
pub struct NameServer {
    /// By broker name and id; id 0 is the master.
    brokers: BTreeMap<(String, i64), Registered>,
    started: Time,
    /// Every broker there is lives on this node, so nobody is waited for.
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
    /// `is_embedded`: all brokers of the cluster live on the same node and
    /// register by [`register_local`](Self::register_local).
    pub fn new(now: Now, is_embedded: bool) -> NameServer {
        NameServer {
            brokers: BTreeMap::new(),
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
            request::GET_BROKER_CLUSTER_INFO => Ok(self.cluster_info().to_bytes()),
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
    pub fn closed(&mut self, conn: ConnId) {
        self.brokers.retain(|_, broker| broker.conn != Some(conn));
    }

    /// Takes the registration of the broker on this node.
    pub fn register_local(&mut self, cluster: &str, name: &str, addr: &str, body: RegisterBody) {
        let registered = Registered {
            cluster: cluster.to_owned(),
            addr: addr.to_owned(),
            conn: None,
            heard: Time::MAX,
            topics: by_name(body),
        };
        self.brokers.insert((name.to_owned(), 0), registered);
    }

    /// Forgets brokers that have been silent for too long.
    pub fn advance(&mut self, now: Now) {
        if now.mono >= self.next_scan {
            self.next_scan = now.mono + SCAN;
            self.brokers.retain(|_, broker| now.mono.since(broker.heard) <= EXPIRY);
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
        let mut route = TopicRoute::default();
        for ((name, id), broker) in &self.brokers {
            let Some(topic) = broker.topics.get(header.topic) else { continue };
            let queues = QueueData {
                broker_name: name.clone(),
                read_queues: topic.read_queues,
                write_queues: topic.write_queues,
                perm: topic.perm,
                topic_sys_flag: 0,
            };
            match route.brokers.last_mut().filter(|data| data.broker_name == *name) {
                Some(data) => {
                    data.addrs.insert(*id, broker.addr.clone());
                }
                None => {
                    route.queues.push(queues);
                    route.brokers.push(BrokerData {
                        cluster: broker.cluster.clone(),
                        broker_name: name.clone(),
                        addrs: [(*id, broker.addr.clone())].into(),
                    });
                }
            }
        }
        if !route.brokers.is_empty() {
            return Ok(route.to_bytes());
        }
        let is_warm = match self.is_embedded {
            true => !self.brokers.is_empty(),
            false => now.mono.since(self.started) >= WARM_UP,
        };
        if is_warm {
            let remark = format!("no broker serves the topic {}", header.topic);
            Err(Rejected::new(code::TOPIC_NOT_EXIST, remark))
        } else {
            let remark = "this name server just started and does not know every broker yet";
            Err(Rejected::new(code::SYSTEM_BUSY, remark))
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
        let key = (header.broker_name.to_owned(), header.broker_id);
        if self.brokers.len() >= MAX_BROKERS && !self.brokers.contains_key(&key) {
            return Err(Rejected::new(code::SYSTEM_BUSY, "too many brokers are registered"));
        }
        let registered = Registered {
            cluster: header.cluster_name.to_owned(),
            addr: header.broker_addr.to_owned(),
            conn: Some(conn),
            heard: now.mono,
            topics: by_name(RegisterBody::parse(&frame.body)?),
        };
        self.brokers.insert(key, registered);
        // The answer's body is the table of ordered topics, of which there are none.
        Ok(Bytes::from_static(b"{\"table\":{}}"))
    }

    fn unregister(&mut self, frame: &Frame) -> Result<Bytes, Rejected> {
        let header = RegisterHeader::parse(&frame.fields)?;
        self.brokers.remove(&(header.broker_name.to_owned(), header.broker_id));
        Ok(Bytes::new())
    }

    fn cluster_info(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for ((name, id), broker) in &self.brokers {
            let data = info.brokers.entry(name.clone()).or_insert_with(|| BrokerData {
                cluster: broker.cluster.clone(),
                broker_name: name.clone(),
                addrs: BTreeMap::new(),
            });
            data.addrs.insert(*id, broker.addr.clone());
            let names = info.clusters.entry(broker.cluster.clone()).or_default();
            if names.last() != Some(name) {
                names.push(name.clone());
            }
        }
        info
    }

    fn topic_list(&self) -> TopicList {
        let topics = self.brokers.values().flat_map(|broker| broker.topics.keys().cloned());
        let topics: std::collections::BTreeSet<String> = topics.collect();
        TopicList { topics: topics.into_iter().collect() }
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

fn by_name(body: RegisterBody) -> BTreeMap<String, TopicConfig> {
    body.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body::perm;
    use bytes::BytesMut;

    const ROUTE: i32 = request::GET_ROUTEINFO_BY_TOPIC;

    fn at(seconds: u64) -> Now {
        Now { mono: Time(seconds * 1_000_000), wall: 0 }
    }

    fn ask(names: &mut NameServer, seconds: u64, conn: u64, frame: Frame) -> Frame {
        names.frame(at(seconds), ConnId(conn), &frame);
        let (_, packet) = names.poll_output().unwrap();
        let mut bytes = BytesMut::from(&packet.to_bytes()[..]);
        crate::wire::frame::decode(&mut bytes, crate::wire::frame::MAX_FRAME).unwrap().unwrap()
    }

    fn route_of(topic: &str) -> Frame {
        Frame::request(ROUTE, 1, TopicHeader { topic }.fields(), Bytes::new())
    }

    fn registration(name: &str) -> Frame {
        let header = RegisterHeader {
            broker_name: name,
            broker_addr: "10.0.0.1:10911",
            cluster_name: "c",
            ha_server_addr: None,
            broker_id: 0,
            compressed: None,
            body_crc32: None,
        };
        let topic = TopicConfig {
            name: "orders".into(),
            read_queues: 4,
            write_queues: 4,
            perm: perm::READ | perm::WRITE,
            order: false,
        };
        let body = RegisterBody { topics: vec![topic] }.to_bytes();
        Frame::request(request::REGISTER_BROKER, 1, header.fields(), body)
    }

    #[test]
    fn not_ready_differs_from_not_existing() {
        let mut names = NameServer::new(at(0), false);
        assert_eq!(ask(&mut names, 1, 1, route_of("orders")).code, code::SYSTEM_BUSY);
        assert_eq!(ask(&mut names, 2, 2, registration("a")).code, code::SUCCESS);
        assert_eq!(ask(&mut names, 3, 1, route_of("orders")).code, code::SUCCESS);
        assert_eq!(ask(&mut names, 3, 1, route_of("others")).code, code::SYSTEM_BUSY);
        assert_eq!(ask(&mut names, 36, 1, route_of("others")).code, code::TOPIC_NOT_EXIST);
    }

    #[test]
    fn silence_and_disconnection_end_a_registration() {
        let mut names = NameServer::new(at(0), false);
        ask(&mut names, 40, 2, registration("a"));
        assert_eq!(ask(&mut names, 155, 1, route_of("orders")).code, code::SUCCESS);
        assert_eq!(ask(&mut names, 170, 1, route_of("orders")).code, code::TOPIC_NOT_EXIST);
        ask(&mut names, 180, 3, registration("a"));
        names.closed(ConnId(3));
        assert_eq!(ask(&mut names, 181, 1, route_of("orders")).code, code::TOPIC_NOT_EXIST);
    }

    #[test]
    fn the_end_of_an_old_connection_leaves_a_newer_registration() {
        let mut names = NameServer::new(at(0), false);
        ask(&mut names, 40, 2, registration("a"));
        ask(&mut names, 41, 3, registration("a"));
        names.closed(ConnId(2));
        let answer = ask(&mut names, 42, 1, route_of("orders"));
        let route = TopicRoute::parse(&answer.body).unwrap();
        assert_eq!(route.brokers[0].addrs[&0], "10.0.0.1:10911");
        assert_eq!(route.queues[0].read_queues, 4);
    }
}
