//! One entry as bytes.
//!
//! ```text
//! header   crc u32 | len u32 | kind u8, parts u24 | digest u32 | term u64 | index u64 | claim u64
//! part     len u32 | crc u32 | bytes                           (as often as the header says)
//! filler   zeros up to a multiple of 8
//! ```
//!
//! All numbers are little-endian. `len` counts header and parts. `digest` is
//! the checksum of all part heads, so that parts of two entries that once lay
//! in the same place cannot be mixed. `claim` is the durable end that was
//! known when the entry was written.
//!
//! In a replica set the high bits of `term` hold the writer's life, and the
//! high bit of `kind` says that the entry commits only when it is durable.
//! Both are zero in the log of a single node. Parts, lengths and positions are
//! the same on all replicas; life and claim are each replica's own.

use bytes::Bytes;

use crate::{
    ids::{LogIndex, Position, Term},
    message,
};

pub(super) const HEADER: usize = 40;
pub(super) const PART_HEAD: usize = 8;
const MAX_PARTS: usize = (1 << 24) - 1;
/// Terms end below this bit, lives start at it.
const LIFE_SHIFT: u32 = 40;
pub(super) const MAX_LIFE: u32 = (1 << 24) - 1;
const NEEDS_SYNC: u8 = 0x80;

/// What an entry's parts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Message records in their wire layout. All of them exist or none (D6).
    #[default]
    Messages,
    /// Encoded commands.
    Command,
    /// A message record, then the encoded `pointer::Hold` that says why it is
    /// not visible yet.
    Held,
    /// Encoded `pointer::Pointer`s: records written before become visible.
    Pointers,
    /// Who belongs to the group: an encoded `replication::Configuration`.
    Configuration,
    /// Nothing. Appended to an idle log so that its claim covers what was
    /// synced last.
    Mark,
}

/// What a header announces: an entry, or that the rest of the segment is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Entry(Kind),
    Pad,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Messages => 1,
            Kind::Command => 2,
            Kind::Mark => 3,
            Kind::Held => 5,
            Kind::Pointers => 6,
            Kind::Configuration => 7,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Kind> {
        use Kind::{Command, Configuration, Held, Mark, Messages, Pointers};
        let kinds = [Messages, Command, Mark, Held, Pointers, Configuration];
        kinds.into_iter().find(|kind| kind.code() == code)
    }
}

impl Form {
    const PAD: u8 = 4;

    fn code(self) -> u8 {
        match self {
            Form::Entry(kind) => kind.code(),
            Form::Pad => Form::PAD,
        }
    }

    fn from_code(code: u8) -> Option<Form> {
        match code {
            Form::PAD => Some(Form::Pad),
            kind => Kind::from_code(kind).map(Form::Entry),
        }
    }
}

/// Computes checksums that hold for one store and one position in its log: an
/// old record in a recycled segment and a record of another store are as
/// invalid as noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    pub store_id: u64,
}

