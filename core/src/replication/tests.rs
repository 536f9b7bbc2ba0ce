//! Groups of replicas through faults of their network, disks and processes.

mod answers;
mod cluster;
mod folding;
mod members;

use self::cluster::{Cluster, FOUL};
use super::*;
use crate::{ids::NodeId, rng::Rng};

const ASYNC: Flush = Flush::Async { interval: Duration::from_millis(50) };

fn run_for(cluster: &mut Cluster, millis: u64) {
    cluster.run_with_traffic(cluster.now + Duration::from_millis(millis));
}

fn settled(seed: u64, size: usize, flush: Flush) -> (Cluster, usize) {
    let mut cluster = Cluster::new(seed, size, flush);
    cluster.run_till("leader", |cluster| cluster.leader().is_some());
    run_for(&mut cluster, 300);
    let leader = cluster.leader().expect("nothing disturbs it");
    (cluster, leader)
}

#[test]
fn an_undisturbed_group_acknowledges_everything() {
    for seed in 0..4 {
        for size in [1, 3, 5] {
            for flush in [Flush::Sync, ASYNC] {
                let (mut cluster, leader) = settled(seed, size, flush);
                let term = cluster.member(leader).term();
                run_for(&mut cluster, 2000);
                assert_eq!(cluster.leader(), Some(leader));
                assert_eq!(cluster.member(leader).term(), term, "nobody else campaigned");
                cluster.heal_and_judge();
                assert!(cluster.acked.len() > 100, "{} acknowledged", cluster.acked.len());
            }
        }
    }
}

/// Faults drawn from the seed, one after the other or at once; then everything
/// heals, and nothing that was acknowledged is missing.
fn storm(seed: u64, size: usize, flush: Flush) -> usize {
    let (mut cluster, _) = settled(seed, size, flush);
    let mut rng = Rng::new(!seed);
    let pick = |rng: &mut Rng| rng.below(size as u64) as usize;
    if rng.chance(0.5) {
        cluster.weather = FOUL;
    }
    for _ in 0..12 {
        let before = rng.below(400);
        run_for(&mut cluster, before);
        let victim = match cluster.leader() {
            Some(leader) if rng.chance(0.5) => leader,
            _ => pick(&mut rng),
        };
        match rng.below(8) {
            0 => cluster.kill(victim),
            1 if flush == Flush::Sync => cluster.cut_power(victim),
            2 if flush == Flush::Sync => (0..size).for_each(|at| cluster.cut_power(at)),
            3 => (0..size).for_each(|at| cluster.kill(at)),
            4 => cluster.isolate(&[victim]),
            5 => cluster.isolate(&[victim, (victim + 1) % size]),
            // One direction of one link.
            6 => cluster.cut.push((victim, pick(&mut rng))),
            _ if flush == Flush::Sync => cluster.fail_sync(victim),
            _ => cluster.kill(victim),
        }
        let during = rng.below(600);
        run_for(&mut cluster, during);
        if rng.chance(0.7) {
            cluster.cut.clear();
        }
        for at in 0..size {
            if !cluster.is_up(at) && rng.chance(0.8) {
                cluster.start(at);
            }
        }
    }
    cluster.heal_and_judge();
    cluster.acked.len()
}

#[test]
fn no_storm_takes_what_a_synced_majority_acknowledged() {
    let acked: usize = (0..40).map(|seed| storm(seed, 3, Flush::Sync)).sum();
    let more: usize = (0..12).map(|seed| storm(seed, 5, Flush::Sync)).sum();
    assert!(acked > 4000 && more > 1000, "{acked} and {more} were acknowledged");
}

#[test]
fn under_async_flush_no_killed_process_takes_anything() {
    let acked: usize = (0..25).map(|seed| storm(seed, 3, ASYNC)).sum();
    assert!(acked > 2500, "{acked} were acknowledged");
}

#[test]
fn a_leader_with_a_minority_acknowledges_nothing_and_its_lease_ends() {
    for seed in 0..20 {
        let (mut cluster, old) = settled(seed, 3, Flush::Sync);
        cluster.isolate(&[old]);
        // What a follower has confirmed commits when the leader's own disk is through.
        run_for(&mut cluster, 20);
        let before = cluster.member(old).committed();
        cluster.run_till("new leader", |cluster| {
            cluster.propose(old);
            cluster.leader().is_some_and(|leader| leader != old)
        });
        // The cluster checks at every step that no lease outlives its term.
        assert_eq!(cluster.member(old).committed(), before);
        run_for(&mut cluster, 500);
        assert_ne!(cluster.member(old).role(), Role::Leader, "it stepped down by itself");
        cluster.heal_and_judge();
    }
}

