//! Appending, syncing and reading.

use std::{collections::VecDeque, io};

use super::{
    Base, Draft, LogConfig, Place,
    identity::Identity,
    index::Index,
    record::{Form, HEADER, Header, Seal, Stamp},
    recovery::{self, Recovered},
    segment::{self, Segment},
    spares::Spares,
};
use crate::{
    error::StoreError,
    ids::{LogIndex, Position, Term},
    runtime::{Disk, FileId},
};

/// Memory that the staging buffer keeps after a large batch.
const STAGED_KEEP: usize = 4 << 20;

/// The log of one node. See the module for what it promises.
pub struct CommitLog {
    pub(super) config: LogConfig,
    pub(super) seal: Seal,
    pub(super) identity: (FileId, Identity),
    /// Without gaps, the active one last; never empty.
    pub(super) segments: VecDeque<Segment>,
    /// The segment after the active one, if it exists already.
    pub(super) next: Option<Segment>,
    pub(super) spares: Spares,
    /// Segments of a tail that was cut off, to be removed once that is durable.
    pub(super) doomed: Vec<Segment>,
    /// Where entries lie by index; only in a group.
    pub(super) index: Option<Index>,
    pub(super) staged: Staged,
    pub(super) last: (LogIndex, Term),
    pub(super) end: Position,
    pub(super) written: Position,
    pub(super) durable: Position,
    pub(super) syncs: Syncs,
    /// Once this sync has finished, the newest slot of `store` is written to the
    /// other one as well: no single damage takes a vote back.
    pub(super) copy_after: Option<u64>,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// What recovery repaired, or that a tail was cut off, is durable with this
    /// sync only. Nothing may be written before: half of a new entry over half
    /// of an old one could pass for either, and a term or life could be used
    /// twice.
    Repairing {
        sync: u64,
    },
    Running,
    /// Closed, or failed (L2).
    Stopped,
}

/// Entries that the disk has not been given yet.
#[derive(Default)]
pub(super) struct Staged {
    bytes: Vec<u8>,
    /// Which of the bytes go where, in order.
    runs: Vec<Run>,
}

struct Run {
    segment: Segment,
    at: Position,
    len: usize,
}

impl Staged {
    fn put(&mut self, segment: Segment, at: Position, bytes: &[u8]) {
        let size = bytes.len().next_multiple_of(8);
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len() + size - bytes.len(), 0);
        match self.runs.last_mut() {
            Some(run) if run.at.0 + run.len as u64 == at.0 && run.segment.end() > at => {
                run.len += size;
            }
            _ => self.runs.push(Run { segment, at, len: size }),
        }
    }
}

impl Staged {
    /// Takes back everything from `cut` on.
    pub(super) fn cut(&mut self, cut: Position) {
        while let Some(run) = self.runs.last_mut() {
            let kept = (cut.0.saturating_sub(run.at.0) as usize).min(run.len);
            self.bytes.truncate(self.bytes.len() - (run.len - kept));
            run.len = kept;
            if kept > 0 {
                break;
            }
            self.runs.pop();
        }
    }
}

/// Which files need a sync, and the one in flight.
#[derive(Default)]
pub(super) struct Syncs {
    pub dirty: Vec<FileId>,
    pub in_flight: Option<SyncTicket>,
    pub begun: u64,
    pub finished: u64,
    /// What the sync in flight makes durable counts up to here only: the log was
    /// cut while it ran.
    pub ceiling: Position,
}

impl Syncs {
    pub fn touch(&mut self, file: FileId) {
        if !self.dirty.contains(&file) {
            self.dirty.push(file);
        }
    }
}

/// Names a sync between [`CommitLog::begin_sync`] and [`CommitLog::synced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTicket {
    number: u64,
    up_to: Position,
}

impl CommitLog {
    /// Finds the end of the log behind `base`. A torn tail is cut; damage
    /// before the durable end is refused as `Corrupt`. What was found beyond
    /// the last known durable position becomes durable with the first sync:
    /// until that one finished, [`write`](Self::write) holds new entries back.
    /// `Full` if the first segment finds no room.
    pub fn open<D: Disk>(
        disk: &mut D,
        config: LogConfig,
        base: Base,
    ) -> Result<(CommitLog, Recovered), StoreError> {
        recovery::open(disk, config, base)
    }

