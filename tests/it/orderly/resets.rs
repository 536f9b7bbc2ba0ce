//! A reset of a group's progress holds against whatever its members still say.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use stormglass_core::{
    replication::Flush,
    wire::{
        body::ResetOffsets,
        code,
        header::{CommittedReply, QueryOffsetHeader, ResetOffsetHeader, UpdateOffsetHeader},
        request,
    },
};
use stormglass_tests::by_hand::{ByHand, pull_fields, small_config};

use super::Client;
use crate::crashes::{Crash, at_any_time, revive};

const GROUP: &str = "readers";
const TOPIC: &str = "orders";

fn broker() -> ByHand {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    for n in 0..10 {
        by_hand.send(TOPIC, 0, &format!("m{n}"));
        by_hand.pass(Duration::from_secs(1));
    }
    by_hand
}

fn commit(by_hand: &mut ByHand, client: Client, offset: u64, reset_epoch: Option<u64>) -> i32 {
    let header = UpdateOffsetHeader {
        group: GROUP,
        topic: TOPIC,
        queue: 0,
        commit_offset: offset as i64,
        lock_epoch: None,
        reset_epoch,
    };
    let fields = header.fields();
    client
        .ask(by_hand, request::UPDATE_CONSUMER_OFFSET, fields, Bytes::new())
        .map_or(-1, |a| a.code)
}

fn query(by_hand: &mut ByHand, client: Client) -> (u64, Option<u64>) {
    let header =
        QueryOffsetHeader { group: GROUP, topic: TOPIC, queue: 0, set_zero_if_not_found: None };
    let code = request::QUERY_CONSUMER_OFFSET;
    let answer = client.ask(by_hand, code, header.fields(), Bytes::new()).unwrap();
    let reply = CommittedReply::parse(&answer.fields).unwrap();
    (reply.offset as u64, reply.reset_epoch)
}

fn reset(
    by_hand: &mut ByHand,
    offset: Option<i64>,
    timestamp: i64,
    force: bool,
) -> Option<Vec<i64>> {
    let queue = offset.map(|_| 0);
    let header = ResetOffsetHeader { topic: TOPIC, group: GROUP, timestamp, force, queue, offset };
    let code = request::INVOKE_BROKER_TO_RESET_OFFSET;
    let answer = Client(9).ask(by_hand, code, header.fields(), Bytes::new())?;
    assert_eq!(answer.code, code::SUCCESS, "{}", answer.remark);
    let offsets = ResetOffsets::parse(&answer.body).unwrap().offsets;
    Some(offsets.iter().map(|offset| offset.offset).collect())
}

#[test]
fn late_updates_do_not_undo_a_reset() {
    let mut by_hand = broker();
    let (a, late) = (Client(1), Client(2));
    for client in [a, late] {
        client.join_all(&mut by_hand, GROUP, TOPIC);
    }
    assert_eq!(commit(&mut by_hand, a, 8, None), code::SUCCESS);
    assert_eq!(commit(&mut by_hand, late, 8, None), code::SUCCESS);
    by_hand.sent.clear();
    assert_eq!(reset(&mut by_hand, Some(3), 0, true), Some(vec![3]));
    assert_eq!(a.told(&by_hand, request::RESET_CONSUMER_CLIENT_OFFSET), 1);
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(3));
    // What members say before they learned of it is too late.
    for client in [a, late] {
        assert_eq!(commit(&mut by_hand, client, 9, None), code::FENCED);
    }
    assert_eq!(query(&mut by_hand, a), (3, Some(1)));
    assert_eq!(commit(&mut by_hand, a, 4, None), code::SUCCESS);
    assert_eq!(commit(&mut by_hand, late, 9, None), code::FENCED, "still in ignorance");
    assert_eq!(commit(&mut by_hand, late, 9, Some(0)), code::FENCED);
    assert_eq!(commit(&mut by_hand, late, 5, Some(1)), code::SUCCESS, "it names the reset");
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(5));
}