impl Seal {
    pub fn checksum(self, at: Position, bytes: &[u8]) -> u32 {
        let mut seed = (self.store_id ^ at.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        seed = (seed ^ (seed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut hasher = crc32fast::Hasher::new_with_initial((seed >> 32) as u32);
        hasher.update(bytes);
        hasher.finalize()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub len: u32,
    pub form: Form,
    pub parts: u32,
    pub digest: u32,
    pub needs_sync: bool,
    pub stamp: Stamp,
}

/// What an entry's header says about its place in the log and its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub term: Term,
    pub index: LogIndex,
    /// Counts the starts and truncations of one replica; zero outside a group.
    pub life: u32,
    pub claim: Position,
}

impl Header {
    pub fn encode(&self, seal: Seal, at: Position) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..12].copy_from_slice(&(self.parts << 8).to_le_bytes());
        out[8] = self.form.code() | if self.needs_sync { NEEDS_SYNC } else { 0 };
        out[12..16].copy_from_slice(&self.digest.to_le_bytes());
        let Stamp { term, index, life, claim } = self.stamp;
        assert!(term.0 >> LIFE_SHIFT == 0 && life <= MAX_LIFE, "terms and lives are bounded");
        let term_and_life = term.0 | u64::from(life) << LIFE_SHIFT;
        out[16..24].copy_from_slice(&term_and_life.to_le_bytes());
        out[24..32].copy_from_slice(&index.0.to_le_bytes());
        out[32..40].copy_from_slice(&claim.0.to_le_bytes());
        let crc = seal.checksum(at, &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the front of `bytes`, if one was written at `at` that
    /// announces no more than `room` bytes.
    pub fn decode(seal: Seal, at: Position, bytes: &[u8], room: u64) -> Option<Header> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        let len = u32_at(bytes, 4);
        if (len as usize) < HEADER || u64::from(len) > room {
            return None;
        }
        let form = Form::from_code(bytes[8] & !NEEDS_SYNC)?;
        if u32_at(bytes, 0) != seal.checksum(at, &bytes[4..]) {
            return None;
        }
        Some(Header {
            len,
            form,
            parts: u32_at(bytes, 8) >> 8,
            digest: u32_at(bytes, 12),
            needs_sync: bytes[8] & NEEDS_SYNC != 0,
            stamp: Stamp {
                term: Term(u64_at(bytes, 16) & ((1 << LIFE_SHIFT) - 1)),
                index: LogIndex(u64_at(bytes, 24)),
                life: (u64_at(bytes, 16) >> LIFE_SHIFT) as u32,
                claim: Position(u64_at(bytes, 32)),
            },
        })
    }

    /// Of an entry; a pad is none.
    pub fn kind(&self) -> Kind {
        match self.form {
            Form::Entry(kind) => kind,
            Form::Pad => unreachable!("a pad is not read as an entry"),
        }
    }

    /// Bytes that the entry takes, filler included.
    pub fn size(&self) -> u64 {
        u64::from(self.len).next_multiple_of(8)
    }

    /// The parts of the whole entry `bytes` at `at`, unless one is damaged.
    pub fn parts(&self, seal: Seal, at: Position, bytes: &Bytes) -> Option<Vec<(Position, Bytes)>> {
        // The header's checksum held, so its count is ours; still no more than fits.
        let most = (self.len as usize - HEADER) / PART_HEAD;
        let mut parts = Vec::with_capacity((self.parts as usize).min(most));
        let mut heads = crc32fast::Hasher::new();
        let mut offset = HEADER;
        for _ in 0..self.parts {
            let head = bytes.get(offset..offset + PART_HEAD)?;
            heads.update(head);
            let start = offset + PART_HEAD;
            let position = Position(at.0 + start as u64);
            let end = start.checked_add(u32_at(head, 0) as usize)?;
            check_part(seal, position, head, bytes.get(start..end)?)?;
            parts.push((position, bytes.slice(start..end)));
            offset = end;
        }
        (offset == self.len as usize && heads.finalize() == self.digest).then_some(parts)
    }
}

/// Whether `part`, whose first byte is at `at`, is what `head` was written for.
pub(super) fn check_part(seal: Seal, at: Position, head: &[u8], part: &[u8]) -> Option<()> {
    let whole = u32_at(head, 0) as usize == part.len();
    (whole && u32_at(head, 4) == seal.checksum(at, part)).then_some(())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The bytes that an entry with parts of these lengths takes in the log.
pub fn entry_size(parts: impl Iterator<Item = usize>) -> u64 {
    let parts: usize = parts.map(|part| PART_HEAD + part).sum();
    (HEADER + parts).next_multiple_of(8) as u64
}

/// An entry under construction, made to be reused: clearing it keeps its
/// memory.
#[derive(Debug)]
pub struct Draft {
    kind: Kind,
    needs_sync: bool,
    /// The header's room, then the parts, each behind the room for its head.
    bytes: Vec<u8>,
    /// Where each part's bytes start.
    starts: Vec<usize>,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft {
            kind: Kind::default(),
            needs_sync: false,
            bytes: vec![0; HEADER],
            starts: Vec::new(),
        }
    }
}

impl Draft {
    /// Forgets all parts and starts an entry of this kind.
    pub fn clear(&mut self, kind: Kind) {
        self.kind = kind;
        self.needs_sync = false;
        self.bytes.truncate(HEADER);
        self.starts.clear();
    }

    /// Adds one part: the bytes that `write` appends to the vector.
    pub fn part(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.starts.len() < MAX_PARTS, "an entry has at most {MAX_PARTS} parts");
        self.bytes.extend_from_slice(&[0; PART_HEAD]);
        let start = self.bytes.len();
        write(&mut self.bytes);
        assert!(self.bytes.len() >= start, "a part only appends");
        self.starts.push(start);
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells all replicas that this entry commits only when it is durable.
    pub fn require_sync(&mut self) {
        self.needs_sync = true;
    }

    /// The bytes that the entry will take in the log.
    pub fn size(&self) -> usize {
        self.bytes.len().next_multiple_of(8)
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Fills in all heads for an entry that starts at `at`, and returns its
    /// bytes without the filler.
    pub(super) fn finish(
        &mut self,
        seal: Seal,
        at: Position,
        stamp: Stamp,
        mut places: impl FnMut(usize, Position),
    ) -> &[u8] {
        let mut heads = crc32fast::Hasher::new();
        for (number, &start) in self.starts.iter().enumerate() {
            let next = self.starts.get(number + 1);
            let end = next.map_or(self.bytes.len(), |next| next - PART_HEAD);
            let position = Position(at.0 + start as u64);
            let (head, part) = self.bytes[start - PART_HEAD..end].split_at_mut(PART_HEAD);
            if self.kind == Kind::Messages || (self.kind == Kind::Held && number == 0) {
                message::set_position(part, position);
            }
            head[..4].copy_from_slice(&(part.len() as u32).to_le_bytes());
            head[4..].copy_from_slice(&seal.checksum(position, part).to_le_bytes());
            heads.update(head);
            places(number, position);
        }
        let header = Header {
            len: self.bytes.len() as u32,
            form: Form::Entry(self.kind),
            parts: self.starts.len() as u32,
            digest: heads.finalize(),
            needs_sync: self.needs_sync,
            stamp,
        };
        self.bytes[..HEADER].copy_from_slice(&header.encode(seal, at));
        &self.bytes
    }
}
