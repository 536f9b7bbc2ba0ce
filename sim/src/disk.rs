//! The simulated disk: a page cache over a platter, the same for both
//! simulators. What it may do to a node, and nothing else:
//!
//! - **Kill.** The process is gone, the cache survives: nothing is lost.
//! - **Power loss.** Of the pages that no finished sync covers any subset is
//!   lost, page by page: mapped writes reach a platter in any order. A page may
//!   be torn into kept and lost 512-byte sectors. Creations, renames and
//!   removals survive as a prefix of their order, which holds at least
//!   everything up to the last one that concerns a synced file.
//! - **Failed sync.** EIO; each page has reached the platter or has not, and is
//!   marked clean in either case: reads go on to see it, no later sync writes
//!   it, power loss loses it (fsyncgate, L2).
//! - **EIO** on the next reads or writes. A failed write has written any prefix.
//! - **Full.** `create` fails with `StorageFull`; a file that exists has its
//!   blocks.
//! - **Slow.** Syncs take longer; they are served one after the other.
//! - **Bit rot**, only when asked: bits flip in pages that have been durable
//!   for a stated time.
//! - **Misdirected reads**, only when asked: a read returns the bytes of the
//!   page before or after.
//!
//! A sync that is in flight when the process dies or the power fails never
//! completes; its pages are like all other unsynced ones. Slices are copies,
//! so `rename` is never `ResourceBusy` here, and `seal` does nothing.

mod pages;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::Future,
    io,
    ops::RangeInclusive,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pages::{Epoch, PAGE, Pages};
use stormglass_core::{
    rng::Rng,
    runtime::{Disk, FileId},
};

use crate::fault::Unsynced;

const MAX_EVENTS: usize = 1000;

/// What a disk needs of the world: its time, undisturbed by any node's clock.
pub trait Timer {
    /// Microseconds since the start of the run.
    fn now_us(&self) -> u64;
    fn sleep_us(&self, us: u64) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A world in which syncs take no time, for tests without a simulator.
pub struct NoTime;

impl Timer for NoTime {
    fn now_us(&self) -> u64 {
        0
    }

    fn sleep_us(&self, _us: u64) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
}

/// What a disk is like when nothing is wrong with it.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// How long a sync takes, in microseconds.
    pub sync_us: RangeInclusive<u64>,
    /// The bytes that all files together may have.
    pub capacity: u64,
}

impl Default for DiskConfig {
    fn default() -> DiskConfig {
        DiskConfig { sync_us: 100..=400, capacity: u64::MAX }
    }
}

/// What happened to a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    pub reads: u64,
    pub bytes_read: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub kept_pages: u64,
    pub lost_pages: u64,
    pub torn_pages: u64,
    /// Creations, renames and removals undone by power loss.
    pub lost_names: u64,
    pub failed_reads: u64,
    pub failed_writes: u64,
    pub failed_syncs: u64,
    pub refused_full: u64,
    pub flipped_bits: u64,
    pub misdirected_reads: u64,
}

/// Something that happened to a disk and is worth a line in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskEvent {
    Created(String),
    /// To this name.
    Renamed(String),
    SyncFailed,
    NoRoom,
    TornPages(u64),
}

/// The disk as the testbed sees it: it outlives every process that uses it,
/// and takes the faults. Clones are handles to the same disk.
#[derive(Clone)]
pub struct Drive(Rc<RefCell<State>>);

/// The disk as one process sees it, until that process dies.
pub struct SimDisk {
    drive: Drive,
    timer: Rc<dyn Timer>,
    process: u64,
}

struct State {
    files: BTreeMap<FileId, File>,
    names: BTreeMap<String, FileId>,
    next_file: u32,
    /// Changes of names that are not durable yet, oldest first, and how many
    /// came before them.
    journal: VecDeque<Change>,
    journaled: u64,
    rng: Rng,
    config: DiskConfig,
    faults: Faults,
    counters: DiskCounters,
    /// Since they were last taken; nobody may want them, so only the newest.
    events: VecDeque<DiskEvent>,
    /// When the device will have served the syncs it was given.
    busy_until_us: u64,
    /// Handles of earlier processes fail.
    process: u64,
    /// Operations that change the disk, counted for `cut_power_after`.
    changes: u64,
    last_change: u64,
}

struct File {
    name: String,
    pages: Pages,
    /// The place in the journal behind the last change of this file's name.
    renamed_at: u64,
}

enum Change {
    Created(FileId),
    Renamed { file: FileId, from: String },
    Removed(FileId, Box<File>),
}

