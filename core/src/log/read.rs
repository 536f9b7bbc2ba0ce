//! Reading the log while it runs.

use bytes::Bytes;

use super::{
    Base, CommitLog, Entry, Kind, Place,
    index::Index,
    record::{HEADER, Header, PART_HEAD, check_part, u32_at},
    segment::{Segment, Step},
};
use crate::{
    error::StoreError,
    ids::{LogIndex, Position, Term},
    runtime::Disk,
};

impl CommitLog {
    /// One written part, by the position and length of its bytes, verified,
    /// without a copy where the disk can. `Corrupt` if there is no such part.
    pub fn read<D: Disk>(&self, disk: &mut D, at: Position, len: u32) -> Result<Bytes, StoreError> {
        let Some(segment) = self.holder_of_part(at, len) else {
            let (start, end) = (self.start(), self.written);
            let what = format!("no part of {len} bytes fits here, the log is {start} to {end}");
            return Err(self.active().corrupt(at, what));
        };
        let head = Position(at.0 - PART_HEAD as u64);
        // Twice, because the first read may have been misdirected.
        for _ in 0..2 {
            let bytes = segment.read(disk, head, PART_HEAD as u64 + u64::from(len))?;
            let (head, part) = bytes.split_at(PART_HEAD);
            if check_part(self.seal, at, head, part).is_some() {
                return Ok(bytes.slice(PART_HEAD..));
            }
        }
        Err(segment.corrupt(at, format!("no intact part of {len} bytes here")))
    }

    /// The written part at a position that a client named, or `None` if there
    /// is none.
    pub fn look_up<D: Disk>(
        &self,
        disk: &mut D,
        at: Position,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(segment) = self.holder_of_part(at, 0) else { return Ok(None) };
        let head = segment.read(disk, Position(at.0 - PART_HEAD as u64), PART_HEAD as u64)?;
        let len = u32_at(&head, 0);
        let Some(segment) = self.holder_of_part(at, len) else { return Ok(None) };
        let part = segment.read(disk, at, u64::from(len))?;
        Ok(check_part(self.seal, at, &head, &part).map(|()| part))
    }

    /// The entry at a boundary: a `start` or an `end`. `None` at the written end.
    pub fn entry_at<D: Disk>(
        &self,
        disk: &mut D,
        mut at: Position,
    ) -> Result<Option<Entry>, StoreError> {
        if at < self.start() {
            let what = format!("the log is kept from {} on", self.start());
            return Err(self.active().corrupt(at, what));
        }
        while at < self.written {
            let segment = self.segment_of(at).expect("written bytes lie in a segment");
            match segment.step(disk, self.seal, at)? {
                Step::Entry(header, parts, _) => return Ok(Some(entry(at, header, parts))),
                Step::SegmentEnd(_) => at = segment.end(),
                Step::Invalid => return Err(segment.corrupt(at, "no intact entry here")),
            }
        }
        Ok(None)
    }

    /// The first entry that can be read by its index.
    pub fn first_index(&self) -> LogIndex {
        self.index.as_ref().map_or(LogIndex(self.last.0.0 + 1), |index| index.first())
    }

