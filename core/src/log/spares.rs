//! Expired segments waiting to be written again.
//!
//! A spare is only written once its renaming is durable. Otherwise a power
//! failure could bring back the old name with half of the new contents.

use std::io;

use super::{
    commit_log::Syncs,
    segment::{Segment, segment_name, spare_name},
};
use crate::{
    error::StoreError,
    ids::Position,
    runtime::{Disk, FileId},
};

#[derive(Default)]
pub(super) struct Spares(Vec<Spare>);

struct Spare {
    file: FileId,
    name: String,
    len: u64,
    /// The number of the sync that makes its name durable.
    usable_after: u64,
}

impl Spares {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a spare file that was found on the disk.
    pub fn found(&mut self, file: FileId, name: String, len: u64, syncs: &mut Syncs) {
        syncs.touch(file);
        self.0.push(Spare { file, name, len, usable_after: syncs.begun + 1 });
    }

    /// Keeps an expired segment, unless somebody is still reading it.
    pub fn keep<D: Disk>(
        &mut self,
        disk: &mut D,
        expired: Segment,
        syncs: &mut Syncs,
    ) -> Result<bool, StoreError> {
        let name = spare_name(expired.start);
        match disk.rename(expired.file, &name) {
            Ok(()) => {
                self.found(expired.file, name, expired.len, syncs);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(failed(segment_name(expired.start), error)),
        }
    }

    /// Turns a usable spare into the segment at `start`.
    pub fn take<D: Disk>(
        &mut self,
        disk: &mut D,
        start: Position,
        syncs: &Syncs,
    ) -> Result<Option<Segment>, StoreError> {
        let usable = self.0.iter().position(|spare| spare.usable_after <= syncs.finished);
        let Some(spare) = usable.map(|at| self.0.swap_remove(at)) else { return Ok(None) };
        match disk.rename(spare.file, &segment_name(start)) {
            Ok(()) => Ok(Some(Segment { start, len: spare.len, file: spare.file })),
            Err(error) => Err(failed(spare.name, error)),
        }
    }
}

fn failed(file: String, error: io::Error) -> StoreError {
    StoreError::Io { doing: "renaming", file, error }
}
