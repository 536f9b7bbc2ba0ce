//! The queue against a model: the list of its entries, and the log that they
//! can be replayed from.

use proptest::prelude::*;

use super::*;
use crate::{
    log::{Base, CommitLog, Draft, Kind, LogConfig, test_disk::TestDisk},
    message::{Properties, Record, property, tag_hash},
    rng::Rng,
};

#[derive(Clone, Copy, Debug)]
enum Event {
    Push(QueueEntry),
    Jump(u64),
}

/// What a queue holds after some events.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: Vec<(u64, QueueEntry)>,
    max: u64,
}

impl Model {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Push(entry) => {
                self.entries.push((self.max, entry));
                self.max += 1;
            }
            Event::Jump(by) => self.max += by,
        }
    }

    fn of(events: &[Event]) -> Model {
        let mut model = Model::default();
        events.iter().for_each(|event| model.apply(*event));
        model
    }
}

struct Node {
    disk: TestDisk,
    rng: Rng,
    queue: ConsumeQueue,
    /// From which nothing can be made anew.
    no_log: CommitLog,
    log: Vec<Event>,
    model: Model,
    /// Entries expired from the front.
    expired: usize,
    /// The durable snapshot, the events it holds, and what was expired then.
    snapshot: Option<(QueueSnapshot, usize, usize)>,
}

fn shard() -> Shard {
    Shard { topic: "orders".into(), queue: 3 }
}

fn config() -> QueueConfig {
    QueueConfig { blocks_per_file: 2, store_id: 99 }
}

fn empty_log() -> CommitLog {
    let config = LogConfig::default();
    CommitLog::open(&mut TestDisk::default(), config, Base::default()).unwrap().0
}

impl Node {
    fn new(seed: u64) -> Node {
        Node {
            disk: TestDisk::default(),
            rng: Rng::new(seed),
            queue: ConsumeQueue::new(shard(), config()),
            no_log: empty_log(),
            log: Vec::new(),
            model: Model::default(),
            expired: 0,
            snapshot: None,
        }
    }

    fn record(&mut self, event: Event) {
        feed(&mut self.queue, &mut self.disk, event);
        self.log.push(event);
        self.model.apply(event);
    }

    fn push(&mut self, count: u64) {
        for _ in 0..count {
            let position = Position(self.log.len() as u64 * 10);
            let tag = self.rng.next() as i64;
            self.record(Event::Push(QueueEntry { position, size: position.0 as u32 + 1, tag }));
        }
    }

    fn expire(&mut self, share: u64) {
        let events = self.log.len() as u64;
        let below = Position(events * 10 * share / 100);
        let gone = self.model.entries.partition_point(|(_, entry)| entry.position < below);
        let expired = self.queue.expire(&mut self.disk, &self.no_log, below).unwrap();
        assert_eq!(expired as usize, gone.saturating_sub(self.expired));
        self.expired = self.expired.max(gone);
    }

    fn save(&mut self, abandon: bool) {
        let (snapshot, files) = self.queue.snapshot();
        if abandon {
            return;
        }
        let sync = self.disk.begin_sync(&files);
        self.disk.finish(sync).unwrap();
        self.snapshot = Some((snapshot, self.log.len(), self.expired));
        self.queue.saved(&mut self.disk).unwrap();
    }

    /// Starts again from the snapshot and a log that lost its last `lost`
    /// events, if the snapshot is not newer.
    fn restart(&mut self, lost: usize) {
        let (folded, expired) = match &self.snapshot {
            Some((snapshot, folded, expired)) => {
                let bytes = postcard::to_allocvec(snapshot).unwrap();
                let snapshot: QueueSnapshot = postcard::from_bytes(&bytes).unwrap();
                let other = QueueConfig { blocks_per_file: 7, ..config() };
                let restored = ConsumeQueue::restore(&mut self.disk, &snapshot, shard(), &other);
                self.queue = restored.unwrap();
                (*folded, *expired)
            }
            None => {
                self.queue = ConsumeQueue::new(shard(), config());
                (0, 0)
            }
        };
        self.log.truncate(self.log.len().saturating_sub(lost).max(folded));
        self.model = Model::of(&self.log);
        self.expired = expired;
        for event in &self.log[folded..] {
            feed(&mut self.queue, &mut self.disk, *event);
        }
    }

