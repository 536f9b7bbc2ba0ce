//! Writes zeros ahead of the log, in the background.
//!
//! The first write into a block that is only allocated makes the file system
//! change its metadata, and the sync after it must wait for that too. Groups of
//! 64 KiB sync up to twice as fast into blocks that were written before
//! (`stormglass bench disk`). The zeros go around the page cache, so that no
//! sync of the log has them to flush.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use memmap2::MmapMut;
use rustix::fs::OFlags;

/// Bytes in one write: what the log waits for at most when it catches up.
const CHUNK: u64 = 256 << 10;
/// Bytes kept ahead of the log; refilled when half are used.
const WINDOW: u64 = 32 << 20;
/// What the page cache holds or does not.
pub const PAGE: u64 = 4 << 10;

/// A new file, all zero, of which ever more has really been written.
pub struct Ahead {
    direct: File,
    len: u64,
    state: Mutex<State>,
    chunk_done: Condvar,
}

#[derive(Default)]
struct State {
    /// The log wrote below this and never will be overwritten from here.
    used: u64,
    /// Everything between `used` and this holds written zeros.
    zeroed: u64,
    /// A chunk is being written at `zeroed`.
    busy: bool,
    /// The device refused once: not worth another try.
    failed: bool,
}

impl Ahead {
    /// None if the file is short or the file system cannot go around its cache.
    pub fn of_new_file(path: &Path, len: u64) -> Option<Arc<Ahead>> {
        if len < 2 * CHUNK {
            return None;
        }
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        let (state, chunk_done) = Default::default();
        Some(Arc::new(Ahead { direct, len, state, chunk_done }))
    }

    /// Must be called before the log writes up to `end`. Returns how many zeros
    /// are to be written with it: they are there already, but of a page that is
    /// written whole the system needs to read nothing first, while the log waits.
    pub fn claim(&self, end: u64) -> usize {
        let mut state = self.lock();
        while state.busy && end > state.zeroed {
            state = self.chunk_done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if end <= state.used {
            return 0;
        }
        state.used = end.next_multiple_of(PAGE).min(self.len);
        (state.used - end) as usize
    }

    fn is_short(&self) -> bool {
        let state = self.lock();
        let ahead = state.zeroed.saturating_sub(state.used);
        !state.failed && !state.busy && ahead < WINDOW / 2 && state.zeroed + CHUNK <= self.len
    }

    fn refill(&self, zeros: &[u8]) -> io::Result<()> {
        let mut wrote = false;
        while let Some(at) = self.next_chunk() {
            let done = self.direct.write_all_at(zeros, at);
            let mut state = self.lock();
            state.busy = false;
            state.failed |= done.is_err();
            if done.is_ok() {
                state.zeroed = at + CHUNK;
            }
            drop(state);
            self.chunk_done.notify_all();
            done?;
            wrote = true;
        }
        // Pays for the metadata here, not in the log's next sync.
        if wrote { self.direct.sync_data() } else { Ok(()) }
    }

    fn next_chunk(&self) -> Option<u64> {
        let mut state = self.lock();
        state.zeroed = state.zeroed.max(state.used.next_multiple_of(CHUNK));
        let wanted = state.zeroed - state.used < WINDOW && state.zeroed + CHUNK <= self.len;
        state.busy = wanted && !state.failed;
        state.busy.then_some(state.zeroed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends once it is dropped.
pub struct AheadThread(SyncSender<Arc<Ahead>>);

impl AheadThread {
    pub fn start() -> io::Result<AheadThread> {
        let (files, queue) = sync_channel::<Arc<Ahead>>(4);
        // Direct writes want aligned memory, and maps are.
        let zeros = MmapMut::map_anon(CHUNK as usize)?;
        thread::Builder::new().name("disk-ahead".to_owned()).spawn(move || {
            for file in queue {
                if let Err(error) = file.refill(&zeros) {
                    tracing::warn!(%error, "writing ahead of the log stops for one file");
                }
            }
        })?;
        Ok(AheadThread(files))
    }

    /// Refills the zeros ahead of the log if they run short.
    pub fn nudge(&self, file: &Arc<Ahead>) {
        if file.is_short() {
            // A full queue is busy refilling; the next sync nudges again.
            let _ = self.0.try_send(file.clone());
        }
    }
}
