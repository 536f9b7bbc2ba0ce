//! The thread that makes files durable, because nothing but waiting does.

use std::{
    collections::BTreeSet,
    fs::File,
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll, ready},
    thread,
};

use tokio::sync::oneshot;

/// Syncs that have begun and not finished. The store has a few; this many mean
/// that it forgot to wait.
const MAX_PENDING: usize = 256;

#[derive(Default)]
pub struct SyncJob {
    pub files: Vec<Arc<File>>,
    pub dirs: BTreeSet<PathBuf>,
}

impl SyncJob {
    fn run(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync_data())?;
        // Names after contents: a name must not outlive what it promises.
        self.dirs.iter().rev().try_for_each(|dir| File::open(dir)?.sync_all())
    }
}

type Ticketed = (SyncJob, oneshot::Sender<io::Result<()>>);

/// Ends once it is dropped and has done what was begun.
pub struct SyncThread(SyncSender<Ticketed>);

impl SyncThread {
    /// Makes the file `failed` when a sync fails.
    pub fn start(failed: PathBuf) -> io::Result<SyncThread> {
        let (jobs, queue): (_, Receiver<Ticketed>) = sync_channel(MAX_PENDING);
        thread::Builder::new().name("disk-sync".to_owned()).spawn(move || {
            for (job, done) in queue {
                let synced = job.run();
                if let Err(error) = &synced
                    && let Err(second) = File::create(&failed)
                {
                    tracing::error!(%error, %second, "a failed sync cannot be remembered");
                }
                // Whoever no longer waits needs no answer.
                let _ = done.send(synced);
            }
        })?;
        Ok(SyncThread(jobs))
    }

    pub fn begin(&self, job: SyncJob) -> Synced {
        let (done, synced) = oneshot::channel();
        match self.0.try_send((job, done)) {
            Ok(()) => Synced(synced),
            Err(TrySendError::Full(_)) => {
                Synced::failed(io::Error::other("more than 256 syncs wait for the disk"))
            }
            Err(TrySendError::Disconnected(_)) => {
                Synced::failed(io::Error::other("the sync thread is gone"))
            }
        }
    }
}

/// A sync that has begun: what [`Disk::begin_sync`] returns.
///
/// [`Disk::begin_sync`]: stormglass_core::runtime::Disk::begin_sync
pub struct Synced(oneshot::Receiver<io::Result<()>>);

impl Synced {
    pub fn failed(error: io::Error) -> Synced {
        let (done, synced) = oneshot::channel();
        let _ = done.send(Err(error));
        Synced(synced)
    }
}

impl Future for Synced {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answer = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(io::Error::other("the sync thread is gone"))))
    }
}
