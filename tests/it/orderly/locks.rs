//! One owner of a queue at a time, across leases, hand-overs and crashes.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use stormglass_core::{
    replication::Flush,
    wire::{
        Fields,
        body::{LockReply, LockRequest, MessageQueue},
        code,
        header::{PullHeader, UpdateOffsetHeader, pull_flag},
        request,
    },
};
use stormglass_tests::by_hand::{ByHand, Sent, small_config};

use super::Client;
use crate::crashes::{Crash, at_any_time, revive};

const GROUP: &str = "orderly";
const LEASE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn broker() -> ByHand {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    by_hand.send("orders", 0, "a");
    by_hand
}

fn request_for(client: Client, queues: &[u32]) -> LockRequest {
    LockRequest {
        group: GROUP.into(),
        client_id: client.name(),
        only_this_broker: false,
        queues: queues.iter().map(|n| MessageQueue::new("orders", "broker-a", *n)).collect(),
    }
}

/// The epochs of the locks that were granted, by queue; none if the broker died.
fn lock(by_hand: &mut ByHand, client: Client, queues: &[u32]) -> Option<BTreeMap<u32, u64>> {
    let body = request_for(client, queues).to_bytes();
    let answer = client.ask(by_hand, request::LOCK_BATCH_MQ, Fields::default(), body)?;
    assert_eq!(answer.code, code::SUCCESS, "{}", answer.remark);
    let reply = LockReply::parse(&answer.body).unwrap();
    Some(reply.locked.iter().map(|queue| (queue.queue, queue.epoch.unwrap())).collect())
}

fn unlock(by_hand: &mut ByHand, client: Client, queues: &[u32]) -> Option<i32> {
    let body = request_for(client, queues).to_bytes();
    Some(client.ask(by_hand, request::UNLOCK_BATCH_MQ, Fields::default(), body)?.code)
}

fn commit(by_hand: &mut ByHand, client: Client, offset: i64, lock_epoch: Option<u64>) -> i32 {
    let (group, topic, queue) = (GROUP, "orders", 0);
    let header = UpdateOffsetHeader {
        group,
        topic,
        queue,
        commit_offset: offset,
        lock_epoch,
        reset_epoch: None,
    };
    let fields = header.fields();
    client.ask(by_hand, request::UPDATE_CONSUMER_OFFSET, fields, Default::default()).unwrap().code
}

fn pull(offset: i64, lock_epoch: Option<u64>, hold: i64) -> Fields {
    PullHeader {
        group: GROUP,
        topic: "orders",
        queue: 0,
        queue_offset: offset,
        max_messages: 32,
        sys_flag: pull_flag::SUBSCRIPTION | pull_flag::SUSPEND,
        commit_offset: -1,
        suspend_timeout: hold,
        subscription: Some("*"),
        sub_version: 1,
        expression_type: None,
        max_bytes: None,
        lock_epoch,
        reset_epoch: None,
    }
    .fields()
}

#[test]
fn a_queue_has_one_owner_until_it_gives_it_up() {
    let mut by_hand = broker();
    let (a, b) = (Client(1), Client(2));
    for client in [a, b] {
        client.join_all(&mut by_hand, GROUP, "orders");
    }
    assert_eq!(lock(&mut by_hand, a, &[0, 1]), Some([(0, 1), (1, 1)].into()));
    assert_eq!(lock(&mut by_hand, b, &[0, 1, 2]), Some([(2, 1)].into()));
    // Asked again by its owner it is the same lock; of a queue that is not
    // there, there is none.
    assert_eq!(lock(&mut by_hand, a, &[0, 99]), Some([(0, 1)].into()));
    by_hand.sent.clear();
    assert_eq!(unlock(&mut by_hand, b, &[0]), Some(code::SUCCESS), "not its lock");
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([].into()));
    assert_eq!(unlock(&mut by_hand, a, &[0, 1]), Some(code::SUCCESS));
    assert!(b.told(&by_hand, request::NOTIFY_CONSUMER_IDS_CHANGED) > 0, "who waits is told");
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([(0, 2)].into()));
}

#[test]
fn a_lease_that_is_not_renewed_passes_on_and_the_late_owner_is_fenced() {
    let mut by_hand = broker();
    let (a, b, plain) = (Client(1), Client(2), Client(3));
    for client in [a, b, plain] {
        client.join_all(&mut by_hand, GROUP, "orders");
    }
    lock(&mut by_hand, a, &[0]);
    by_hand.pass(LEASE - SECOND);
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([].into()));
    assert_eq!(commit(&mut by_hand, a, 1, Some(1)), code::SUCCESS);
    assert_eq!(commit(&mut by_hand, plain, 1, None), code::FENCED, "not the owner");
    assert_eq!(commit(&mut by_hand, a, 1, None), code::SUCCESS, "known by its connection");

    let held = a.request(
        &mut by_hand,
        request::PULL_MESSAGE,
        pull(1, Some(1), 30_000),
        Default::default(),
    );
    by_hand.sent.clear();
    by_hand.pass(2 * SECOND);
    assert!(b.told(&by_hand, request::NOTIFY_CONSUMER_IDS_CHANGED) > 0, "who waits is told");
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([(0, 2)].into()));
    // What the former owner still wants or says is refused, however it says it.
    assert_eq!(by_hand.send("orders", 0, "b"), Sent::Ok { queue: 0, offset: 1 });
    assert_eq!(by_hand.answer(held).unwrap().code, code::FENCED);
    for epoch in [None, Some(1), Some(3)] {
        assert_eq!(commit(&mut by_hand, a, 2, epoch), code::FENCED, "{epoch:?}");
        let fields = pull(0, epoch, 0);
        let answer = a.ask(&mut by_hand, request::PULL_MESSAGE, fields, Default::default());
        assert_eq!(answer.unwrap().code, code::FENCED, "{epoch:?}");
    }
    assert_eq!(by_hand.committed(GROUP, "orders", 0), Some(1));
    assert_eq!(commit(&mut by_hand, b, 2, Some(2)), code::SUCCESS);
    // A tool is no member, and reads what it likes.
    let answer =
        Client(9).ask(&mut by_hand, request::PULL_MESSAGE, pull(0, None, 0), Default::default());
    assert_eq!(answer.unwrap().code, code::SUCCESS);
}

