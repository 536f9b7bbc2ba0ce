//! Consume queues: for each shard, which log position each queue offset means.
//!
//! Derived from the log: a snapshot plus replay restores them. Entries are
//! numbered by *slots* without gaps, cut into blocks of 4096 bytes and files of
//! a fixed number of blocks. A full block is written once; the last, partial
//! one is in memory and part of the snapshot, and so are full ones before it for
//! which the disk has no room yet: a restart must not fail over it. Queue offsets
//! are slots, shifted by what was jumped over so far.

mod block;
mod rebuild;

pub use rebuild::Rebuilding;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Corrupt, StoreError},
    ids::{Position, Shard},
    log::{CommitLog, Seal},
    runtime::{Disk, FileId},
};
use block::{BLOCK, Block, PER_BLOCK};

/// How consume queues lay out their files.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// Blocks of 204 entries in one file. The default makes about 300 000
    /// entries, 6 MB. A queue keeps the number that it was created with.
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
    shard: Shard,
    blocks_per_file: u64,
    seal: Seal,
    /// In ascending order; never empty.
    runs: Vec<Run>,
    min_slot: u64,
    end_slot: u64,
    /// The entries of the last, partial block, and of those before it that are
    /// not written.
    block: Vec<QueueEntry>,
    /// The files that exist, by number.
    files: BTreeMap<u64, FileId>,
    /// Written since the last snapshot was taken.
    dirty: BTreeSet<FileId>,
    /// Written before that, and not yet known to be durable.
    saving: BTreeSet<FileId>,
    /// `min_slot` of the last snapshot taken.
    saved_min: u64,
}

/// From `slot` on, offsets continue from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    offset: u64,
    slot: u64,
}

/// What a snapshot keeps of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSnapshot {
    blocks_per_file: u64,
    /// No file below this number exists.
    first_file: u64,
    min_slot: u64,
    end_slot: u64,
    runs: Vec<Run>,
    block: Vec<QueueEntry>,
}

impl ConsumeQueue {
    pub fn new(shard: Shard, config: QueueConfig) -> ConsumeQueue {
        assert!(config.blocks_per_file > 0, "a file holds at least one block");
        ConsumeQueue {
            seal: seal(&shard, config.store_id),
            shard,
            blocks_per_file: config.blocks_per_file,
            runs: vec![Run { offset: 0, slot: 0 }],
            min_slot: 0,
            end_slot: 0,
            block: Vec::new(),
            files: BTreeMap::new(),
            dirty: BTreeSet::new(),
            saving: BTreeSet::new(),
            saved_min: 0,
        }
    }

    /// The queue as it was at the snapshot; the caller replays what came later.
    /// `Corrupt` if a file it needs is missing.
    pub fn restore<D: Disk>(
        disk: &mut D,
        snapshot: &QueueSnapshot,
        shard: Shard,
        config: &QueueConfig,
    ) -> Result<ConsumeQueue, StoreError> {
        let mut queue = ConsumeQueue::without_files(snapshot, shard, config)?;
        let on_disk = queue.min_slot..queue.block_start();
        let needed = queue.file_of(on_disk.start)..queue.file_of(on_disk.end.saturating_sub(1)) + 1;
        for number in snapshot.first_file..needed.end {
            match disk.open(&queue.name(number)) {
                Ok((file, len)) if len == queue.blocks_per_file * BLOCK as u64 => {
                    queue.files.insert(number, file);
                }
                Ok((_, len)) if needed.contains(&number) && !on_disk.is_empty() => {
                    return Err(queue.corrupt(number, format!("it has {len} bytes")));
                }
                Ok((file, _)) => {
                    disk.remove(file).map_err(|error| queue.failed("removing", number, error))?;
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(queue.failed("opening", number, error));
                }
                Err(_) if needed.contains(&number) && !on_disk.is_empty() => {
                    return Err(queue.corrupt(number, "it is missing".to_owned()));
                }
                Err(_) => {}
            }
        }
        Ok(queue)
    }

    fn without_files(
        snapshot: &QueueSnapshot,
        shard: Shard,
        config: &QueueConfig,
    ) -> Result<ConsumeQueue, StoreError> {
        let &QueueSnapshot { blocks_per_file, min_slot, end_slot, .. } = snapshot;
        let (runs, block) = (snapshot.runs.clone(), snapshot.block.clone());
        let sound = blocks_per_file > 0
            && min_slot <= end_slot
            && end_slot.checked_sub(block.len() as u64).is_some_and(|at| at % PER_BLOCK == 0)
            && !runs.is_empty()
            && runs.is_sorted_by(|a, b| a.slot < b.slot && a.offset < b.offset);
        if !sound {
            let (file, what) = (format!("snapshot of {shard}"), "it contradicts itself".into());
            return Err(Corrupt { file, position: None, what }.into());
        }
        let config = QueueConfig { blocks_per_file, ..config.clone() };
        let queue = ConsumeQueue::new(shard, config);
        Ok(ConsumeQueue { runs, min_slot, end_slot, block, saved_min: min_slot, ..queue })
    }

