//! Blocks: 204 entries behind a checksum.
//!
//! ```text
//! header   crc u32 | count u32 | first slot u64
//! entry    position i64 | size i32 | tag hash i64              (204 times)
//! ```
//!
//! All numbers are big-endian; an entry is laid out as RocketMQ does it.

use bytes::Bytes;

use super::QueueEntry;
use crate::{ids::Position, log::Seal};

pub(super) const BLOCK: usize = 4096;
const HEADER: usize = 16;
const ENTRY: usize = 20;
pub(super) const PER_BLOCK: u64 = ((BLOCK - HEADER) / ENTRY) as u64;

/// The bytes of a full block.
pub(super) fn encode(seal: Seal, start: u64, entries: &[QueueEntry]) -> [u8; BLOCK] {
    assert_eq!(entries.len() as u64, PER_BLOCK, "only full blocks are written");
    let mut out = [0; BLOCK];
    out[4..8].copy_from_slice(&(PER_BLOCK as u32).to_be_bytes());
    out[8..16].copy_from_slice(&start.to_be_bytes());
    for (room, entry) in out[HEADER..].chunks_exact_mut(ENTRY).zip(entries) {
        room[..8].copy_from_slice(&entry.position.0.to_be_bytes());
        room[8..12].copy_from_slice(&entry.size.to_be_bytes());
        room[12..].copy_from_slice(&entry.tag.to_be_bytes());
    }
    let crc = seal.checksum(Position(start), &out[4..]);
    out[..4].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Entries that lie together, from the slot `start` on.
pub(super) struct Block<'a> {
    start: u64,
    entries: Entries<'a>,
}

enum Entries<'a> {
    InMemory(&'a [QueueEntry]),
    OnDisk(Bytes),
}

impl<'a> Block<'a> {
    pub fn in_memory(start: u64, entries: &'a [QueueEntry]) -> Block<'a> {
        Block { start, entries: Entries::InMemory(entries) }
    }

    /// The block that was written for `start`, if these are its bytes.
    pub fn decode(seal: Seal, start: u64, bytes: Bytes) -> Option<Block<'a>> {
        let crc = seal.checksum(Position(start), &bytes[4..]).to_be_bytes();
        (bytes[..4] == crc).then_some(Block { start, entries: Entries::OnDisk(bytes) })
    }

    /// The first slot behind its entries.
    pub fn end(&self) -> u64 {
        match &self.entries {
            Entries::InMemory(entries) => self.start + entries.len() as u64,
            Entries::OnDisk(_) => self.start + PER_BLOCK,
        }
    }

    pub fn entry(&self, slot: u64) -> QueueEntry {
        let at = (slot - self.start) as usize;
        let bytes = match &self.entries {
            Entries::InMemory(entries) => return entries[at],
            Entries::OnDisk(bytes) => &bytes[HEADER + at * ENTRY..][..ENTRY],
        };
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        };
        QueueEntry {
            position: Position(number(0..8)),
            size: number(8..12) as u32,
            tag: number(12..20) as i64,
        }
    }
}
