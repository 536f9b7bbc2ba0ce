//! Three brokers that are replicas of one: whoever leads serves, and whatever
//! was acknowledged is there under the next leader.

use std::time::Duration;

use stormglass_core::{
    broker::{BrokerConfig, Input},
    error::StoreError,
    ids::NodeId,
    replication::{Flush, ReplicaSet},
    wire::{code, request},
};
use stormglass_tests::by_hand::{ByHand, Sent, send_fields, small_config};

const STEP: Duration = Duration::from_millis(1);

pub struct Set {
    pub nodes: Vec<ByHand>,
    /// Nobody hears this one, and it hears nobody.
    pub isolated: Option<usize>,
}

impl Set {
    fn new() -> Set {
        Set::with(|_| ())
    }

    pub fn with(change: impl Fn(&mut BrokerConfig)) -> Set {
        let node = |number| {
            let mut config = small_config(Flush::Sync);
            change(&mut config);
            config.replica_set = Some(ReplicaSet {
                id: NodeId(number),
                peers: (1..=3).map(|id| (NodeId(id), ([127, 0, 0, 1], id as u16).into())).collect(),
                election_timeout: Duration::from_millis(100),
                founding: true,
            });
            let mut node = ByHand::with(config);
            node.seed = number;
            node.start().unwrap();
            node.config.replica_set.as_mut().unwrap().founding = false;
            node
        };
        let mut set = Set { nodes: (1..=3).map(node).collect(), isolated: None };
        set.leader();
        set
    }

    pub fn step(&mut self) {
        for number in 0..3 {
            let node = &mut self.nodes[number];
            if matches!(node.failed, Some(StoreError::NotLeader)) {
                node.kill();
                node.start().unwrap();
            }
            node.pass(STEP);
            for message in std::mem::take(&mut self.nodes[number].to_peers) {
                let to = message.to.0 as usize - 1;
                if self.isolated.is_none_or(|alone| alone != number && alone != to) {
                    self.nodes[to].input(Input::Peer(message));
                    self.nodes[to].settle();
                }
            }
        }
    }

    /// Runs until one serves that is not isolated.
    pub fn leader(&mut self) -> usize {
        for _ in 0..5_000 {
            let mut up = (0..3).filter(|at| self.isolated != Some(*at));
            if let Some(at) = up.find(|at| self.nodes[*at].is_serving()) {
                return at;
            }
            self.step();
        }
        panic!("nobody leads after five seconds");
    }

    fn ask(&mut self, at: usize, opaque: i32) -> Sent {
        for _ in 0..200 {
            if let Some(answer) = self.nodes[at].answer(opaque) {
                return self.nodes[at].outcome(Some(answer));
            }
            self.step();
        }
        Sent::Unknown
    }

    pub fn send(&mut self, at: usize, body: &str) -> Sent {
        let fields = send_fields("t", 0, "");
        let opaque = self.nodes[at].request(request::SEND_MESSAGE, fields, body.into());
        self.ask(at, opaque)
    }

    pub fn settle(&mut self) {
        (0..300).for_each(|_| self.step());
    }
}

fn ok(offset: u64) -> Sent {
    Sent::Ok { queue: 0, offset }
}

#[test]
fn followers_refuse_and_keep_up() {
    let mut set = Set::new();
    let leader = set.leader();
    assert_eq!(set.send(leader, "a"), ok(0));
    let follower = (leader + 1) % 3;
    assert_eq!(set.send(follower, "b"), Sent::Refused(code::SYSTEM_BUSY));
    set.settle();
    let applied: Vec<_> =
        set.nodes.iter().map(|node| node.broker.as_ref().unwrap().view().applied()).collect();
    assert!(applied.iter().all(|at| *at == applied[0]), "{applied:?}");
}

#[test]
fn what_was_acknowledged_survives_leader_after_leader() {
    let mut set = Set::new();
    let mut expected = Vec::new();
    for round in 0..5 {
        let leader = set.leader();
        for number in 0..30 {
            let body = format!("{round}-{number}");
            let offset = expected.len() as u64;
            assert_eq!(set.send(leader, &body), ok(offset), "round {round}");
            expected.push((offset, body));
        }
        let consumed = expected.len() as i64 - 7;
        let opaque = set.nodes[leader].commit_later("readers", "t", 0, consumed);
        assert!(matches!(set.ask(leader, opaque), Sent::Ok { .. }));
        // What has been acknowledged is durable on two of three disks.
        if round % 2 == 0 {
            set.nodes[leader].power_loss();
        } else {
            set.nodes[leader].kill();
        }
        let next = set.leader();
        assert_ne!(next, leader);
        assert_eq!(set.nodes[next].contents("t", 0), expected, "round {round}");
        assert_eq!(set.nodes[next].committed("readers", "t", 0), Some(consumed), "O2");
        set.nodes[leader].start().unwrap();
        set.settle();
    }
}

#[test]
fn a_leader_cut_off_refuses_within_its_lease_and_returns_as_a_follower() {
    let mut set = Set::new();
    let old = set.leader();
    assert_eq!(set.send(old, "before"), ok(0));
    let group = set.nodes[old].commit_later("readers", "t", 0, 0);
    assert!(matches!(set.ask(old, group), Sent::Ok { .. }));
    set.isolated = Some(old);
    let lost = set.send(old, "nobody else has it");
    assert_eq!(lost, Sent::Unknown);
    set.settle();
    assert_eq!(set.send(old, "too late"), Sent::Refused(code::SYSTEM_BUSY), "L8");
    let new = set.leader();
    assert_eq!(set.send(new, "after"), ok(1));
    set.isolated = None;
    set.settle();
    assert!(!set.nodes[old].is_serving());
    // It has what the others have, and serves it when its turn comes.
    let expected = [(0, "before".to_owned()), (1, "after".to_owned())];
    let mut led = Vec::new();
    while !led.contains(&old) {
        let leader = set.leader();
        assert_eq!(set.nodes[leader].contents("t", 0), expected);
        led.push(leader);
        set.isolated = Some(leader);
        set.settle();
    }
}

#[test]
fn an_orderly_stop_hands_over() {
    let mut set = Set::new();
    let old = set.leader();
    assert_eq!(set.send(old, "a"), ok(0));
    set.nodes[old].input(Input::Stop);
    set.nodes[old].settle();
    for _ in 0..90 {
        set.step();
    }
    assert!(set.nodes[old].broker.is_none(), "it ended");
    assert!((0..3).any(|at| set.nodes[at].is_serving()), "nobody had to time out");
}
