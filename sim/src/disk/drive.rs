//! What the testbed does to a disk: faults, power, and the names that a power
//! loss takes back.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    ops::RangeInclusive,
    rc::Rc,
};

use stormglass_core::{rng::Rng, runtime::FileId};

use super::{
    Change, DiskConfig, DiskCounters, DiskEvent, Drive, Faults, File, MAX_EVENTS, NoTime, SimDisk,
    State, Timer, pages::PAGE,
};
use crate::fault::Unsynced;

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
        SimDisk { drive: self.clone(), timer, process: self.detach(), only_looks: false }
    }

    /// The disk for somebody who looks what the process that uses it has written.
    pub fn look_into(&self) -> SimDisk {
        let process = self.0.borrow().process;
        SimDisk { drive: self.clone(), timer: Rc::new(NoTime), process, only_looks: true }
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

    /// Whether the power of `cut_power_after` is gone.
    pub fn is_cut(&self) -> bool {
        let state = self.0.borrow();
        state.changes >= state.last_change
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
        self.0.borrow_mut().faults.misdirected_reads = count;
    }

    /// The next `count` writes land where a neighbouring page is.
    pub fn misdirect_writes(&self, count: u32) {
        self.0.borrow_mut().faults.misdirected_writes = count;
    }

    /// Undoes all that lasts: full, slow, and errors still to come.
    pub fn repair(&self) {
        self.0.borrow_mut().faults = Faults::default();
    }

    /// Flips bits in pages that have been durable since `until_ms`.
    pub fn rot(&self, flips: u32, until_ms: u64) {
        let state = &mut *self.0.borrow_mut();
        let settled = state.settled(until_ms);
        for _ in 0..flips {
            let Some((file, page)) = state.draw_page(&settled) else { return };
            let bit = state.rng.below(8 * PAGE as u64) as usize;
            if let Some(file) = state.files.get_mut(&file) {
                file.pages.flip(page, bit);
                state.counters.flipped_bits += 1;
            }
        }
    }

    /// Takes back what the log has made durable since this time, in ms. Call it
    /// while the power is off.
    pub fn lose_tail(&self, since_ms: u64) {
        let state = &mut *self.0.borrow_mut();
        for file in state.files.values_mut().filter(|file| file.name.starts_with("log/")) {
            file.pages.forget_since(since_ms);
        }
    }

    /// Another disk, with nothing on it. Call it while the power is off.
    pub fn wipe(&self) {
        let state = &mut *self.0.borrow_mut();
        state.files.clear();
        state.names.clear();
    }

    /// Makes pages unreadable that have been durable since `until_ms`, for as
    /// long as nobody writes them.
    pub fn spoil(&self, pages: u32, until_ms: u64) {
        let state = &mut *self.0.borrow_mut();
        let settled = state.settled(until_ms);
        for _ in 0..pages {
            let Some((file, page)) = state.draw_page(&settled) else { return };
            if let Some(file) = state.files.get_mut(&file) {
                file.pages.spoil(page);
                state.counters.spoiled_pages += 1;
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
    /// Every page that has been durable since this time.
    fn settled(&self, until_ms: u64) -> Vec<(FileId, u32)> {
        let files = self.files.iter();
        files
            .flat_map(|(id, file)| file.pages.durable_pages(until_ms).map(|page| (*id, page)))
            .collect()
    }

    fn draw_page(&mut self, among: &[(FileId, u32)]) -> Option<(FileId, u32)> {
        let last = among.len().checked_sub(1)? as u64;
        among.get(self.rng.below(last + 1) as usize).copied()
    }

    pub(super) fn happened(&mut self, event: DiskEvent) {
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

    pub(super) fn note(&mut self, file: FileId, change: Change) {
        self.journal.push_back(change);
        let end = self.journal_end();
        if let Some(file) = self.files.get_mut(&file) {
            file.renamed_at = end;
        }
    }

    /// Counts an operation that changes the disk; fails once the power is cut.
    pub(super) fn change(&mut self) -> io::Result<()> {
        if self.changes >= self.last_change {
            return Err(io::Error::other("the power is off"));
        }
        self.changes += 1;
        Ok(())
    }

    pub(super) fn file(&mut self, id: FileId) -> io::Result<&mut File> {
        self.files
            .get_mut(&id)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the file was removed"))
    }
}
