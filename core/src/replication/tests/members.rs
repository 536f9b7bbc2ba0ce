//! Replicas that come, go, and start from nothing while the group goes on.

use super::{
    cluster::{Cluster, FOUL},
    *,
};
use crate::replication::configuration::Standing;

fn is_voter(cluster: &Cluster, at: usize) -> bool {
    let standing = |of: usize| cluster.member(of).configuration().standing(cluster::id_of(at));
    cluster.leader().is_some_and(|leader| standing(leader) == Some(Standing::Voter))
}

/// Long enough for several snapshots, so that the first entries are gone.
fn old_group(seed: u64, size: usize, flush: Flush) -> Cluster {
    let (mut cluster, leader) = settled(seed, size, flush);
    cluster.run_till("expiry", |cluster| {
        run_for(cluster, 200);
        (0..size).all(|at| cluster.member(at).log().start() > Position(0))
    });
    assert!(cluster.is_up(leader));
    cluster
}

#[test]
fn a_new_replica_is_filled_and_votes_while_traffic_flows() {
    for seed in 0..8 {
        for flush in [Flush::Sync, ASYNC] {
            let mut cluster = old_group(seed, 3, flush);
            let new = cluster.new_node();
            cluster.add(new, None).unwrap();
            cluster.run_till("voter", |cluster| {
                run_for(cluster, 20);
                is_voter(cluster, new)
            });
            assert_eq!(cluster.nodes[new].replaced, 1, "it was filled once");
            assert!(cluster.member(new).log().start() > Position(0), "with what was kept");
            cluster.heal_and_judge();
        }
    }
}

#[test]
fn a_replica_takes_the_place_of_another_one_even_of_the_leader() {
    for seed in 0..12 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let leader = cluster.leader().unwrap();
        let replaced = if seed % 2 == 0 { leader } else { (leader + 1) % 3 };
        let new = cluster.new_node();
        cluster.add(new, Some(replaced)).unwrap();
        cluster.run_till("exchange", |cluster| {
            run_for(cluster, 20);
            is_voter(cluster, new) && cluster.members().len() == 3
        });
        assert!(!cluster.members().contains(&replaced));
        cluster.run_till("farewell", |cluster| cluster.member(replaced).is_removed());
        // Who left neither leads nor disturbs.
        let leader = cluster.leader().unwrap();
        let term = cluster.member(leader).term();
        run_for(&mut cluster, 2000);
        assert_eq!((cluster.leader(), cluster.member(leader).term()), (Some(leader), term));
        cluster.heal_and_judge();
    }
}

#[test]
fn a_set_shrinks_to_one_and_grows_again() {
    for seed in 0..6 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        for _ in 0..2 {
            let leader = cluster.leader().unwrap();
            let leaves = *cluster.members().iter().find(|at| **at != leader).unwrap();
            cluster.change(Change::Remove(cluster::id_of(leaves))).unwrap();
            cluster.run_till("departure", |cluster| {
                run_for(cluster, 20);
                cluster.leader().is_some() && !cluster.members().contains(&leaves) && {
                    let leader = cluster.leader().unwrap();
                    !cluster.member(leader).configuration().is_joint()
                }
            });
        }
        let last = cluster.leader().unwrap();
        assert_eq!(cluster.change(Change::Remove(cluster::id_of(last))), Err(Refused::LastVoter));
        run_for(&mut cluster, 300);
        for _ in 0..2 {
            let new = cluster.new_node();
            cluster.add(new, None).unwrap();
            assert_eq!(cluster.add(new + 1, None), Err(Refused::Changing));
            cluster.run_till("voter", |cluster| {
                run_for(cluster, 20);
                is_voter(cluster, new)
            });
        }
        cluster.heal_and_judge();
        assert_eq!(cluster.members().len(), 3);
    }
}

#[test]
fn a_follower_far_behind_is_filled_anew() {
    for seed in 0..8 {
        let (mut cluster, leader) = settled(seed, 3, Flush::Sync);
        let slow = (leader + 1) % 3;
        run_for(&mut cluster, 300);
        cluster.isolate(&[slow]);
        run_for(&mut cluster, 6000);
        cluster.cut.clear();
        cluster.heal_and_judge();
        let replaced = cluster.nodes[slow].replaced;
        assert!(replaced >= 2, "it gave up its log, and was filled: {replaced}");
    }
}