#[test]
fn after_a_restart_every_owner_has_one_lease_left() {
    let mut by_hand = broker();
    let (a, b) = (Client(1), Client(2));
    lock(&mut by_hand, a, &[0]);
    by_hand.pass(LEASE / 2);
    for _ in 0..3 {
        by_hand.power_loss();
        by_hand.start().unwrap();
        by_hand.pass(LEASE - SECOND);
        assert_eq!(lock(&mut by_hand, b, &[0]), Some([].into()));
    }
    assert_eq!(lock(&mut by_hand, a, &[0]), Some([(0, 1)].into()));
    by_hand.kill();
    by_hand.start().unwrap();
    by_hand.pass(LEASE + SECOND);
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([(0, 2)].into()));
    let view = by_hand.broker.as_ref().unwrap().view();
    let owners: Vec<_> = view.locks().map(|(_, shard, owner)| (shard.queue, owner.epoch)).collect();
    assert_eq!(owners, [(0, 2)]);
}

#[test]
fn a_member_that_leaves_keeps_its_lock_until_the_lease_ends() {
    let mut by_hand = broker();
    let (a, b) = (Client(1), Client(2));
    a.join_all(&mut by_hand, GROUP, "orders");
    lock(&mut by_hand, a, &[0]);
    by_hand.input(stormglass_core::broker::Input::Closed { conn: a.conn() });
    by_hand.pass(LEASE - SECOND);
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([].into()));
    by_hand.pass(2 * SECOND);
    assert_eq!(lock(&mut by_hand, b, &[0]), Some([(0, 2)].into()));
}

#[derive(Clone, Debug)]
enum Step {
    Lock(u64, u32),
    Unlock(u64, u32),
    Pass(u64),
    Crash(Crash),
    Send,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u64, 0..2u32).prop_map(|(client, queue)| Step::Lock(client, queue)),
        3 => (1..4u64, 0..2u32).prop_map(|(client, queue)| Step::Unlock(client, queue)),
        3 => (1..80u64).prop_map(Step::Pass),
        2 => at_any_time().prop_map(Step::Crash),
        2 => Just(Step::Send),
    ]
}

/// What anybody was told about a queue: who owns it under which epoch, and until
/// when nobody else may.
#[derive(Clone, Debug, Default)]
struct Told {
    owner: u64,
    epoch: u64,
    until: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever happens, a lock that somebody was told to hold is nobody else's
    /// within the lease, and epochs say who came later.
    #[test]
    fn no_two_owners_at_once(steps in prop::collection::vec(step(), 1..60)) {
        let mut config = small_config(Flush::Sync);
        config.snapshot_every = 2 << 10;
        let mut by_hand = ByHand::with(config);
        by_hand.start().unwrap();
        by_hand.send("orders", 0, "a");
        let mut told: BTreeMap<u32, Told> = BTreeMap::new();
        for step in steps {
            let now = by_hand.now.mono.0;
            match step {
                Step::Lock(client, queue) => {
                    let Some(granted) = lock(&mut by_hand, Client(client), &[queue]) else { continue };
                    let told = told.entry(queue).or_default();
                    match granted.get(&queue) {
                        Some(epoch) if told.owner == client => {
                            // Its own again, or still: a lost answer may have
                            // been a grant to somebody else in between.
                            prop_assert!(*epoch >= told.epoch);
                            *told = Told { owner: client, epoch: *epoch, until: now + 60_000_000 };
                        }
                        Some(epoch) => {
                            prop_assert!(now >= told.until, "{client} took {told:?} at {now}");
                            prop_assert!(*epoch > told.epoch, "{epoch} after {told:?}");
                            *told = Told { owner: client, epoch: *epoch, until: now + 60_000_000 };
                        }
                        None => prop_assert!(told.owner != client || now >= told.until),
                    }
                }
                Step::Unlock(client, queue) => {
                    let done = unlock(&mut by_hand, Client(client), &[queue]);
                    let told = told.entry(queue).or_default();
                    // Without an answer it counts as free, too: its owner said
                    // that it is done.
                    if told.owner == client {
                        told.until = 0;
                        told.owner = if done.is_some() { 0 } else { client };
                    }
                }
                Step::Pass(seconds) => by_hand.pass(Duration::from_secs(seconds)),
                Step::Crash(crash) => crash.strike(&mut by_hand),
                Step::Send => { by_hand.send("orders", 0, &"x".repeat(3000)); }
            }
            revive(&mut by_hand);
        }
    }
}
