//! Random and exhaustive crashes.

use proptest::prelude::*;

use super::*;

pub fn op() -> impl Strategy<Value = Op> {
    let size = prop::sample::select(vec![0usize, 1, 100, 100, 500, 1500]);
    let kind = prop::sample::select(vec![Kind::Messages, Kind::Command]);
    prop_oneof![
        12 => (kind, prop::collection::vec(size, 1..4))
            .prop_filter("fits", |(_, sizes)| sizes.iter().sum::<usize>() < 3800)
            .prop_map(|(kind, sizes)| Op::Append(kind, sizes)),
        1 => Just(Op::Append(Kind::Mark, Vec::new())),
        6 => Just(Op::Write),
        5 => Just(Op::BeginSync),
        5 => Just(Op::FinishSync),
        3 => Just(Op::SyncAll),
        2 => Just(Op::Prepare),
        4 => Just(Op::Snapshot),
        4 => Just(Op::Expire),
        3 => Just(Op::Recycle),
        2 => Just(Op::WriteBack),
        2 => Just(Op::Kill),
        1 => Just(Op::FailSyncAndKill),
        3 => Just(Op::PowerFailure),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_durable_survives_any_sequence_of_crashes(
        seed: u64,
        busy: bool,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut node = Node::new(seed);
        node.disk.busy = busy;
        node.open(0).unwrap();
        for op in &ops {
            perform(&mut node, op).unwrap();
        }
        let durable = node.durable;
        node.disk.power_failure(&mut node.rng);
        node.open(durable).unwrap();
    }
}

/// Short lives whose entries are all of one size and fill whole pages, so that
/// what one life leaves behind its torn tail starts exactly where the next
/// life's entries end.
fn life() -> impl Strategy<Value = Vec<Op>> {
    let end = prop::sample::select(vec![Op::PowerFailure, Op::PowerFailure, Op::Kill]);
    (any::<bool>(), 1usize..6, any::<bool>(), 0usize..3, end).prop_map(
        |(sync_before, appends, sync_after, more, end)| {
            let append = || Op::Append(Kind::Command, Vec::new());
            let mut ops = Vec::new();
            ops.extend(sync_before.then_some(Op::SyncAll));
            ops.extend((0..appends).map(|_| append()));
            ops.extend(sync_after.then_some(Op::SyncAll));
            ops.extend((0..more).map(|_| append()));
            ops.extend([Op::Write, end]);
            ops
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn what_an_earlier_life_left_behind_its_torn_tail_stays_dead(
        seed: u64,
        sizes in prop::sample::select(vec![vec![464], vec![464, 504], vec![976], vec![976], vec![1488]]),
        lives in prop::collection::vec(life(), 2..12),
    ) {
        let mut node = Node::new(seed);
        node.open(0).unwrap();
        for mut op in lives.into_iter().flatten() {
            if let Op::Append(_, parts) = &mut op {
                parts.clone_from(&sizes);
            }
            perform(&mut node, &op).unwrap();
        }
    }
}

/// The power is cut after every single operation of a run that appends, rolls,
/// snapshots, expires, recycles and restarts.
#[test]
fn a_power_cut_after_any_disk_operation_loses_nothing_durable() {
    let big = || Op::Append(Kind::Messages, vec![1500, 500]);
    let small = || Op::Append(Kind::Command, vec![100]);
    let round =
        [big(), small(), Op::SyncAll, big(), Op::Prepare, Op::Write, Op::BeginSync, small()];
    let keep = [Op::FinishSync, Op::Snapshot, Op::SyncAll, Op::Expire, Op::Prepare];
    let script: Vec<Op> =
        [&round[..], &keep, &[Op::Kill], &round, &keep, &round, &[Op::Kill], &round].concat();
    cut_everywhere(Node::new, &script, |_| {});
}

/// Cuts the power after each operation of a script in turn, and once more after
/// what the next life does.
pub(super) fn cut_everywhere(born: impl Fn(u64) -> Node, script: &[Op], look: impl Fn(&mut Node)) {
    let next_life = [
        Op::Append(Kind::Command, vec![100]),
        Op::Append(Kind::Messages, vec![1500, 500]),
        Op::SyncAll,
        Op::PowerFailure,
    ];
    for seed in 0..6 {
        for fuse in 0.. {
            let mut node = born(seed);
            node.disk.fuse = Some(fuse);
            let run = |node: &mut Node| -> Result<(), StoreError> {
                node.open(0)?;
                script.iter().try_for_each(|op| perform(node, op))
            };
            let finished = run(&mut node).is_ok();
            let durable = node.durable;
            node.disk.power_failure(&mut node.rng);
            node.open(durable).unwrap();
            next_life.iter().for_each(|op| perform(&mut node, op).unwrap());
            look(&mut node);
            if finished {
                assert!(fuse > 80, "the script did something");
                break;
            }
        }
    }
}

#[test]
fn only_an_orderly_stop_counts_as_clean() {
    let open = |node: &mut Node| {
        CommitLog::open(&mut node.disk, node.config.clone(), Base::default()).unwrap()
    };
    let mut node = filled(1, 2);
    let (mut log, recovered) = open(&mut node);
    assert!(!recovered.clean);
    let sync = |node: &mut Node, log: &mut CommitLog| {
        let (ticket, sync) = log.begin_sync(&mut node.disk, &[]).unwrap();
        let outcome = node.disk.finish(sync);
        log.synced(ticket, outcome).unwrap();
    };
    for close in [true, false] {
        sync(&mut node, &mut log);
        if close {
            log.close(&mut node.disk).unwrap();
            sync(&mut node, &mut log);
        }
        node.disk.power_failure(&mut node.rng);
        let (next, recovered) = open(&mut node);
        log = next;
        assert_eq!(recovered.clean, close);
    }
}
