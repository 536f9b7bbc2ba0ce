//! The cluster on madsim: time jumps from event to event, and of all tasks that
//! could run a random one does. Its streams have no backpressure and deliver
//! what is flushed.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use madsim::{
    net::{NetSim, TcpListener, TcpStream},
    runtime::Handle,
    task::NodeId,
    time::{Sleep, TimeHandle},
};
use stormglass_core::{
    broker::Broker,
    runtime::{self, Runtime},
    time::{Now, Time},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::RngSeed,
};

use super::{
    Machine, MachineNo, NetConfig, Process, Program, Running, World,
    network::{Connection, Reader, Writer},
};
use crate::{
    clock,
    disk::{SimDisk, Timer},
};

/// Runs `conduct` in a fresh world; the same seed gives the same run.
pub fn run<T>(seed: u64, net: &NetConfig, conduct: impl AsyncFnOnce(MadsimWorld) -> T) -> T {
    let mut config = madsim::Config::default();
    let latency = &net.latency_us;
    config.net.send_latency =
        Duration::from_micros(*latency.start())..Duration::from_micros(latency.end() + 1);
    let madsim = madsim::runtime::Runtime::with_seed_and_config(seed, config);
    // tokio's own generator, which madsim does not know, gets a seed as well.
    let tokio = tokio::runtime::Builder::new_current_thread()
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without drivers needs nothing from the system");
    tokio.block_on(tokio::task::unconstrained(async {
        madsim.block_on(async {
            let time = MadsimTime(TimeHandle::current());
            conduct(MadsimWorld { handle: Handle::current(), time, nodes: Vec::new() }).await
        })
    }))
}

#[derive(Clone)]
struct MadsimTime(TimeHandle);

impl Timer for MadsimTime {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    fn sleep_us(&self, us: u64) -> Running {
        Box::pin(Timed::new(&self.0, Duration::from_micros(us)))
    }
}

/// madsim's sleep takes at least a millisecond and sets another timer whenever
/// it is polled; this one does neither.
struct Timed {
    sleep: Sleep,
    waiting: Option<Waker>,
}

impl Timed {
    fn new(time: &TimeHandle, after: Duration) -> Timed {
        let mut sleep = time.sleep(after);
        Pin::new(&mut sleep).reset(time.now_instant() + after);
        Timed { sleep, waiting: None }
    }
}

impl Future for Timed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let is_set = self.waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.waiting = Some(cx.waker().clone());
        Pin::new(&mut self.sleep).poll(cx)
    }
}

pub struct MadsimWorld {
    handle: Handle,
    time: MadsimTime,
    nodes: Vec<MadsimNode>,
}

impl Drop for MadsimWorld {
    /// A task that waits holds what would wake it, and so itself: left alone it
    /// outlives the run, some megabytes each time.
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| self.handle.kill(node.id));
    }
}

struct MadsimNode {
    id: NodeId,
    started: bool,
}

thread_local! {
    /// What the next task to start on a node runs. A node takes only futures
    /// that could move between threads, and none of ours ever does.
    static STARTING: RefCell<Vec<(NodeId, Running)>> = const { RefCell::new(Vec::new()) };
}

impl World for MadsimWorld {
    type Runtime = MadsimRuntime;

    fn time(&self) -> Rc<dyn Timer> {
        Rc::new(self.time.clone())
    }

    fn now_us(&self) -> u64 {
        self.time.now_us()
    }

    async fn advance_to(&mut self, us: u64) {
        let now = self.now_us();
        if us > now {
            self.time.sleep_us(us - now).await;
        }
        clock::set_true_now_us(self.now_us());
    }

    fn add(&mut self, machine: &Rc<Machine>) {
        let node = self.handle.create_node().name(&*machine.name).ip(machine.no.ip()).build();
        self.nodes.push(MadsimNode { id: node.id(), started: false });
    }

    fn start(&mut self, process: Process, disk: SimDisk, program: &Program<MadsimRuntime>) {
        let node = &mut self.nodes[process.machine.no.0];
        if std::mem::replace(&mut node.started, true) {
            self.handle.restart(node.id);
        }
        let id = node.id;
        let runtime = MadsimRuntime { process: process.clone() };
        let life = program(runtime, disk);
        let handle = self.handle.clone();
        let task = process.clone().task(async move {
            let why = life.await;
            process.exit(why);
            handle.kill(id);
        });
        STARTING.with_borrow_mut(|starting| starting.push((id, Box::pin(task))));
        let node = self.handle.get_node(id).expect("the node was added");
        node.spawn(async move {
            let mine = STARTING.with_borrow_mut(|starting| {
                let at = starting.iter().position(|(node, _)| *node == id);
                at.map(|at| starting.swap_remove(at).1)
            });
            if let Some(task) = mine {
                madsim::task::spawn_local(task);
            }
        });
    }

    fn stop(&mut self, machine: MachineNo) {
        let id = self.nodes[machine.0].id;
        STARTING.with_borrow_mut(|starting| starting.retain(|(node, _)| *node != id));
        self.handle.kill(id);
    }

    fn set_link(&mut self, from: MachineNo, to: MachineNo, passes: bool) {
        let net = NetSim::current();
        let (from, to) = (self.nodes[from.0].id, self.nodes[to.0].id);
        if passes {
            net.unclog_link(from, to);
        } else {
            net.clog_link(from, to);
        }
    }

    /// madsim has one latency for all links: what is extra is waited for by
    /// the reader.
    fn set_extra_latency(&mut self, _a: MachineNo, _b: MachineNo, _us: u64) {}
}

