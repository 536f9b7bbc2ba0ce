//! Repairing a block from the log that it was derived from.

use super::{
    ConsumeQueue, QueueEntry,
    block::{self, PER_BLOCK},
};
use crate::{
    error::StoreError,
    ids::{Name, Position},
    log::{CommitLog, Kind},
    message::{Peek, property, tag_hash},
    pointer::Pointer,
    runtime::Disk,
};

impl ConsumeQueue {
    /// [`read`](Self::read) that repairs the first damaged block it meets.
    pub fn read_repairing<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        offset: u64,
        limit: usize,
        out: &mut Vec<(u64, QueueEntry)>,
    ) -> Result<(), StoreError> {
        let before = out.len();
        match self.read(disk, offset, limit, out) {
            Err(StoreError::Corrupt(damage)) => {
                tracing::warn!(%damage, "rebuilding a block of a consume queue");
                let next = out[before..].last().map_or(offset, |(last, _)| last + 1);
                self.rebuild_block(disk, log, next)?;
                self.read(disk, next, limit + before - out.len(), out)
            }
            done => done,
        }
    }

    /// Writes the block that holds `offset` anew, after `read` found it
    /// `Corrupt`. Reads the log from the segment of the last entry before the
    /// block to the block's own last: seconds, if segments are large. `Corrupt`
    /// if the log does not have all of the block's messages.
    pub fn rebuild_block<D: Disk>(
        &mut self,
        disk: &mut D,
        log: &CommitLog,
        offset: u64,
    ) -> Result<(), StoreError> {
        let slot = self.slot_of(offset).max(self.min_slot);
        let start = slot - slot % PER_BLOCK;
        if start >= self.block_start() {
            return Ok(());
        }
        // Entries that have expired are read by nobody.
        let gone = QueueEntry { position: Position(0), size: 0, tag: 0 };
        let mut entries = vec![gone; PER_BLOCK as usize];
        let mut wanted = self.min_slot.max(start);
        let before = match start.checked_sub(1).filter(|before| *before >= self.min_slot) {
            Some(before) => self.load(disk, before)?.entry(before).position,
            None => log.start(),
        };
        let mut at = log.segment_start(before);
        while wanted < start + PER_BLOCK
            && let Some(entry) = log.entry_at(disk, at)?
        {
            for (position, record) in &entry.parts {
                if let Some(found) =
                    self.entry_of(entry.kind, record, *position, self.offset_of(wanted))
                    && wanted < start + PER_BLOCK
                {
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

    /// What the queue says of this part of an entry, if it is this shard's
    /// message `offset`.
    fn entry_of(
        &self,
        kind: Kind,
        part: &[u8],
        position: Position,
        offset: u64,
    ) -> Option<QueueEntry> {
        let (topic, queue, found, tag): (Name, u32, u64, i64) = match kind {
            Kind::Messages => {
                let peek = Peek(part);
                let tag = peek.properties()?.get(property::TAGS).map_or(0, tag_hash);
                (peek.topic()?.into(), peek.queue()?, peek.queue_offset()?, tag)
            }
            Kind::Pointers => {
                let Pointer { shows, queue_offset, .. } = Pointer::decode(part, position).ok()?;
                (shows.topic, shows.queue, queue_offset, shows.tag)
            }
            Kind::Command | Kind::Mark | Kind::Held => return None,
        };
        let is_ours = (&*topic, queue, found) == (&*self.shard.topic, self.shard.queue, offset);
        is_ours.then_some(QueueEntry { position, size: part.len() as u32, tag })
    }
}
