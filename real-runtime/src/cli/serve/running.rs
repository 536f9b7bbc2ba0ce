//! Nodes that run, each on a thread of its own with a runtime, a listener and a
//! disk of its own, and how they all end.

use std::{error::Error, io, net::SocketAddr, rc::Rc, thread};

use stormglass::{
    disk::RealDisk,
    on_tokio::{OnTokio, block_on},
};
use stormglass_core::{
    replication::Flush,
    runtime::{Listener, Runtime},
    shell::node::{Node, Stopper},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use super::announce;
use crate::{
    cli::config::NodePlan,
    metrics::{self, Asked, Endpoint, Origin},
};

type Failure = Box<dyn Error + Send + Sync>;

/// Who shall stop. Name servers come last, for clients ask them where the
/// replicas' leaders have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Nobody,
    Brokers,
    Everybody,
}

enum Event {
    Signal(SignalKind),
    Ended { is_broker: bool, result: Result<(), Failure> },
}

/// Runs until a signal has stopped all nodes in order, or one of them failed
/// and the others were stopped.
pub async fn run(nodes: Vec<NodePlan>, endpoint: Option<Endpoint>) -> Result<(), Box<dyn Error>> {
    let (stop, stops) = watch::channel(Stop::Nobody);
    let (events, mut happens) = mpsc::channel(nodes.len() + 2);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, events) = (signal(kind)?, events.clone());
        tokio::task::spawn_local(async move {
            while signals.recv().await.is_some() && events.send(Event::Signal(kind)).await.is_ok() {
            }
        });
    }
    let mut brokers = nodes.iter().filter(|node| node.data.is_some()).count();
    let mut left = nodes.len();
    let told_on = endpoint.as_ref().map(Endpoint::addr);
    let mut askers = Vec::new();
    for node in nodes {
        let watched = told_on.map(|told_on| {
            let (asker, asked) = metrics::about(origin(&node), node.data.is_some());
            askers.push(asker);
            Watched { asked, told_on }
        });
        spawn(node, watched, stops.clone(), events.clone())?;
    }
    if let Some(endpoint) = endpoint {
        endpoint.serve(askers)?;
    }
    let mut failure = None;
    while left > 0 {
        match happens.recv().await {
            Some(Event::Signal(kind)) if *stop.borrow() != Stop::Nobody => {
                std::process::exit(128 + kind.as_raw_value());
            }
            Some(Event::Signal(_)) => {}
            Some(Event::Ended { is_broker, result }) => {
                left -= 1;
                brokers -= usize::from(is_broker);
                failure = failure.or(result.err());
            }
            None => break,
        }
        stop.send_replace(if brokers > 0 { Stop::Brokers } else { Stop::Everybody });
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// A node's side of the questions about it, and where others ask them.
struct Watched {
    asked: Asked,
    told_on: SocketAddr,
}

/// As RocketMQ's brokers name themselves in metrics: replicas of a set alike.
fn origin(node: &NodePlan) -> Origin {
    let (node_type, node_id) = match &node.config.broker {
        Some(broker) => ("broker", broker.name.clone()),
        None => ("nameserver", node.listen.to_string()),
    };
    Origin { cluster: node.cluster.clone(), node_type, node_id }
}

fn spawn(
    node: NodePlan,
    watched: Option<Watched>,
    stops: watch::Receiver<Stop>,
    events: mpsc::Sender<Event>,
) -> io::Result<()> {
    thread::Builder::new().name(node.title.clone()).spawn(move || {
        let is_broker = node.data.is_some();
        let result =
            block_on(serve(node, watched, stops)).unwrap_or_else(|error| Err(error.into()));
        // The other end waits for as long as a node runs.
        let _ = events.blocking_send(Event::Ended { is_broker, result });
    })?;
    Ok(())
}

async fn serve(
    mut plan: NodePlan,
    watched: Option<Watched>,
    stops: watch::Receiver<Stop>,
) -> Result<(), Failure> {
    let told_on = watched.as_ref().map(|watched| watched.told_on);
    let asked = watched.map(|watched| Rc::new(watched.asked));
    let runtime = match asked.clone() {
        Some(asked) => {
            OnTokio::new().observed_by(move |broker, unsent| asked.answer(broker, unsent))
        }
        None => OnTokio::new(),
    };
    let listener = runtime.listen(plan.listen).await;
    let listener = listener.map_err(|e| format!("cannot listen on {}: {e}", plan.listen))?;
    let addr = listener.local_addr()?;
    if let Some(broker) = &mut plan.config.broker
        && broker.host.port() == 0
    {
        broker.host.set_port(addr.port());
    }
    let node = match &plan.data {
        Some(data) => {
            let is_sync = plan.config.broker.as_ref().is_some_and(|b| b.flush == Flush::Sync);
            let disk = RealDisk::open(data)
                .and_then(|disk| if is_sync { disk.writing_ahead() } else { Ok(disk) })
                .map_err(|error| format!("cannot use {}: {error}", data.display()))?;
            Node::open(runtime, plan.config.clone(), disk).map_err(told(&plan))?
        }
        None => Node::of_name_server(runtime),
    };
    if let Some(asked) = &asked {
        asked.opened(addr);
    }
    let asked_at = if plan.data.is_some() { Stop::Brokers } else { Stop::Everybody };
    stop_when_asked(node.stopper(), stops, asked_at);
    let plan = Rc::new(plan);
    // A replica is of use before it leads.
    let is_replica = plan.config.peers.is_some();
    if is_replica {
        announce(addr, told_on, &plan);
    }
    let announced = plan.clone();
    let ready = move || match is_replica {
        true => tracing::info!("{} leads", announced.title),
        false => announce(addr, told_on, &announced),
    };
    node.serve(listener, ready).await.map_err(told(&plan))
}

fn told<E: Error>(plan: &NodePlan) -> impl Fn(E) -> Failure {
    move |error| format!("{}: {error}", plan.title).into()
}

fn stop_when_asked(stopper: Stopper, mut stops: watch::Receiver<Stop>, asked_at: Stop) {
    tokio::task::spawn_local(async move {
        // The sender lives for as long as the process.
        if stops.wait_for(|stop| *stop >= asked_at).await.is_ok() {
            stopper.stop().await;
        }
    });
}
