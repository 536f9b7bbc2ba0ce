//! Snapshots of the folded state, so that a restart replays only what came
//! after the newest one.

use bytes::Bytes;

use super::Base;
use crate::{
    error::StoreError,
    ids::Position,
    runtime::{Disk, FileId},
};

/// A snapshot as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub base: Base,
    pub payload: Bytes,
}

/// Writes a snapshot of the state after `base`, which must be durable in the
/// log. It counts once the caller has synced the returned file; until then the
/// older one does. `Full` if there is no room for it.
pub fn save<D: Disk>(
    _disk: &mut D,
    _store_id: u64,
    _base: Base,
    _payload: &[u8],
) -> Result<FileId, StoreError> {
    todo!()
}

/// The newest intact snapshot. A torn one is passed over for the one before.
pub fn newest<D: Disk>(_disk: &mut D) -> Result<Option<Snapshot>, StoreError> {
    todo!()
}

/// Removes all snapshots older than the one at `durable`, which must be synced.
pub fn remove_older<D: Disk>(_disk: &mut D, _durable: Position) -> Result<(), StoreError> {
    todo!()
}
