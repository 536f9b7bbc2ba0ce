use stormglass_sim::{
    history::OffsetSource,
    oracle::{Breach, licensed_duplicates},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn every_copy_has_a_cause() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.send(1, 0);
    start.send(2, 1);
    let first = start.deliver(member, 1, 0);

    // A nack licenses one more.
    let mut good = start.clone();
    good.nack(first);
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);
    good.deliver(member, 1, 0);
    breaks!(good, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));

    // Without a nack, none.
    let mut bad = start.clone();
    bad.consume(member, 1, 0);
    bad.ack(first);
    bad.consume(member, 2, 1);
    breaks!(bad, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));

    // A crash licenses what had not been committed (D3), once.
    let mut crashed = start.clone();
    crashed.ack(first);
    crashed.consume(member, 2, 1);
    crashed.crash(member);
    let heir = crashed.join("billing", "c2");
    crashed.own(heir, 1, OffsetSource::Committed);
    let mut good = crashed.clone();
    good.consume(heir, 2, 1);
    holds!(good);
    crashed.consume(heir, 1, 0);
    breaks!(crashed, Breach::LicensedDuplicates(licensed_duplicates::Breach::BeforeStart { .. }));

    // Two members take turns: one copy each, and no more.
    let mut turns = start.clone();
    turns.ack(first);
    turns.consume(member, 2, 1);
    let other = turns.join("billing", "c2");
    turns.own(other, 0, OffsetSource::Committed);
    turns.consume(other, 1, 0);
    turns.consume(other, 2, 1);
    holds!(turns);
    turns.consume(member, 1, 0);
    breaks!(
        turns,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::TooOften {
            deliveries: 3,
            causes: 2,
            ..
        })
    );
}

#[test]
fn a_client_that_does_not_say_where_it_reads_is_judged_by_its_restarts() {
    let mut tale = Tale::new();
    let member = tale.join("billing", "c1");
    tale.send(1, 0);
    tale.consume(member, 1, 0);
    tale.crash(member);
    tale.join("billing", "c1");
    tale.consume(member, 1, 0);
    holds!(tale);
    tale.consume(member, 1, 0);
    breaks!(tale, Breach::LicensedDuplicates(licensed_duplicates::Breach::Again { .. }));
}

#[test]
fn stored_copies_are_counted() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let op = start.begin(1);

    // The reply was lost, the message was sent again: two copies (D1).
    let mut good = start.clone();
    good.unknown(op);
    good.send(1, 1);
    good.consume(member, 1, 0);
    good.consume(member, 1, 1);
    holds!(good);

    // One request, two copies (D6).
    let mut bad = start.clone();
    bad.stored(op, 0);
    bad.consume(member, 1, 0);
    bad.consume(member, 1, 1);
    breaks!(
        bad,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::TooManyCopies {
            copies: 2,
            tries: 1,
            ..
        })
    );
}

#[test]
fn one_sequence_number_is_one_copy() {
    let mut tale = Tale::new();
    let member = tale.consumer("billing", "c1");
    for offset in [0, 1] {
        let op = tale.begin_idempotent(1);
        tale.unknown(op);
        tale.consume(member, 1, offset);
        if offset == 0 {
            holds!(tale);
        }
    }
    breaks!(
        tale,
        Breach::LicensedDuplicates(licensed_duplicates::Breach::Repeated { copies: 2, .. })
    );
}
