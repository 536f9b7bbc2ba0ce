//! Three brokers that are replicas of one: whoever leads serves, and whatever
//! was acknowledged is there under the next leader.

use std::{io, net::SocketAddr, time::Duration};

use stormglass_core::{
    broker::{BrokerConfig, Input},
    error::StoreError,
    ids::{ConnId, NodeId},
    replication::{Flush, ReplicaSet},
    wire::{
        Fields,
        body::{ClusterStatus, MemberChange, ReplicaRole},
        code,
        header::{TransferLeaderHeader, pull_flag},
        request,
    },
};
use stormglass_tests::by_hand::{ByHand, Sent, pull_fields, send_fields, small_config};

const STEP: Duration = Duration::from_millis(1);

pub struct Set {
    pub nodes: Vec<ByHand>,
    /// Nobody hears this one, and it hears nobody.
    pub isolated: Option<usize>,
}

impl Set {
    fn new() -> Set {
        Set::with(|_, _| ())
    }

    /// With something else in the configuration of each, by its number from 1.
    pub fn with(change: impl Fn(u64, &mut BrokerConfig)) -> Set {
        let node = |number| {
            let mut node = node(number, true);
            change(number, &mut node.config);
            node.start().unwrap();
            node.config.replica_set.as_mut().unwrap().founding = false;
            node
        };
        let mut set = Set { nodes: (1..=3).map(node).collect(), isolated: None };
        set.leader();
        set
    }

