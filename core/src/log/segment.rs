//! Segments: the files of fixed length that the log is cut into.

use std::io;

use bytes::Bytes;

use super::record::{Form, HEADER, Header, Seal};
use crate::{
    error::{Corrupt, StoreError},
    ids::Position,
    runtime::{Disk, FileId},
};

const LOG: &str = "log/";
const SPARE: &str = "spare/";
/// A device that fails so often in a row at one place has lost what is there.
const READ_ATTEMPTS: u32 = 3;

/// A file that holds the log from `start` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub start: Position,
    pub len: u64,
    pub file: FileId,
}

/// What lies at an entry boundary.
pub(super) enum Step {
    /// The entry's header and parts, and all its bytes.
    Entry(Header, Vec<(Position, Bytes)>, Bytes),
    /// The segment holds no more: go on with the next one. With the bytes that
    /// say so, if there was room for them.
    SegmentEnd(Bytes),
    /// No intact entry was written here.
    Invalid,
}

impl Segment {
    pub fn create<D: Disk>(disk: &mut D, start: Position, len: u64) -> Result<Segment, StoreError> {
        let file = disk.create(&segment_name(start), len).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full,
            _ => failed("creating", start, error),
        })?;
        Ok(Segment { start, len, file })
    }

    pub fn open<D: Disk>(disk: &mut D, start: Position) -> Result<Segment, StoreError> {
        let (file, len) =
            disk.open(&segment_name(start)).map_err(|error| failed("opening", start, error))?;
        Ok(Segment { start, len, file })
    }

    pub fn end(&self) -> Position {
        Position(self.start.0 + self.len)
    }

    /// Bytes from `at` to the end of the segment.
    pub fn room(&self, at: Position) -> u64 {
        self.end().0 - at.0
    }

    pub fn read<D: Disk>(&self, disk: &mut D, at: Position, len: u64) -> Result<Bytes, StoreError> {
        let offset = at.0 - self.start.0;
        assert!(offset + len <= self.len, "a read stays inside its segment");
        let mut read = disk.read(self.file, offset, len as usize);
        for _ in 1..READ_ATTEMPTS {
            if read.is_err() {
                read = disk.read(self.file, offset, len as usize);
            }
        }
        // Like rot, so that a replica is repaired from its peers (L4).
        read.map_err(|error| self.corrupt(at, format!("it cannot be read: {error}")))
    }

    pub fn write<D: Disk>(
        &self,
        disk: &mut D,
        at: Position,
        data: &[u8],
    ) -> Result<(), StoreError> {
        let offset = at.0 - self.start.0;
        assert!(offset + data.len() as u64 <= self.len, "a write stays inside its segment");
        disk.write(self.file, offset, data).map_err(|error| failed("writing", self.start, error))
    }

    pub fn remove<D: Disk>(self, disk: &mut D) -> Result<(), StoreError> {
        disk.remove(self.file).map_err(|error| failed("removing", self.start, error))
    }

    /// Reads and verifies what lies at the boundary `at`.
    pub fn step<D: Disk>(
        &self,
        disk: &mut D,
        seal: Seal,
        at: Position,
    ) -> Result<Step, StoreError> {
        match self.try_step(disk, seal, at)? {
            // Too much depends on it to believe a single, maybe misdirected read.
            Step::Invalid => self.try_step(disk, seal, at),
            step => Ok(step),
        }
    }

    fn try_step<D: Disk>(
        &self,
        disk: &mut D,
        seal: Seal,
        at: Position,
    ) -> Result<Step, StoreError> {
        let room = self.room(at);
        if room < HEADER as u64 {
            return Ok(Step::SegmentEnd(Bytes::new()));
        }
        let head = self.read(disk, at, HEADER as u64)?;
        let Some(header) = Header::decode(seal, at, &head, room) else {
            return Ok(Step::Invalid);
        };
        if header.form == Form::Pad {
            let fits = u64::from(header.len) == room;
            return Ok(if fits { Step::SegmentEnd(head) } else { Step::Invalid });
        }
        let whole = self.read(disk, at, u64::from(header.len))?;
        if whole[..HEADER] != head {
            return Ok(Step::Invalid);
        }
        Ok(match header.parts(seal, at, &whole) {
            Some(parts) => Step::Entry(header, parts, whole),
            None => Step::Invalid,
        })
    }

    pub fn corrupt(&self, at: Position, what: impl Into<String>) -> StoreError {
        Corrupt { file: segment_name(self.start), position: Some(at), what: what.into() }.into()
    }
}

pub(super) fn segment_name(start: Position) -> String {
    format!("{LOG}{:020}", start.0)
}

pub(super) fn spare_name(start: Position) -> String {
    format!("{SPARE}{:020}", start.0)
}

/// Where the segments on this disk start, in ascending order, and the names of
/// the spare ones.
pub(super) fn list<D: Disk>(disk: &mut D) -> Result<(Vec<Position>, Vec<String>), StoreError> {
    let names = disk.list().map_err(|error| StoreError::Io {
        doing: "listing",
        file: LOG.to_owned(),
        error,
    })?;
    let mut starts = Vec::new();
    let mut spares = Vec::new();
    for (name, _) in names {
        if let Some(digits) = name.strip_prefix(LOG) {
            let start = digits.parse().map(Position);
            starts.extend(start.ok().filter(|start| segment_name(*start) == name));
        } else if name.starts_with(SPARE) {
            spares.push(name);
        }
    }
    starts.sort();
    Ok((starts, spares))
}

pub(super) fn failed(doing: &'static str, segment: Position, error: io::Error) -> StoreError {
    StoreError::Io { doing, file: segment_name(segment), error }
}
