//! The tasks around a node's loop: they move bytes, and tell the loop what
//! happened.

use std::{cell::Cell, future::Future, io, net::SocketAddr, time::Duration};

use tokio::sync::mpsc;

use super::{Event, Node};
use crate::{
    ids::ConnId,
    log::SyncTicket,
    runtime::{Listener, Runtime},
    shell::connection::{Outbox, dial, read_frames, write_packets},
};

impl<R: Runtime> Node<R> {
    pub(super) fn spawn_sync(
        &self,
        ticket: SyncTicket,
        done: impl Future<Output = io::Result<()>> + 'static,
    ) {
        let events = self.events.clone();
        self.runtime.spawn(async move {
            let result = done.await;
            let _ = events.send(Event::Synced { ticket, result }).await;
        });
    }

    pub(super) fn spawn_accept(&self, mut listener: R::Listener) {
        let (runtime, events) = (self.runtime.clone(), self.events.clone());
        let next_conn = self.next_conn.clone();
        self.runtime.spawn(async move {
            let mut failures = 0;
            loop {
                match listener.accept().await {
                    Ok((reader, writer, peer)) => {
                        failures = 0;
                        let conn = next(&next_conn);
                        let outbox = Outbox::new();
                        let accepted = Event::Accepted { conn, peer, outbox: outbox.clone() };
                        if events.send(accepted).await.is_err() {
                            return;
                        }
                        spawn_connection(&runtime, &events, conn, reader, writer, outbox);
                    }
                    // One bad connection attempt, or a moment without file
                    // descriptors, is not the end; a listener that is gone is.
                    Err(_) if failures < 100 => {
                        failures += 1;
                        let pause = runtime.now().mono + Duration::from_millis(50);
                        runtime.sleep_until(pause).await;
                    }
                    Err(error) => {
                        let _ = events.send(Event::AcceptFailed(error)).await;
                        return;
                    }
                }
            }
        });
    }

    pub(super) fn spawn_dial(&self, name_server: usize, addr: SocketAddr) {
        let (runtime, events) = (self.runtime.clone(), self.events.clone());
        let next_conn = self.next_conn.clone();
        self.runtime.spawn(async move {
            match dial(&runtime, addr).await {
                Ok((reader, writer)) => {
                    let conn = next(&next_conn);
                    let outbox = Outbox::new();
                    let dialled =
                        Event::Dialled { conn, peer: addr, outbox: outbox.clone(), name_server };
                    if events.send(dialled).await.is_ok() {
                        spawn_connection(&runtime, &events, conn, reader, writer, outbox);
                    }
                }
                Err(_) => {
                    let _ = events.send(Event::DialFailed { name_server }).await;
                }
            }
        });
    }
}

fn next(counter: &Cell<u64>) -> ConnId {
    counter.set(counter.get() + 1);
    ConnId(counter.get())
}

fn spawn_connection<R: Runtime>(
    runtime: &R,
    events: &mpsc::Sender<Event>,
    conn: ConnId,
    reader: R::Reader,
    writer: R::Writer,
    outbox: Outbox,
) {
    let writing = outbox.clone();
    runtime.spawn(async move {
        write_packets(writer, &writing).await;
    });
    let events = events.clone();
    runtime.spawn(async move {
        let ended =
            read_frames(reader, &outbox, &events, |frames| Event::Frames { conn, frames }).await;
        tracing::debug!(%conn, %ended, "connection ended");
        outbox.close();
        let _ = events.send(Event::Closed { conn }).await;
    });
}