    pub fn step(&mut self) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if matches!(node.failed, Some(StoreError::NotLeader | StoreError::Replaced)) {
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
            let mut up = (0..self.nodes.len()).filter(|at| self.isolated != Some(*at));
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

    fn status(&mut self, at: usize) -> ClusterStatus {
        // It may be about to start again.
        while self.nodes[at].broker.is_none() {
            self.step();
        }
        let answer = self.nodes[at].ask(request::CLUSTER_STATUS, Fields::default(), Vec::new());
        ClusterStatus::parse(&answer.expect("every replica answers").body).unwrap()
    }

    /// The code of the answer to a change of members.
    pub fn change(&mut self, at: usize, change: MemberChange) -> i32 {
        let body = change.to_bytes().to_vec();
        let opaque = self.nodes[at].request(request::CHANGE_MEMBERS, Fields::default(), body);
        match self.ask(at, opaque) {
            Sent::Refused(code) => code,
            Sent::Ok { .. } => code::SUCCESS,
            Sent::Unknown => panic!("no answer"),
        }
    }

    /// Makes this replica lead, by request.
    fn transfer(&mut self, to: usize) {
        self.run_till("successor that is close enough", |set| {
            let leader = set.leader();
            let fields = TransferLeaderHeader { to: Some(to as u64 + 1) }.fields();
            let answer = set.nodes[leader].ask(request::TRANSFER_LEADER, fields, Vec::new());
            answer.expect("an answer").code == code::SUCCESS
        });
        self.run_till("transfer", |set| set.nodes[to].is_serving());
    }

    fn run_till(&mut self, what: &str, mut done: impl FnMut(&mut Set) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("no {what} after ten seconds");
    }

    pub fn settle(&mut self) {
        (0..300).for_each(|_| self.step());
    }
}

/// Replica `number` of three, or one that joins them.
fn node(number: u64, founding: bool) -> ByHand {
    let mut config = small_config(Flush::Sync);
    config.replica_set = Some(ReplicaSet {
        id: NodeId(number),
        peers: (1..=3).map(|id| (NodeId(id), address(id))).collect(),
        election_timeout: Duration::from_millis(100),
        founding,
    });
    let mut node = ByHand::with(config);
    node.seed = number;
    node
}

fn address(id: u64) -> SocketAddr {
    ([127, 0, 0, 1], id as u16).into()
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

/// The broker that opens the disk next finds in the page cache what a failed sync
/// did not write, and would call it durable after a sync of its own.
#[test]
fn a_deposed_leader_waits_for_its_sync_and_stops_if_it_fails() {
    for fails in [false, true] {
        let mut set = Set::new();
        let old = set.leader();
        set.nodes[old].hanging_syncs = Some(Vec::new());
        set.isolated = Some(old);
        assert_eq!(set.send(old, "nobody else has it"), Sent::Unknown);
        set.leader();
        set.isolated = None;
        set.settle();
        let node = &mut set.nodes[old];
        assert!(node.failed.is_none() && !node.is_serving(), "it waits");
        let (conn, peer) = (ConnId(99), "10.0.0.7:1".parse().unwrap());
        node.input(Input::Connected { conn, peer, name_server: None });
        node.settle();
        assert!(node.closed.contains(&conn), "whoever comes is sent away meanwhile");
        let ticket = node.hanging_syncs.take().unwrap().pop().unwrap();
        let result = if fails { Err(io::Error::other("no such sector")) } else { Ok(()) };
        node.input(Input::Synced { ticket, result });
        node.settle();
        match node.failed {
            Some(StoreError::Io { .. }) => assert!(fails),
            Some(StoreError::NotLeader) => assert!(!fails),
            _ => panic!("it ended with {:?}", node.failed),
        }
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

/// Nothing else can be done before somebody leads: what falls due until then is
/// no reason to be called again and again.
#[test]
fn a_leader_whose_successor_is_silent_sleeps_meanwhile() {
    for stops in [false, true] {
        let mut set = Set::new();
        let leader = set.leader();
        assert_eq!(set.send(leader, "a"), ok(0));
        let node = &mut set.nodes[leader];
        let fields = pull_fields("t", 0, 1, pull_flag::SUSPEND, 20);
        node.request(request::PULL_MESSAGE, fields, Vec::new());
        if stops {
            node.input(Input::Stop);
            node.settle();
        } else {
            let fields = TransferLeaderHeader { to: None }.fields();
            let answer = node.ask(request::TRANSFER_LEADER, fields, Vec::new());
            assert_eq!(answer.unwrap().code, code::SUCCESS);
        }
        for slept in 1..50 {
            node.pass(STEP);
            let broker = node.broker.as_ref().expect("it hopes for so long");
            assert!(broker.deadline() > node.now.mono, "after {slept} ms");
        }
    }
}

/// Messages of so many kilobytes altogether; returns what the queue holds.
fn fill(set: &mut Set, kilobytes: usize) -> Vec<(u64, String)> {
    let leader = set.leader();
    for number in 0..kilobytes {
        let body = format!("{number}-{}", "x".repeat(1000));
        assert!(matches!(set.send(leader, &body), Sent::Ok { .. }));
    }
    let consumed = set.nodes[leader].commit_later("readers", "t", 0, kilobytes as i64 - 10);
    assert!(matches!(set.ask(leader, consumed), Sent::Ok { .. }));
    set.settle();
    set.nodes[leader].contents("t", 0)
}

/// Retention has taken the first messages, so that no replica can replay the
/// log from its beginning.
fn short_of_memory(_: u64, config: &mut BrokerConfig) {
    config.retain_bytes = Some(200 << 10);
}

#[test]
fn followers_drop_old_segments_too() {
    let mut set = Set::with(short_of_memory);
    fill(&mut set, 600);
    for at in 0..3 {
        let status = set.status(at);
        assert!(status.own.start > 0, "replica {at} keeps everything");
        assert!(status.own.committed - status.own.start < 500 << 10, "replica {at} keeps too much");
    }
}

#[test]
fn an_empty_replica_is_filled_and_serves_what_the_others_have() {
    let mut set = Set::with(short_of_memory);
    let expected = fill(&mut set, 600);
    assert!(expected[0].0 > 0, "the first ones have expired");
    let leader = set.leader();
    let lost = (leader + 1) % 3;
    let config = set.nodes[lost].config.clone();
    set.nodes[lost] = ByHand::with(config);
    set.nodes[lost].seed = 99;
    set.nodes[lost].now = set.nodes[leader].now;
    set.nodes[lost].start().unwrap();
    assert!(!set.status(lost).own.trusted);
    set.run_till("trust", |set| set.status(lost).own.trusted);
    set.settle();
    let told = set.status(leader).replicas.into_iter().find(|of| of.id == lost as u64 + 1);
    assert_eq!(told.unwrap().progress.map(|of| (of.trusted, of.bytes_behind)), Some((true, 0)));
    set.transfer(lost);
    assert_eq!(set.nodes[lost].contents("t", 0), expected);
    assert_eq!(set.nodes[lost].committed("readers", "t", 0), Some(590), "O2");
    assert_eq!(set.send(lost, "after"), ok(600));
    // What it was given survives its next start.
    set.nodes[lost].power_loss();
    set.nodes[lost].start().unwrap();
    set.settle();
    set.leader();
    set.settle();
    set.transfer(lost);
    assert_eq!(set.nodes[lost].contents("t", 0)[..expected.len()], expected);
}

#[test]
fn replicas_are_added_replaced_and_removed_while_they_serve() {
    let mut set = Set::with(short_of_memory);
    let expected = fill(&mut set, 400);
    let old = set.leader();
    let follower = (old + 1) % 3;
    let (id, by) = (old as u64 + 1, 4);
    let replace = MemberChange::Replace { id, by, address: address(by) };
    assert_eq!(set.change(follower, replace), code::NOT_LEADER);
    let mut joins = node(by, false);
    joins.now = set.nodes[old].now;
    joins.start().unwrap();
    set.nodes.push(joins);
    assert_eq!(set.change(old, replace), code::SUCCESS);
    assert_eq!(set.change(old, MemberChange::Remove { id: 2 }), code::SYSTEM_BUSY, "one at a time");
    set.run_till("exchange", |set| {
        let leader = set.leader();
        let status = set.status(leader);
        let voters = status.replicas.iter().filter(|of| of.role == ReplicaRole::Voter);
        !status.changing && voters.count() == 3 && status.replicas.iter().all(|of| of.id != id)
    });
    set.run_till("farewell", |set| set.status(old).own.removed);
    assert!(!set.nodes[old].is_serving(), "the leader that leaves hands over first");
    set.transfer(3);
    assert_eq!(set.nodes[3].contents("t", 0), expected);
    assert_eq!(set.send(3, "after"), ok(400));
    assert_eq!(set.change(3, MemberChange::Remove { id }), code::ILLEGAL_OPERATION, "it is gone");
}