#[derive(Default)]
struct Faults {
    full: bool,
    slow_us: Option<RangeInclusive<u64>>,
    reads: u32,
    writes: u32,
    syncs: u32,
    misdirected: u32,
}

impl Drive {
    pub fn new(seed: u64, config: DiskConfig) -> Drive {
        Drive(Rc::new(RefCell::new(State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            next_file: 0,
            journal: VecDeque::new(),
            journaled: 0,
            rng: Rng::new(seed),
            config,
            faults: Faults::default(),
            counters: DiskCounters::default(),
            events: VecDeque::new(),
            busy_until_us: 0,
            process: 0,
            changes: 0,
            last_change: u64::MAX,
        })))
    }

    /// The disk for a new process; those of earlier processes are dead.
    pub fn attach(&self, timer: Rc<dyn Timer>) -> SimDisk {
        SimDisk { drive: self.clone(), timer, process: self.detach() }
    }

    /// The process that used the disk is gone; the page cache stays.
    pub fn detach(&self) -> u64 {
        let mut state = self.0.borrow_mut();
        state.process += 1;
        state.last_change = u64::MAX;
        state.process
    }

    /// The process and the page cache are gone.
    pub fn power_loss(&self, unsynced: Unsynced) {
        self.detach();
        let state = &mut *self.0.borrow_mut();
        state.lose_names(unsynced);
        let mut torn_pages = 0;
        for file in state.files.values_mut() {
            let losses = file.pages.power_loss(unsynced, &mut state.rng);
            state.counters.kept_pages += losses.kept_pages;
            state.counters.lost_pages += losses.lost_pages;
            torn_pages += losses.torn_pages;
        }
        if torn_pages > 0 {
            state.counters.torn_pages += torn_pages;
            state.happened(DiskEvent::TornPages(torn_pages));
        }
        state.busy_until_us = 0;
    }

    /// From now on only this many creates, renames, removes, writes and syncs
    /// work; later ones fail, as if the power went out between two of them.
    pub fn cut_power_after(&self, changes: u64) {
        let mut state = self.0.borrow_mut();
        state.last_change = state.changes + changes;
    }

    pub fn set_full(&self, full: bool) {
        self.0.borrow_mut().faults.full = full;
    }

    /// Each sync takes this much longer, in microseconds.
    pub fn set_slow(&self, extra_us: RangeInclusive<u64>) {
        self.0.borrow_mut().faults.slow_us = (*extra_us.end() > 0).then_some(extra_us);
    }

    /// The next `count` reads fail.
    pub fn fail_reads(&self, count: u32) {
        self.0.borrow_mut().faults.reads = count;
    }

    /// The next `count` writes fail.
    pub fn fail_writes(&self, count: u32) {
        self.0.borrow_mut().faults.writes = count;
    }

    /// The next `count` syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.0.borrow_mut().faults.syncs = count;
    }

    /// The next `count` reads return a neighbouring page's bytes.
    pub fn misdirect_reads(&self, count: u32) {
        self.0.borrow_mut().faults.misdirected = count;
    }

    /// Undoes all that lasts: full, slow, and errors still to come.
    pub fn repair(&self) {
        self.0.borrow_mut().faults = Faults::default();
    }

    /// Flips bits in pages that have been durable since `until_ms`.
    pub fn rot(&self, flips: u32, until_ms: u64) {
        let state = &mut *self.0.borrow_mut();
        let settled: Vec<(FileId, u32)> = state
            .files
            .iter()
            .flat_map(|(id, file)| file.pages.durable_pages(until_ms).map(|page| (*id, page)))
            .collect();
        if settled.is_empty() {
            return;
        }
        for _ in 0..flips {
            let (file, page) = settled[state.rng.below(settled.len() as u64) as usize];
            let bit = state.rng.below(8 * PAGE as u64) as usize;
            if let Some(file) = state.files.get_mut(&file) {
                file.pages.flip(page, bit);
                state.counters.flipped_bits += 1;
            }
        }
    }

    pub fn counters(&self) -> DiskCounters {
        self.0.borrow().counters
    }

    /// What happened since the last call, the last thousand at most.
    pub fn take_events(&self) -> VecDeque<DiskEvent> {
        std::mem::take(&mut self.0.borrow_mut().events)
    }
}