#[test]
fn a_reset_is_not_forgotten_by_a_restart() {
    let mut by_hand = broker();
    let a = Client(1);
    a.join_all(&mut by_hand, GROUP, TOPIC);
    assert_eq!(commit(&mut by_hand, a, 8, None), code::SUCCESS);
    reset(&mut by_hand, Some(2), 0, true);
    by_hand.power_loss();
    by_hand.start().unwrap();
    // It comes back on a new connection and goes on as before.
    assert_eq!(commit(&mut by_hand, a, 9, None), code::FENCED);
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(2));
    a.join_all(&mut by_hand, GROUP, TOPIC);
    assert_eq!(a.told(&by_hand, request::RESET_CONSUMER_CLIENT_OFFSET), 1, "told again");
    // Who pulls from there has learned of it.
    let fields = pull_fields(TOPIC, 0, 2, 4, 0);
    a.ask(&mut by_hand, request::PULL_MESSAGE, fields, Bytes::new()).unwrap();
    assert_eq!(commit(&mut by_hand, a, 3, None), code::SUCCESS);
    // From here on it is progress like any other, after a restart as well.
    by_hand.kill();
    by_hand.start().unwrap();
    assert_eq!(commit(&mut by_hand, a, 4, None), code::SUCCESS);
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(4));
}

#[test]
fn a_time_names_the_first_message_stored_then_or_later() {
    let mut by_hand = broker();
    assert_eq!(commit(&mut by_hand, Client(1), 8, None), code::SUCCESS);
    let start = 1_700_000_000_000;
    let all = |first: i64| Some(vec![first, 0, 0, 0]);
    assert_eq!(reset(&mut by_hand, None, start + 4_500, true), all(5));
    assert_eq!(reset(&mut by_hand, None, start, true), all(0));
    assert_eq!(reset(&mut by_hand, None, -1, true), all(10));
    // Without force a group is only ever moved back.
    assert_eq!(reset(&mut by_hand, Some(4), 0, false), Some(vec![4]));
    assert_eq!(reset(&mut by_hand, Some(6), 0, false), Some(vec![]));
    assert_eq!(by_hand.committed(GROUP, TOPIC, 0), Some(4));
}

#[derive(Clone, Debug)]
enum Step {
    Commit(u64, u64),
    Query(u64),
    Reset(u64),
    Crash(Crash),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u64, 0..11u64).prop_map(|(client, offset)| Step::Commit(client, offset)),
        3 => (1..4u64).prop_map(Step::Query),
        2 => (0..11u64).prop_map(Step::Reset),
        2 => at_any_time().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The model: progress moves forward from the last reset, by those who have
    /// asked since. A request without an answer may or may not have happened.
    #[test]
    fn progress_moves_forward_from_the_last_reset(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut config = small_config(Flush::Sync);
        config.snapshot_every = 1 << 10;
        let mut by_hand = ByHand::with(config);
        by_hand.start().unwrap();
        for n in 0..10 {
            by_hand.send(TOPIC, 0, &format!("m{n}"));
        }
        commit(&mut by_hand, Client(1), 0, None);
        let mut stands: std::collections::BTreeSet<u64> = [0].into();
        let mut epochs: std::collections::BTreeMap<u64, u64> = Default::default();
        for step in steps {
            let mut is_stuck = false;
            match step {
                Step::Commit(client, offset) => {
                    let known = epochs.get(&client).copied().unwrap_or(0);
                    let code = commit(&mut by_hand, Client(client), offset, Some(known));
                    let forward: Vec<u64> = stands.iter().map(|at| offset.max(*at)).collect();
                    match code {
                        code::SUCCESS => stands = forward.into_iter().collect(),
                        code::FENCED => {}
                        _ => {
                            stands.extend(forward);
                            is_stuck = true;
                        }
                    }
                }
                Step::Query(client) => {
                    let (offset, epoch) = query(&mut by_hand, Client(client));
                    prop_assert!(stands.contains(&offset), "{offset}, not one of {stands:?}");
                    stands = [offset].into();
                    epochs.insert(client, epoch.unwrap_or(0));
                }
                Step::Reset(offset) => match reset(&mut by_hand, Some(offset as i64), 0, true) {
                    Some(_) => stands = [offset.min(10)].into(),
                    None => {
                        stands.insert(offset.min(10));
                        is_stuck = true;
                    }
                },
                Step::Crash(crash) => crash.strike(&mut by_hand),
            }
            // What got no answer happens now or never.
            if is_stuck {
                Crash::PowerLoss.strike(&mut by_hand);
            }
            revive(&mut by_hand);
        }
    }
}
