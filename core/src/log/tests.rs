//! The log against a model: the list of what was appended.

use proptest::prelude::*;

use super::{
    test_disk::{TestDisk, TestSync},
    *,
};
use crate::{error::StoreError, message::set_position, rng::Rng, runtime::Disk};

/// How far a snapshot got.
enum Step {
    Wanted,
    /// In the sync in flight.
    Payload(snapshot::Unpublished),
    Written(snapshot::Unpublished),
    Header(Position),
}

/// A node's life on one disk, and what it should find there.
struct Node {
    disk: TestDisk,
    rng: Rng,
    config: LogConfig,
    /// The running log and its term.
    log: Option<(CommitLog, Term)>,
    sync: Option<(SyncTicket, TestSync)>,
    draft: Draft,
    /// All that was ever appended and not lost by a licensed crash.
    entries: Vec<Entry>,
    written: usize,
    durable: usize,
    /// A snapshot after that many entries on its way to the disk.
    snapshot: Option<(usize, Step)>,
    /// The entries in the newest snapshot that is durable for certain.
    folded: usize,
    /// The entries in the snapshot that this life started from.
    started_from: usize,
    lives: u64,
}

impl Node {
    fn new(seed: u64) -> Node {
        let config = LogConfig { segment_bytes: 4096, spare_segments: 1, birth_id: seed };
        Node {
            disk: TestDisk::default(),
            rng: Rng::new(seed),
            config,
            log: None,
            sync: None,
            draft: Draft::default(),
            entries: Vec::new(),
            written: 0,
            durable: 0,
            snapshot: None,
            folded: 0,
            started_from: 0,
            lives: 0,
        }
    }

    /// Opens the log and compares it with the model: the log is a prefix of
    /// what was appended, it has at least the first `least` entries.
    fn open(&mut self, least: usize) -> Result<(), StoreError> {
        let snapshot = snapshot::newest(&mut self.disk)?;
        let (base, folded) = snapshot.map_or((Base::default(), 0), |snapshot| {
            let folded = u32::from_le_bytes(snapshot.payload[..4].try_into().unwrap());
            (snapshot.base, folded as usize)
        });
        assert!(folded >= self.folded, "the newest durable snapshot is used");
        let (log, recovered) = CommitLog::open(&mut self.disk, self.config.clone(), base)?;
        let mut at = log.start();
        let mut found = self.entries.partition_point(|entry| entry.place.start < at);
        while let Some(entry) = log.entry_at(&mut self.disk, at)? {
            assert_eq!(Some(&entry), self.entries.get(found), "entry {found}");
            for (position, part) in &entry.parts {
                let read = log.read(&mut self.disk, *position, part.len() as u32)?;
                assert_eq!(read, *part);
            }
            at = entry.place.end;
            found += 1;
        }
        assert!(found >= least, "{found} entries are left, not {least}");
        assert_eq!(at, recovered.end);
        assert!(log.durable() <= at);
        let last = self.entries.get(found.wrapping_sub(1)).map(|entry| entry.place);
        assert_eq!(log.last_index(), last.map_or(LogIndex(0), |place| place.index));
        assert!(last.is_none_or(|place| place.term < recovered.fresh_term));
        self.entries.truncate(found);
        self.written = found;
        self.durable = self.entries.partition_point(|entry| entry.place.end <= log.durable());
        self.snapshot = None;
        self.sync = None;
        self.started_from = folded;
        self.lives += 1;
        self.log = Some((log, recovered.fresh_term));
        Ok(())
    }

    /// Appends parts whose bytes repeat from life to life but for their
    /// beginning, the worst case for telling lives apart.
    fn append(&mut self, kind: Kind, sizes: &[usize]) -> Result<(), StoreError> {
        let (log, term) = self.log.as_mut().unwrap();
        let mut parts = Vec::new();
        self.draft.clear(kind);
        for (number, &size) in sizes.iter().enumerate() {
            let mut part = vec![0xA0 + number as u8; size.max(40)];
            part[..8].copy_from_slice(&self.lives.to_le_bytes());
            self.draft.part(|out| out.extend_from_slice(&part));
            parts.push((Position(0), part));
        }
        let mut reported = Vec::new();
        let place = log.append(&mut self.disk, *term, &mut self.draft, |number, at| {
            assert_eq!(number, reported.len());
            reported.push(at);
        })?;
        for ((position, part), at) in parts.iter_mut().zip(reported) {
            *position = at;
            if kind == Kind::Messages {
                set_position(part, at);
            }
        }
        let parts = parts.into_iter().map(|(at, part)| (at, part.into())).collect();
        self.entries.push(Entry { place, kind, parts });
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let (log, _) = self.log.as_mut().unwrap();
        log.write(&mut self.disk)?;
        self.written = self.entries.partition_point(|entry| entry.place.end <= log.written());
        Ok(())
    }

