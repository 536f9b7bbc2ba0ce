//! A group of one commits by itself: what is durable (sync flush) or written
//! (async flush) is committed.

use std::io;

use super::{ASYNC_WINDOW, Flush, MARK_AFTER, Needs};
use crate::{
    error::StoreError,
    ids::{Position, Term},
    log::{Base, CommitLog, Draft, Entry, Kind, LogConfig, Place, SyncTicket},
    runtime::{Disk, FileId},
    time::Time,
};

/// The only replica of a log.
pub struct Alone<D: Disk> {
    disk: D,
    log: CommitLog,
    flush: Flush,
    term: Term,
    committed: Position,
    syncing: bool,
    /// Parts (messages, mostly) appended since the last sync began, and those it
    /// covers.
    unsynced: u64,
    in_sync: u64,
    /// Under async flush, what must be durable all the same before anything
    /// from its start on commits: from here to there.
    held: (Position, Position),
    next_flush: Time,
    /// The end of the last mark: it needs no other mark to vouch for it.
    marked: Position,
    mark_at: Option<Time>,
    /// The first sync after opening is through.
    recovered: bool,
    /// The last process to use this log stopped in order.
    was_clean: bool,
}

impl<D: Disk> Alone<D> {
    /// Opens the log and starts a new term. Nothing is committed before the
    /// first sync has finished: what a killed process left in the page cache
    /// must be durable before a consumer sees it (L3).
    pub fn open(
        mut disk: D,
        config: LogConfig,
        flush: Flush,
        base: Base,
    ) -> Result<Alone<D>, StoreError> {
        let (log, found) = CommitLog::open(&mut disk, config, base)?;
        Ok(Alone {
            term: found.fresh_term,
            was_clean: found.clean,
            committed: base.position,
            syncing: false,
            recovered: false,
            unsynced: 0,
            in_sync: 0,
            held: (Position(0), Position(0)),
            next_flush: Time::ZERO,
            marked: Position(0),
            mark_at: None,
            disk,
            log,
            flush,
        })
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn log(&self) -> &CommitLog {
        &self.log
    }

    /// Everything before this position may be applied and shown.
    pub fn committed(&self) -> Position {
        self.committed
    }

    pub fn into_disk(self) -> D {
        self.disk
    }

    /// The log and the disk under it, for those who read records and keep
    /// derived files.
    pub fn parts(&mut self) -> (&CommitLog, &mut D) {
        (&self.log, &mut self.disk)
    }

    /// The next entry at or after `at`, if it is written.
    pub fn entry_at(&mut self, at: Position) -> Result<Option<Entry>, StoreError> {
        self.log.entry_at(&mut self.disk, at)
    }

    /// Appends an entry in memory; `places` learns where each part will lie.
    pub fn propose(
        &mut self,
        draft: &mut Draft,
        needs: Needs,
        mut places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        let mut parts = 0;
        let before = self.log.end();
        let place = self.log.append(&mut self.disk, self.term, draft, |part, position| {
            parts += 1;
            places(part, position);
        })?;
        self.unsynced += parts;
        if needs == Needs::Durable || self.in_sync + self.unsynced > ASYNC_WINDOW {
            let from = if self.is_held() { self.held.0 } else { before };
            self.held = (from, place.end);
        }
        self.mark_at = None;
        Ok(place)
    }

    /// Bytes proposed and not yet durable.
    pub fn undurable(&self) -> u64 {
        self.log.end().0 - self.log.durable().0
    }

    /// Once per batch of inputs: one write for all that was appended, and what
    /// that commits.
    pub fn write(&mut self, now: Time) -> Result<(), StoreError> {
        if self.mark_at.is_some_and(|at| at <= now) {
            self.mark_at = None;
            let mut mark = Draft::default();
            mark.clear(Kind::Mark);
            match self.log.append(&mut self.disk, self.term, &mut mark, |_, _| {}) {
                Ok(place) => self.marked = place.end,
                // No room for a mark is no harm: it only sharpens recovery.
                Err(StoreError::Full) => {}
                Err(error) => return Err(error),
            }
        }
        self.log.write(&mut self.disk)?;
        self.advance_commit();
        Ok(())
    }

    /// Starts a sync if one is due: under sync flush whenever there is anything
    /// to sync and none is running (group commit, no timer), under async flush
    /// at the interval or when the window is half full.
    pub fn begin_sync(&mut self, now: Time) -> Option<(SyncTicket, D::Sync)> {
        let due = match self.flush {
            Flush::Sync => true,
            Flush::Async { .. } => {
                now >= self.next_flush
                    || self.unsynced >= ASYNC_WINDOW / 2
                    || self.is_held()
                    || !self.recovered
            }
        };
        if due { self.sync_with(now, &[]) } else { None }
    }

    pub fn is_syncing(&self) -> bool {
        self.syncing
    }

    /// Starts a sync that also makes `files` durable, due or not; none while one
    /// runs or if there is nothing to sync.
    pub fn sync_with(&mut self, now: Time, files: &[FileId]) -> Option<(SyncTicket, D::Sync)> {
        if self.is_syncing() {
            return None;
        }
        let started = self.log.begin_sync(&mut self.disk, files)?;
        self.syncing = true;
        self.in_sync = self.unsynced;
        self.unsynced = 0;
        if let Flush::Async { interval } = self.flush {
            self.next_flush = now + interval;
        }
        Some(started)
    }

    /// A sync finished. A failed one stops the store for good (L2).
    pub fn synced(
        &mut self,
        now: Time,
        ticket: SyncTicket,
        result: io::Result<()>,
    ) -> Result<(), StoreError> {
        let durable = self.log.synced(ticket, result)?;
        self.syncing = false;
        self.recovered = true;
        self.in_sync = 0;
        if durable == self.log.end() && durable > self.marked {
            self.mark_at = Some(now + MARK_AFTER);
        }
        self.advance_commit();
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.log.durable() < self.held.1
    }

    fn advance_commit(&mut self) {
        let reached = match self.flush {
            Flush::Sync => self.log.durable(),
            Flush::Async { .. } if !self.recovered => self.log.durable(),
            Flush::Async { .. } if self.is_held() => {
                self.log.written().min(self.held.0).max(self.log.durable())
            }
            Flush::Async { .. } => self.log.written(),
        };
        if reached > self.committed {
            self.committed = reached;
        }
        assert!(self.committed <= self.log.written(), "committed is never ahead of the disk");
    }

    /// Whether what the log held when it was opened is durable by now. Before
    /// that nothing is committed and nothing new is written.
    pub fn has_recovered(&self) -> bool {
        self.recovered
    }

    /// Whether the last process to use this log stopped in order, so that
    /// nothing it handed out is missing.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Notes an orderly stop once everything is durable; the note itself is
    /// durable with the next sync.
    pub fn close(&mut self) -> Result<(), StoreError> {
        assert!(self.undurable() == 0, "an orderly stop leaves nothing behind");
        self.log.close(&mut self.disk)
    }

    /// When `write` and `begin_sync` want to be called again.
    pub fn deadline(&self) -> Option<Time> {
        let flush = match self.flush {
            Flush::Async { .. }
                if !self.is_syncing() && self.log.written() > self.log.durable() =>
            {
                Some(self.next_flush)
            }
            _ => None,
        };
        [flush, self.mark_at].into_iter().flatten().min()
    }

    /// Makes the next segment ready ahead of need.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        self.log.prepare(&mut self.disk)
    }

    /// Drops whole segments before `keep_from`; returns how many bytes went.
    pub fn expire(&mut self, keep_from: Position) -> Result<u64, StoreError> {
        self.log.expire(&mut self.disk, keep_from)
    }
}
