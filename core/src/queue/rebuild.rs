//! Repairing a block, or a whole queue, from the log that it was derived from.

use super::{
    ConsumeQueue, QueueConfig, QueueEntry, QueueSnapshot,
    block::{self, Block, PER_BLOCK},
};
use crate::{
    error::StoreError,
    ids::{Name, Position, Shard},
    log::{CommitLog, Kind},
    message::{Peek, property, tag_hash},
    pointer::Pointer,
    runtime::Disk,
};

/// A queue that is made anew: what a snapshot says of it, and the entries of
/// all messages that the log still has, in their order.
pub struct Rebuilding {
    queue: ConsumeQueue,
    end_slot: u64,
    /// The last, partial block, as the snapshot has it.
    block: Vec<QueueEntry>,
    has_begun: bool,
}

impl Rebuilding {
    pub fn new(
        snapshot: QueueSnapshot,
        shard: Shard,
        config: &QueueConfig,
    ) -> Result<Rebuilding, StoreError> {
        let queue = ConsumeQueue::without_files(&snapshot, shard, config)?;
        let QueueSnapshot { end_slot, block, .. } = snapshot;
        Ok(Rebuilding { queue, end_slot, block, has_begun: false })
    }

    pub fn push<D: Disk>(
        &mut self,
        disk: &mut D,
        offset: u64,
        entry: QueueEntry,
    ) -> Result<(), StoreError> {
        let queue = &mut self.queue;
        if offset < queue.min() {
            // It has expired, though the log still has it.
            return Ok(());
        }
        if !self.has_begun {
            self.has_begun = true;
            let slot = queue.slot_of(offset).min(self.end_slot);
            queue.min_slot = queue.min_slot.max(slot);
            queue.end_slot = slot;
            // What comes before in its block has expired, and is read by nobody.
            queue.block = vec![GONE; (slot % PER_BLOCK) as usize];
        }
        if offset != queue.max() || queue.end_slot >= self.end_slot {
            let what = format!("the log has offset {offset} where {} follows", queue.max());
            return Err(queue.corrupt(queue.file_of(queue.end_slot), what));
        }
        queue.push(disk, offset, entry)
    }

    pub fn finish(mut self) -> Result<ConsumeQueue, StoreError> {
        let queue = &mut self.queue;
        if !self.has_begun {
            // Retention took all messages.
            (queue.min_slot, queue.end_slot) = (self.end_slot, self.end_slot);
            queue.block = self.block;
        } else if queue.end_slot != self.end_slot {
            let what = format!("the log ends before offset {}", queue.offset_of(self.end_slot));
            return Err(queue.corrupt(queue.file_of(queue.end_slot), what));
        }
        Ok(self.queue)
    }
}

/// An entry that has expired.
const GONE: QueueEntry = QueueEntry { position: Position(0), size: 0, tag: 0 };

impl ConsumeQueue {
    /// What `look` sees in the block that holds `slot`. A damaged one is first
    /// made anew from the log.
    pub(super) fn in_block<D: Disk, T>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        slot: u64,
        mut look: impl FnMut(&Block) -> T,
    ) -> Result<T, StoreError> {
        match self.load(disk, slot).map(|block| look(&block)) {
            Err(StoreError::Corrupt(damage)) => {
                tracing::warn!(%damage, "making a block of a consume queue anew");
                self.rebuild_block(disk, log, slot)?;
                self.load(disk, slot).map(|block| look(&block))
            }
            done => done,
        }
    }

    /// Reads the log from the segment of the last entry before the block to the
    /// block's own last: seconds, if segments are large. `Corrupt` if the log does
    /// not have all of the block's messages.
    fn rebuild_block<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        slot: u64,
    ) -> Result<(), StoreError> {
        let start = slot - slot % PER_BLOCK;
        // Entries that have expired are read by nobody.
        let mut entries = vec![GONE; PER_BLOCK as usize];
        let mut wanted = self.min_slot.max(start);
        let before = self.last_intact(disk, start)?.map(|before| before.position);
        let before = before.filter(|before| *before >= log.start());
        let mut at = before.map_or(log.start(), |before| log.segment_start(before));
        // The log's first messages may be gone before their entries are.
        let mut may_lack = before.is_none();
        while wanted < start + PER_BLOCK
            && let Some(entry) = log.entry_at(disk, at)?
        {
            for (position, record) in &entry.parts {
                let Some((offset, found)) = self.entry_of(entry.kind, record, *position) else {
                    continue;
                };
                if offset < self.offset_of(wanted) {
                    continue;
                }
                let slot = self.slot_of(offset);
                if slot == wanted || (slot > wanted && may_lack) {
                    wanted = slot.min(start + PER_BLOCK);
                }
                may_lack = false;
                if slot == wanted && wanted < start + PER_BLOCK {
                    entries[(wanted - start) as usize] = found;
                    wanted += 1;
                }
            }
            at = entry.place.end;
        }
        let number = self.file_of(start);
        if wanted < start + PER_BLOCK {
            let missing = self.offset_of(wanted);
            return Err(self.corrupt(number, format!("the log has no message {missing}")));
        }
        let file = self.file_to_write(disk, number)?;
        let bytes = block::encode(self.seal, start, &entries);
        disk.write(file, self.place_of(start), &bytes)
            .map_err(|error| self.failed("writing", number, error))?;
        self.dirty.insert(file);
        Ok(())
    }

    /// The last entry before `slot` that can be read.
    fn last_intact<D: Disk>(
        &self,
        disk: &mut D,
        mut slot: u64,
    ) -> Result<Option<QueueEntry>, StoreError> {
        while slot > self.min_slot {
            match self.load(disk, slot - 1) {
                Ok(block) => return Ok(Some(block.entry(slot - 1))),
                Err(StoreError::Corrupt(_)) => slot = (slot - 1) - (slot - 1) % PER_BLOCK,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Offset and entry of this part of the log, if it is of this shard.
    fn entry_of(&self, kind: Kind, part: &[u8], position: Position) -> Option<(u64, QueueEntry)> {
        let (topic, queue, offset, tag): (Name, u32, u64, i64) = match kind {
            Kind::Messages => {
                let peek = Peek(part);
                let tag = peek.properties()?.get(property::TAGS).map_or(0, tag_hash);
                (peek.topic()?.into(), peek.queue()?, peek.queue_offset()?, tag)
            }
            Kind::Pointers => {
                let Pointer { shows, queue_offset, .. } = Pointer::decode(part, position).ok()?;
                (shows.topic, shows.queue, queue_offset, shows.tag)
            }
            Kind::Command | Kind::Mark | Kind::Held | Kind::Configuration => return None,
        };
        let is_ours = (&*topic, queue) == (&*self.shard.topic, self.shard.queue);
        is_ours.then_some((offset, QueueEntry { position, size: part.len() as u32, tag }))
    }
}
