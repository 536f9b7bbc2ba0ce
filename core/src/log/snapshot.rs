//! Snapshots of the folded state, so that a restart replays only what came
//! after the newest one.
//!
//! A snapshot is one file named after its position, and takes two syncs. Its
//! header is written after the first one: so wherever there is a header, the
//! payload is durable, and so is every other file of that sync, which the
//! payload may rely on. Only after the second sync may the older snapshot go,
//! and what only that one needed.

use std::io;

use bytes::Bytes;

use super::{
    Base,
    identity::Identity,
    record::{Seal, u32_at, u64_at},
};
use crate::{
    error::{Corrupt, StoreError},
    ids::{LogIndex, Position, Term},
    runtime::{Disk, FileId},
};

const DIR: &str = "snapshot/";
/// `crc u32 | flags u32 | position u64 | index u64 | term u64 | payload length u64`
const HEADER: usize = 40;
/// Another replica's: the files that the payload relies on are not here.
const RECEIVED: u32 = 1;

/// A snapshot as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub base: Base,
    pub payload: Bytes,
    /// It came from another replica, without the files that it relies on.
    pub is_received: bool,
}

/// A snapshot that does not count yet.
#[must_use]
#[derive(Debug)]
pub struct Unpublished {
    file: FileId,
    base: Base,
    header: [u8; HEADER],
}

impl Unpublished {
    /// What to sync before publishing, and again afterwards.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Makes the snapshot count. The older ones can go after one more sync of
    /// its file: `remove_older` with the position returned.
    pub fn publish<D: Disk>(self, disk: &mut D) -> Result<Position, StoreError> {
        let position = self.base.position;
        disk.write(self.file, 0, &self.header)
            .map_err(|error| failed("writing", &name(position), error))?;
        Ok(position)
    }
}

/// Writes a snapshot of the state after `base`, which must be durable in the
/// log. Sync its file together with all that the payload relies on, then
/// publish it. `Full` if there is no room for it.
pub fn save<D: Disk>(
    disk: &mut D,
    store_id: u64,
    base: Base,
    payload: &[u8],
) -> Result<Unpublished, StoreError> {
    write(disk, base, header(store_id, base, 0, payload), store_id, payload)
}

/// The same for the snapshot of another replica.
pub(super) fn save_received<D: Disk>(
    disk: &mut D,
    store_id: u64,
    base: Base,
    payload: &[u8],
) -> Result<Unpublished, StoreError> {
    write(disk, base, header(store_id, base, RECEIVED, payload), store_id, payload)
}

fn write<D: Disk>(
    disk: &mut D,
    base: Base,
    header: [u8; HEADER],
    store_id: u64,
    payload: &[u8],
) -> Result<Unpublished, StoreError> {
    let name = name(base.position);
    match disk.open(&name) {
        // The same state already; replacing it would put it at risk.
        Ok((file, _)) if load(disk, store_id, base.position)?.is_some() => {
            return Ok(Unpublished { file, base, header });
        }
        Ok((torn, _)) => disk.remove(torn).map_err(|error| failed("removing", &name, error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("opening", &name, error)),
    }
    let len = (HEADER + payload.len()) as u64;
    let file = disk.create(&name, len).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full,
        _ => failed("creating", &name, error),
    })?;
    disk.write(file, HEADER as u64, payload).map_err(|error| failed("writing", &name, error))?;
    Ok(Unpublished { file, base, header })
}

/// Writes the header of the snapshot at `base` once more, for the next sync: a
/// process may have died between the two.
pub(super) fn refresh<D: Disk>(
    disk: &mut D,
    store_id: u64,
    base: Base,
) -> Result<Option<FileId>, StoreError> {
    let name = name(base.position);
    let file = match disk.open(&name) {
        Ok((file, _)) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", &name, error)),
    };
    let Some(snapshot) = load(disk, store_id, base.position)? else {
        let what = "it reads differently each time".to_owned();
        return Err(Corrupt { file: name, position: None, what }.into());
    };
    let flags = if snapshot.is_received { RECEIVED } else { 0 };
    disk.write(file, 0, &header(store_id, base, flags, &snapshot.payload))
        .map_err(|error| failed("writing", &name, error))?;
    Ok(Some(file))
}

/// The newest intact published snapshot. A damaged one is passed over for the
/// one before.
pub fn newest<D: Disk>(disk: &mut D) -> Result<Option<Snapshot>, StoreError> {
    let Some((_, identity)) = Identity::load(disk)? else { return Ok(None) };
    if identity.is_blank {
        return Ok(None);
    }
    for position in positions(disk)?.into_iter().rev() {
        if let Some(snapshot) = load(disk, identity.store_id, position)? {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// Removes all snapshots older than the one at `durable`, whose header must be synced.
pub fn remove_older<D: Disk>(disk: &mut D, durable: Position) -> Result<(), StoreError> {
    for position in positions(disk)?.into_iter().filter(|position| *position < durable) {
        let name = name(position);
        let (file, _) = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
        disk.remove(file).map_err(|error| failed("removing", &name, error))?;
    }
    Ok(())
}

/// The snapshot at `position`, if it is intact.
fn load<D: Disk>(
    disk: &mut D,
    store_id: u64,
    position: Position,
) -> Result<Option<Snapshot>, StoreError> {
    let name = name(position);
    let (file, len) = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
    if len < HEADER as u64 {
        return Ok(None);
    }
    // Twice, because the first read may have been misdirected.
    for _ in 0..2 {
        let Ok(bytes) = disk.read(file, 0, len as usize) else { continue };
        let base = Base {
            position: Position(u64_at(&bytes, 8)),
            index: LogIndex(u64_at(&bytes, 16)),
            term: Term(u64_at(&bytes, 24)),
        };
        let payload = bytes.slice(HEADER..);
        let flags = u32_at(&bytes, 4);
        let sound = header(store_id, base, flags, &payload);
        if base.position == position && bytes[..HEADER] == sound {
            let is_received = flags & RECEIVED != 0;
            return Ok(Some(Snapshot { base, payload, is_received }));
        }
    }
    Ok(None)
}

fn header(store_id: u64, base: Base, flags: u32, payload: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&flags.to_le_bytes());
    let numbers = [base.position.0, base.index.0, base.term.0, payload.len() as u64];
    for (room, number) in header[8..].chunks_exact_mut(8).zip(numbers) {
        room.copy_from_slice(&number.to_le_bytes());
    }
    let crc = checksum(store_id, base.position, &header, payload);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    header
}

fn checksum(store_id: u64, position: Position, header: &[u8], payload: &[u8]) -> u32 {
    let seal = Seal { store_id };
    seal.checksum(position, &header[4..]) ^ seal.checksum(position, payload).rotate_left(1)
}

fn positions<D: Disk>(disk: &mut D) -> Result<Vec<Position>, StoreError> {
    let names = disk.list().map_err(|error| failed("listing", DIR, error))?;
    let positions = names.iter().filter_map(|(file, _)| {
        let position = Position(file.strip_prefix(DIR)?.parse().ok()?);
        (name(position) == *file).then_some(position)
    });
    Ok(positions.collect())
}

fn name(position: Position) -> String {
    format!("{DIR}{:020}", position.0)
}

fn failed(doing: &'static str, file: &str, error: io::Error) -> StoreError {
    StoreError::Io { doing, file: file.to_owned(), error }
}