/// A process on a madsim node.
#[derive(Clone)]
pub struct MadsimRuntime {
    process: Process,
}

impl Runtime for MadsimRuntime {
    type Disk = SimDisk;
    type Reader = Reader<ReadHalf>;
    type Writer = Writer<WriteHalf>;
    type Listener = MadsimListener;

    fn now(&self) -> Now {
        self.process.now()
    }

    fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static {
        self.process.sleep_until(until)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        madsim::task::spawn_local(self.process.task(task));
    }

    fn entropy(&self) -> u64 {
        self.process.entropy()
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<MadsimListener> {
        let listener = TcpListener::bind(addr).await?;
        Ok(MadsimListener { process: self.process.clone(), listener })
    }

    fn dial(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<(Self::Reader, Self::Writer)>> + 'static {
        let process = self.process.clone();
        async move {
            let local = process.machine.no;
            let peer = process.network.reach(local, addr.ip(), &*process.time).await?;
            Ok(split(&process, peer, TcpStream::connect(addr).await?))
        }
    }

    fn observe(&self, _now: Now, broker: &Broker<SimDisk>, unsent: &dyn Fn() -> usize) {
        self.process.observe(broker, unsent);
    }
}

pub struct MadsimListener {
    process: Process,
    listener: TcpListener,
}

impl runtime::Listener<MadsimRuntime> for MadsimListener {
    async fn accept(&mut self) -> io::Result<(Reader<ReadHalf>, Writer<WriteHalf>, SocketAddr)> {
        let (stream, addr) = self.listener.accept().await?;
        let peer = MachineNo::of(addr.ip()).unwrap_or(self.process.machine.no);
        let (reader, writer) = split(&self.process, peer, stream);
        Ok((reader, writer, addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A stream shared by its halves. It closes when the first of them does:
/// madsim knows no half-closed connections.
struct Shared {
    process: Process,
    connection: Rc<Connection>,
    stream: RefCell<Option<TcpStream>>,
    unflushed: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Shared {
    fn close(&self) {
        if let Some(stream) = self.stream.take() {
            self.process.network.close_silently(&self.connection, Box::new(stream));
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

fn split(
    process: &Process,
    peer: MachineNo,
    stream: TcpStream,
) -> (Reader<ReadHalf>, Writer<WriteHalf>) {
    let connection = process.network.connected(process.machine.no, peer);
    let shared = Rc::new(Shared {
        process: process.clone(),
        connection: connection.clone(),
        stream: RefCell::new(Some(stream)),
        unflushed: Cell::new(false),
        reader: RefCell::default(),
    });
    let reader = ReadHalf { shared: shared.clone(), late: VecDeque::new(), wait: None };
    (
        Reader { connection: connection.clone(), inner: reader },
        Writer { connection, inner: WriteHalf { shared } },
    )
}

pub struct ReadHalf {
    shared: Rc<Shared>,
    /// What has arrived and is held back until a time in microseconds, because
    /// the link has extra latency.
    late: VecDeque<(u64, Bytes)>,
    wait: Option<Running>,
}

impl ReadHalf {
    fn poll_stream(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self.shared.stream.borrow_mut() {
            Some(stream) => {
                let polled = Pin::new(stream).poll_read(cx, buf);
                if polled.is_pending() {
                    *self.shared.reader.borrow_mut() = Some(cx.waker().clone());
                }
                polled
            }
            None => Poll::Ready(Ok(())),
        }
    }

    /// Takes what has arrived and notes when it may be read. True at the end
    /// of the stream.
    fn hold_back(&mut self, cx: &mut Context<'_>, extra_us: u64) -> io::Result<bool> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            let mut buf = ReadBuf::new(&mut chunk);
            match self.poll_stream(cx, &mut buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(false),
            }
            if buf.filled().is_empty() {
                return Ok(true);
            }
            let due = self.shared.process.time.now_us() + extra_us;
            let due = self.late.back().map_or(due, |(last, _)| due.max(*last));
            self.late.push_back((due, Bytes::copy_from_slice(buf.filled())));
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (local, peer) = (self.shared.connection.local, self.shared.connection.peer);
        let extra_us = self.shared.process.network.extra_latency_us(peer, local);
        if extra_us == 0 && self.late.is_empty() {
            return self.poll_stream(cx, buf);
        }
        let ended = self.hold_back(cx, extra_us)?;
        loop {
            let now = self.shared.process.time.now_us();
            let Some((due, bytes)) = self.late.front_mut() else {
                return if ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            let due = *due;
            if due <= now {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                bytes.advance(n);
                if bytes.is_empty() {
                    self.late.pop_front();
                }
                self.wait = None;
                return Poll::Ready(Ok(()));
            }
            let time = self.shared.process.time.clone();
            let wait = self.wait.get_or_insert_with(|| time.sleep_us(due - now));
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.shared.close();
    }
}

pub struct WriteHalf {
    shared: Rc<Shared>,
}

impl WriteHalf {
    fn with<T>(
        &self,
        f: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.shared.stream.borrow_mut() {
            Some(stream) => f(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.unflushed.set(true);
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.unflushed.set(true);
        self.with(|mut stream| {
            let mut written = 0;
            for slice in slices {
                written += ready!(stream.as_mut().poll_write(cx, slice))?;
            }
            Poll::Ready(Ok(written))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.unflushed.replace(false) {
            return Poll::Ready(Ok(()));
        }
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.as_mut().poll_flush(cx);
        self.shared.close();
        flushed
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.shared.close();
    }
}