/// Whatever fails while a replica is filled: it is empty or whole.
#[test]
fn filling_survives_crashes_of_either_side() {
    for seed in 0..30 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let mut rng = Rng::new(!seed);
        cluster.weather = FOUL;
        let lost = rng.below(3) as usize;
        cluster.kill(lost);
        cluster.replace_disk(lost);
        cluster.start(lost);
        for _ in 0..8 {
            let pause = rng.below(120);
            run_for(&mut cluster, pause);
            let victim = if rng.chance(0.7) { lost } else { rng.below(3) as usize };
            match rng.below(3) {
                0 => cluster.kill(victim),
                1 => cluster.cut_power(victim),
                _ => cluster.fail_sync(victim),
            }
            if !cluster.is_up(victim) {
                cluster.start(victim);
            }
        }
        cluster.heal_and_judge();
    }
}

/// A replica that forgot everything, and a leader that was deposed while it
/// was cut off: together they are no majority.
#[test]
fn who_forgot_does_not_help_a_deposed_leader() {
    for seed in 0..20 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let old = cluster.leader().unwrap();
        cluster.isolate(&[old]);
        cluster
            .run_till("new leader", |cluster| cluster.leader().is_some_and(|leader| leader != old));
        let new = cluster.leader().unwrap();
        run_for(&mut cluster, 100);
        let forgetful = 3 - old - new;
        cluster.kill(forgetful);
        cluster.replace_disk(forgetful);
        cluster.cut.clear();
        cluster.isolate(&[new]);
        cluster.start(forgetful);
        // The lease of the old leader is long over, but it may not know.
        run_for(&mut cluster, 1500);
        cluster.heal_and_judge();
    }
}

/// Of three, one leads no more, one lost the end of its log, and one was away
/// when that was written: the last two must not agree on a past without it.
#[test]
fn who_lost_its_tail_elects_nobody_who_never_had_it() {
    let mut hurt_logs = 0;
    for seed in 0..40 {
        let (mut cluster, leader) = settled(seed, 3, Flush::Sync);
        let (hurt, away) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.isolate(&[away]);
        run_for(&mut cluster, 120);
        // So early that the one who was away has more by now.
        let at = cluster.member(away).committed().0 - 500;
        let segment = at - at % (16 << 10);
        if cluster.member(hurt).log().start().0 > segment {
            continue;
        }
        cluster.kill(leader);
        cluster.kill(hurt);
        cluster.disk(hurt).flip(&format!("log/{segment:020}"), at - segment, 3);
        cluster.start(hurt);
        // Rot in entries that nothing vouches for yet looks like a torn tail.
        if !cluster.member(hurt).log().is_distrusted() {
            continue;
        }
        hurt_logs += 1;
        cluster.cut.clear();
        run_for(&mut cluster, 1500);
        assert_eq!(cluster.leader(), None, "one of three knows too little");
        cluster.heal_and_judge();
    }
    assert!(hurt_logs > 3, "{hurt_logs} logs were hurt");
}

#[test]
fn a_disk_replaced_under_a_running_leader_is_filled() {
    for seed in 0..8 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let leader = cluster.leader().unwrap();
        let lost = (leader + 1 + seed as usize % 2) % 3;
        cluster.kill(lost);
        cluster.replace_disk(lost);
        cluster.start(lost);
        run_for(&mut cluster, 1500);
        assert!(!cluster.member(lost).log().is_distrusted());
        cluster.heal_and_judge();
    }
}

/// Without its `store` file, with a hole, or with a rotten snapshot: nothing on
/// the disk can be opened, and the others put it right.
#[test]
fn a_disk_that_makes_no_sense_is_set_aside_and_filled() {
    for seed in 0..12 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let hurt = (cluster.leader().unwrap() + 1) % 3;
        cluster.kill(hurt);
        let disk = cluster.disk(hurt);
        let names: Vec<String> = disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
        let prefix = ["store", "log/", "snapshot/"][seed as usize % 3];
        for name in names.iter().filter(|name| name.starts_with(prefix)) {
            let (file, _) = disk.open(name).unwrap();
            disk.remove(file).unwrap();
        }
        cluster.start(hurt);
        run_for(&mut cluster, 1500);
        cluster.heal_and_judge();
        assert!(cluster.nodes[hurt].replaced > 0);
    }
}