#[test]
fn a_tail_that_only_the_old_leader_has_gives_way() {
    for seed in 0..20 {
        let (mut cluster, old) = settled(seed, 3, Flush::Sync);
        cluster.isolate(&[old]);
        let doomed: Vec<u64> = (0..30).filter_map(|_| cluster.propose(old)).collect();
        assert_eq!(doomed.len(), 30);
        run_for(&mut cluster, 10);
        if seed % 2 == 0 {
            cluster.cut_power(old);
        }
        let others = |cluster: &Cluster| cluster.leader().filter(|leader| *leader != old);
        cluster.run_till("new leader", |cluster| others(cluster).is_some());
        cluster.cut.clear();
        if seed % 2 == 0 {
            cluster.start(old);
        }
        cluster.heal_and_judge();
        assert!(doomed.iter().all(|id| !cluster.acked.contains_key(id)));
    }
}

#[test]
fn a_replica_with_a_damaged_log_is_repaired_and_never_elected_before() {
    for seed in 0..30 {
        let (mut cluster, leader) = settled(seed, 3, Flush::Sync);
        let hurt = (leader + 1 + seed as usize % 2) % 3;
        cluster.kill(hurt);
        // Any byte of what was durable long ago.
        let at = 200 + cluster.rng.below(8000);
        cluster.disk(hurt).flip("log/00000000000000000000", at, 2);
        if seed % 3 == 0 {
            // Only it and one other are left: it must not decide.
            cluster.kill(leader);
        }
        cluster.start(hurt);
        run_for(&mut cluster, 1500);
        cluster.heal_and_judge();
        assert!(cluster.acked.len() > 20);
    }
}

#[test]
fn a_replica_on_a_new_disk_gets_everything_and_does_not_vote_before() {
    for seed in 0..10 {
        let (mut cluster, leader) = settled(seed, 3, Flush::Sync);
        let new = (leader + 1) % 3;
        cluster.kill(new);
        cluster.replace_disk(new);
        // With the third one down, only an amnesiac could elect somebody.
        cluster.kill(leader);
        cluster.start(new);
        run_for(&mut cluster, 2000);
        assert_eq!(cluster.leader(), None, "one of three knows too little");
        cluster.heal_and_judge();
    }
}

#[test]
fn an_orderly_stop_hands_over_at_once() {
    for seed in 0..20 {
        let (mut cluster, old) = settled(seed, 3, Flush::Sync);
        let began = cluster.now;
        cluster.nodes[old].member.as_mut().unwrap().hand_over(None);
        cluster.run_till("successor", |cluster| {
            cluster.propose(old);
            cluster.leader().is_some_and(|leader| leader != old)
        });
        assert!(cluster.now.since(began) < cluster::ELECTION_TIMEOUT, "nobody had to time out");
        cluster.heal_and_judge();
    }
}

#[test]
fn strangers_and_mistaken_addresses_change_nothing() {
    let (mut cluster, leader) = settled(1, 3, Flush::Sync);
    let now = cluster.now;
    let member = cluster.nodes[leader].member.as_mut().unwrap();
    let (term, end) = (member.term(), member.log().end());
    let (me, other) = (member.id(), NodeId(me_not(member.id())));
    for (from, to) in [(NodeId(9), me), (other, other), (NodeId(0), me)] {
        let body = crate::peer::Body::TakeOver;
        let message = crate::peer::Message { from, to, term: Term(term.0 + 5), body };
        member.receive(now, message).unwrap();
        member.write(now).unwrap();
    }
    assert_eq!((member.term(), member.log().end(), member.role()), (term, end, Role::Leader));
}

fn me_not(id: NodeId) -> u64 {
    id.0 % 3 + 1
}

/// Twice the same seed: every message, every byte at the same time.
#[test]
fn a_seed_is_one_history() {
    for seed in 0..5 {
        let history = |seed| {
            let mut cluster = Cluster::new(seed, 3, Flush::Sync);
            cluster.weather = FOUL;
            let mut seen = Vec::new();
            for step in 0..40 {
                run_for(&mut cluster, 50);
                if step % 9 == 8 {
                    let victim = cluster.rng.below(3) as usize;
                    cluster.cut_power(victim);
                    cluster.start(victim);
                }
                let states = (0..3).map(|at| {
                    let member = cluster.member(at);
                    (member.term(), member.role(), member.committed(), member.log().end())
                });
                seen.push(states.collect::<Vec<_>>());
            }
            seen
        };
        let first = history(seed);
        // Other runs in between use up what a thread might remember.
        history(seed + 100);
        assert_eq!(first, history(seed));
    }
}
