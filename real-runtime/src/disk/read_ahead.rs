//! Reads ahead of those who are far behind the end of the log. Nothing but the
//! first touch of a page tells that it is not in memory, and that stops the whole
//! node until the disk has read it.

use std::{collections::VecDeque, fs::File, num::NonZeroU64};

use rustix::fs::{Advice, fadvise};

/// Bytes that are asked for at a time, while those before them are read.
const CHUNK: u64 = 1 << 20;
/// What lies so close behind the last write is in memory.
const HOT: u64 = 64 << 20;
/// Chunks asked for last, and not again soon: those of several readers.
const RECENT: usize = 64;

#[derive(Default)]
pub struct ReadAhead {
    /// The end of what this process wrote, if it wrote anything.
    written: Option<u64>,
    current: Option<u64>,
    recent: VecDeque<u64>,
}

impl ReadAhead {
    pub fn note_write(&mut self, end: u64) {
        self.written = self.written.max(Some(end));
    }

    /// Somebody reads at `offset` of a file of `len` bytes.
    pub fn note_read(&mut self, file: &File, len: u64, offset: u64) {
        let chunk = offset / CHUNK;
        if self.current == Some(chunk) {
            return;
        }
        self.current = Some(chunk);
        let cold = self.written.map_or(len, |written| written.saturating_sub(HOT));
        for next in [chunk, chunk + 1] {
            let (start, end) = (next * CHUNK, (next + 1) * CHUNK);
            if end > cold || self.recent.contains(&next) {
                continue;
            }
            // It is only advice.
            let _ = fadvise(file, start, NonZeroU64::new(CHUNK), Advice::WillNeed);
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(next);
        }
    }
}
