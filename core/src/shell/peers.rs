//! The connections between the replicas of a set. Each replica dials every
//! other one and sends on that connection only; what arrives on a connection
//! that was accepted is read once the dialler has proved to be a replica (L6).
//!
//! A message that finds no connection is dropped: Raft repeats what matters.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::connection::{Outbox, dial, write_packets};
use crate::{
    ids::NodeId,
    peer::{
        Message, PeerError,
        codec::{Arrived, Session},
        handshake::{Dialler, Heard, Listener as Handshake, Membership, nonce},
    },
    runtime::{Listener, Runtime},
    time::Time,
    wire::frame::Packet,
};

/// Before a lost connection is dialled again.
const REDIAL: Duration = Duration::from_millis(100);
/// How long proving may take.
const PROVE_WITHIN: Duration = Duration::from_secs(5);
/// How often a peer is asked for a sign of life, if there is anything to send.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A peer that does not give one for so long is not heard any more: a partition
/// may have swallowed the connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Beyond this many bytes waiting for a peer, messages to it are dropped.
const WAITING: usize = 32 << 20;
/// How long the connection to a replica stays open that has left the set.
const FAREWELL: Duration = Duration::from_secs(1);
/// Connections that have not proved anything yet.
const STRANGERS: usize = 64;
const READ_CHUNK: usize = 64 << 10;

/// Where a replica is for the others, and what proves that it is one.
#[derive(Clone)]
pub struct PeerConfig {
    /// Where this replica listens for the others.
    pub listen: SocketAddr,
    /// What all replicas of the set know, and nobody else.
    pub secret: Vec<u8>,
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica at {}", self.listen)
    }
}

/// What happens between replicas.
pub(super) enum PeerEvent {
    Message(Message),
    Lost(NodeId),
}

/// A connection that is open, seen from the side that sends.
struct Open {
    session: Session,
    outbox: Outbox,
    /// When the peer was last asked for a sign of life.
    asked: Time,
    /// Until it gives one.
    is_waiting: Rc<Cell<bool>>,
}

impl Open {
    /// Whether it was asked long ago.
    fn is_silent(&self, now: Time) -> bool {
        self.is_waiting.get() && now.since(self.asked) > ANSWER_WITHIN
    }

    /// Whether it is time to ask.
    fn asks(&mut self, now: Time) -> bool {
        let asks = !self.is_waiting.get() && now.since(self.asked) >= ASK_EVERY;
        if asks {
            self.asked = now;
            self.is_waiting.set(true);
        }
        asks
    }
}

/// The way to one replica. Clones are the same way.
#[derive(Clone)]
struct Link {
    to: SocketAddr,
    open: Rc<RefCell<Option<Open>>>,
    /// No longer, once the replica has left the set.
    is_wanted: Rc<Cell<bool>>,
}

impl Link {
    fn new(to: SocketAddr) -> Link {
        Link { to, open: Rc::default(), is_wanted: Rc::new(Cell::new(true)) }
    }

    fn close(&self) {
        if let Some(open) = &*self.open.borrow() {
            open.outbox.close();
        }
    }
}

/// The ways to all other replicas.
pub(super) struct Peers<R: Runtime, E> {
    ours: Ours<R, E>,
    links: BTreeMap<NodeId, Link>,
}