impl State {
    fn happened(&mut self, event: DiskEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn lose_names(&mut self, unsynced: Unsynced) {
        let survive = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => self.journal.len() as u64,
            Unsynced::Random | Unsynced::Torn => self.rng.below(self.journal.len() as u64 + 1),
        };
        while self.journal.len() as u64 > survive {
            self.counters.lost_names += 1;
            match self.journal.pop_back().expect("longer than what survives") {
                Change::Created(id) => {
                    if let Some(file) = self.files.remove(&id) {
                        self.names.remove(&file.name);
                    }
                }
                Change::Renamed { file: id, from } => {
                    let file = self.files.get_mut(&id).expect("renamed files exist");
                    self.names.remove(&file.name);
                    self.names.insert(from.clone(), id);
                    file.name = from;
                }
                Change::Removed(id, file) => {
                    self.names.insert(file.name.clone(), id);
                    self.files.insert(id, *file);
                }
            }
        }
        self.journaled += self.journal.len() as u64;
        self.journal.clear();
        for file in self.files.values_mut() {
            file.renamed_at = 0;
        }
    }

    /// The place in the journal behind everything so far.
    fn journal_end(&self) -> u64 {
        self.journaled + self.journal.len() as u64
    }

    fn note(&mut self, file: FileId, change: Change) {
        self.journal.push_back(change);
        let end = self.journal_end();
        if let Some(file) = self.files.get_mut(&file) {
            file.renamed_at = end;
        }
    }

    /// Counts an operation that changes the disk; fails once the power is cut.
    fn change(&mut self) -> io::Result<()> {
        if self.changes >= self.last_change {
            return Err(io::Error::other("the power is off"));
        }
        self.changes += 1;
        Ok(())
    }

    fn file(&mut self, id: FileId) -> io::Result<&mut File> {
        self.files
            .get_mut(&id)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the file was removed"))
    }
}

impl SimDisk {
    fn state<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.drive.0.borrow_mut();
        if state.process != self.process {
            return Err(io::Error::other("the process that opened this disk is dead"));
        }
        f(&mut state)
    }
}

impl Disk for SimDisk {
    type Sync = Syncing;

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.state(|disk| {
            let length = |id| disk.files.get(id).map_or(0, |file| file.pages.len());
            Ok(disk.names.iter().map(|(name, id)| (name.clone(), length(id))).collect())
        })
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<FileId> {
        self.state(|disk| {
            disk.change()?;
            if disk.names.contains_key(name) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, name));
            }
            let used: u64 = disk.files.values().map(|file| file.pages.len()).sum();
            if disk.faults.full || used.saturating_add(len) > disk.config.capacity {
                disk.counters.refused_full += 1;
                disk.happened(DiskEvent::NoRoom);
                return Err(io::Error::new(io::ErrorKind::StorageFull, name));
            }
            let id = FileId(disk.next_file);
            disk.next_file += 1;
            disk.names.insert(name.to_owned(), id);
            let file = File { name: name.to_owned(), pages: Pages::new(len), renamed_at: 0 };
            disk.files.insert(id, file);
            disk.note(id, Change::Created(id));
            disk.happened(DiskEvent::Created(name.to_owned()));
            Ok(id)
        })
    }

    fn open(&mut self, name: &str) -> io::Result<(FileId, u64)> {
        self.state(|disk| {
            let id = *disk
                .names
                .get(name)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name))?;
            Ok((id, disk.file(id)?.pages.len()))
        })
    }

    fn rename(&mut self, file: FileId, to: &str) -> io::Result<()> {
        self.state(|disk| {
            disk.change()?;
            disk.file(file)?;
            if disk.names.contains_key(to) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, to));
            }
            let from = std::mem::replace(&mut disk.file(file)?.name, to.to_owned());
            disk.names.remove(&from);
            disk.names.insert(to.to_owned(), file);
            disk.note(file, Change::Renamed { file, from });
            disk.happened(DiskEvent::Renamed(to.to_owned()));
            Ok(())
        })
    }

    fn remove(&mut self, file: FileId) -> io::Result<()> {
        self.state(|disk| {
            disk.change()?;
            disk.file(file)?;
            if let Some(removed) = disk.files.remove(&file) {
                disk.names.remove(&removed.name);
                disk.note(file, Change::Removed(file, Box::new(removed)));
            }
            Ok(())
        })
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state(|disk| {
            disk.change()?;
            inside(offset, data.len(), disk.file(file)?.pages.len())?;
            let written = if disk.faults.writes > 0 {
                disk.faults.writes -= 1;
                disk.counters.failed_writes += 1;
                let prefix = disk.rng.below(data.len() as u64 + 1) as usize;
                disk.file(file)?.pages.write(offset, &data[..prefix]);
                return Err(eio());
            } else {
                data.len()
            };
            disk.counters.writes += 1;
            disk.counters.bytes_written += written as u64;
            disk.file(file)?.pages.write(offset, data);
            Ok(())
        })
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<Bytes> {
        self.state(|disk| {
            let end = disk.file(file)?.pages.len();
            inside(offset, len, end)?;
            disk.counters.reads += 1;
            disk.counters.bytes_read += len as u64;
            if disk.faults.reads > 0 {
                disk.faults.reads -= 1;
                disk.counters.failed_reads += 1;
                return Err(eio());
            }
            let mut from = offset;
            if disk.faults.misdirected > 0 {
                disk.faults.misdirected -= 1;
                disk.counters.misdirected_reads += 1;
                let page = PAGE as u64;
                from = if offset >= page { offset - page } else { offset + page };
                if from + len as u64 > end {
                    return Err(eio());
                }
            }
            Ok(disk.file(file)?.pages.read(from, len))
        })
    }

    fn begin_sync(&mut self, files: &[FileId]) -> Syncing {
        let now = self.timer.now_us();
        let begun = self.state(|disk| {
            disk.change()?;
            disk.counters.syncs += 1;
            let base = disk.config.sync_us.clone();
            let mut takes = draw(&mut disk.rng, &base);
            if let Some(extra) = disk.faults.slow_us.clone() {
                takes += draw(&mut disk.rng, &extra);
            }
            disk.busy_until_us = disk.busy_until_us.max(now) + takes;
            let mut covers = Covers { names: 0, epochs: Vec::with_capacity(files.len()) };
            let fails = disk.faults.syncs > 0;
            for id in files {
                let State { files, rng, .. } = &mut *disk;
                let Some(file) = files.get_mut(id) else { continue };
                if fails {
                    file.pages.sync_failed(rng);
                } else {
                    covers.epochs.push((*id, file.pages.begin_sync()));
                    covers.names = covers.names.max(file.renamed_at);
                }
            }
            if fails {
                disk.faults.syncs -= 1;
                disk.counters.failed_syncs += 1;
            }
            Ok((disk.busy_until_us - now, (!fails).then_some(covers)))
        });
        let (drive, process) = (self.drive.clone(), self.process);
        match begun {
            Ok((takes, covers)) => Syncing {
                drive,
                process,
                covers,
                timer: self.timer.clone(),
                done: self.timer.sleep_us(takes),
            },
            // A dead process or a machine without power: nobody will ever know.
            Err(_) => Syncing {
                drive,
                process,
                covers: None,
                timer: self.timer.clone(),
                done: Box::pin(std::future::pending()),
            },
        }
    }
}

