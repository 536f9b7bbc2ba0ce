use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::{
    broker::LEADER_ID,
    wire::{
        body::{ClusterInfo, OrderList, TopicRoute, perm},
        frame,
    },
};

const LEADER: i64 = LEADER_ID;

fn at(seconds: u64) -> Now {
    Now { mono: Time(seconds * 1_000_000), wall: 0 }
}

fn ask(names: &mut NameServer, seconds: u64, conn: u64, frame: Frame) -> Frame {
    names.frame(at(seconds), ConnId(conn), &frame);
    let (_, packet) = names.poll_output().unwrap();
    let mut bytes = BytesMut::from(&packet.to_bytes()[..]);
    frame::decode(&mut bytes, frame::MAX_FRAME).unwrap().unwrap()
}

fn route_of(topic: &str) -> Frame {
    let fields = TopicHeader { topic }.fields();
    Frame::request(request::GET_ROUTEINFO_BY_TOPIC, 1, fields, Bytes::new())
}

/// Sets, and the replicas of each by id.
type Sets = Vec<(String, BTreeMap<i64, String>)>;

/// Where the name server says that `orders` is.
fn route(names: &mut NameServer, seconds: u64) -> Result<Sets, i32> {
    let answer = ask(names, seconds, 99, route_of("orders"));
    if answer.code != code::SUCCESS {
        return Err(answer.code);
    }
    let route = TopicRoute::parse(&answer.body).unwrap();
    let queues: Vec<_> = route.queues.iter().map(|queues| &queues.broker_name).collect();
    assert_eq!(queues, route.brokers.iter().map(|data| &data.broker_name).collect::<Vec<_>>());
    Ok(route.brokers.into_iter().map(|data| (data.broker_name, data.addrs)).collect())
}

fn said(code: i32, name: &str, addr: u16, id: i64, term: Option<u64>, topics: &[&str]) -> Frame {
    let header = RegisterHeader {
        broker_name: name,
        broker_addr: &format!("10.0.0.1:{addr}"),
        cluster_name: "c",
        ha_server_addr: None,
        broker_id: id,
        term,
        compressed: None,
        body_crc32: None,
    };
    let topics = topics.iter().map(|topic| TopicConfig {
        name: topic.to_string(),
        read_queues: 4,
        write_queues: 4,
        perm: perm::READ | perm::WRITE,
        order: false,
        order_list: None,
    });
    let body = RegisterBody { topics: topics.collect() }.to_bytes();
    Frame::request(code, 1, header.fields(), body)
}

/// A broker without replicas.
fn plain(name: &str) -> Frame {
    said(request::REGISTER_BROKER, name, 1, LEADER, None, &["orders"])
}

/// A replica of `set-1`, which has `orders`.
fn replica(addr: u16, id: i64, term: u64) -> Frame {
    said(request::REGISTER_BROKER, "set-1", addr, id, Some(term), &["orders"])
}

fn addrs(of: &[(i64, u16)]) -> BTreeMap<i64, String> {
    of.iter().map(|(id, addr)| (*id, format!("10.0.0.1:{addr}"))).collect()
}

#[test]
fn not_ready_differs_from_not_existing() {
    let mut names = NameServer::new(at(0), false);
    assert_eq!(ask(&mut names, 1, 1, route_of("orders")).code, code::SYSTEM_BUSY);
    assert_eq!(ask(&mut names, 2, 2, plain("a")).code, code::SUCCESS);
    assert_eq!(ask(&mut names, 3, 1, route_of("orders")).code, code::SUCCESS);
    assert_eq!(ask(&mut names, 3, 1, route_of("others")).code, code::SYSTEM_BUSY);
    assert_eq!(ask(&mut names, 36, 1, route_of("others")).code, code::TOPIC_NOT_EXIST);
}

/// N2: who fell silent may come back, and its topics still exist.
#[test]
fn silence_and_disconnection_end_a_registration_but_not_its_topics() {
    let mut names = NameServer::new(at(0), false);
    ask(&mut names, 40, 2, plain("a"));
    assert!(route(&mut names, 155).is_ok());
    assert_eq!(route(&mut names, 170), Err(code::SYSTEM_BUSY));
    ask(&mut names, 180, 3, plain("a"));
    names.closed(at(181), ConnId(3));
    assert_eq!(route(&mut names, 181), Err(code::SYSTEM_BUSY));
    assert_eq!(route(&mut names, 181 + 3700), Err(code::TOPIC_NOT_EXIST));
    ask(&mut names, 4000, 4, plain("a"));
    let goodbye = said(request::UNREGISTER_BROKER, "a", 1, LEADER, None, &[]);
    assert_eq!(ask(&mut names, 4001, 4, goodbye).code, code::SUCCESS);
    assert_eq!(route(&mut names, 4002), Err(code::TOPIC_NOT_EXIST));
}