impl<R: Runtime, E: 'static> Peers<R, E> {
    /// Starts listening for the others.
    pub async fn start(
        runtime: &R,
        id: NodeId,
        config: &PeerConfig,
        membership: Membership,
        events: &mpsc::Sender<E>,
        wrap: fn(PeerEvent) -> E,
    ) -> io::Result<Peers<R, E>> {
        let listener = runtime.listen(config.listen).await?;
        let ours = Ours { runtime: runtime.clone(), id, membership, events: events.clone(), wrap };
        runtime.spawn(accept(ours.clone(), listener));
        Ok(Peers { ours, links: BTreeMap::new() })
    }

    /// These are the replicas of the set now: dials who is new, and nobody else
    /// any more.
    pub fn follow(&mut self, addresses: &BTreeMap<NodeId, SocketAddr>) {
        let runtime = &self.ours.runtime;
        let left = |(id, link): &(&NodeId, &Link)| addresses.get(id) != Some(&link.to);
        let left: Vec<NodeId> = self.links.iter().filter(left).map(|(id, _)| *id).collect();
        for link in left.into_iter().filter_map(|id| self.links.remove(&id)) {
            link.is_wanted.set(false);
            // What was said to it before may still arrive.
            let until = runtime.now().mono + FAREWELL;
            let sleep = runtime.sleep_until(until);
            runtime.spawn(async move {
                sleep.await;
                link.close();
            });
        }
        for (&peer, &addr) in addresses.iter().filter(|(peer, _)| **peer != self.ours.id) {
            if !self.links.contains_key(&peer) {
                let link = Link::new(addr);
                runtime.spawn(keep_dialling(self.ours.clone(), peer, link.clone()));
                self.links.insert(peer, link);
            }
        }
    }

    /// Sends a message if its replica is connected and takes what it is sent.
    pub fn send(&self, now: Time, message: &Message) {
        let Some(link) = self.links.get(&message.to) else { return };
        let mut link = link.open.borrow_mut();
        let Some(open) = link.as_mut() else { return };
        if open.is_silent(now) {
            return open.outbox.close();
        }
        if open.outbox.queued() > WAITING {
            return;
        }
        let asks = open.asks(now);
        let mut pieces = Vec::new();
        open.session.encode(message, asks, &mut pieces);
        let mut pieces = pieces.into_iter();
        let head = pieces.next().unwrap_or_default();
        open.outbox.send(Packet { head, body: pieces.collect() });
    }
}

/// What every connection of this replica needs.
struct Ours<R: Runtime, E> {
    runtime: R,
    id: NodeId,
    membership: Membership,
    events: mpsc::Sender<E>,
    wrap: fn(PeerEvent) -> E,
}

impl<R: Runtime, E> Clone for Ours<R, E> {
    fn clone(&self) -> Self {
        Ours {
            runtime: self.runtime.clone(),
            id: self.id,
            membership: self.membership.clone(),
            events: self.events.clone(),
            wrap: self.wrap,
        }
    }
}

impl<R: Runtime, E> Ours<R, E> {
    fn nonce(&self) -> [u8; 32] {
        nonce(|| self.runtime.entropy())
    }