    /// Stages an entry in memory. Tells `places` each part's number and
    /// position; message records get their position patched in before that.
    /// `Full` if a new segment was needed and found no room, `TooLarge` if no
    /// segment takes the entry: nothing has changed then.
    pub fn append<D: Disk>(
        &mut self,
        disk: &mut D,
        term: Term,
        draft: &mut Draft,
        places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        assert!(term >= self.last.1, "terms never decrease along the log");
        assert!(!self.identity.1.clean, "nothing is appended after an orderly stop");
        let size = draft.size();
        if size as u64 > self.config.segment_bytes {
            return Err(StoreError::TooLarge {
                bytes: size,
                limit: self.config.segment_bytes as usize,
            });
        }
        if self.active().room(self.end) < size as u64 {
            self.roll(disk, term)?;
        }
        let start = self.end;
        let index = LogIndex(self.last.0.0 + 1);
        let kind = draft.kind();
        let life = self.identity.1.life();
        let stamp = Stamp { term, index, life, claim: self.durable };
        let bytes = draft.finish(self.seal, start, stamp, places);
        let active = *self.segments.back().expect("there is always an active segment");
        self.staged.put(active, start, bytes);
        self.end = Position(start.0 + size as u64);
        self.last = (index, term);
        let place = Place { index, term, start, end: self.end };
        if let Some(known) = &mut self.index {
            known.push(place, kind, start == active.start);
        }
        Ok(place)
    }