/// A sync in flight.
pub struct Syncing {
    drive: Drive,
    process: u64,
    /// What becomes durable; nothing if the sync fails.
    covers: Option<Covers>,
    timer: Rc<dyn Timer>,
    done: Pin<Box<dyn Future<Output = ()>>>,
}

struct Covers {
    /// All changes of names before this place in the journal.
    names: u64,
    epochs: Vec<(FileId, Epoch)>,
}

impl Future for Syncing {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.done.as_mut().poll(cx));
        let drive = self.drive.clone();
        let mut disk = drive.0.borrow_mut();
        if disk.process != self.process {
            return Poll::Pending;
        }
        let Some(covers) = self.covers.take() else {
            // Not before: until now an earlier sync may still make things durable.
            disk.happened(DiskEvent::SyncFailed);
            return Poll::Ready(Err(eio()));
        };
        let now_ms = self.timer.now_us() / 1000;
        for (id, epoch) in covers.epochs {
            if let Some(file) = disk.files.get_mut(&id) {
                file.pages.synced(epoch, now_ms);
            }
        }
        while disk.journaled < covers.names && disk.journal.pop_front().is_some() {
            disk.journaled += 1;
        }
        Poll::Ready(Ok(()))
    }
}

fn inside(offset: u64, len: usize, end: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(last) if last <= end => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the file")),
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn draw(rng: &mut Rng, range: &RangeInclusive<u64>) -> u64 {
    range.start() + rng.below(range.end().saturating_sub(*range.start()) + 1)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn finish(sync: Syncing) -> io::Result<()> {
        let mut sync = Box::pin(sync);
        match sync.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("without time a sync is done at once"),
        }
    }

    fn names(disk: &mut SimDisk) -> Vec<String> {
        disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_killed_process_loses_nothing_and_its_handles_are_dead() {
        let drive = Drive::new(1, DiskConfig::default());
        let mut first = drive.attach(Rc::new(NoTime));
        let file = first.create("log/0", 8192).unwrap();
        first.write(file, 4090, b"across two pages").unwrap();
        let mut second = drive.attach(Rc::new(NoTime));
        assert!(first.write(file, 0, b"late").is_err());
        let (file, len) = second.open("log/0").unwrap();
        assert_eq!(len, 8192);
        assert_eq!(&second.read(file, 4090, 16).unwrap()[..], b"across two pages");
    }

    #[test]
    fn synced_bytes_and_names_survive_every_power_loss() {
        for seed in 0..50 {
            let drive = Drive::new(seed, DiskConfig::default());
            let mut disk = drive.attach(Rc::new(NoTime));
            let kept = disk.create("kept", 4096).unwrap();
            disk.write(kept, 0, b"durable").unwrap();
            finish(disk.begin_sync(&[kept])).unwrap();
            disk.write(kept, 100, b"maybe").unwrap();
            disk.rename(kept, "renamed").unwrap();
            disk.create("kept", 4096).unwrap();
            drive.power_loss(Unsynced::Random);
            let mut disk = drive.attach(Rc::new(NoTime));
            let found = names(&mut disk);
            let renamed = found.contains(&"renamed".to_owned());
            assert!(renamed || found == ["kept"], "{found:?}");
            let (kept, _) = disk.open(if renamed { "renamed" } else { "kept" }).unwrap();
            assert_eq!(&disk.read(kept, 0, 7).unwrap()[..], b"durable");
            let maybe = disk.read(kept, 100, 5).unwrap();
            assert!(&maybe[..] == b"maybe" || maybe.iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_removed_file_may_come_back_until_a_later_change_is_synced() {
        let drive = Drive::new(3, DiskConfig::default());
        let mut disk = drive.attach(Rc::new(NoTime));
        let old = disk.create("old", 4096).unwrap();
        disk.write(old, 0, b"old").unwrap();
        finish(disk.begin_sync(&[old])).unwrap();
        disk.remove(old).unwrap();
        drive.power_loss(Unsynced::Lost);
        let mut disk = drive.attach(Rc::new(NoTime));
        let (old, _) = disk.open("old").unwrap();
        assert_eq!(&disk.read(old, 0, 3).unwrap()[..], b"old");
        disk.remove(old).unwrap();
        let new = disk.create("new", 4096).unwrap();
        finish(disk.begin_sync(&[new])).unwrap();
        drive.power_loss(Unsynced::Lost);
        assert_eq!(names(&mut drive.attach(Rc::new(NoTime))), ["new"]);
    }

    #[test]
    fn a_full_disk_refuses_new_files_and_serves_the_old() {
        let config = DiskConfig { capacity: 10_000, ..DiskConfig::default() };
        let drive = Drive::new(1, config);
        let mut disk = drive.attach(Rc::new(NoTime));
        let file = disk.create("a", 8192).unwrap();
        assert_eq!(disk.create("b", 8192).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drive.set_full(true);
        assert_eq!(disk.create("c", 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.write(file, 0, &[1; 8192]).unwrap();
        drive.repair();
        disk.create("c", 1).unwrap();
        assert_eq!(drive.counters().refused_full, 2);
    }

    #[test]
    fn after_the_power_is_cut_nothing_changes_and_no_sync_ends() {
        let drive = Drive::new(1, DiskConfig::default());
        let mut disk = drive.attach(Rc::new(NoTime));
        let file = disk.create("a", 4096).unwrap();
        drive.cut_power_after(1);
        disk.write(file, 0, b"last").unwrap();
        assert!(disk.write(file, 0, b"none").is_err());
        let mut sync = Box::pin(disk.begin_sync(&[file]));
        assert!(sync.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[test]
    fn rot_strikes_only_what_has_long_been_durable() {
        let drive = Drive::new(9, DiskConfig::default());
        let mut disk = drive.attach(Rc::new(NoTime));
        let file = disk.create("a", 3 * 4096).unwrap();
        disk.write(file, 0, &[7; 4096]).unwrap();
        finish(disk.begin_sync(&[file])).unwrap();
        disk.write(file, 4096, &[7; 4096]).unwrap();
        drive.rot(3, 0);
        assert_eq!(drive.counters().flipped_bits, 0);
        drive.rot(3, 1);
        assert_eq!(drive.counters().flipped_bits, 3);
        assert!(disk.read(file, 0, 4096).unwrap().iter().any(|b| *b != 7));
        assert!(disk.read(file, 4096, 4096).unwrap().iter().all(|b| *b == 7));
    }
}