    /// The lowest offset that is kept; `max` if there is none.
    pub fn min(&self) -> u64 {
        self.offset_of(self.min_slot)
    }

    /// The offset of the next message.
    pub fn max(&self) -> u64 {
        self.offset_of(self.end_slot)
    }

    /// Makes sure that pushes up to the offset `end`, excluded, cannot find the
    /// disk full. `Full` if there is no room.
    pub fn room<D: Disk>(&mut self, disk: &mut D, end: u64) -> Result<(), StoreError> {
        // Only full blocks are written: a queue with few messages has no file.
        let end_slot = self.end_slot + end.saturating_sub(self.max());
        let mut block = self.block_start();
        while block + PER_BLOCK <= end_slot {
            self.file_to_write(disk, self.file_of(block))?;
            block += PER_BLOCK;
        }
        Ok(())
    }

    /// Adds an entry. `offset` must be [`max`](Self::max): a queue entry's
    /// place is its message's queue offset or the queue is wrong (R5).
    pub fn push<D: Disk>(
        &mut self,
        disk: &mut D,
        offset: u64,
        entry: QueueEntry,
    ) -> Result<(), StoreError> {
        assert_eq!(offset, self.max(), "{} skips or repeats an offset", self.shard);
        self.block.push(entry);
        self.end_slot += 1;
        self.write_full_blocks(disk)
    }

