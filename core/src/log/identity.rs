//! The file `store`: which store this is, and what it must remember outside
//! the log. Two slots are written in turn, so that a torn write leaves the
//! other one.

use std::io;

use super::record::{MAX_LIFE, u32_at, u64_at};
use crate::{
    error::{Corrupt, StoreError},
    ids::{LogIndex, Position, Term},
    runtime::{Disk, FileId},
};

const FILE: &str = "store";
const MAGIC: u32 = 0x5347_5333;
const SLOT: usize = 112;
/// The slots lie on different pages.
const SLOT_DISTANCE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub store_id: u64,
    /// Counts the slots ever written.
    number: u64,
    /// The highest term that may have been written under; in a group, the term
    /// of `vote`.
    pub term: Term,
    /// A durable end of the log: less than this is damage.
    pub durable: Position,
    /// Whether the log ended there in an orderly way.
    pub clean: bool,
    /// Whom this replica voted for in `term`; zero for nobody.
    pub vote: u64,
    /// Everything up to here was committed.
    pub commit: LogIndex,
    /// The newest cut, and the one before it for as long as something below the
    /// newest may not be durable.
    pub cuts: [Cut; 2],
    /// The log lost what it may have acknowledged to a leader.
    pub is_distrusted: bool,
    /// What the log must hold before a blank replica that lost nothing is trusted
    /// like before.
    pub owes: LogIndex,
    /// Nothing on this disk counts until another replica's log has been
    /// installed on it as a whole.
    pub is_blank: bool,
    /// Something on this disk could not be read as it was written. The rest is
    /// good until another replica's log takes its place.
    pub is_damaged: bool,
    /// No segment before this one belongs to the log: it was installed, and the
    /// removal of older ones may be undone by a crash.
    pub begins: Position,
}

/// From a position on, only what was written in a certain life or later belongs
/// to the log. Lives count a replica's starts and truncations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub at: Position,
    pub life: u32,
}

/// What a replica must never forget, in Raft's sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    /// The replica that got this one's vote in `term`; zero if none did.
    pub vote: u64,
    /// An index that is known to be committed; there may be higher ones.
    pub commit: LogIndex,
}

impl Identity {
    pub fn born(store_id: u64) -> Identity {
        Identity {
            store_id,
            number: 0,
            term: Term(0),
            durable: Position(0),
            clean: true,
            vote: 0,
            commit: LogIndex(0),
            cuts: [Cut::default(); 2],
            is_distrusted: false,
            owes: LogIndex(0),
            is_blank: false,
            is_damaged: false,
            begins: Position(0),
        }
    }

    /// The same store with nothing on it. What it voted counts all the same.
    pub fn blank(self) -> Identity {
        let (durable, begins) = (Position(0), Position(0));
        Identity { durable, begins, commit: LogIndex(0), is_damaged: false, ..self }
    }