    /// Hands what is staged to the disk: it survives the death of the process
    /// from here on. Does nothing before the first sync after `open` finished
    /// (call it again then). An error stops the log for good (L2).
    pub fn write<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        match self.phase {
            Phase::Repairing { .. } => return Ok(()),
            Phase::Stopped => return Err(StoreError::Stopped),
            Phase::Running => {}
        }
        while let Some(doomed) = self.doomed.pop() {
            doomed.remove(disk)?;
        }
        let active = self.active().file;
        let mut rest = &self.staged.bytes[..];
        for run in &self.staged.runs {
            let (bytes, after) = rest.split_at(run.len);
            rest = after;
            if let Err(error) = run.segment.write(disk, run.at, bytes) {
                self.phase = Phase::Stopped;
                return Err(error);
            }
            self.syncs.touch(run.segment.file);
            if run.segment.file != active {
                disk.seal(run.segment.file);
            }
        }
        if self.copy_after.is_some_and(|sync| self.is_synced(sync)) && !self.syncs.dirty.is_empty()
        {
            self.store_identity(disk)?;
            self.copy_after = None;
        }
        self.staged.runs.clear();
        self.staged.bytes.clear();
        self.staged.bytes.shrink_to(STAGED_KEEP);
        self.written = self.end;
        Ok(())
    }

    /// Begins a sync of everything written so far and of `extra` files. `None`
    /// if there is nothing new, or while another one is in flight: the caller
    /// keeps `extra` then and asks again after `synced`.
    pub fn begin_sync<D: Disk>(
        &mut self,
        disk: &mut D,
        extra: &[FileId],
    ) -> Option<(SyncTicket, D::Sync)> {
        let syncs = &mut self.syncs;
        let nothing_new = syncs.dirty.is_empty() && extra.is_empty();
        if self.phase == Phase::Stopped || syncs.in_flight.is_some() || nothing_new {
            return None;
        }
        let mut files = std::mem::take(&mut syncs.dirty);
        files.extend_from_slice(extra);
        syncs.begun += 1;
        syncs.ceiling = Position(u64::MAX);
        let ticket = SyncTicket { number: syncs.begun, up_to: self.written };
        syncs.in_flight = Some(ticket);
        Some((ticket, disk.begin_sync(&files)))
    }

    /// Takes the outcome of a sync and returns the durable end. A failed sync
    /// stops the log for good (L2): what the kernel dropped from its cache
    /// would be missing from the next, successful sync.
    pub fn synced(
        &mut self,
        ticket: SyncTicket,
        outcome: io::Result<()>,
    ) -> Result<Position, StoreError> {
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        assert_eq!(self.syncs.in_flight.take(), Some(ticket), "one sync at a time");
        if let Err(error) = outcome {
            self.phase = Phase::Stopped;
            return Err(segment::failed("syncing", self.active().start, error));
        }
        // It may have begun before the log was filled anew, from farther on.
        let up_to = ticket.up_to.min(self.syncs.ceiling).max(self.start());
        assert!(up_to >= self.durable, "only a truncation moves the durable end back");
        self.durable = up_to;
        self.syncs.finished = ticket.number;
        if let Phase::Repairing { sync } = self.phase
            && sync <= ticket.number
        {
            self.phase = Phase::Running;
        }
        Ok(self.durable)
    }

    /// The first position that is still kept.
    pub fn start(&self) -> Position {
        self.segments.front().expect("there is always a segment").start
    }

    /// Where the segments begin that are kept, oldest first. Each is a boundary
    /// that [`entry_at`](Self::entry_at) takes.
    pub fn segment_starts(&self) -> impl Iterator<Item = Position> {
        self.segments.iter().map(|segment| segment.start)
    }

    /// Where the next entry goes (or later, if it does not fit this segment).
    pub fn end(&self) -> Position {
        self.end
    }

    /// The end of what the disk was given; readable up to here.
    pub fn written(&self) -> Position {
        self.written
    }

    /// The end of what no crash takes back.
    pub fn durable(&self) -> Position {
        self.durable
    }

    pub fn last_index(&self) -> LogIndex {
        self.last.0
    }

    pub fn last_term(&self) -> Term {
        self.last.1
    }

    /// Length of a new segment.
    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// The random number that tells this store's files from all others'.
    pub fn store_id(&self) -> u64 {
        self.seal.store_id
    }

    /// How many of these entries, in their order, can be appended for certain:
    /// with room for them made, but not more than one segment ahead.
    pub fn make_room<D: Disk>(
        &mut self,
        disk: &mut D,
        sizes: impl Iterator<Item = u64>,
    ) -> Result<usize, StoreError> {
        let mut at = self.end;
        let mut end = self.active().end();
        let mut rolled = false;
        let mut count = 0;
        for size in sizes {
            if end.0 - at.0 < size {
                if rolled {
                    break;
                }
                if self.next.is_none() {
                    match self.make_next(disk) {
                        Ok(next) => self.next = Some(next),
                        Err(StoreError::Full) => break,
                        Err(error) => return Err(error),
                    }
                }
                rolled = true;
                at = end;
                end = self.next.expect("just made").end();
            }
            at = Position(at.0 + size);
            count += 1;
        }
        Ok(count)
    }

    /// Makes the next segment ahead of need, if the active one is half full. A
    /// full disk is no error here; `append` will say so when it matters.
    pub fn prepare<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        let active = self.active();
        if self.next.is_some() || active.room(self.end) > active.len / 2 {
            return Ok(());
        }
        match self.make_next(disk) {
            Ok(next) => self.next = Some(next),
            Err(StoreError::Full) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Drops whole durable segments below `keep_from` and returns the bytes
    /// dropped. `keep_from` must not lie beyond the newest durable snapshot.
    /// Does nothing before the first sync after `open` finished.
    pub fn expire<D: Disk>(
        &mut self,
        disk: &mut D,
        keep_from: Position,
    ) -> Result<u64, StoreError> {
        let mut dropped = 0;
        if self.phase != Phase::Running {
            return Ok(dropped);
        }
        while self.segments.len() > 1 && self.segments[0].end() <= keep_from.min(self.durable) {
            let oldest = self.segments.pop_front().expect("more than one");
            dropped += oldest.len;
            let wanted = oldest.len == self.config.segment_bytes
                && self.spares.len() < self.config.spare_segments;
            if !(wanted && self.spares.keep(disk, oldest, &mut self.syncs)?) {
                oldest.remove(disk)?;
            }
        }
        let start = self.start();
        if let Some(known) = &mut self.index {
            known.expire(start);
        }
        Ok(dropped)
    }

    /// Notes an orderly stop; durable with the next sync. Everything appended
    /// must be durable, and nothing is appended afterwards.
    pub fn close<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        if self.phase == Phase::Stopped {
            return Err(StoreError::Stopped);
        }
        assert_eq!(self.durable, self.end, "an orderly stop syncs everything first");
        self.identity.1.durable = self.durable;
        self.identity.1.clean = true;
        self.store_identity(disk)
    }

    pub(super) fn active(&self) -> &Segment {
        self.segments.back().expect("there is always an active segment")
    }

    /// Pads the active segment and goes on in the next one.
    fn roll<D: Disk>(&mut self, disk: &mut D, term: Term) -> Result<(), StoreError> {
        let next = match self.next.take() {
            Some(next) => next,
            None => self.make_next(disk)?,
        };
        let active = *self.active();
        let room = active.room(self.end);
        if room >= HEADER as u64 {
            let pad = Header {
                len: room as u32,
                form: Form::Pad,
                parts: 0,
                digest: 0,
                needs_sync: false,
                stamp: Stamp {
                    term,
                    index: self.last.0,
                    life: self.identity.1.life(),
                    claim: self.durable,
                },
            };
            self.staged.put(active, self.end, &pad.encode(self.seal, self.end));
        }
        self.end = next.start;
        self.segments.push_back(next);
        Ok(())
    }

    fn make_next<D: Disk>(&mut self, disk: &mut D) -> Result<Segment, StoreError> {
        let start = self.active().end();
        // Safe to write again: nothing is, before the cut is durable.
        if let Some(again) = self.doomed.iter().position(|doomed| doomed.start == start) {
            return Ok(self.doomed.swap_remove(again));
        }
        if let Some(recycled) = self.spares.take(disk, start, &self.syncs)? {
            return Ok(recycled);
        }
        Segment::create(disk, start, self.config.segment_bytes)
    }
}
