//! Writing and syncing: what is appended becomes written, durable, committed.

use std::io;

use super::{super::ASYNC_WINDOW, Member, Persisting};
use crate::{
    error::StoreError,
    log::{HardState, SyncTicket},
    replication::{Flush, MARK_AFTER},
    runtime::{Disk, FileId},
    time::Time,
};

/// How far the disk is behind.
#[derive(Default)]
pub(super) struct Syncing {
    running: bool,
    /// Parts appended since the last sync began, and those it covers.
    unsynced: u64,
    covered: u64,
    next_flush: Time,
    vouch_at: Option<Time>,
}

impl Syncing {
    pub fn appended(&mut self, parts: u64) {
        self.unsynced += parts;
        self.vouch_at = None;
    }

    pub fn is_window_full(&self) -> bool {
        self.covered + self.unsynced > ASYNC_WINDOW
    }
}

impl<D: Disk> Member<D> {
    /// Bytes appended and not yet durable here.
    pub fn undurable(&self) -> u64 {
        self.log().end().0 - self.log().durable().0
    }

    /// Once per batch of inputs: lets the clock run, writes all that was
    /// appended, and makes messages of what is to be sent.
    pub fn write(&mut self, now: Time) -> Result<(), StoreError> {
        if !self.recovered {
            return Ok(());
        }
        if let Some(sync) = self.giving_up {
            let is_done = self.log().is_synced(sync);
            return if is_done { Err(StoreError::Replaced) } else { Ok(()) };
        }
        self.tick(now)?;
        self.govern()?;
        if self.syncing.vouch_at.is_some_and(|at| at <= now) {
            self.syncing.vouch_at = None;
            let store = self.raw.mut_store();
            store.log.vouch(&mut store.disk)?;
        }
        loop {
            let store = self.raw.mut_store();
            store.log.write(&mut store.disk)?;
            if !self.settle() {
                break;
            }
            self.drive()?;
        }
        self.advance_install(now)?;
        self.offer_snapshots(now)?;
        self.dispatch(now)
    }

    /// Tells raft-rs what is persisted by now, and lets the answers go.
    fn settle(&mut self) -> bool {
        let mut settled = false;
        while let Some(waiting) = self.persisting.front()
            && self.is_persisted(waiting)
        {
            let waiting = self.persisting.pop_front().expect("there is one");
            self.raw.on_persist_ready(waiting.number);
            self.unsent.extend(waiting.messages);
            settled = true;
        }
        settled
    }

    fn is_persisted(&self, waiting: &Persisting) -> bool {
        let log = self.log();
        let entries = waiting.end.is_none_or(|end| match self.flush {
            Flush::Async { .. } if !waiting.needs_sync => log.written() >= end,
            _ => log.durable() >= end,
        });
        entries && waiting.vote.is_none_or(|sync| log.is_synced(sync))
    }

    /// Starts a sync if one is due: under sync flush whenever there is anything
    /// to sync and none is running, under async flush at the interval, when the
    /// window is half full, or when somebody waits for the disk.
    pub fn begin_sync(&mut self, now: Time) -> Option<(SyncTicket, D::Sync)> {
        let due = match self.flush {
            Flush::Sync => true,
            Flush::Async { .. } => {
                let needed = |waiting: &Persisting| waiting.needs_sync || waiting.vote.is_some();
                now >= self.syncing.next_flush
                    || self.syncing.unsynced >= ASYNC_WINDOW / 2
                    || self.persisting.iter().any(needed)
                    || self.log().is_repairing()
                    || self.install.is_some()
                    || self.giving_up.is_some()
            }
        };
        if due { self.sync_with(now, &[]) } else { None }
    }

    pub fn is_syncing(&self) -> bool {
        self.syncing.running
    }

    /// Starts a sync that also makes `files` durable, due or not; none while one
    /// runs or if there is nothing to sync.
    pub fn sync_with(&mut self, now: Time, files: &[FileId]) -> Option<(SyncTicket, D::Sync)> {
        if self.syncing.running {
            return None;
        }
        let store = self.raw.mut_store();
        let started = store.log.begin_sync(&mut store.disk, files)?;
        self.syncing.running = true;
        self.syncing.covered = std::mem::take(&mut self.syncing.unsynced);
        if let Flush::Async { interval } = self.flush {
            self.syncing.next_flush = now + interval;
        }
        Some(started)
    }

    /// A sync finished. A failed one stops the store for good (L2). Call
    /// [`write`](Self::write) afterwards.
    pub fn synced(
        &mut self,
        now: Time,
        ticket: SyncTicket,
        result: io::Result<()>,
    ) -> Result<(), StoreError> {
        let log = &mut self.raw.mut_store().log;
        let durable = log.synced(ticket, result)?;
        let rests = durable == log.end();
        self.syncing.running = false;
        self.syncing.covered = 0;
        if !self.recovered {
            self.recovered = true;
            self.ticks.start(now);
            self.quiet_until = now + self.patience;
            while self.advance_commit()? {}
        }
        if rests && self.syncing.vouch_at.is_none() && self.log().vouched() < durable {
            self.syncing.vouch_at = Some(now + MARK_AFTER);
        }
        Ok(())
    }

    /// Notes before an orderly stop what is committed; durable with the next
    /// sync. That nothing is missing is for the leader to know.
    pub fn close(&mut self) -> Result<(), StoreError> {
        let commit = self.committed_index();
        let store = self.raw.mut_store();
        let state = HardState { commit, ..store.log.hard_state() };
        store.log.save(&mut store.disk, state).map(drop)
    }

    /// When `write` and `begin_sync` want to be called again.
    pub fn deadline(&self) -> Option<Time> {
        if self.giving_up.is_some() {
            // Only the sync that is under way has anything to say.
            return None;
        }
        let log = self.log();
        let flush = match self.flush {
            Flush::Async { .. } if !self.is_syncing() && log.written() > log.durable() => {
                Some(self.syncing.next_flush)
            }
            _ => None,
        };
        let tick = self.ticks_wanted().map(|wanted| self.ticks.deadline(wanted));
        [flush, self.syncing.vouch_at, tick, self.install_deadline()].into_iter().flatten().min()
    }

    /// Makes the next segment ready ahead of need.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        let store = self.raw.mut_store();
        store.log.prepare(&mut store.disk)
    }
}
