//! Finding what is stored at a position: a record, or an appearance of one.

use bytes::Bytes;

use super::Broker;
use crate::{
    error::StoreError,
    ids::Position,
    message::Peek,
    pointer::{self, Appearance, Pointer},
    runtime::Disk,
};

/// A stored message as it appears: the record, and what a pointer changes.
pub(super) struct Stored {
    /// Where the record lies.
    pub origin: Position,
    pub record: Bytes,
    pub pointer: Option<Pointer>,
}

impl Stored {
    /// How it appears now: what a further appearance starts from.
    pub fn appearance(&self) -> Option<Appearance> {
        match &self.pointer {
            Some(pointer) => Some(pointer.shows.clone()),
            None => Appearance::of_record(self.origin, &self.record).ok(),
        }
    }

    pub fn queue_offset(&self) -> Option<u64> {
        match &self.pointer {
            Some(pointer) => Some(pointer.queue_offset),
            None => Peek(&self.record).queue_offset(),
        }
    }

    pub fn reconsume_times(&self) -> i32 {
        let patched = self.pointer.as_ref().and_then(|pointer| pointer.shows.patch.reconsume_times);
        patched.or_else(|| Peek(&self.record).reconsume_times()).unwrap_or(0)
    }

    pub fn property(&self, key: &str) -> Option<&str> {
        let properties = Peek(&self.record).properties()?;
        match &self.pointer {
            Some(pointer) => pointer.shows.patch.property(properties, key),
            None => properties.get(key),
        }
    }
}

impl<D: Disk> Broker<D> {
    /// The committed message at a position that a client named, or `None` if
    /// there is none (any more). A held record is found, too.
    pub(super) fn stored(&mut self, at: Position) -> Result<Option<Stored>, StoreError> {
        if at >= self.applied.position {
            return Ok(None);
        }
        let (log, disk) = self.replica.parts();
        let Some(part) = log.look_up(disk, at)? else { return Ok(None) };
        if pointer::is_record(&part) {
            return Ok(Some(Stored { origin: at, record: part, pointer: None }));
        }
        if !Pointer::is_one(&part) {
            return Ok(None);
        }
        let pointer = Pointer::decode(&part, at)?;
        let origin = pointer.shows.origin;
        if origin < log.start() {
            return Ok(None);
        }
        let record = log.read(disk, origin, pointer.shows.size)?;
        Ok(Some(Stored { origin, record, pointer: Some(pointer) }))
    }
}
