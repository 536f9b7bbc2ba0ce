//! The whole boundary between Stormglass and the world it runs in. It is
//! implemented three times: on tokio (the shipped broker), on turmoil and on
//! madsim (the testbed). Everything above it is the same code.

use std::{future::Future, io, net::SocketAddr};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    broker::Broker,
    time::{Now, Time},
};

/// An open file of a [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A node's own disk: files of fixed length behind a page cache.
///
/// Reads and writes touch memory and return at once; only durability takes
/// time. What was written and not yet covered by a finished sync survives the
/// death of the process, but after a power failure any subset of its pages may
/// be missing. Names look like `log/00000000000000000000`: parts of
/// `[%|a-zA-Z0-9_.-]+` joined by `/`.
pub trait Disk: 'static {
    /// Resolves when everything written to the files before `begin_sync` is
    /// durable, along with the files' names; or with the error that means
    /// nobody knows.
    type Sync: Future<Output = io::Result<()>> + 'static;

    /// All files with their lengths, ordered by name.
    fn list(&mut self) -> io::Result<Vec<(String, u64)>>;

    /// A new file of `len` bytes, all zero, its blocks allocated: a later write
    /// inside it cannot find the disk full. `StorageFull` if there is no room,
    /// `AlreadyExists` if the name is taken.
    fn create(&mut self, name: &str, len: u64) -> io::Result<FileId>;

    /// An existing file and its length.
    fn open(&mut self, name: &str) -> io::Result<(FileId, u64)>;

    /// Gives an open file another name, keeping its contents and its id; the
    /// new name is durable after the file's next sync. `ResourceBusy` if slices
    /// that `read` returned are still alive, because reusing the file would
    /// change bytes under their readers.
    fn rename(&mut self, file: FileId, to: &str) -> io::Result<()>;

    /// Closes the file and removes it; slices read from it stay valid.
    fn remove(&mut self, file: FileId) -> io::Result<()>;

    /// Writes inside the file's length. A failed write may have written any
    /// part of it.
    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Reads inside the file's length, without a copy where the platform can.
    /// The caller promises not to overwrite the range while it holds the bytes.
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Says that the file will not be written again until it is renamed.
    fn seal(&mut self, _file: FileId) {}

    /// Starts making everything written so far to these files durable.
    fn begin_sync(&mut self, files: &[FileId]) -> Self::Sync;
}

/// Accepts connections.
pub trait Listener<R: Runtime>: 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<(R::Reader, R::Writer, SocketAddr)>>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// One machine: its clocks, its entropy, its network and its tasks. Clones are
/// handles to the same machine. Everything runs on one thread.
pub trait Runtime: Clone + 'static {
    type Disk: Disk;
    type Reader: AsyncRead + Unpin + 'static;
    type Writer: AsyncWrite + Unpin + 'static;
    type Listener: Listener<Self>;

    fn now(&self) -> Now;

    /// Resolves once `now().mono >= until`.
    fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static;

    /// Runs a task on this machine until it ends or the machine dies.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Unpredictable in production, drawn from the run's seed in simulation.
    fn entropy(&self) -> u64;

    fn listen(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>>;

    fn dial(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>> + 'static;

    /// Called after each batch of inputs: the simulator's probe, and whoever
    /// serves metrics, reads the broker here. `unsent` counts the bytes that
    /// wait in the node's connections.
    fn observe(&self, _now: Now, _broker: &Broker<Self::Disk>, _unsent: &dyn Fn() -> usize) {}
}
