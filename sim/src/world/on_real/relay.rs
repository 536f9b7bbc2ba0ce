//! What stands between any two machines: it takes connections where a server
//! seems to listen, and passes bytes on while the link does.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::spawn_local,
    time::{Instant, sleep, sleep_until},
};

use super::dialler;
use crate::world::{
    MachineNo, Network,
    network::{Connection, Reader, Writer},
};

/// Where servers may listen, before their relays do.
const PORTS: usize = 1024;
/// Before the next connection, if one could not be taken.
const PAUSE: Duration = Duration::from_millis(10);
const CHUNK: usize = 64 << 10;
/// Chunks on their way over one link.
const ON_THE_WAY: usize = 64;

/// All relays of a run. Clones are handles to the same.
#[derive(Clone)]
pub struct Relays(Rc<Shared>);

struct Shared {
    /// Takes listeners and who is behind them: they outlive the process that
    /// asks for them.
    open: mpsc::Sender<(TcpListener, MachineNo, SocketAddr)>,
    network: RefCell<Network>,
    /// Told when links change.
    changed: Notify,
    /// Clients that are about to dial from a port of this process.
    dialling: RefCell<BTreeMap<u16, MachineNo>>,
    /// Where servers seem to listen.
    listening: RefCell<BTreeSet<SocketAddr>>,
    /// Processes of servers.
    pids: RefCell<BTreeMap<u32, MachineNo>>,
}

impl Relays {
    /// Must be called by what outlives all processes.
    pub fn start() -> Relays {
        let (open, mut opened) = mpsc::channel(PORTS);
        let relays = Relays(Rc::new(Shared {
            open,
            network: RefCell::default(),
            changed: Notify::new(),
            dialling: RefCell::default(),
            listening: RefCell::default(),
            pids: RefCell::default(),
        }));
        let all = relays.clone();
        spawn_local(async move {
            while let Some((listener, to, is)) = opened.recv().await {
                spawn_local(all.clone().accept(listener, to, is));
            }
        });
        relays
    }

    pub fn links_changed(&self) {
        self.0.changed.notify_waiters();
    }

    /// Whatever comes from this port of this process comes from that machine.
    pub fn dials(&self, port: u16, from: MachineNo) {
        self.0.dialling.borrow_mut().insert(port, from);
    }

    pub fn runs(&self, pid: u32, on: MachineNo) {
        self.0.pids.borrow_mut().retain(|_, machine| *machine != on);
        self.0.pids.borrow_mut().insert(pid, on);
    }

    pub fn pids_on(&self, machine: MachineNo) -> Vec<u32> {
        let pids = self.0.pids.borrow();
        pids.iter().filter(|(_, on)| **on == machine).map(|(pid, _)| *pid).collect()
    }

    /// From now on listens at `seems` for the server on `to`, which really is at `is`.
    pub fn listen(
        &self,
        network: &Network,
        to: MachineNo,
        seems: SocketAddr,
        is: SocketAddr,
    ) -> io::Result<()> {
        if !self.0.listening.borrow_mut().insert(seems) {
            return Ok(());
        }
        *self.0.network.borrow_mut() = network.clone();
        let listener = StdListener::bind(seems)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        self.0.open.try_send((listener, to, is)).map_err(io::Error::other)
    }

    async fn accept(self, listener: TcpListener, to: MachineNo, is: SocketAddr) {
        loop {
            match listener.accept().await {
                Ok((stream, dialler)) => {
                    let relays = self.clone();
                    spawn_local(async move { relays.carry(stream, dialler, to, is).await });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Who dialled; none if it is gone by now.
    fn who(&self, dialler: SocketAddr) -> Option<MachineNo> {
        let client = self.0.dialling.borrow_mut().remove(&dialler.port());
        client.or_else(|| {
            let pids = self.0.pids.borrow();
            let owner = dialler::owner(dialler, pids.keys().copied())?;
            pids.get(&owner).copied()
        })
    }

    async fn carry(&self, dialled: TcpStream, dialler: SocketAddr, to: MachineNo, is: SocketAddr) {
        let Some(from) = self.who(dialler) else { return };
        self.until_passes(from, to).await;
        self.until_passes(to, from).await;
        let Ok(reached) = TcpStream::connect(is).await else { return };
        if dialled.set_nodelay(true).and_then(|()| reached.set_nodelay(true)).is_err() {
            return;
        }
        let network = self.0.network.borrow().clone();
        let (ours, theirs) = (network.connected(from, to), network.connected(to, from));
        let (dialled_reader, dialled_writer) = ends(dialled.into_split(), ours);
        let (reached_reader, reached_writer) = ends(reached.into_split(), theirs);
        tokio::join!(
            self.pump(from, to, dialled_reader, reached_writer),
            self.pump(to, from, reached_reader, dialled_writer)
        );
    }

    /// What one end says reaches the other one when and while the link passes.
    async fn pump(
        &self,
        from: MachineNo,
        to: MachineNo,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
    ) {
        let (chunks, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
        let taking = async move {
            let mut chunk = vec![0; CHUNK];
            while let Ok(read @ 1..) = reader.read(&mut chunk).await {
                let extra = self.0.network.borrow().extra_latency_us(from, to);
                let due = Instant::now() + Duration::from_micros(extra);
                if chunks.send((due, chunk[..read].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let giving = async {
            while let Some((due, chunk)) = arriving.recv().await {
                sleep_until(due).await;
                self.until_passes(from, to).await;
                if writer.write_all(&chunk).await.is_err() {
                    return;
                }
            }
            // Nobody hears of an end that cannot be told.
            self.until_passes(from, to).await;
            let _ = writer.shutdown().await;
        };
        tokio::join!(taking, giving);
    }

    async fn until_passes(&self, from: MachineNo, to: MachineNo) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.network.borrow().passes(from, to) {
                return;
            }
            changed.await;
        }
    }
}

fn ends<R, W>((reader, writer): (R, W), connection: Rc<Connection>) -> (Reader<R>, Writer<W>) {
    (Reader { connection: connection.clone(), inner: reader }, Writer { connection, inner: writer })
}