    fn begin_sync(&mut self) -> Result<(), StoreError> {
        let (log, _) = self.log.as_mut().unwrap();
        if self.sync.is_some() {
            assert!(log.begin_sync(&mut self.disk, &[]).is_none(), "one sync at a time");
            return Ok(());
        }
        let mut extra = Vec::new();
        self.snapshot = match self.snapshot.take() {
            Some((count, Step::Wanted)) => {
                let place = self.entries[count - 1].place;
                let base = Base { position: place.end, index: place.index, term: place.term };
                let payload = (count as u32).to_le_bytes().repeat(200);
                let saved = snapshot::save(&mut self.disk, log.store_id(), base, &payload)?;
                extra.push(saved.file());
                Some((count, Step::Payload(saved)))
            }
            Some((count, Step::Written(saved))) => {
                extra.push(saved.file());
                Some((count, Step::Header(saved.publish(&mut self.disk)?)))
            }
            other => other,
        };
        self.sync = log.begin_sync(&mut self.disk, &extra);
        Ok(())
    }

    fn finish_sync(&mut self) -> Result<(), StoreError> {
        let Some((ticket, sync)) = self.sync.take() else { return Ok(()) };
        let (log, _) = self.log.as_mut().unwrap();
        let outcome = self.disk.finish(sync);
        let durable = log.synced(ticket, outcome)?;
        self.durable = self.entries.partition_point(|entry| entry.place.end <= durable);
        self.folded = self.folded.max(self.started_from);
        self.snapshot = match self.snapshot.take() {
            Some((count, Step::Payload(saved))) => Some((count, Step::Written(saved))),
            Some((count, Step::Header(position))) => {
                self.folded = count;
                snapshot::remove_older(&mut self.disk, position)?;
                None
            }
            other => other,
        };
        Ok(())
    }

    fn take_snapshot(&mut self) {
        if self.snapshot.is_none() && self.durable > self.folded {
            self.snapshot = Some((self.durable, Step::Wanted));
        }
    }

    fn expire(&mut self) -> Result<(), StoreError> {
        let (log, _) = self.log.as_mut().unwrap();
        if let Some(last) = self.folded.max(self.started_from).checked_sub(1) {
            let keep_from = self.entries[last].place.end;
            log.expire(&mut self.disk, keep_from)?;
            assert!(log.start() <= keep_from);
        }
        Ok(())
    }