    /// Gives up a future that takes too long.
    async fn within<T>(
        &self,
        time: Duration,
        what: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let mut what = pin!(what);
        let mut timer = pin!(self.runtime.sleep_until(self.runtime.now().mono + time));
        poll_fn(|cx| match what.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }
}

/// Dials a replica again whenever the connection is lost, as long as it belongs
/// to the set.
async fn keep_dialling<R: Runtime, E: 'static>(ours: Ours<R, E>, peer: NodeId, link: Link) {
    while link.is_wanted.get() {
        if let Ok((reader, writer)) = dial(&ours.runtime, link.to).await {
            match ours.within(PROVE_WITHIN, prove(&ours, peer, reader, writer)).await {
                Ok((reader, writer, session)) => {
                    let outbox = Outbox::new();
                    let is_waiting = Rc::new(Cell::new(false));
                    let signs = hear_signs(reader, outbox.clone(), is_waiting.clone());
                    ours.runtime.spawn(signs);
                    let asked = Time::ZERO;
                    *link.open.borrow_mut() =
                        Some(Open { session, outbox: outbox.clone(), asked, is_waiting });
                    let ended = write_packets(writer, &outbox).await;
                    tracing::debug!(%peer, %ended, "the connection to a replica ended");
                    link.open.borrow_mut().take();
                    if ours.events.send((ours.wrap)(PeerEvent::Lost(peer))).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::debug!(%peer, %error, "a replica was not convinced"),
            }
        }
        let pause = ours.runtime.now().mono + REDIAL;
        ours.runtime.sleep_until(pause).await;
    }
}

async fn prove<R: Runtime, E>(
    ours: &Ours<R, E>,
    peer: NodeId,
    mut reader: R::Reader,
    mut writer: R::Writer,
) -> io::Result<(R::Reader, R::Writer, Session)> {
    let (dialler, hello) = Dialler::new(ours.membership.clone(), ours.id, peer, ours.nonce());
    writer.write_all(&hello).await?;
    writer.flush().await?;
    let mut buffer = BytesMut::new();
    loop {
        if let Some((proof, session)) = dialler.challenged(&mut buffer).map_err(refused)? {
            writer.write_all(&proof).await?;
            writer.flush().await?;
            return Ok((reader, writer, session));
        }
        if reader.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The other side sends a byte when it reads a message that asks for it.
async fn hear_signs(
    mut reader: impl tokio::io::AsyncRead + Unpin,
    outbox: Outbox,
    is_waiting: Rc<Cell<bool>>,
) {
    let mut bytes = [0; 256];
    while let Ok(1..) = reader.read(&mut bytes).await {
        is_waiting.set(false);
    }
    outbox.close();
}

async fn accept<R: Runtime, E: 'static>(ours: Ours<R, E>, mut listener: R::Listener) {
    let strangers = Rc::new(Cell::new(0));
    loop {
        let Ok((reader, writer, from)) = listener.accept().await else {
            let pause = ours.runtime.now().mono + REDIAL;
            ours.runtime.sleep_until(pause).await;
            continue;
        };
        if strangers.get() >= STRANGERS {
            continue;
        }
        strangers.set(strangers.get() + 1);
        let (ours, strangers) = (ours.clone(), strangers.clone());
        ours.runtime.clone().spawn(async move {
            let proved = ours.within(PROVE_WITHIN, convince(&ours, reader, writer)).await;
            strangers.set(strangers.get() - 1);
            let ended = match proved {
                Ok(proved) => receive(&ours, proved).await,
                Err(error) => error,
            };
            tracing::debug!(%from, %ended, "a connection from a replica ended");
        });
    }
}

/// A connection whose other end is the replica it says.
struct Proved<R: Runtime> {
    reader: R::Reader,
    writer: R::Writer,
    peer: NodeId,
    session: Session,
    buffer: BytesMut,
}

async fn convince<R: Runtime, E>(
    ours: &Ours<R, E>,
    mut reader: R::Reader,
    mut writer: R::Writer,
) -> io::Result<Proved<R>> {
    let mut handshake = Handshake::new(ours.membership.clone(), ours.id, ours.nonce());
    let mut buffer = BytesMut::new();
    loop {
        match handshake.hear(&mut buffer).map_err(refused)? {
            Heard::Hello(challenge) => {
                writer.write_all(&challenge).await?;
                writer.flush().await?;
            }
            Heard::Member(peer, session) => {
                return Ok(Proved { reader, writer, peer, session, buffer });
            }
            Heard::Nothing => {
                if reader.read_buf(&mut buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Reads messages until the connection ends.
async fn receive<R: Runtime, E>(ours: &Ours<R, E>, mut from: Proved<R>) -> io::Error {
    loop {
        let mut asked = false;
        loop {
            match from.session.decode(&mut from.buffer) {
                Ok(Some(Arrived { message, asks })) if message.from == from.peer => {
                    asked |= asks;
                    let event = (ours.wrap)(PeerEvent::Message(message));
                    if ours.events.send(event).await.is_err() {
                        return io::ErrorKind::BrokenPipe.into();
                    }
                }
                Ok(Some(_)) => return refused(PeerError::Malformed("sender")),
                Ok(None) => break,
                Err(error) => return refused(error),
            }
        }
        if asked {
            let answered = async {
                from.writer.write_all(&[1]).await?;
                from.writer.flush().await
            };
            if let Err(error) = answered.await {
                return error;
            }
        }
        from.buffer.reserve(READ_CHUNK);
        match from.reader.read_buf(&mut from.buffer).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

fn refused(error: PeerError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
