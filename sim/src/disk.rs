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
//! - **Latent sector errors**, only when asked: pages that have been durable
//!   for a stated time cannot be read any more, by no process, until somebody
//!   writes them.
//! - **Misdirected reads**, only when asked: a read returns the bytes of the
//!   page before or after.
//! - **Misdirected writes**, only when asked: a write lands a page before or
//!   after its place, and reports success.
//!
//! A sync that is in flight when the process dies or the power fails never
//! completes; its pages are like all other unsynced ones. Slices are copies,
//! so `rename` is never `ResourceBusy` here, and `seal` does nothing.

mod drive;
mod pages;
mod syncing;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::Future,
    io,
    ops::RangeInclusive,
    pin::Pin,
    rc::Rc,
};

use bytes::Bytes;
use pages::{PAGE, Pages};
use stormglass_core::{
    rng::Rng,
    runtime::{Disk, FileId},
};
use syncing::Covers;
pub use syncing::Syncing;

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
    pub spoiled_pages: u64,
    pub misdirected_reads: u64,
    pub misdirected_writes: u64,
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
    /// It reads what is there, and no fault that is armed for a process.
    only_looks: bool,
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
    misdirected_reads: u32,
    misdirected_writes: u32,
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
            if disk.faults.writes > 0 {
                disk.faults.writes -= 1;
                disk.counters.failed_writes += 1;
                let prefix = disk.rng.below(data.len() as u64 + 1) as usize;
                disk.file(file)?.pages.write(offset, &data[..prefix]);
                return Err(eio());
            }
            disk.counters.writes += 1;
            disk.counters.bytes_written += data.len() as u64;
            let mut to = offset;
            if disk.faults.misdirected_writes > 0 {
                disk.faults.misdirected_writes -= 1;
                disk.counters.misdirected_writes += 1;
                to = neighbour(offset, data.len(), disk.file(file)?.pages.len()).unwrap_or(offset);
            }
            disk.file(file)?.pages.write(to, data);
            Ok(())
        })
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<Bytes> {
        self.state(|disk| {
            let end = disk.file(file)?.pages.len();
            inside(offset, len, end)?;
            if self.only_looks {
                return Ok(disk.file(file)?.pages.read(offset, len));
            }
            disk.counters.reads += 1;
            disk.counters.bytes_read += len as u64;
            if disk.faults.reads > 0 {
                disk.faults.reads -= 1;
                disk.counters.failed_reads += 1;
                return Err(eio());
            }
            let mut from = offset;
            if disk.faults.misdirected_reads > 0 {
                disk.faults.misdirected_reads -= 1;
                disk.counters.misdirected_reads += 1;
                from = neighbour(offset, len, end).ok_or_else(eio)?;
            }
            let pages = &disk.file(file)?.pages;
            if pages.is_spoiled(from, len) {
                disk.counters.failed_reads += 1;
                return Err(eio());
            }
            Ok(pages.read(from, len))
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

fn inside(offset: u64, len: usize, end: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(last) if last <= end => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the file")),
    }
}

/// The same place a page before, or else after, if that lies in the file.
fn neighbour(offset: u64, len: usize, end: u64) -> Option<u64> {
    let page = PAGE as u64;
    let other = offset.checked_sub(page).unwrap_or(offset + page);
    (other + len as u64 <= end).then_some(other)
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn draw(rng: &mut Rng, range: &RangeInclusive<u64>) -> u64 {
    range.start() + rng.below(range.end().saturating_sub(*range.start()) + 1)
}