    fn fail_sync(&mut self) {
        let Some((ticket, sync)) = self.sync.take() else { return };
        let (log, term) = self.log.as_mut().unwrap();
        let error = self.disk.fail(sync, &mut self.rng);
        assert!(matches!(log.synced(ticket, Err(error)), Err(StoreError::Io { .. })));
        assert!(matches!(log.write(&mut self.disk), Err(StoreError::Stopped)));
        let refused = log.append(&mut self.disk, *term, &mut self.draft, |_, _| {});
        assert!(matches!(refused, Err(StoreError::Stopped)));
        assert!(log.begin_sync(&mut self.disk, &[]).is_none());
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append(Kind, Vec<usize>),
    Write,
    BeginSync,
    FinishSync,
    /// Makes everything durable.
    SyncAll,
    Prepare,
    Snapshot,
    Expire,
    /// Drops what a new snapshot makes superfluous and goes on in it.
    Recycle,
    WriteBack,
    Kill,
    FailSyncAndKill,
    PowerFailure,
}

fn op() -> impl Strategy<Value = Op> {
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

fn perform(node: &mut Node, op: &Op) -> Result<(), StoreError> {
    match op {
        Op::Append(kind, sizes) => node.append(*kind, sizes)?,
        Op::Write => node.write()?,
        Op::BeginSync => node.begin_sync()?,
        Op::FinishSync => node.finish_sync()?,
        Op::SyncAll => {
            for _ in 0..3 {
                node.write()?;
                node.begin_sync()?;
                node.finish_sync()?;
            }
            assert_eq!(node.durable, node.entries.len());
        }
        Op::Prepare => node.log.as_mut().unwrap().0.prepare(&mut node.disk)?,
        Op::Snapshot => node.take_snapshot(),
        Op::Expire => node.expire()?,
        Op::Recycle => {
            for op in [Op::Snapshot, Op::SyncAll, Op::Expire, Op::Prepare] {
                perform(node, &op)?;
            }
        }
        Op::WriteBack => node.disk.write_back(&mut node.rng),
        Op::Kill => {
            let written = node.written;
            node.open(written)?;
            assert_eq!(node.written, written, "a kill takes only what was not written");
        }
        Op::FailSyncAndKill => {
            let written = node.written;
            node.fail_sync();
            node.open(written)?;
        }
        Op::PowerFailure => {
            let durable = node.durable;
            node.disk.power_failure(&mut node.rng);
            node.open(durable)?;
        }
    }
    Ok(())
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
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_an_earlier_life_left_behind_its_torn_tail_stays_dead(
        seed: u64,
        sizes in prop::sample::select(vec![vec![464], vec![464, 504], vec![976], vec![1488]]),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn damage_below_a_claim_is_refused_or_harmless(
        seed: u64,
        ops in prop::collection::vec(op(), 1..40),
        wounds in prop::collection::vec((any::<u64>(), 0u8..8), 1..3),
    ) {
        let mut node = Node::new(seed);
        node.open(0).unwrap();
        let covering = [Op::SyncAll, Op::Append(Kind::Mark, Vec::new()), Op::SyncAll];
        ops.iter().chain(&covering).for_each(|op| perform(&mut node, op).unwrap());
        let covered = node.entries.len() - 1;
        let (log, _) = node.log.take().unwrap();
        let claimed = node.entries[covered].place.start;
        for (at, bit) in wounds {
            let at = log.start().0 + at % (claimed.0 - log.start().0).max(1);
            let segment = at / 4096 * 4096;
            node.disk.flip(&format!("log/{segment:020}"), at - segment, bit);
        }

        for entry in node.entries.iter().filter(|entry| entry.place.start >= log.start()) {
            for (position, part) in &entry.parts {
                match log.read(&mut node.disk, *position, part.len() as u32) {
                    Ok(read) => prop_assert_eq!(&read, part),
                    Err(StoreError::Corrupt(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        match node.open(covered) {
            Ok(()) | Err(StoreError::Corrupt(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_position_from_a_stranger_finds_a_part_or_nothing(seed: u64, at: u64) {
        let mut node = filled(seed, 5);
        let (log, _) = node.log.take().unwrap();
        for at in [at % 16_000, at] {
            let found = log.look_up(&mut node.disk, Position(at)).unwrap();
            let parts = node.entries.iter().flat_map(|entry| &entry.parts);
            let real = parts.clone().find(|(position, _)| position.0 == at);
            prop_assert_eq!(found.as_ref(), real.map(|(_, part)| part));
        }
    }
}

/// A log of `count` times three entries, all durable.
fn filled(seed: u64, count: usize) -> Node {
    let mut node = Node::new(seed);
    node.open(0).unwrap();
    for _ in 0..count {
        node.append(Kind::Messages, &[700, 300]).unwrap();
        node.append(Kind::Command, &[50]).unwrap();
        node.append(Kind::Messages, &[400]).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
    }
    node
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
    for seed in 0..6 {
        for fuse in 0.. {
            let mut node = Node::new(seed);
            node.disk.fuse = Some(fuse);
            let run = |node: &mut Node| -> Result<(), StoreError> {
                node.open(0)?;
                script.iter().try_for_each(|op| perform(node, op))
            };
            let finished = run(&mut node).is_ok();
            let durable = node.durable;
            node.disk.power_failure(&mut node.rng);
            node.open(durable).unwrap();
            [small(), big(), Op::SyncAll].iter().for_each(|op| perform(&mut node, op).unwrap());
            perform(&mut node, &Op::PowerFailure).unwrap();
            if finished {
                assert!(fuse > 100, "the script did something");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_an_entry_and_changes_nothing() {
    let mut node = filled(1, 1);
    node.disk.capacity = Some(0);
    while node.append(Kind::Messages, &[1000]).is_ok() {}
    let end = node.log.as_ref().unwrap().0.end();
    assert!(matches!(node.append(Kind::Messages, &[1000]), Err(StoreError::Full)));
    assert_eq!(node.log.as_ref().unwrap().0.end(), end);
    perform(&mut node, &Op::Prepare).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    node.disk.capacity = None;
    node.append(Kind::Messages, &[1000]).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    perform(&mut node, &Op::PowerFailure).unwrap();
}

#[test]
fn an_entry_is_as_large_as_a_segment_at_most() {
    let mut node = filled(1, 1);
    node.append(Kind::Command, &[4096 - 48]).unwrap();
    node.append(Kind::Command, &[4096 - 48]).unwrap();
    let refused = node.append(Kind::Command, &[4096 - 47]);
    assert!(matches!(refused, Err(StoreError::TooLarge { bytes: 4104, limit: 4096 })));
    node.append(Kind::Command, &[1]).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    perform(&mut node, &Op::Kill).unwrap();
}

#[test]
fn expired_segments_are_written_again() {
    let mut node = filled(1, 10);
    for _ in 0..20 {
        for op in [Op::Snapshot, Op::SyncAll, Op::Expire, Op::SyncAll, Op::Prepare] {
            perform(&mut node, &op).unwrap();
        }
        node.append(Kind::Messages, &[1900, 50]).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
    }
    let created = node.disk.created.iter().filter(|name| name.starts_with("log/")).count();
    let segments = node.log.as_ref().unwrap().0.end().0 / 4096;
    assert!(segments >= 14 && created < 9, "{segments} segments, {created} created");
    perform(&mut node, &Op::PowerFailure).unwrap();
}

#[test]
fn a_recycled_segment_never_shows_new_bytes_under_its_old_name() {
    for seed in 0..50 {
        let mut node = filled(seed, 6);
        let append = || Op::Append(Kind::Command, vec![1500]);
        let ops = [Op::Recycle, append(), Op::Prepare, append(), append(), append(), Op::Write];
        ops.iter().for_each(|op| perform(&mut node, op).unwrap());
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}

#[test]
fn nothing_expires_before_the_snapshot_found_is_durable() {
    for seed in 0..20 {
        let mut node = filled(seed, 6);
        for op in [Op::Snapshot, Op::BeginSync, Op::FinishSync, Op::BeginSync] {
            perform(&mut node, &op).unwrap();
        }
        // The snapshot's header is in the page cache only.
        perform(&mut node, &Op::Kill).unwrap();
        if seed % 2 == 0 {
            perform(&mut node, &Op::SyncAll).unwrap();
        }
        perform(&mut node, &Op::Expire).unwrap();
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let mut node = filled(1, 10);
    let (file, _) = node.disk.open("log/00000000000000008192").unwrap();
    node.disk.remove(file).unwrap();
    let error = node.open(0).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn a_segment_of_another_store_is_damage() {
    let (mut node, other) = (filled(1, 10), filled(2, 10));
    node.disk.swap_in("log/00000000000000004096", &other.disk);
    let error = node.open(0).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn an_entry_at_the_place_of_another_is_damage() {
    let mut node = filled(1, 2);
    let (log, _) = node.log.take().unwrap();
    let part = |entry: usize| node.entries[entry].parts[0].clone();
    let ((from, bytes), (to, _)) = (part(1), part(4));
    node.disk.copy("log/00000000000000000000", from.0 - 8, to.0 - 8, 8 + bytes.len());
    let error = log.read(&mut node.disk, to, bytes.len() as u32).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn after_an_orderly_stop_even_the_last_entry_cannot_vanish() {
    let mut node = filled(1, 1);
    let (mut log, _) = node.log.take().unwrap();
    log.close(&mut node.disk).unwrap();
    let last = node.entries.last().unwrap().place.start;
    node.disk.flip("log/00000000000000000000", last.0 + 60, 3);
    let error = node.open(0).unwrap_err().to_string();
    assert!(error.contains("was durable up to 1608"), "{error}");
}

#[test]
fn a_misdirected_read_during_recovery_neither_cuts_nor_spoils_the_log() {
    for read in 0.. {
        let mut node = filled(read, 4);
        perform(&mut node, &Op::Snapshot).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
        let all = node.entries.len();
        node.disk.misread = Some(read);
        node.open(all).unwrap();
        let done = node.disk.misread.take().is_some();
        perform(&mut node, &Op::SyncAll).unwrap();
        perform(&mut node, &Op::PowerFailure).unwrap();
        if done {
            break;
        }
    }
}

#[test]
fn a_lost_identity_is_damage() {
    let mut node = filled(1, 1);
    let (file, _) = node.disk.open("store").unwrap();
    node.disk.remove(file).unwrap();
    let error = node.open(0).unwrap_err().to_string();
    assert_eq!(error, "store is damaged: it is missing or illegible, but there is a log");
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
