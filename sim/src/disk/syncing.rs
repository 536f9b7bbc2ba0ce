//! A sync under way, and what becomes durable when it is over.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use stormglass_core::runtime::FileId;

use super::{DiskEvent, Drive, Timer, eio, pages::Epoch};

/// A sync in flight.
pub struct Syncing {
    pub(super) drive: Drive,
    pub(super) process: u64,
    /// What becomes durable; nothing if the sync fails.
    pub(super) covers: Option<Covers>,
    pub(super) timer: Rc<dyn Timer>,
    pub(super) done: Pin<Box<dyn Future<Output = ()>>>,
}

pub(super) struct Covers {
    /// All changes of names before this place in the journal.
    pub names: u64,
    pub epochs: Vec<(FileId, Epoch)>,
}

impl Future for Syncing {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.done.as_mut().poll(cx));
        let drive = self.drive.clone();
        let mut disk = drive.0.borrow_mut();
        if disk.process != self.process {
            return Poll::Pending;
        }
        let Some(covers) = self.covers.take() else {
            // Not before: until now an earlier sync may still make things durable.
            disk.happened(DiskEvent::SyncFailed);
            return Poll::Ready(Err(eio()));
        };
        let now_ms = self.timer.now_us() / 1000;
        for (id, epoch) in covers.epochs {
            if let Some(file) = disk.files.get_mut(&id) {
                file.pages.synced(epoch, now_ms);
            }
        }
        while disk.journaled < covers.names && disk.journal.pop_front().is_some() {
            disk.journaled += 1;
        }
        Poll::Ready(Ok(()))
    }
}
