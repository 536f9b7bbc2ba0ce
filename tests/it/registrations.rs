//! What a name server knows of a replica set while leaders come and go, as the
//! replicas themselves tell it.

use std::collections::BTreeMap;

use bytes::Bytes;
use stormglass_core::{
    broker::Input,
    ids::ConnId,
    nameserver::NameServer,
    wire::{
        Frame,
        body::{MemberChange, TopicRoute},
        code,
        header::TopicHeader,
        request,
    },
};
use stormglass_tests::by_hand::decode;

use crate::replica_sets::Set;

const LEADER: i64 = 0;

/// Three replicas and a name server that they are connected to.
struct Routed {
    set: Set,
    names: NameServer,
    /// To the name server, of each replica.
    links: [Option<ConnId>; 3],
    next: u64,
}

impl Routed {
    fn new() -> Routed {
        let set = Set::with(|number, config| {
            config.name = "set-1".into();
            config.host = format!("10.0.0.{number}:10911").parse().unwrap();
            config.name_servers = vec!["10.0.0.9:9876".parse().unwrap()];
        });
        let names = NameServer::new(set.nodes[0].now, false);
        let mut routed = Routed { set, names, links: [None; 3], next: 1000 };
        let leader = routed.set.leader();
        routed.set.send(leader, "t exists");
        routed.run(2000);
        routed
    }

    /// So many milliseconds.
    fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            self.set.step();
            (0..3).for_each(|at| self.carry(at));
        }
    }

    /// Moves what is between this replica and the name server.
    fn carry(&mut self, at: usize) {
        let node = &mut self.set.nodes[at];
        let lost =
            node.broker.is_none() || self.links[at].is_some_and(|c| node.closed.contains(&c));
        node.closed.clear();
        if let Some(conn) = self.links[at].take_if(|_| lost) {
            self.names.closed(node.now, conn);
        }
        for name_server in std::mem::take(&mut node.dialled) {
            self.next += 1;
            let conn = ConnId(self.next);
            self.links[at] = Some(conn);
            let peer = "10.0.0.9:9876".parse().unwrap();
            node.input(Input::Connected { conn, peer, name_server: Some(name_server) });
            node.settle();
        }
        let Some(conn) = self.links[at] else { return };
        let (said, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut node.sent).into_iter().partition(|(to, _)| *to == conn);
        node.sent = others;
        for (_, frame) in said {
            self.names.frame(node.now, conn, &frame);
        }
        while let Some((_, packet)) = self.names.poll_output() {
            node.input(Input::Frame { conn, frame: decode(&packet) });
            node.settle();
        }
    }

    /// Broker ids and numbers of replicas, from 0.
    fn route(&mut self) -> BTreeMap<i64, usize> {
        let fields = TopicHeader { topic: "t" }.fields();
        let frame = Frame::request(request::GET_ROUTEINFO_BY_TOPIC, 1, fields, Bytes::new());
        self.names.frame(self.set.nodes[0].now, ConnId(1), &frame);
        let answer = decode(&self.names.poll_output().unwrap().1);
        assert_eq!(answer.code, code::SUCCESS, "N2: it exists all the time");
        let route = TopicRoute::parse(&answer.body).unwrap();
        assert_eq!(route.brokers.len(), 1);
        let number = |addr: &str| addr[7..8].parse::<usize>().unwrap() - 1;
        route.brokers[0].addrs.iter().map(|(id, addr)| (*id, number(addr))).collect()
    }

    fn expected(&self, leader: usize) -> BTreeMap<i64, usize> {
        (0..3).map(|at| (if at == leader { LEADER } else { at as i64 + 1 }, at)).collect()
    }
}

#[test]
fn replicas_register_as_what_they_are_and_a_new_leader_at_once() {
    let mut routed = Routed::new();
    for _ in 0..4 {
        let leader = routed.set.leader();
        assert_eq!(routed.route(), routed.expected(leader));
        routed.set.nodes[leader].kill();
        routed.run(1);
        assert!(!routed.route().contains_key(&LEADER), "nobody is named too early (N4)");
        while !(0..3).any(|at| routed.set.nodes[at].is_serving()) {
            routed.run(1);
        }
        let next = routed.set.leader();
        routed.run(2);
        assert_eq!(routed.route().get(&LEADER), Some(&next), "within two milliseconds");
        routed.set.nodes[leader].start().unwrap();
        routed.run(2000);
    }
}

/// N3, N4: it keeps the name server and loses the others.
#[test]
fn a_leader_that_was_cut_off_returns_as_a_follower() {
    let mut routed = Routed::new();
    let old = routed.set.leader();
    routed.set.isolated = Some(old);
    let mut next = old;
    while next == old {
        routed.run(1);
        next = routed.set.leader();
    }
    routed.run(10);
    assert_eq!(routed.route().get(&LEADER), Some(&next));
    routed.run(3000);
    assert_eq!(routed.route().get(&LEADER), Some(&next));
    routed.set.isolated = None;
    routed.run(3000);
    let leader = routed.set.leader();
    assert_eq!(routed.route(), routed.expected(leader));
}

/// Readers would wait there for what never comes.
#[test]
fn nobody_is_sent_to_a_replica_that_was_removed() {
    let mut routed = Routed::new();
    let leader = routed.set.leader();
    let gone = (leader + 1) % 3;
    let id = gone as u64 + 1;
    assert_eq!(routed.set.change(leader, MemberChange::Remove { id }), code::SUCCESS);
    routed.run(3000);
    let mut expected = routed.expected(leader);
    expected.remove(&(id as i64));
    assert_eq!(routed.route(), expected);
    assert_eq!(routed.links[gone], None, "it does not even stay connected");
}
