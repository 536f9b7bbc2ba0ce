use stormglass_sim::{
    history::OffsetSource,
    oracle::{Breach, shard_order},
};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn first_deliveries_ascend() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    let (first, second) = (start.begin(1), start.begin(2));
    start.stored(first, 0);
    start.stored(second, 1);
    let mut good = start.clone();
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);

    // Backwards, by one member and across two.
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::ShardOrder(shard_order::Breach::Backwards { offset: 0, after: 1, .. }));
    let mut bad = start.clone();
    bad.consume(member, 2, 1);
    bad.crash(member);
    let heir = bad.join("billing", "c2");
    bad.own(heir, 0, OffsetSource::Committed);
    bad.consume(heir, 1, 0);
    breaks!(bad, Breach::ShardOrder(shard_order::Breach::Backwards { offset: 0, after: 1, .. }));

    // Orderly: the next only after the ack.
    let mut orderly = Tale::new();
    let member = orderly.join_as("ledger", "c1", |started| started.orderly = true);
    orderly.own(member, 0, OffsetSource::First);
    orderly.send(1, 0);
    orderly.send(2, 1);
    let first = orderly.deliver(member, 1, 0);
    let mut good = orderly.clone();
    good.nack(first);
    good.consume(member, 1, 0);
    good.consume(member, 2, 1);
    holds!(good);
    orderly.consume(member, 2, 1);
    orderly.ack(first);
    breaks!(orderly, Breach::ShardOrder(shard_order::Breach::TooEarly { open: 0, .. }));
}

#[test]
fn order_survives_a_change_of_owner() {
    let mut start = Tale::new();
    let old = start.join_as("ledger", "c1", |started| started.orderly = true);
    start.own(old, 0, OffsetSource::First);
    start.send(1, 0);
    start.send(2, 1);
    let open = start.deliver(old, 1, 0);
    start.crash(old);
    let heir = start.join_as("ledger", "c2", |started| started.orderly = true);
    let mut good = start.clone();
    good.own(heir, 0, OffsetSource::Committed);
    good.consume(heir, 1, 0);
    good.consume(heir, 2, 1);
    holds!(good);

    // It goes on behind what its predecessor had not finished.
    start.own(heir, 1, OffsetSource::Committed);
    start.consume(heir, 2, 1);
    start.ack(open);
    breaks!(start, Breach::ShardOrder(shard_order::Breach::TooEarly { offset: 1, open: 0, .. }));
}