/// A replica that has not heard of a topic yet does not make it disappear.
#[test]
fn what_the_lost_leader_had_is_missed_until_the_next_one_speaks() {
    let mut names = NameServer::new(at(0), false);
    ask(&mut names, 40, 1, replica(1, LEADER, 5));
    ask(&mut names, 40, 2, said(request::REGISTER_BROKER, "set-1", 2, 2, Some(5), &[]));
    names.closed(at(41), ConnId(1));
    assert_eq!(route(&mut names, 41), Err(code::SYSTEM_BUSY));
    ask(&mut names, 42, 2, said(request::REGISTER_BROKER, "set-1", 2, LEADER, Some(6), &[]));
    assert_eq!(route(&mut names, 42), Err(code::TOPIC_NOT_EXIST));
}

#[test]
fn the_end_of_an_old_connection_leaves_a_newer_registration() {
    let mut names = NameServer::new(at(0), false);
    ask(&mut names, 40, 2, plain("a"));
    ask(&mut names, 41, 3, plain("a"));
    names.closed(at(42), ConnId(2));
    assert_eq!(route(&mut names, 42), Ok(vec![("a".into(), addrs(&[(LEADER, 1)]))]));
}

/// N3, N4: whatever a deposed leader's network still delivers.
#[test]
fn a_deposed_leader_neither_returns_nor_takes_its_successor_along() {
    let mut names = NameServer::new(at(0), false);
    ask(&mut names, 40, 1, replica(1, LEADER, 5));
    ask(&mut names, 40, 2, replica(2, 2, 5));
    ask(&mut names, 40, 3, replica(3, 3, 5));
    // The second leads; what the first had said of itself is over.
    ask(&mut names, 41, 2, replica(2, LEADER, 6));
    let now = vec![("set-1".to_owned(), addrs(&[(LEADER, 2), (3, 3)]))];
    assert_eq!(route(&mut names, 41), Ok(now.clone()));
    assert_eq!(ask(&mut names, 42, 1, replica(1, LEADER, 5)).code, code::FENCED);
    assert_eq!(ask(&mut names, 42, 2, replica(2, 2, 5)).code, code::FENCED);
    names.closed(at(43), ConnId(1));
    assert_eq!(route(&mut names, 43), Ok(now));
    // Also once the new one has gone.
    names.closed(at(44), ConnId(2));
    assert_eq!(ask(&mut names, 45, 1, replica(1, LEADER, 5)).code, code::FENCED);
    ask(&mut names, 46, 1, replica(1, 1, 6));
    let expected = vec![("set-1".to_owned(), addrs(&[(1, 1), (3, 3)]))];
    assert_eq!(route(&mut names, 46), Ok(expected));
}

#[test]
fn a_cluster_is_told_with_all_its_replicas() {
    let mut names = NameServer::new(at(0), false);
    ask(&mut names, 1, 1, replica(1, LEADER, 5));
    ask(&mut names, 1, 2, replica(2, 2, 5));
    ask(&mut names, 1, 3, plain("z"));
    let frame =
        Frame::request(request::GET_BROKER_CLUSTER_INFO, 1, Fields::default(), Bytes::new());
    let info = ClusterInfo::parse(&ask(&mut names, 2, 9, frame).body).unwrap();
    assert_eq!(info.clusters["c"], ["set-1", "z"]);
    assert_eq!(info.brokers["set-1"].addrs, addrs(&[(LEADER, 1), (2, 2)]));
}

/// R2: every set keeps the whole list, and the newest one counts.
#[test]
fn the_queue_list_of_an_ordered_topic_stays_when_sets_come_and_go() {
    let ordered = |set: &str, addr, version, queues: &str| {
        let mut frame = said(request::REGISTER_BROKER, set, addr, LEADER, Some(1), &[]);
        let order_list = Some(OrderList { version, queues: queues.into() });
        let (name, perm) = ("orders".into(), perm::READ | perm::WRITE);
        let topic =
            TopicConfig { name, read_queues: 4, write_queues: 4, perm, order: true, order_list };
        frame.body = RegisterBody { topics: vec![topic] }.to_bytes();
        frame
    };
    let mut names = NameServer::new(at(0), false);
    let list = |names: &mut NameServer| {
        let answer = ask(names, 40, 9, route_of("orders"));
        TopicRoute::parse(&answer.body).unwrap().order_topic_conf
    };
    ask(&mut names, 40, 1, ordered("set-1", 1, 7, "set-1:4;set-2:4"));
    assert_eq!(list(&mut names).as_deref(), Some("set-1:4;set-2:4"), "the second is away");
    ask(
        &mut names,
        40,
        3,
        said(request::REGISTER_BROKER, "set-3", 3, LEADER, Some(1), &["orders"]),
    );
    assert_eq!(list(&mut names).as_deref(), Some("set-1:4;set-2:4"), "the third is not in it");
    ask(&mut names, 40, 2, ordered("set-2", 2, 8, "set-1:4;set-2:4;set-3:4"));
    assert_eq!(list(&mut names).as_deref(), Some("set-1:4;set-2:4;set-3:4"));
}

