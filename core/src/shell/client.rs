//! Runs a client: one loop owns the value, and moves bytes and time in and out
//! of it.

mod handle;
mod readers;
mod transactions;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc, oneshot};

pub use handle::{Changes, Client, Consumer, Delivery};
use handle::{Feed, Request, Settlement};
pub use readers::{PopConsumer, PullConsumer};
pub use transactions::{Check, Checks, Transactions};

use super::connection::{Outbox, read_frames, write_packets};
use crate::{
    client::{
        self, Change, ClientConfig, ClientCore, Command, ConsumerId, Done, Input, Output, Ticket,
    },
    ids::ConnId,
    runtime::Runtime,
    time::Time,
    wire::Frame,
};

/// Requests and events of links that may wait for the loop.
const QUEUE: usize = 1024;
/// Taken from each queue before the loop looks at the others.
const BATCH: usize = 256;
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a client on this runtime and returns its handle, which may be used
/// from any thread.
pub fn start<R: Runtime>(rt: R, config: ClientConfig) -> Client {
    let (requests, requests_in) = mpsc::channel(QUEUE);
    let (events, events_in) = mpsc::channel(QUEUE);
    // Bounded by construction: two entries for each delivery, and those are bounded.
    let (settlements, settlements_in) = mpsc::unbounded_channel();
    let unresolved = Arc::new(Semaphore::new(config.max_unresolved_sends));
    let running = Running {
        core: ClientCore::new(config, rt.entropy()),
        rt: rt.clone(),
        links: BTreeMap::new(),
        next_link: 0,
        next_ticket: 0,
        waiting: BTreeMap::new(),
        subscribing: BTreeMap::new(),
        consumers: BTreeMap::new(),
        checks: None,
        events,
        settlements: settlements.clone(),
    };
    let queues = Queues {
        requests: requests_in,
        settlements: settlements_in,
        events: events_in,
        all_handles_gone: false,
    };
    rt.spawn(running.run(queues));
    Client { requests, settlements, unresolved }
}

enum Event {
    LinkUp { addr: SocketAddr, link: ConnId },
    LinkDown { addr: SocketAddr, link: ConnId, why: String },
    Frames { addr: SocketAddr, link: ConnId, frames: Vec<Frame> },
}

struct Link {
    id: ConnId,
    outbox: Outbox,
}

struct Subscriber {
    deliveries: mpsc::Sender<Delivery>,
    changes: mpsc::Sender<Change>,
    redelivery_delay: Duration,
}

struct Running<R: Runtime> {
    core: ClientCore,
    rt: R,
    links: BTreeMap<SocketAddr, Link>,
    next_link: u64,
    next_ticket: Ticket,
    waiting: BTreeMap<Ticket, oneshot::Sender<Done>>,
    subscribing: BTreeMap<Ticket, Subscriber>,
    consumers: BTreeMap<ConsumerId, Subscriber>,
    checks: Option<mpsc::Sender<client::Check>>,
    events: mpsc::Sender<Event>,
    settlements: mpsc::UnboundedSender<Settlement>,
}

/// Everything that wakes the loop, other than time.
struct Queues {
    requests: mpsc::Receiver<Request>,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    events: mpsc::Receiver<Event>,
    all_handles_gone: bool,
}

#[derive(Default)]
struct Batch {
    requests: Vec<Request>,
    settlements: Vec<Settlement>,
    events: Vec<Event>,
    /// The last handle was just dropped.
    abandoned: bool,
}

impl<R: Runtime> Running<R> {
    async fn run(mut self, mut queues: Queues) {
        let mut batch = Batch::default();
        let mut timer = Timer::default();
        while !self.core.is_closed() {
            timer.set(&self.rt, self.core.deadline());
            poll_fn(|cx| {
                let news = queues.poll(cx, &mut batch).is_ready();
                // Polled even with news, so that it is armed for the next round.
                let due = timer.poll(cx).is_ready();
                if news || due { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            self.take_in(&mut batch);
            self.put_out();
        }
        for link in self.links.values() {
            link.outbox.close();
        }
    }

    fn take_in(&mut self, batch: &mut Batch) {
        let now = self.rt.now();
        self.core.handle(now, Input::Tick);
        for settlement in batch.settlements.drain(..) {
            match settlement {
                Settlement::Taken(delivery) => {
                    self.core.handle(now, Input::Taken { delivery });
                }
                Settlement::Settled { delivery, verdict } => {
                    self.core.handle(now, Input::Settle { delivery, verdict });
                }
                Settlement::Abandoned(id) => {
                    let ticket = next(&mut self.next_ticket);
                    let command = Command::CloseConsumer(id);
                    self.core.handle(now, Input::Command { ticket, command });
                }
            }
        }
        for event in batch.events.drain(..) {
            match event {
                Event::LinkUp { addr, link } if is_current(&self.links, addr, link) => {
                    self.core.handle(now, Input::LinkUp { addr });
                }
                Event::LinkDown { addr, link, why } if is_current(&self.links, addr, link) => {
                    self.links.remove(&addr);
                    self.core.handle(now, Input::LinkDown { addr, why });
                }
                Event::Frames { addr, link, frames } if is_current(&self.links, addr, link) => {
                    for frame in frames {
                        self.core.handle(now, Input::Frame { addr, frame });
                    }
                }
                // News of a link that was given up in the meantime.
                _ => {}
            }
        }
        for request in batch.requests.drain(..) {
            let ticket = next(&mut self.next_ticket);
            self.waiting.insert(ticket, request.reply);
            match (request.feed, &request.command) {
                (Some(Feed::Consumer { deliveries, changes }), Command::Subscribe(config)) => {
                    let redelivery_delay = config.redelivery_delay;
                    let subscriber = Subscriber { deliveries, changes, redelivery_delay };
                    self.subscribing.insert(ticket, subscriber);
                }
                (Some(Feed::Checks(checks)), _) => self.checks = Some(checks),
                _ => {}
            }
            self.core.handle(now, Input::Command { ticket, command: request.command });
        }
        if std::mem::take(&mut batch.abandoned) {
            let ticket = next(&mut self.next_ticket);
            self.core.handle(now, Input::Command { ticket, command: Command::Close });
        }
    }

    fn put_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { addr, packet } => {
                    if !self.links.contains_key(&addr) {
                        self.dial(addr);
                    }
                    if let Some(link) = self.links.get(&addr) {
                        link.outbox.send(packet);
                    }
                }
                Output::Close { addr } => {
                    if let Some(link) = self.links.remove(&addr) {
                        link.outbox.close();
                    }
                }
                Output::Complete { ticket, done } => self.complete(ticket, done),
                Output::Changed { consumer, change } => {
                    if let Some(subscriber) = self.consumers.get(&consumer) {
                        // Full when the application does not want to know.
                        let _ = subscriber.changes.try_send(change);
                    }
                }
                Output::Left { consumer } => {
                    self.consumers.remove(&consumer);
                }
                Output::Check(check) => {
                    if let Some(checks) = &self.checks {
                        // Dropped when nobody takes it: the broker will ask again.
                        let _ = checks.try_send(*check);
                    }
                }
                Output::Deliver { delivery, message } => {
                    let Some(subscriber) = self.consumers.get(&delivery.consumer) else { continue };
                    let delivery = Delivery {
                        message,
                        id: delivery,
                        redelivery_delay: subscriber.redelivery_delay,
                        settlements: Some(self.settlements.clone()),
                    };
                    // A dropped consumer's delivery settles itself by being dropped.
                    let _ = subscriber.deliveries.try_send(delivery);
                }
            }
        }
    }