/// Nothing in the files of one kind can be read: the replica opens all the same,
/// and the others put it right.
#[test]
fn a_disk_with_unreadable_sectors_is_filled() {
    for seed in 0..12 {
        let mut cluster = old_group(seed, 3, Flush::Sync);
        let hurt = (cluster.leader().unwrap() + 1) % 3;
        cluster.kill(hurt);
        let disk = cluster.disk(hurt);
        let files = disk.list().unwrap();
        let prefix = ["store", "log/", "snapshot/"][seed as usize % 3];
        for (name, len) in files.iter().filter(|(name, _)| name.starts_with(prefix)) {
            (0..*len).step_by(512).for_each(|offset| disk.spoil(name, offset));
        }
        cluster.start(hurt);
        run_for(&mut cluster, 1500);
        cluster.heal_and_judge();
        assert!(cluster.nodes[hurt].replaced > 0);
    }
}

/// Under async flush a majority's power loss may take what was acknowledged.
/// Whoever still has it gives way.
#[test]
fn who_kept_what_a_majority_lost_gives_way() {
    let mut gave_way = 0;
    for seed in 0..80 {
        let (mut cluster, leader) = settled(seed, 3, ASYNC);
        let kept = (leader + 1) % 3;
        run_for(&mut cluster, 300);
        (0..3).filter(|at| *at != kept).for_each(|at| cluster.cut_power(at));
        cluster.may_lose = true;
        cluster.isolate(&[kept]);
        (0..3).filter(|at| *at != kept).for_each(|at| cluster.start(at));
        cluster.run_till("others", |cluster| cluster.leader().is_some_and(|leader| leader != kept));
        run_for(&mut cluster, 300);
        cluster.may_lose = false;
        cluster.heal_and_judge();
        gave_way += cluster.nodes[kept].replaced.min(1);
    }
    assert!(gave_way > 5, "{gave_way} had something to give up");
}

/// Members come and go, and disks are lost, in any weather.
fn upheaval(seed: u64, size: usize) -> (usize, u64) {
    let (mut cluster, _) = settled(seed, size, Flush::Sync);
    let mut rng = Rng::new(seed ^ 77);
    if rng.chance(0.4) {
        cluster.weather = FOUL;
    }
    let mut changes = 0;
    for _ in 0..14 {
        let before = rng.below(500);
        run_for(&mut cluster, before);
        let members = cluster.members();
        let victim = members[rng.below(members.len() as u64) as usize];
        match rng.below(8) {
            0 => cluster.kill(victim),
            1 => cluster.cut_power(victim),
            2 => cluster.isolate(&[victim]),
            3 => members.iter().for_each(|at| cluster.cut_power(*at)),
            4 if members.len() > 2 => {
                changes +=
                    usize::from(cluster.change(Change::Remove(cluster::id_of(victim))).is_ok());
            }
            5 if cluster.is_whole() => {
                cluster.kill(victim);
                cluster.replace_disk(victim);
            }
            _ if cluster.nodes.len() < 14 => {
                let new = cluster.new_node();
                let replaces = (rng.chance(0.6) || members.len() > 4).then_some(victim);
                changes += usize::from(cluster.add(new, replaces).is_ok());
            }
            _ => {}
        }
        let during = rng.below(600);
        run_for(&mut cluster, during);
        if rng.chance(0.8) {
            cluster.cut.clear();
        }
        for at in 0..cluster.nodes.len() {
            if !cluster.is_up(at) && rng.chance(0.8) {
                cluster.start(at);
            }
        }
    }
    cluster.heal_and_judge();
    (changes, cluster.nodes.iter().map(|node| node.replaced).sum())
}

#[test]
fn no_upheaval_takes_what_was_acknowledged() {
    let mut totals = (0, 0);
    for seed in 0..60 {
        let (changes, replaced) = upheaval(seed, if seed % 4 == 3 { 5 } else { 3 });
        totals = (totals.0 + changes, totals.1 + replaced);
    }
    assert!(totals.0 > 60 && totals.1 > 60, "{totals:?} changes and replaced logs");
}
