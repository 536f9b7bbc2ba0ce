//! Consume queues: for each shard, which log position each queue offset means.
//! Derived from the log; a snapshot plus replay restores them.

use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    ids::{Position, Shard},
    runtime::{Disk, FileId},
};

/// How consume queues lay out their files.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Blocks of 204 entries in one file. The default makes about 300 000
    /// entries, 6 MB.
    pub blocks_per_file: u64,
    /// [`CommitLog::store_id`](crate::log::CommitLog::store_id).
    pub store_id: u64,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig { blocks_per_file: 1471, store_id: 0 }
    }
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Of the record's first byte in the log.
    pub position: Position,
    /// Of the record, in bytes.
    pub size: u32,
    /// `message::tag_hash` of its tag, zero without one.
    pub tag: i64,
}

/// The queue of one shard. Offsets ascend without reuse; some may be skipped.
pub struct ConsumeQueue {
    _shard: Shard,
}

/// What a snapshot keeps of a queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueSnapshot {}

impl ConsumeQueue {
    pub fn new(_shard: Shard, _config: QueueConfig) -> ConsumeQueue {
        todo!()
    }

    /// The queue as it was at the snapshot; the caller replays what came later.
    /// `Corrupt` if a file it needs is missing.
    pub fn restore<D: Disk>(
        _disk: &mut D,
        _snapshot: QueueSnapshot,
        _shard: Shard,
        _config: QueueConfig,
    ) -> Result<ConsumeQueue, StoreError> {
        todo!()
    }

    /// The lowest offset that is kept; `max` if there is none.
    pub fn min(&self) -> u64 {
        todo!()
    }

    /// The offset of the next message.
    pub fn max(&self) -> u64 {
        todo!()
    }

    /// Makes sure that the next `pushes` cannot find the disk full. `Full` if
    /// there is no room.
    pub fn room<D: Disk>(&mut self, _disk: &mut D, _pushes: u64) -> Result<(), StoreError> {
        todo!()
    }

    /// Adds an entry. `offset` must be [`max`](Self::max): a queue entry's
    /// place is its message's queue offset or the queue is wrong (R5).
    pub fn push<D: Disk>(
        &mut self,
        _disk: &mut D,
        _offset: u64,
        _entry: QueueEntry,
    ) -> Result<(), StoreError> {
        todo!()
    }

    /// Leaves the offsets from `max` to `to` unused for ever: after power
    /// loss under async flush they may mean messages that are gone.
    pub fn jump(&mut self, _to: u64) {
        todo!()
    }

    /// Appends up to `limit` entries to `out`, from `offset` or the next one
    /// that exists, each with its offset.
    pub fn read<D: Disk>(
        &self,
        _disk: &mut D,
        _offset: u64,
        _limit: usize,
        _out: &mut Vec<(u64, QueueEntry)>,
    ) -> Result<(), StoreError> {
        todo!()
    }

    /// The first offset whose entry satisfies `pred`, or `max`. The entries
    /// that do must all come after those that do not.
    pub fn find_by<D: Disk>(
        &self,
        _disk: &mut D,
        _pred: impl FnMut(&mut D, &QueueEntry) -> Result<bool, StoreError>,
    ) -> Result<u64, StoreError> {
        todo!()
    }

    /// Raises `min` past the entries that point below `min_position` and
    /// returns how many there were.
    pub fn expire<D: Disk>(
        &mut self,
        _disk: &mut D,
        _min_position: Position,
    ) -> Result<u64, StoreError> {
        todo!()
    }

    /// The queue's part of a snapshot, and the files that must be synced
    /// along with it.
    pub fn snapshot(&mut self) -> (QueueSnapshot, Vec<FileId>) {
        todo!()
    }

    /// Says that the last snapshot is durable: files below its `min` go.
    pub fn saved<D: Disk>(&mut self, _disk: &mut D) -> Result<(), StoreError> {
        todo!()
    }
}