    fn complete(&mut self, ticket: Ticket, done: Done) {
        let subscriber = self.subscribing.remove(&ticket);
        let subscribed = match (&done, subscriber) {
            (Done::Subscribed(Ok(id)), Some(subscriber)) => {
                self.consumers.insert(*id, subscriber);
                Some(*id)
            }
            _ => None,
        };
        let Some(reply) = self.waiting.remove(&ticket) else { return };
        if reply.send(done).is_err()
            && let Some(id) = subscribed
        {
            // Whoever subscribed stopped waiting for it.
            let _ = self.settlements.send(Settlement::Abandoned(id));
        }
    }

    fn dial(&mut self, addr: SocketAddr) {
        let link = ConnId(next(&mut self.next_link));
        let outbox = Outbox::new();
        self.links.insert(addr, Link { id: link, outbox: outbox.clone() });
        let (rt, events) = (self.rt.clone(), self.events.clone());
        self.rt.spawn(async move {
            let why = match dial_in_time(&rt, addr).await {
                Ok((reader, writer)) => {
                    if events.send(Event::LinkUp { addr, link }).await.is_err() {
                        return;
                    }
                    let outgoing = outbox.clone();
                    rt.spawn(async move {
                        write_packets(writer, &outgoing).await;
                    });
                    let wrap = |frames| Event::Frames { addr, link, frames };
                    read_frames(reader, &outbox, &events, wrap).await.to_string()
                }
                Err(error) => error.to_string(),
            };
            outbox.close();
            let _ = events.send(Event::LinkDown { addr, link, why }).await;
        });
    }
}

impl Queues {
    fn poll(&mut self, cx: &mut std::task::Context<'_>, batch: &mut Batch) -> Poll<()> {
        let mut news =
            self.settlements.poll_recv_many(cx, &mut batch.settlements, BATCH).is_ready();
        news |= self.events.poll_recv_many(cx, &mut batch.events, BATCH).is_ready();
        if !self.all_handles_gone
            && let Poll::Ready(taken) = self.requests.poll_recv_many(cx, &mut batch.requests, BATCH)
        {
            news = true;
            if taken == 0 {
                self.all_handles_gone = true;
                batch.abandoned = true;
            }
        }
        if news { Poll::Ready(()) } else { Poll::Pending }
    }
}

type Sleep = Pin<Box<dyn Future<Output = ()>>>;

/// One sleeping future, replaced only by an earlier one: waking too early costs
/// less than a new timer for every packet.
#[derive(Default)]
struct Timer {
    sleeping: Option<(Time, Sleep)>,
}

impl Timer {
    fn set<R: Runtime>(&mut self, rt: &R, deadline: Option<Time>) {
        let Some(deadline) = deadline else { return };
        if self.sleeping.as_ref().is_none_or(|(until, _)| deadline < *until) {
            self.sleeping = Some((deadline, Box::pin(rt.sleep_until(deadline))));
        }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Some((_, sleep)) = &mut self.sleeping else { return Poll::Pending };
        std::task::ready!(sleep.as_mut().poll(cx));
        self.sleeping = None;
        Poll::Ready(())
    }
}

async fn dial_in_time<R: Runtime>(rt: &R, addr: SocketAddr) -> io::Result<(R::Reader, R::Writer)> {
    let mut dial = std::pin::pin!(rt.dial(addr));
    let mut timeout = std::pin::pin!(rt.sleep_until(rt.now().mono + DIAL_TIMEOUT));
    poll_fn(|cx| match dial.as_mut().poll(cx) {
        Poll::Pending => timeout.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        done => done,
    })
    .await
}

fn is_current(links: &BTreeMap<SocketAddr, Link>, addr: SocketAddr, link: ConnId) -> bool {
    links.get(&addr).is_some_and(|known| known.id == link)
}

fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}