/// One thing that happens to a name server. Sets, addresses, connections, ids
/// and terms are few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Register {
        set: usize,
        addr: u16,
        conn: u64,
        id: i64,
        term: u64,
        has_topic: bool,
    },
    Close(u64),
    /// So many times five seconds.
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let register = (0usize..2, 1u16..4, 1u64..5, 0i64..4, 1u64..5, prop::bool::weighted(0.8));
    let step = prop_oneof![
        6 => register.prop_map(|(set, addr, conn, id, term, has_topic)| {
            Step::Register { set, addr, conn, id, term, has_topic }
        }),
        2 => (1u64..5).prop_map(Step::Close),
        2 => (1u64..20).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..40)
}

struct Known {
    set: usize,
    addr: u16,
    conn: u64,
    id: i64,
    term: u64,
    has_topic: bool,
    heard: u64,
}

/// What a name server should know: a list of what was said and still counts,
/// and for each set the newest leader's term, until it is forgotten.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    leader: [u64; 2],
    empty_since: [u64; 2],
}

impl Model {
    fn register(&mut self, new: Known) -> bool {
        let meets = |old: &Known| old.set == new.set && (old.id == new.id || old.addr == new.addr);
        let is_stale = new.id == LEADER && new.term < self.leader[new.set]
            || self.known.iter().any(|old| meets(old) && old.term > new.term);
        if is_stale {
            return false;
        }
        if new.id == LEADER {
            self.leader[new.set] = new.term;
        }
        self.known.retain(|old| !meets(old));
        self.known.push(new);
        true
    }

    fn end(&mut self, now: u64, ended: impl Fn(&Known) -> bool) {
        for set in 0..2 {
            let before = self.known.iter().any(|known| known.set == set);
            self.known.retain(|known| known.set != set || !ended(known));
            if before && !self.known.iter().any(|known| known.set == set) {
                self.empty_since[set] = now;
            }
        }
    }

    fn route(&self) -> Sets {
        let of = |set| self.known.iter().filter(move |known| known.set == set);
        let with_topic = (0..2).filter(|set| of(*set).any(|known| known.has_topic));
        let data = |set| {
            let addrs: Vec<_> = of(set).map(|known| (known.id, known.addr)).collect();
            (format!("set-{set}"), self::addrs(&addrs))
        };
        with_topic.map(data).collect()
    }
}

proptest! {
    #[test]
    fn routes_are_what_a_list_would_say(steps in steps()) {
        let (mut names, mut model, mut now) = (NameServer::new(at(0), false), Model::default(), 100);
        for step in steps {
            match step {
                Step::Register { set, addr, conn, id, term, has_topic } => {
                    let topics: &[&str] = if has_topic { &["orders"] } else { &[] };
                    let (name, code) = (format!("set-{set}"), request::REGISTER_BROKER);
                    let frame = said(code, &name, addr, id, Some(term), topics);
                    let answer = ask(&mut names, now, conn, frame);
                    let heard = now;
                    let new = Known { set, addr, conn, id, term, has_topic, heard };
                    let taken = if model.register(new) { code::SUCCESS } else { code::FENCED };
                    prop_assert_eq!(answer.code, taken);
                }
                Step::Close(conn) => {
                    names.closed(at(now), ConnId(conn));
                    model.end(now, |known| known.conn == conn);
                }
                Step::Pass(times) => {
                    now += times * 5;
                    names.advance(at(now));
                    model.end(now, |known| now - known.heard > 120);
                    for set in 0..2 {
                        let is_empty = !model.known.iter().any(|known| known.set == set);
                        if is_empty && now - model.empty_since[set] > 120 {
                            model.leader[set] = 0;
                        }
                    }
                }
            }
            let expected = model.route();
            match route(&mut names, now) {
                Ok(found) => prop_assert_eq!(found, expected),
                Err(_) => prop_assert!(expected.is_empty()),
            }
        }
    }
}
