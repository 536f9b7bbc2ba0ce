//! What both simulators' networks have in common here: which links are cut,
//! which connections exist, and what becomes of those that ended in silence.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::machine::MachineNo;
use crate::disk::Timer;

/// How long a dial waits for an answer before it tries again, in microseconds,
/// as TCP does with its SYN; after the last it has timed out.
const SYN_RETRIES_US: [u64; 3] = [1_000_000, 2_000_000, 4_000_000];

/// How long a refusal takes, in microseconds.
const REFUSAL_US: u64 = 2_000;

/// The state of all links. Clones are handles to the same network.
#[derive(Clone, Default)]
pub struct Network(Rc<RefCell<Links>>);

#[derive(Default)]
struct Links {
    /// How many partitions cut each one-way link.
    cuts: BTreeMap<(MachineNo, MachineNo), u32>,
    without_power: BTreeSet<MachineNo>,
    /// Machines whose kernel refuses dials, because nothing runs there.
    without_process: BTreeSet<MachineNo>,
    extra_us: BTreeMap<(MachineNo, MachineNo), u64>,
    connections: Vec<Weak<Connection>>,
    /// Ends of connections whose closing the peer has not learnt of, because
    /// it could not be told: the machine has no power or the link was cut.
    silent: Vec<(MachineNo, MachineNo, Box<dyn Any>)>,
}

impl Network {
    pub(super) fn cut(&self, from: MachineNo, to: MachineNo) {
        *self.0.borrow_mut().cuts.entry((from, to)).or_default() += 1;
    }

    pub(super) fn uncut(&self, from: MachineNo, to: MachineNo) {
        let mut links = self.0.borrow_mut();
        if let Some(cuts) = links.cuts.get_mut(&(from, to)) {
            *cuts -= 1;
            if *cuts == 0 {
                links.cuts.remove(&(from, to));
            }
        }
    }

    pub(super) fn uncut_all(&self) {
        self.0.borrow_mut().cuts.clear();
    }

    pub(super) fn set_power(&self, machine: MachineNo, on: bool) {
        let mut links = self.0.borrow_mut();
        if on {
            links.without_power.remove(&machine);
        } else {
            links.without_power.insert(machine);
        }
    }

    pub(super) fn set_process(&self, machine: MachineNo, runs: bool) {
        let mut links = self.0.borrow_mut();
        if runs {
            links.without_process.remove(&machine);
        } else {
            links.without_process.insert(machine);
        }
    }

    pub fn passes(&self, from: MachineNo, to: MachineNo) -> bool {
        let links = self.0.borrow();
        !links.cuts.contains_key(&(from, to))
            && !links.without_power.contains(&from)
            && !links.without_power.contains(&to)
    }

    pub(super) fn set_extra_latency(&self, a: MachineNo, b: MachineNo, us: u64) {
        let mut links = self.0.borrow_mut();
        for link in [(a, b), (b, a)] {
            if us == 0 {
                links.extra_us.remove(&link);
            } else {
                links.extra_us.insert(link, us);
            }
        }
    }

    pub(super) fn slow_links(&self) -> Vec<(MachineNo, MachineNo)> {
        self.0.borrow().extra_us.keys().copied().collect()
    }

    pub fn extra_latency_us(&self, from: MachineNo, to: MachineNo) -> u64 {
        self.0.borrow().extra_us.get(&(from, to)).copied().unwrap_or(0)
    }

    /// Resets the connections between two machines, at both ends.
    pub(super) fn reset(&self, a: MachineNo, b: MachineNo) {
        self.between(a, b).for_each(|connection| connection.reset());
    }

    /// Nothing comes through the connections between two machines any more, and
    /// neither end is told.
    pub(super) fn silence(&self, a: MachineNo, b: MachineNo) {
        self.between(a, b).for_each(|connection| connection.is_silent.set(true));
    }

    /// Both ends of each connection between two machines.
    fn between(&self, a: MachineNo, b: MachineNo) -> impl Iterator<Item = Rc<Connection>> {
        let all: Vec<_> = self.0.borrow().connections.iter().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(move |connection| {
            let ends = (connection.local, connection.peer);
            ends == (a, b) || ends == (b, a)
        })
    }

    /// Sends what the ends of silent connections had no way to send: called
    /// when a machine starts again or a link is mended.
    pub(super) fn break_silence(&self) {
        let silent = std::mem::take(&mut self.0.borrow_mut().silent);
        let (tell, keep): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|(from, to, _)| self.passes(*from, *to));
        self.0.borrow_mut().silent = keep;
        drop(tell);
    }

    /// Keeps the end of a connection whose peer cannot be told that it closed.
    pub(super) fn close_silently(&self, connection: &Connection, end: Box<dyn Any>) {
        if !self.passes(connection.local, connection.peer) {
            self.0.borrow_mut().silent.push((connection.local, connection.peer, end));
        }
    }

    pub(super) fn connected(&self, local: MachineNo, peer: MachineNo) -> Rc<Connection> {
        let connection = Rc::new(Connection {
            local,
            peer,
            is_reset: Cell::new(false),
            is_silent: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        let mut links = self.0.borrow_mut();
        if links.connections.len() == links.connections.capacity() {
            links.connections.retain(|known| known.strong_count() > 0);
        }
        links.connections.push(Rc::downgrade(&connection));
        connection
    }

    /// Waits until a dial from one machine to another would be answered.
    ///
    /// # Errors
    /// `TimedOut` after seven seconds of silence; `ConnectionRefused` by a
    /// machine on which nothing runs; `HostUnreachable` if there is none.
    pub(super) async fn reach(
        &self,
        from: MachineNo,
        to: IpAddr,
        time: &dyn Timer,
    ) -> io::Result<MachineNo> {
        let to = MachineNo::of(to).ok_or(io::ErrorKind::HostUnreachable)?;
        for wait in SYN_RETRIES_US {
            if self.passes(from, to) && self.passes(to, from) {
                if self.0.borrow().without_process.contains(&to) {
                    time.sleep_us(REFUSAL_US).await;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                return Ok(to);
            }
            time.sleep_us(wait).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// One end of a connection.
pub struct Connection {
    pub local: MachineNo,
    pub peer: MachineNo,
    is_reset: Cell<bool>,
    /// What is written vanishes, and nothing is read.
    is_silent: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Connection {
    fn reset(&self) {
        self.is_reset.set(true);
        for waiting in [&self.reader, &self.writer] {
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
    }

    /// Fails on a reset connection; else remembers whom to wake by a reset.
    fn check(&self, waiting: &RefCell<Option<Waker>>, cx: &Context<'_>) -> io::Result<()> {
        if self.is_reset.get() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut waiting = waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Ok(())
    }
}

/// The reading half of a simulator's stream, which can be reset.
pub struct Reader<S> {
    pub(super) connection: Rc<Connection>,
    pub(super) inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Reader<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection.check(&self.connection.reader, cx)?;
        if self.connection.is_silent.get() {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

/// The writing half of a simulator's stream, which can be reset.
pub struct Writer<S> {
    pub(super) connection: Rc<Connection>,
    pub(super) inner: S,
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Writer<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.check(&self.connection.writer, cx)?;
        if self.connection.is_silent.get() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    /// One segment for all slices, as a kernel would make of them.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.inner.is_write_vectored() && !self.connection.is_silent.get() {
            self.connection.check(&self.connection.writer, cx)?;
            return Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        }
        match slices {
            [one] => self.poll_write(cx, one),
            _ => {
                let mut whole = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
                slices.iter().for_each(|slice| whole.extend_from_slice(slice));
                self.poll_write(cx, &whole)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.check(&self.connection.writer, cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