    fn write_full_blocks<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        while self.block.len() as u64 >= PER_BLOCK {
            let start = self.block_start();
            let number = self.file_of(start);
            let file = match self.file_to_write(disk, number) {
                Err(StoreError::Full) => return Ok(()),
                file => file?,
            };
            let bytes = block::encode(self.seal, start, &self.block[..PER_BLOCK as usize]);
            disk.write(file, self.place_of(start), &bytes)
                .map_err(|error| self.failed("writing", number, error))?;
            self.dirty.insert(file);
            self.block.drain(..PER_BLOCK as usize);
        }
        Ok(())
    }

    /// Leaves the offsets from `max` to `to` unused for ever: after power
    /// loss under async flush they may mean messages that are gone.
    pub fn jump(&mut self, to: u64) {
        let max = self.max();
        assert!(to >= max, "{} never goes back to an offset", self.shard);
        match self.runs.last_mut() {
            _ if to == max => {}
            Some(run) if run.slot == self.end_slot => run.offset = to,
            _ => self.runs.push(Run { offset: to, slot: self.end_slot }),
        }
    }

    /// Appends up to `limit` entries to `out`, from `offset` or the next one
    /// that exists, each with its offset.
    pub fn read<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        offset: u64,
        limit: usize,
        out: &mut Vec<(u64, QueueEntry)>,
    ) -> Result<(), StoreError> {
        let mut slot = self.slot_of(offset).max(self.min_slot);
        let end = slot.saturating_add(limit as u64).min(self.end_slot);
        while slot < end {
            let first = out.len();
            let block_end = self.in_block(disk, log, slot, |block| {
                let block_end = block.end().min(end);
                out.extend((slot..block_end).map(|slot| (slot, block.entry(slot))));
                block_end
            })?;
            for (at, _) in &mut out[first..] {
                *at = self.offset_of(*at);
            }
            slot = block_end;
        }
        Ok(())
    }

    /// The first offset whose entry satisfies `pred`, or `max`. The entries
    /// that do must all come after those that do not.
    pub fn find_by<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        mut pred: impl FnMut(&mut D, &QueueEntry) -> Result<bool, StoreError>,
    ) -> Result<u64, StoreError> {
        let (mut low, mut high) = (self.min_slot, self.end_slot);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.in_block(disk, log, middle, |block| block.entry(middle))?;
            if pred(disk, &entry)? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(self.offset_of(low))
    }

    /// Raises `min` past the entries that point below `min_position` and
    /// returns how many there were.
    pub fn expire<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        min_position: Position,
    ) -> Result<u64, StoreError> {
        let mut slot = self.min_slot;
        while slot < self.end_slot {
            let (kept, end) = self.in_block(disk, log, slot, |block| {
                let end = block.end();
                let mut kept = slot..end;
                (kept.find(|slot| block.entry(*slot).position >= min_position), end)
            })?;
            slot = kept.unwrap_or(end);
            if kept.is_some() {
                break;
            }
        }
        let expired = slot - self.min_slot;
        self.min_slot = slot;
        let passed = self.runs.partition_point(|run| run.slot <= slot);
        self.runs.drain(..passed - 1);
        Ok(expired)
    }

    /// The queue's part of a snapshot, and the files that must be synced
    /// along with it.
    pub fn snapshot(&mut self) -> (QueueSnapshot, Vec<FileId>) {
        self.saving.append(&mut self.dirty);
        self.saved_min = self.min_slot;
        let first_file = self.files.keys().next().copied();
        let snapshot = QueueSnapshot {
            blocks_per_file: self.blocks_per_file,
            first_file: first_file.unwrap_or(self.file_of(self.min_slot)),
            min_slot: self.min_slot,
            end_slot: self.end_slot,
            runs: self.runs.clone(),
            block: self.block.clone(),
        };
        (snapshot, self.saving.iter().copied().collect())
    }

    /// Says that the last snapshot is durable: files below its `min` go.
    pub fn saved<D: Disk>(&mut self, disk: &mut D) -> Result<(), StoreError> {
        self.saving.clear();
        let keep = self.file_of(self.saved_min);
        while let Some((&number, &file)) = self.files.first_key_value()
            && number < keep
        {
            disk.remove(file).map_err(|error| self.failed("removing", number, error))?;
            self.files.remove(&number);
            self.dirty.remove(&file);
        }
        Ok(())
    }

    fn offset_of(&self, slot: u64) -> u64 {
        let after = self.runs.partition_point(|run| run.slot <= slot);
        let run = self.runs[after - 1];
        run.offset + (slot - run.slot)
    }

    /// The slot of this offset, or of the next one that exists.
    fn slot_of(&self, offset: u64) -> u64 {
        let after = self.runs.partition_point(|run| run.offset <= offset);
        let end = self.runs.get(after).map_or(self.end_slot, |next| next.slot);
        match after.checked_sub(1).map(|at| self.runs[at]) {
            Some(run) => run.slot.saturating_add(offset - run.offset).min(end),
            None => end,
        }
    }

    /// The first slot that is in memory only.
    fn block_start(&self) -> u64 {
        self.end_slot - self.block.len() as u64
    }

    fn file_of(&self, slot: u64) -> u64 {
        slot / PER_BLOCK / self.blocks_per_file
    }

    /// Where the block of `slot` lies in its file.
    fn place_of(&self, slot: u64) -> u64 {
        slot / PER_BLOCK % self.blocks_per_file * BLOCK as u64
    }

    fn name(&self, number: u64) -> String {
        let first = number * self.blocks_per_file * PER_BLOCK;
        format!("queue/{}/{first:020}", self.shard)
    }

    fn file_to_write<D: Disk>(&mut self, disk: &mut D, number: u64) -> Result<FileId, StoreError> {
        if let Some(file) = self.files.get(&number) {
            return Ok(*file);
        }
        let (name, len) = (self.name(number), self.blocks_per_file * BLOCK as u64);
        let file = match disk.create(&name, len) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(StoreError::Full);
            }
            // From before a crash: what it holds comes again, from the log.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match disk.open(&name) {
                Ok((file, found)) if found == len => file,
                Ok((_, found)) => return Err(self.corrupt(number, format!("it has {found} bytes"))),
                Err(error) => return Err(self.failed("opening", number, error)),
            },
            Err(error) => return Err(self.failed("creating", number, error)),
        };
        self.files.insert(number, file);
        Ok(file)
    }

    /// The block that holds `slot`, verified if it comes from the disk.
    fn load<D: Disk>(&self, disk: &mut D, slot: u64) -> Result<Block<'_>, StoreError> {
        if slot >= self.block_start() {
            return Ok(Block::in_memory(self.block_start(), &self.block));
        }
        let start = slot - slot % PER_BLOCK;
        let number = self.file_of(slot);
        let file = self.files.get(&number);
        let file = *file.ok_or_else(|| self.corrupt(number, "it is missing".to_owned()))?;
        let bytes = disk
            .read(file, self.place_of(slot), BLOCK)
            .map_err(|error| self.failed("reading", number, error))?;
        Block::decode(self.seal, start, bytes)
            .ok_or_else(|| self.corrupt(number, format!("the block of slot {start} is not intact")))
    }

    fn corrupt(&self, number: u64, what: String) -> StoreError {
        Corrupt { file: self.name(number), position: None, what }.into()
    }

    fn failed(&self, doing: &'static str, number: u64, error: io::Error) -> StoreError {
        StoreError::Io { doing, file: self.name(number), error }
    }
}

/// Blocks are as valid as noise in any other store, shard or slot.
fn seal(shard: &Shard, store_id: u64) -> Seal {
    let name = crc32fast::hash(shard.topic.as_bytes());
    Seal { store_id: store_id ^ (u64::from(name) << 32 | u64::from(shard.queue)) }
}

#[cfg(test)]
mod tests;