    /// What the disk says, or `None` if nothing legible is there.
    pub fn load<D: Disk>(disk: &mut D) -> Result<Option<(FileId, Identity)>, StoreError> {
        let (file, len) = match disk.open(FILE) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", error)),
        };
        let mut slots = [None; 2];
        for (slot, at) in slots.iter_mut().zip([0, SLOT_DISTANCE]) {
            // Twice, because the first read may have been misdirected. What cannot
            // be read is as illegible as what is torn.
            for _ in 0..2 {
                if slot.is_none() && at + SLOT as u64 <= len {
                    let bytes = disk.read(file, at, SLOT);
                    *slot = bytes.ok().and_then(|bytes| Identity::decode(&bytes));
                }
            }
        }
        let identity = match slots {
            [Some(a), Some(b)] if a.store_id != b.store_id => {
                return Err(damaged("its two halves belong to different stores").into());
            }
            [Some(a), Some(b)] => Some(if a.number > b.number { a } else { b }),
            // A group writes each slot twice: either this is the newest one, or
            // the other was torn while it was written and nobody heard of it.
            [Some(only), None] | [None, Some(only)] if only.life() > 0 => {
                Some(Identity { clean: false, ..only })
            }
            // The illegible slot may have been the newer one, one term ahead.
            [Some(only), None] | [None, Some(only)] => {
                Some(Identity { term: Term(only.term.0 + 1), clean: false, ..only })
            }
            [None, None] => None,
        };
        Ok(identity.map(|identity| (file, identity)))
    }

    pub fn create<D: Disk>(disk: &mut D) -> Result<FileId, StoreError> {
        // An illegible one was torn at birth, when nothing else existed yet.
        if let Ok((torn, _)) = disk.open(FILE) {
            disk.remove(torn).map_err(|error| failed("removing", error))?;
        }
        disk.create(FILE, 2 * SLOT_DISTANCE).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => StoreError::Full,
            _ => failed("creating", error),
        })
    }

    /// Writes the next slot; it counts after the file's next sync.
    pub fn store<D: Disk>(&mut self, disk: &mut D, file: FileId) -> Result<(), StoreError> {
        self.number += 1;
        let at = self.number % 2 * SLOT_DISTANCE;
        disk.write(file, at, &self.encode()).map_err(|error| failed("writing", error))
    }

    fn encode(&self) -> [u8; SLOT] {
        let mut out = [0; SLOT];
        out[4..8].copy_from_slice(&MAGIC.to_le_bytes());
        let flags = u64::from(self.clean)
            | u64::from(self.is_distrusted) << 1
            | u64::from(self.is_blank) << 2
            | u64::from(self.is_damaged) << 3;
        let numbers = [
            self.store_id,
            self.number,
            self.term.0,
            self.durable.0,
            flags,
            self.vote,
            self.commit.0,
            self.cuts[0].at.0,
            u64::from(self.cuts[0].life),
            self.cuts[1].at.0,
            u64::from(self.cuts[1].life),
            self.begins.0,
            self.owes.0,
        ];
        for (room, number) in out[8..].chunks_exact_mut(8).zip(numbers) {
            room.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Identity> {
        let legible = u32_at(bytes, 4) == MAGIC && u32_at(bytes, 0) == crc32fast::hash(&bytes[4..]);
        legible.then(|| Identity {
            store_id: u64_at(bytes, 8),
            number: u64_at(bytes, 16),
            term: Term(u64_at(bytes, 24)),
            durable: Position(u64_at(bytes, 32)),
            clean: u64_at(bytes, 40) & 1 != 0,
            is_distrusted: u64_at(bytes, 40) & 2 != 0,
            is_blank: u64_at(bytes, 40) & 4 != 0,
            is_damaged: u64_at(bytes, 40) & 8 != 0,
            vote: u64_at(bytes, 48),
            commit: LogIndex(u64_at(bytes, 56)),
            cuts: [64, 80].map(|at| Cut {
                at: Position(u64_at(bytes, at)),
                life: u64_at(bytes, at + 8) as u32,
            }),
            begins: Position(u64_at(bytes, 96)),
            owes: LogIndex(u64_at(bytes, 104)),
        })
    }

    /// Zero outside a group.
    pub fn life(&self) -> u32 {
        self.cuts[0].life
    }

    /// Starts a new life that goes on at `at`. `settled` says that all below the
    /// newest cut is durable, so that the one before is not needed any more: an
    /// older entry can lie under one that a power failure takes.
    pub fn cut(&mut self, at: Position, settled: bool) {
        let life = self.life() + 1;
        assert!(life <= MAX_LIFE, "a replica has {MAX_LIFE} lives");
        if settled {
            self.cuts[1] = self.cuts[0];
        }
        self.cuts[0] = Cut { at, life };
    }

    /// Whether an entry at `at` was written before the log was cut there or
    /// before it.
    pub fn is_cut_off(&self, at: Position, life: u32) -> bool {
        self.cuts.iter().any(|cut| at >= cut.at && life < cut.life)
    }

    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit }
    }
}

pub(super) fn damaged(what: &str) -> Corrupt {
    Corrupt { file: FILE.to_owned(), position: None, what: what.to_owned() }
}

fn failed(doing: &'static str, error: io::Error) -> StoreError {
    StoreError::Io { doing, file: FILE.to_owned(), error }
}
