//! Appending, syncing and reading.

use std::io;

use bytes::Bytes;

use super::{Base, Draft, Entry, LogConfig, Place, recovery::Recovered};
use crate::{
    error::StoreError,
    ids::{LogIndex, Position, Term},
    runtime::{Disk, FileId},
};

/// The log of one node. See the module for what it promises.
pub struct CommitLog {
    _config: LogConfig,
}

/// Names a sync between [`CommitLog::begin_sync`] and [`CommitLog::synced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTicket {
    up_to: Position,
}

impl CommitLog {
    /// Finds the end of the log behind `base`. A torn tail is cut; damage
    /// before the durable end is refused as `Corrupt`. What was found beyond
    /// the last known durable position becomes durable with the first sync:
    /// until that one finished, [`write`](Self::write) holds new entries back.
    /// `Full` if the first segment finds no room.
    pub fn open<D: Disk>(
        _disk: &mut D,
        _config: LogConfig,
        _base: Base,
    ) -> Result<(CommitLog, Recovered), StoreError> {
        todo!()
    }

    /// Stages an entry in memory. Tells `places` each part's number and
    /// position; message records get their position patched in before that.
    /// `Full` if a new segment was needed and found no room, `TooLarge` if no
    /// segment takes the entry: nothing has changed then.
    pub fn append<D: Disk>(
        &mut self,
        _disk: &mut D,
        _term: Term,
        _draft: &mut Draft,
        _places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        todo!()
    }

    /// Hands what is staged to the disk: it survives the death of the process
    /// from here on. Does nothing before the first sync after `open` finished
    /// (call it again then). An error stops the log for good (L2).
    pub fn write<D: Disk>(&mut self, _disk: &mut D) -> Result<(), StoreError> {
        todo!()
    }

    /// Begins a sync of everything written so far and of `extra` files. `None`
    /// if there is nothing new, or while another one is in flight: the caller
    /// keeps `extra` then and asks again after `synced`.
    pub fn begin_sync<D: Disk>(
        &mut self,
        _disk: &mut D,
        _extra: &[FileId],
    ) -> Option<(SyncTicket, D::Sync)> {
        todo!()
    }

    /// Takes the outcome of a sync and returns the durable end. A failed sync
    /// stops the log for good (L2).
    pub fn synced(
        &mut self,
        _ticket: SyncTicket,
        _outcome: io::Result<()>,
    ) -> Result<Position, StoreError> {
        todo!()
    }

    /// The first position that is still kept.
    pub fn start(&self) -> Position {
        todo!()
    }

    /// Where the next entry goes (or later, if it does not fit this segment).
    pub fn end(&self) -> Position {
        todo!()
    }

    /// The end of what the disk was given; readable up to here.
    pub fn written(&self) -> Position {
        todo!()
    }

    /// The end of what no crash takes back.
    pub fn durable(&self) -> Position {
        todo!()
    }

    pub fn last_index(&self) -> LogIndex {
        todo!()
    }

    pub fn last_term(&self) -> Term {
        todo!()
    }

    /// The random number that tells this store's files from all others'.
    pub fn store_id(&self) -> u64 {
        todo!()
    }

    /// One written part, by the position and length of its bytes, verified,
    /// without a copy where the disk can. `Corrupt` if there is no such part.
    pub fn read<D: Disk>(
        &self,
        _disk: &mut D,
        _at: Position,
        _len: u32,
    ) -> Result<Bytes, StoreError> {
        todo!()
    }

    /// The written part at a position that a client named, or `None` if there
    /// is none.
    pub fn look_up<D: Disk>(
        &self,
        _disk: &mut D,
        _at: Position,
    ) -> Result<Option<Bytes>, StoreError> {
        todo!()
    }

    /// The entry at a boundary: a `start` or an `end`. `None` at the written end.
    pub fn entry_at<D: Disk>(
        &self,
        _disk: &mut D,
        _at: Position,
    ) -> Result<Option<Entry>, StoreError> {
        todo!()
    }

    /// Makes the next segment ahead of need, if the active one is half full. A
    /// full disk is no error here; `append` will say so when it matters.
    pub fn prepare<D: Disk>(&mut self, _disk: &mut D) -> Result<(), StoreError> {
        todo!()
    }

    /// Drops whole durable segments below `keep_from` and returns the bytes
    /// dropped. Never drops what the newest durable snapshot still needs: that
    /// is for the caller to see to.
    pub fn expire<D: Disk>(
        &mut self,
        _disk: &mut D,
        _keep_from: Position,
    ) -> Result<u64, StoreError> {
        todo!()
    }

    /// Notes an orderly stop; durable with the next sync. Everything appended
    /// must be durable, and nothing is appended afterwards.
    pub fn close<D: Disk>(&mut self, _disk: &mut D) -> Result<(), StoreError> {
        todo!()
    }
}
