//! The log against a model: the list of what was appended.

mod crashes;
mod damage;
mod files;
mod group;

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
    /// What was cut off and written, and the sync that makes the cut durable:
    /// until then a crash may bring it back.
    ghost: Option<(u64, Vec<Entry>)>,
}

impl Node {
    fn new(seed: u64) -> Node {
        let config = LogConfig {
            segment_bytes: 4096,
            spare_segments: 1,
            birth_id: seed,
            replicas: Replicas::Alone,
        };
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
            ghost: None,
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
        let (log, recovered) = CommitLog::open(&mut self.disk, self.config.clone(), base)?;
        assert!(folded >= self.folded, "the newest durable snapshot is used");
        let mut at = log.start();
        let mut left = Vec::new();
        while let Some(entry) = log.entry_at(&mut self.disk, at)? {
            for (position, part) in &entry.parts {
                let read = log.read(&mut self.disk, *position, part.len() as u32)?;
                assert_eq!(read, *part);
            }
            at = entry.place.end;
            left.push(entry);
        }
        let start = self.entries.partition_point(|entry| entry.place.start < log.start());
        // The cut may be known to the page cache only, until the first sync.
        self.ghost = self.ghost.take().map(|(_, ghost)| (1, ghost));
        if let Some((_, ghost)) = &self.ghost
            && !self.entries[start..].starts_with(&left)
        {
            self.entries.clone_from(ghost);
        }
        let found = start + left.len();
        for (number, entry) in left.iter().enumerate() {
            assert_eq!(Some(entry), self.entries.get(start + number), "entry {number}");
        }
        assert!(found >= least, "{found} entries are left, not {least}");
        assert_eq!(at, recovered.end);
        assert!(log.durable() <= at);
        let last = self.entries.get(found.wrapping_sub(1)).map(|entry| entry.place);
        assert_eq!(log.last_index(), last.map_or(LogIndex(0), |place| place.index));
        if self.config.replicas == Replicas::Alone {
            assert!(last.is_none_or(|place| place.term < recovered.fresh_term));
        }
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
        self.entries.push(Entry { place, kind, needs_sync: false, parts });
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
        if self.ghost.as_ref().is_some_and(|(sync, _)| log.is_synced(*sync)) {
            self.ghost = None;
        }
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
    /// Cuts this many entries off that nothing made certain.
    Truncate(usize),
    /// Appends under a higher term from here on.
    Elect,
    /// Drops what a new snapshot makes superfluous and goes on in it.
    Recycle,
    WriteBack,
    Kill,
    FailSyncAndKill,
    PowerFailure,
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
        Op::Truncate(count) => node.truncate(*count)?,
        Op::Elect => node.elect()?,
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
