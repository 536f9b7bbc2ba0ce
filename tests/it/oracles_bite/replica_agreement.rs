use stormglass_sim::{
    history::{FaultKind, Stop},
    oracle::{Breach, NotAllowed, replica_agreement},
};

use super::tale::SetTale;
use crate::{breaks, holds};

#[test]
fn a_term_has_one_leader() {
    let mut good = SetTale::of(3);
    good.send(1, 0, &[0, 1]);
    good.stop(0, Stop::Killed);
    good.leads(1, 2, 1);
    good.start(0, 1);
    good.follows(0, 2);
    holds!(good.clone().at_rest(1, 2));

    let mut bad = good.clone();
    bad.leads(2, 2, 1);
    breaks!(
        bad.at_rest(1, 2),
        Breach::ReplicaAgreement(replica_agreement::Breach::TwoLeaders { term: 2, .. })
    );

    // What a killed process knew was in the page cache; what it only heard of
    // before its power failed may be forgotten; that it led may not.
    let forgets = |why: Stop, at: usize| {
        let mut tale = good.clone();
        tale.stop(at, why);
        tale.start(at, 1);
        tale.follows(at, 1);
        tale.follows(at, 2);
        tale.at_rest(2, 2)
    };
    holds!(forgets(Stop::PowerLost, 0));
    for bad in [forgets(Stop::Killed, 0), forgets(Stop::PowerLost, 1)] {
        breaks!(
            bad,
            Breach::ReplicaAgreement(replica_agreement::Breach::TermForgotten {
                term: 1,
                before: 2,
                ..
            })
        );
    }
}

#[test]
fn committed_is_the_same_everywhere_and_stays() {
    let mut start = SetTale::of(3);
    start.send(1, 0, &[0, 1]);
    start.commits(1, 1);
    start.send(2, 1, &[0, 1]);
    holds!(start.clone().at_rest(0, 2));

    let mut bad = start.clone();
    bad.commits_as(1, 2, 77);
    breaks!(
        bad.at_rest(0, 3),
        Breach::ReplicaAgreement(replica_agreement::Breach::Diverged { index: 2, .. })
    );

    // A new life may know less of the commit; the same one may not.
    let mut restarted = start.clone();
    restarted.stop(1, Stop::Killed);
    restarted.start(1, 2);
    restarted.follows(1, 1);
    restarted.commits(1, 1);
    holds!(restarted.at_rest(0, 2));
    let mut bad = start.clone();
    bad.commits(0, 1);
    breaks!(
        bad.at_rest(0, 2),
        Breach::ReplicaAgreement(replica_agreement::Breach::CommittedBackwards {
            index: 1,
            before: 2,
            ..
        })
    );
}

#[test]
fn under_sync_flush_a_majority_has_it_on_disk_before_it_is_committed() {
    let mut start = SetTale::of(5);
    start.send(1, 0, &[0, 1, 4]);
    holds!(start.clone().at_rest(0, 1));
    start.synced(0, 2);
    start.synced(3, 2);
    start.commits(0, 2);
    breaks!(
        start.at_rest(0, 2),
        Breach::ReplicaAgreement(replica_agreement::Breach::CommittedEarly { .. })
    );
}

#[test]
fn a_new_leader_has_all_that_was_committed() {
    let mut start = SetTale::of(3);
    start.synced(0, 1);
    start.synced(1, 1);
    start.commits(0, 1);
    let mut bad = start.clone();
    bad.leads(2, 2, 0);
    breaks!(
        bad.at_rest(2, 2),
        Breach::ReplicaAgreement(replica_agreement::Breach::CommittedLost {
            index: 1,
            cause: NotAllowed::SyncFlush,
            ..
        })
    );

    // What the new leader itself has committed by then is there.
    let mut good = start.clone();
    good.is_elected(1, 2);
    good.synced(1, 2);
    good.synced(2, 2);
    good.commits(1, 2);
    good.serves(1);
    holds!(good.at_rest(1, 2));

    // Unless a majority of the disks is gone.
    let mut destroyed = start.clone();
    for at in [0, 1] {
        destroyed.tale.fault_at(destroyed.replicas[at], FaultKind::BitRot);
        destroyed.stop(at, Stop::GaveUp);
        destroyed.start(at, 0);
    }
    destroyed.leads(2, 2, 0);
    holds!(destroyed.at_rest(2, 2));
}

#[test]
fn at_rest_everybody_has_all_of_it() {
    let mut start = SetTale::of(3);
    start.send(1, 0, &[0, 1]);
    start.send(2, 1, &[0, 1]);
    (0..2).for_each(|at| start.commits(at, 2));
    start.commits(2, 1);
    holds!(start.tale);
    start.tale.wait_secs(6);
    breaks!(
        start.tale,
        Breach::ReplicaAgreement(replica_agreement::Breach::Behind { index: 1, newest: 2, .. })
    );
}
