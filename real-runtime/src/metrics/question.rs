//! Questions about a broker. It is a value on a thread of its own and is asked
//! there, after a batch of inputs; while nobody asks, it does nothing for it.
//!
//! The loop of an idle node sleeps for seconds. So whoever asks also knocks: a
//! connection to the node's own port, closed at once. It turns the loop by the
//! way that clients come, so an answer proves that way, too.

use std::{
    cell::RefCell,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use stormglass::disk::RealDisk;
use stormglass_core::broker::Broker;
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::timeout,
};

use super::{
    numbers,
    standing::Standing,
    text::{Metric, Origin},
};

/// How long an answer may take: a broker that is busy for longer, with a disk
/// that stalls, say, is not one to rely on.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that wait for the broker.
const QUESTIONS: usize = 4;

/// Who asks one node, from any thread.
pub struct Asker {
    pub origin: Origin,
    is_broker: bool,
    opened: Arc<OnceLock<SocketAddr>>,
    questions: mpsc::Sender<Question>,
}

/// The node's side: it goes to the node's thread.
pub struct Asked {
    opened: Arc<OnceLock<SocketAddr>>,
    questions: RefCell<mpsc::Receiver<Question>>,
}

struct Question {
    about: About,
    /// Where the connection comes from that woke the node.
    knock: SocketAddr,
}

enum About {
    Standing(oneshot::Sender<Standing>),
    Numbers(oneshot::Sender<Vec<Metric>>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    Opens,
    TooBusy,
    Ended,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Opens => f.write_str("opens its store"),
            Silence::TooBusy => write!(f, "does not answer within {PATIENCE:?}"),
            Silence::Ended => f.write_str("has ended"),
        }
    }
}

pub fn about(origin: Origin, is_broker: bool) -> (Asker, Asked) {
    let opened = Arc::new(OnceLock::new());
    let (sender, questions) = mpsc::channel(QUESTIONS);
    let asker = Asker { origin, is_broker, opened: opened.clone(), questions: sender };
    (asker, Asked { opened, questions: RefCell::new(questions) })
}

impl Asker {
    /// What a broker is good for; of a name server, that it listens.
    pub async fn standing(&self) -> Result<Standing, Silence> {
        if self.is_broker {
            return self.ask(About::Standing).await;
        }
        match self.opened.get() {
            _ if self.questions.is_closed() => Err(Silence::Ended),
            Some(_) => Ok(Standing::Serves),
            None => Err(Silence::Opens),
        }
    }

    /// All numbers of a broker; a name server has none.
    pub async fn numbers(&self) -> Result<Vec<Metric>, Silence> {
        if self.is_broker {
            return self.ask(About::Numbers).await;
        }
        self.standing().await.map(|_| Vec::new())
    }

    async fn ask<T>(&self, about: impl FnOnce(oneshot::Sender<T>) -> About) -> Result<T, Silence> {
        if self.questions.is_closed() {
            return Err(Silence::Ended);
        }
        let to = reachable(*self.opened.get().ok_or(Silence::Opens)?);
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let bound = socket.and_then(|socket| {
            socket.bind(SocketAddr::new(to.ip(), 0))?;
            Ok((socket.local_addr()?, socket))
        });
        // Without a descriptor or a port to knock with.
        let (knock, socket) = bound.map_err(|_| Silence::TooBusy)?;
        let (sender, answer) = oneshot::channel();
        let question = Question { about: about(sender), knock };
        self.questions.try_send(question).map_err(|_| Silence::TooBusy)?;
        // A busy node answers even if it takes no connection.
        spawn_local(async move { drop(timeout(PATIENCE, socket.connect(to)).await) });
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Silence::Ended),
            Err(_) => Err(Silence::TooBusy),
        }
    }
}

/// Where somebody on this machine reaches what listens there.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listening.port())
}

impl Asked {
    /// The node is about to serve on this address.
    pub fn opened(&self, listening: SocketAddr) {
        self.opened.get_or_init(|| listening);
    }

    /// Answers what was asked since the last batch of inputs.
    pub fn answer(&self, broker: &Broker<RealDisk>, unsent: &dyn Fn() -> usize) {
        let mut questions = self.questions.borrow_mut();
        while let Ok(question) = questions.try_recv() {
            answer(question, broker, unsent);
        }
    }
}

/// Whoever asked may have gone meanwhile.
fn answer(question: Question, broker: &Broker<RealDisk>, unsent: &dyn Fn() -> usize) {
    let view = broker.view();
    match question.about {
        About::Standing(answer) => drop(answer.send(Standing::of(&view))),
        About::Numbers(answer) if answer.is_closed() => {}
        About::Numbers(answer) => {
            let began = Instant::now();
            let mut all = numbers::of_broker(&view);
            let peers = view.peers().filter(|peer| *peer != question.knock);
            all.connections(peers.count(), unsent());
            all.took(began.elapsed());
            drop(answer.send(all.metrics));
        }
    }
}
