use stormglass_sim::{
    history::{Answered, Decision, Held, Told},
    oracle::{Breach, no_loss, transaction_atomicity},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn a_half_is_visible_once_it_is_committed() {
    let mut start = Tale::new();
    start.producers();
    let member = start.consumer("billing", "c1");
    start.half(1);
    holds!(start);
    let mut good = start.clone();
    good.decide(1, Decision::Commit);
    good.end(1, Told::Commit);
    let committed = good.clone();
    good.consume(member, 1, 0);
    holds!(good);

    // Seen, and nobody had committed it.
    let mut bad = start.clone();
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::TransactionAtomicity(transaction_atomicity::Breach::HalfVisible { .. }));

    // Committed, and nobody ever sees it.
    breaks!(committed, Breach::NoLoss(no_loss::Breach::NeverVisible { .. }));

    // Committed once, visible twice (T2).
    let mut bad = good.clone();
    bad.consume(member, 1, 1);
    breaks!(
        bad,
        Breach::TransactionAtomicity(transaction_atomicity::Breach::CommittedTwice {
            copies: 2,
            ..
        })
    );
}

#[test]
fn the_first_decision_stands() {
    let mut start = Tale::new();
    start.producers();
    let member = start.consumer("billing", "c1");
    start.half(1);
    start.decide(1, Decision::Rollback);
    start.end(1, Told::Rollback);
    holds!(start);

    let mut bad = start.clone();
    let end = bad.tell(1, Told::Commit);
    let mut good = bad.clone();
    good.end_answered(end, Answered::Conflict);
    holds!(good);

    // Rolled back, says the broker, and yet it is there (T4).
    good.consume(member, 1, 0);
    breaks!(
        good,
        Breach::TransactionAtomicity(transaction_atomicity::Breach::RolledBackVisible { .. })
    );
    bad.end_answered(end, Answered::Ok);
    breaks!(
        bad,
        Breach::TransactionAtomicity(transaction_atomicity::Breach::BothConfirmed {
            first: Decision::Rollback,
            ..
        })
    );

    // A conflict with nothing.
    let mut bad = Tale::new();
    bad.producers();
    bad.half(1);
    let end = bad.tell(1, Told::Commit);
    bad.end_answered(end, Answered::Conflict);
    breaks!(bad, Breach::TransactionAtomicity(transaction_atomicity::Breach::NoConflict { .. }));
}

#[test]
fn an_unanswered_end_may_have_been_first() {
    let mut good = Tale::new();
    good.producers();
    let member = good.consumer("billing", "c1");
    let op = good.begin_held(1, Held::Half);
    good.stored_held(op, 1);
    good.tell(1, Told::Commit);
    let end = good.tell(1, Told::Rollback);
    good.end_answered(end, Answered::Conflict);
    good.consume(member, 1, 0);
    holds!(good);
    // Once it was seen, a rollback cannot be confirmed.
    good.end(1, Told::Rollback);
    breaks!(
        good,
        Breach::TransactionAtomicity(transaction_atomicity::Breach::VisibleRolledBack { .. })
    );
}