    fn check(&mut self) {
        let kept = &self.model.entries[self.expired..];
        assert_eq!(self.queue.max(), self.model.max);
        assert_eq!(self.queue.min(), kept.first().map_or(self.model.max, |(offset, _)| *offset));
        for _ in 0..4 {
            let offset = self.rng.below(self.model.max + 3);
            let limit = self.rng.below(500) as usize;
            let mut read = Vec::new();
            self.queue.read(&mut self.disk, &self.no_log, offset, limit, &mut read).unwrap();
            let from = kept.partition_point(|(o, _)| *o < offset);
            assert_eq!(read, kept[from..][..limit.min(kept.len() - from)]);

            let wanted = Position(self.rng.below(self.log.len() as u64 * 10 + 2));
            let found =
                self.queue.find_by(&mut self.disk, &self.no_log, |_, e| Ok(e.position >= wanted));
            let first = kept.iter().find(|(_, entry)| entry.position >= wanted);
            assert_eq!(found.unwrap(), first.map_or(self.model.max, |(offset, _)| *offset));
        }
    }
}

fn feed(queue: &mut ConsumeQueue, disk: &mut TestDisk, event: Event) {
    match event {
        Event::Push(entry) => queue.push(disk, queue.max(), entry).unwrap(),
        Event::Jump(by) => queue.jump(queue.max() + by),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Push(u64),
    Jump(u64),
    Expire(u64),
    Save { abandon: bool },
    WriteBack,
    Kill,
    PowerFailure { lost: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0u64..400).prop_map(Op::Push),
        2 => (0u64..300).prop_map(Op::Jump),
        2 => (0u64..=100).prop_map(Op::Expire),
        3 => any::<bool>().prop_map(|abandon| Op::Save { abandon }),
        1 => Just(Op::WriteBack),
        1 => Just(Op::Kill),
        2 => (0usize..300).prop_map(|lost| Op::PowerFailure { lost }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_queue_is_the_list_of_its_entries(seed: u64, ops in prop::collection::vec(op(), 1..30)) {
        let mut node = Node::new(seed);
        for op in ops {
            match op {
                Op::Push(count) => node.push(count),
                Op::Jump(by) => node.record(Event::Jump(by)),
                Op::Expire(share) => node.expire(share),
                Op::Save { abandon } => node.save(abandon),
                Op::WriteBack => node.disk.write_back(&mut node.rng),
                Op::Kill => node.restart(0),
                Op::PowerFailure { lost } => {
                    node.disk.power_failure(&mut node.rng);
                    node.restart(lost);
                }
            }
            node.check();
        }
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_an_entry(at in 0u64..4096, bit in 0u8..8) {
        let mut node = Node::new(at);
        node.push(300);
        node.disk.flip("queue/orders/3/00000000000000000000", at, bit);
        let read = node.queue.read(&mut node.disk, &node.no_log, 0, 1, &mut Vec::new());
        prop_assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }
}

#[test]
fn a_full_disk_is_met_by_room_and_not_by_push() {
    let mut node = Node::new(1);
    node.disk.capacity = Some(0);
    node.queue.room(&mut node.disk, 203).unwrap();
    node.push(203);
    assert!(matches!(node.queue.room(&mut node.disk, 204), Err(StoreError::Full)));
    node.disk.capacity = None;
    node.queue.room(&mut node.disk, 1000).unwrap();
    node.disk.capacity = Some(0);
    node.push(797);
    node.check();
}

/// A restart replays what is in the log, room or not.
#[test]
fn what_finds_no_room_is_read_from_memory_and_written_later() {
    let mut node = Node::new(1);
    node.disk.capacity = Some(0);
    node.push(1000);
    node.check();
    node.disk.capacity = None;
    node.push(1);
    node.check();
    assert!(node.queue.block.len() < PER_BLOCK as usize);
}

#[test]
fn files_go_when_a_durable_snapshot_no_longer_needs_them() {
    let mut node = Node::new(1);
    node.push(2000);
    node.save(false);
    node.expire(60);
    assert_eq!(node.disk.list().unwrap().len(), 5);
    node.save(false);
    assert_eq!(node.disk.list().unwrap().len(), 3);
    node.restart(0);
    node.check();
}

#[test]
fn a_missing_file_is_damage() {
    let mut node = Node::new(1);
    node.push(2000);
    node.save(false);
    let (file, _) = node.disk.open("queue/orders/3/00000000000000000408").unwrap();
    node.disk.remove(file).unwrap();
    let (snapshot, ..) = node.snapshot.unwrap();
    let restored = ConsumeQueue::restore(&mut node.disk, &snapshot, shard(), &config());
    let error = restored.err().unwrap().to_string();
    assert_eq!(error, "queue/orders/3/00000000000000000408 is damaged: it is missing");
}

/// A log of messages for two shards in turn, two in an entry, and the queue of
/// one of them.
fn indexed(disk: &mut TestDisk, messages: u64) -> (CommitLog, ConsumeQueue) {
    let config = LogConfig { segment_bytes: 16 << 10, ..LogConfig::default() };
    let (mut log, recovered) = CommitLog::open(disk, config, Base::default()).unwrap();
    let (ticket, sync) = log.begin_sync(disk, &[]).unwrap();
    let outcome = disk.finish(sync);
    log.synced(ticket, outcome).unwrap();
    let mut queue = ConsumeQueue::new(shard(), config_of(&log));
    let mut draft = Draft::default();
    for offset in 0..messages {
        let mut properties = Vec::new();
        let tag = format!("tag-{}", offset % 3);
        Properties::put(&mut properties, property::TAGS, &tag);
        let mut record: Record = Record {
            topic: "orders".to_owned(),
            queue: 3,
            queue_offset: offset,
            position: Position(0),
            flag: 0,
            sys_flag: 0,
            born_wall: 0,
            born_host: ([127, 0, 0, 1], 1).into(),
            store_wall: 0,
            store_host: ([127, 0, 0, 1], 2).into(),
            reconsume_times: 0,
            prepared_position: 0,
            properties: properties.into(),
            body: "paid".into(),
        };
        draft.clear(Kind::Messages);
        draft.part(|out| record.encode(out));
        let size = record.encoded_len() as u32;
        record.queue = 4;
        draft.part(|out| record.encode(out));
        let mut places = Vec::new();
        log.append(disk, recovered.fresh_term, &mut draft, |_, at| places.push(at)).unwrap();
        let entry = QueueEntry { position: places[0], size, tag: tag_hash(&tag) };
        queue.push(disk, offset, entry).unwrap();
    }
    log.write(disk).unwrap();
    let (ticket, sync) = log.begin_sync(disk, &[]).unwrap();
    let outcome = disk.finish(sync);
    log.synced(ticket, outcome).unwrap();
    (log, queue)
}

fn config_of(log: &CommitLog) -> QueueConfig {
    QueueConfig { store_id: log.store_id(), ..config() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whoever looks at it first: a reader, a search, retention; the latter even
    /// after the log's first messages are gone.
    #[test]
    fn damaged_blocks_are_rebuilt_from_the_log(
        damage in prop::collection::vec((0u64..8192, 0u8..8), 1..4), share in 0u64..60, first in 0u8..3,
    ) {
        let mut disk = TestDisk::default();
        let (mut log, mut queue) = indexed(&mut disk, 450);
        let wanted = Position(log.end().0 * share / 100);
        let mut good = Vec::new();
        queue.read(&mut disk, &log, 0, 500, &mut good).unwrap();
        for (at, bit) in &damage {
            disk.flip("queue/orders/3/00000000000000000000", *at, *bit);
        }
        if first == 0 {
            let mut repaired = Vec::new();
            queue.read(&mut disk, &log, 0, 500, &mut repaired).unwrap();
            prop_assert_eq!(&repaired, &good);
        } else if first == 1 {
            let found = queue.find_by(&mut disk, &log, |_, entry| Ok(entry.position >= wanted));
            let known = good.iter().find(|(_, entry)| entry.position >= wanted).unwrap();
            prop_assert_eq!(found.unwrap(), known.0);
        }
        log.expire(&mut disk, wanted).unwrap();
        let start = log.start();
        good.retain(|(_, entry)| entry.position >= start);
        queue.expire(&mut disk, &log, start).unwrap();
        let mut left = Vec::new();
        queue.read(&mut disk, &log, 0, 500, &mut left).unwrap();
        prop_assert_eq!(left, good);
    }
}
