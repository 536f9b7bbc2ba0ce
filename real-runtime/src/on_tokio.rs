//! The machine that the process runs on: tokio's clocks, sockets and tasks.
//!
//! Everything runs on the one thread of a current-thread tokio runtime, inside
//! a `LocalSet`; see [`block_on`].

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use stormglass_core::{
    broker::Broker,
    runtime::{Listener, Runtime},
    time::{Now, Time},
};
use tokio::{
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{LocalSet, spawn_local},
};

use crate::disk::RealDisk;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Runs a future, and what it spawns, on this thread until the future ends.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

/// Starts something on a thread of its own and returns what the start returned.
/// The thread ends with the last task that was spawned on it.
pub fn on_new_thread<T: Send + 'static>(
    name: &str,
    start: impl FnOnce(OnTokio) -> T + Send + 'static,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (started, result) = mpsc::sync_channel(1);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let tasks = LocalSet::new();
        {
            let _inside = (runtime.enter(), tasks.enter());
            // Whoever asked for the start waits for this.
            let _ = started.send(start(OnTokio::new()));
        }
        runtime.block_on(tasks);
    })?;
    result.recv().map_err(|_| io::Error::other("the thread ended at its start"))
}

/// core's [`Runtime`] on tokio. Its methods must be called inside [`block_on`] or
/// [`on_new_thread`].
#[derive(Clone)]
pub struct OnTokio {
    started: Instant,
    observer: Option<Rc<Observer>>,
}

/// Reads a broker after each batch of its inputs, on its thread. The function
/// counts the bytes that wait in the node's connections.
type Observer = dyn Fn(&Broker<RealDisk>, &dyn Fn() -> usize);

impl OnTokio {
    pub fn new() -> OnTokio {
        OnTokio { started: Instant::now(), observer: None }
    }

    /// The same, and this is called with the broker of a node that runs on it,
    /// after each batch of inputs: the broker waits for it.
    pub fn observed_by(
        self,
        observer: impl Fn(&Broker<RealDisk>, &dyn Fn() -> usize) + 'static,
    ) -> OnTokio {
        OnTokio { observer: Some(Rc::new(observer)), ..self }
    }
}

impl fmt::Debug for OnTokio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnTokio").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Default for OnTokio {
    fn default() -> OnTokio {
        OnTokio::new()
    }
}

impl Runtime for OnTokio {
    type Disk = RealDisk;
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;
    type Listener = TokioListener;

    fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: Time(self.started.elapsed().as_micros() as u64),
            wall: since_epoch.as_millis() as i64,
        }
    }

    fn sleep_until(&self, until: Time) -> impl Future<Output = ()> + 'static {
        // A deadline past tokio's horizon is one that never comes.
        let at = self.started.checked_add(Duration::from_micros(until.0));
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        spawn_local(task);
    }

    fn entropy(&self) -> u64 {
        getrandom::u64().expect("the operating system gives entropy")
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<TokioListener> {
        let socket = socket_for(addr)?;
        // A restarted broker takes its port back while old connections linger.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(TokioListener(socket.listen(BACKLOG)?))
    }

    fn dial(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<(OwnedReadHalf, OwnedWriteHalf)>> + 'static {
        let socket = socket_for(addr);
        async move { halves(socket?.connect(addr).await?) }
    }

    fn observe(&self, _now: Now, broker: &Broker<RealDisk>, unsent: &dyn Fn() -> usize) {
        if let Some(observer) = &self.observer {
            observer(broker, unsent);
        }
    }
}

/// A listening socket.
pub struct TokioListener(TcpListener);

impl Listener<OnTokio> for TokioListener {
    async fn accept(&mut self) -> io::Result<(OwnedReadHalf, OwnedWriteHalf, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        let (reader, writer) = halves(stream)?;
        Ok((reader, writer, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn socket_for(addr: SocketAddr) -> io::Result<TcpSocket> {
    if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

fn halves(stream: TcpStream) -> io::Result<(OwnedReadHalf, OwnedWriteHalf)> {
    // A small answer must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}