    /// The term of an entry, or of the one before the first; `None` if it is
    /// not there (any more).
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.index.as_ref()?.term_at(index)
    }

    /// Where an entry ends, or for the one before the first, where to look for
    /// the first.
    pub fn end_of<D: Disk>(&self, disk: &mut D, index: LogIndex) -> Result<Position, StoreError> {
        let known = self.index.as_ref().expect("only replicas of a group look up entries");
        if let Some(end) = known.end_of(index) {
            return Ok(end);
        }
        let (_, mut at) = known.before(index);
        while let Some(entry) = self.entry_at(disk, at)? {
            at = entry.place.end;
            if entry.place.index >= index {
                break;
            }
        }
        Ok(at)
    }

    /// The entries from one up to another, which is left out, that say who
    /// belongs to the group.
    pub fn configurations(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = LogIndex> {
        self.index.iter().flat_map(move |index| index.configurations(from, to))
    }

    /// About where an entry lies: at most 64 KiB before it.
    pub fn place_near(&self, index: LogIndex) -> Position {
        let known = self.index.as_ref().map(|known| known.before(index).1);
        known.unwrap_or(self.end).min(self.end)
    }

    /// An index behind `from`, no later than `to`, up to which there are about
    /// `bytes` bytes of entries.
    pub fn batch_end(&self, from: LogIndex, to: LogIndex, bytes: u64) -> LogIndex {
        self.index.as_ref().map_or(to, |index| index.after_bytes(from, to, bytes))
    }

    /// The written entries from one index up to another, which is left out: as
    /// many as fit into `bytes`, but at least one.
    pub fn entries<D: Disk>(
        &self,
        disk: &mut D,
        from: LogIndex,
        to: LogIndex,
        bytes: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        assert!(self.first_index() <= from, "the first entries may be gone");
        let mut at = self.end_of(disk, LogIndex(from.0 - 1))?;
        let mut entries = Vec::new();
        let mut size = 0;
        while entries.len() < (to.0 - from.0) as usize
            && let Some(entry) = self.entry_at(disk, at)?
        {
            size += entry.place.end.0 - entry.place.start.0;
            if size > bytes && !entries.is_empty() {
                break;
            }
            at = entry.place.end;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The written entries from a boundary up to another: as many as fit into
    /// `bytes` and `limit`, but at least one if there is any.
    pub fn stretch<D: Disk>(
        &self,
        disk: &mut D,
        mut at: Position,
        end: Position,
        bytes: u64,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let from = at;
        let mut entries = Vec::new();
        while entries.len() < limit
            && let Some(entry) = self.entry_at(disk, at)?
        {
            let is_long = entry.place.end.0 - from.0 > bytes;
            if entry.place.end > end || (is_long && !entries.is_empty()) {
                break;
            }
            at = entry.place.end;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Sees to it that entries can be looked up from `wanted` on, which a process
    /// that started from a later snapshot does not know. False if they are gone.
    /// Reads the log from the segment before on: seconds, if segments are large.
    pub fn index_from<D: Disk>(
        &mut self,
        disk: &mut D,
        wanted: LogIndex,
    ) -> Result<bool, StoreError> {
        let Some(known) = &self.index else { return Ok(false) };
        if known.first() <= wanted {
            return Ok(true);
        }
        let end = known.base();
        let before = self.segments.iter().rev().filter(|segment| segment.start < end);
        let mut found = None;
        for start in before.map(|segment| segment.start) {
            match self.entry_at(disk, start)? {
                Some(first) if first.place.index < wanted => {
                    found = Some(first);
                    break;
                }
                _ => {}
            }
        }
        let Some(first) = found else { return Ok(false) };
        let Place { index, term, end: position, .. } = first.place;
        let mut older = Index::new(Base { position, index, term });
        let mut at = position;
        while let Some(entry) = self.entry_at(disk, at)?
            && entry.place.end <= end
        {
            let opens = self.segment_start(entry.place.start) == entry.place.start;
            older.push(entry.place, entry.kind, opens);
            at = entry.place.end;
        }
        let known = self.index.as_mut().expect("there is one");
        known.prepend(older);
        Ok(true)
    }

    /// The start of the segment that holds `at`, a boundary for `entry_at`; the
    /// log's start if none does.
    pub fn segment_start(&self, at: Position) -> Position {
        self.segment_of(at).map_or(self.start(), |segment| segment.start)
    }

    fn segment_of(&self, at: Position) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.start <= at);
        self.segments.get(after.checked_sub(1)?)
    }

    /// The segment in which a written part of `len` bytes may lie at `at`.
    fn holder_of_part(&self, at: Position, len: u32) -> Option<&Segment> {
        let segment = self.segment_of(at)?;
        let first = segment.start.0 + (HEADER + PART_HEAD) as u64;
        let end = at.0.checked_add(u64::from(len))?;
        (first <= at.0 && end <= segment.end().min(self.written).0).then_some(segment)
    }
}

fn entry(start: Position, header: Header, parts: Vec<(Position, Bytes)>) -> Entry {
    let kind = header.kind();
    let end = Position(start.0 + header.size());
    let place = Place { index: header.stamp.index, term: header.stamp.term, start, end };
    debug_assert!(kind != Kind::Mark || parts.is_empty());
    Entry { place, kind, needs_sync: header.needs_sync, parts }
}
