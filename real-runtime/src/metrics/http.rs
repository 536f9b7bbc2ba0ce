//! Who may ask, and for how long: few connections, one small request each.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    fmt::Write,
    future::Future,
    io,
    net::{SocketAddr, TcpListener as Bound},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use stormglass::on_tokio::block_on;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use super::{
    question::{Asker, Silence},
    standing::Standing,
    text::{self, Kind, Labels, Metric},
};

/// Connections at a time; more wait to be accepted.
pub(super) const CONNECTIONS: usize = 32;
/// From the first to the last byte of a request's head.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(5);
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// A connection has one request, and this long for all of it.
const DONE_WITHIN: Duration = Duration::from_secs(30);
/// After a connection that could not be accepted, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Who asks again so soon gets the same answer: however many ask, it costs the
/// brokers no more.
const NUMBERS_LAST: Duration = Duration::from_secs(1);
const STANDINGS_LAST: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// The address for metrics cannot be had.
#[derive(Debug)]
pub struct CannotListen {
    addr: SocketAddr,
    error: io::Error,
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot serve metrics on {}: {}", self.addr, self.error)
    }
}

impl Error for CannotListen {}

/// A listening socket, before anybody is answered.
pub struct Endpoint {
    listener: Bound,
    addr: SocketAddr,
}

impl Endpoint {
    pub fn bind(addr: SocketAddr) -> Result<Endpoint, CannotListen> {
        let bound = Bound::bind(addr).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(Endpoint { addr: listener.local_addr()?, listener })
        });
        bound.map_err(|error| CannotListen { addr, error })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers for as long as the process runs.
    pub fn serve(self, askers: Vec<Asker>) -> io::Result<()> {
        thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            let served = block_on(async move {
                let listener = TcpListener::from_std(self.listener)?;
                accept(listener, askers).await;
                Ok::<(), io::Error>(())
            });
            if let Err(error) = served.and_then(|served| served) {
                tracing::error!(%error, "metrics are not served");
            }
        })?;
        Ok(())
    }
}

pub(super) async fn accept(listener: TcpListener, askers: Vec<Asker>) {
    let watched = Rc::new(Watched::new(askers));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let watched = watched.clone();
                spawn_local(async move {
                    converse(stream, watched).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn converse(stream: TcpStream, watched: Rc<Watched>) {
    let service = service_fn(move |request: hyper::Request<_>| {
        let watched = watched.clone();
        async move {
            let answer = watched.answer(request.method(), request.uri().path()).await;
            Ok::<Answer, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who does not speak HTTP was told, and there is nobody else to tell.
    let _ = timeout(DONE_WITHIN, connection).await;
}

/// The nodes of this process.
struct Watched {
    askers: Vec<Asker>,
    numbers: Recent<Bytes>,
    standings: Recent<(StatusCode, Bytes)>,
}

impl Watched {
    fn new(askers: Vec<Asker>) -> Watched {
        let (numbers, standings) = (Recent::new(NUMBERS_LAST), Recent::new(STANDINGS_LAST));
        Watched { askers, numbers, standings }
    }

    async fn answer(&self, method: &Method, path: &str) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match path {
            "/metrics" => {
                let text = self.numbers.get(self.metrics()).await;
                told(StatusCode::OK, text::CONTENT_TYPE, text)
            }
            // A broker that takes long to open or to write does not get faster by
            // being killed, and one whose store failed ends by itself.
            "/livez" => plain(StatusCode::OK, "the process runs\n"),
            "/readyz" => {
                let (status, text) = self.standings.get(self.readiness()).await;
                plain(status, text)
            }
            _ => plain(StatusCode::NOT_FOUND, "there is /metrics, /livez and /readyz\n"),
        }
    }

    async fn metrics(&self) -> Bytes {
        let mut all = Vec::new();
        for asker in &self.askers {
            let numbers = asker.numbers().await;
            let is_up = f64::from(u8::from(numbers.is_ok()));
            let mut metrics = numbers.unwrap_or_default();
            metrics.push(Metric {
                name: "stormglass_node_up",
                kind: Kind::Gauge,
                help: "1 if the node answered; else it tells nothing but this.",
                labels: &[],
                values: [(Labels::None, is_up)].into_iter().collect(),
            });
            all.push((&asker.origin, metrics));
        }
        text::render(all).into()
    }

    /// A line for each node: what it is good for, or why it is not ready.
    async fn readiness(&self) -> (StatusCode, Bytes) {
        let (mut is_ready, mut text) = (true, String::new());
        for asker in &self.askers {
            let (node, standing) = (&asker.origin, asker.standing().await);
            is_ready &= standing.is_ok_and(Standing::is_ready);
            let what = said(standing);
            writeln!(text, "{} {}: {what}", node.node_type, node.node_id)
                .expect("a String takes all that is written");
        }
        let unready = StatusCode::SERVICE_UNAVAILABLE;
        (if is_ready { StatusCode::OK } else { unready }, text.into())
    }
}

fn said(standing: Result<Standing, Silence>) -> String {
    standing.map_or_else(|silence| silence.to_string(), |standing| standing.to_string())
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    told(status, "text/plain; charset=utf-8", text.into())
}

fn told(status: StatusCode, content_type: &'static str, text: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// An answer that is given to everybody who asks within a while; meanwhile it is
/// made at most once.
pub(super) struct Recent<T> {
    lasts: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Recent<T> {
    pub fn new(lasts: Duration) -> Recent<T> {
        Recent { lasts, last: Mutex::new(None) }
    }

    pub async fn get(&self, make: impl Future<Output = T>) -> T {
        let mut last = self.last.lock().await;
        if let Some((at, made)) = &*last
            && at.elapsed() < self.lasts
        {
            return made.clone();
        }
        let made = make.await;
        *last = Some((Instant::now(), made.clone()));
        made
    }
}
