//! Sends with a fixed number in flight, as fast as answers come or at a pace.

use std::{
    cell::Cell,
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use stormglass_core::{
    message::{Properties, property, tag_hash},
    wire::{
        body::{BatchRecord, put_batch_record},
        header::SendHeader,
        request,
    },
};
use tokio::{sync::mpsc, task::spawn_local};

use super::{Load, SILENCE, pace, tally::Tally, target};
use crate::cli::{
    admin::Queue,
    link::{Answer, Link, Template},
};

/// Different delays of one run.
const DELAYS: u64 = 64;

/// Answers that mean "stored": success, and three ways of being less safe.
const STORED: [i32; 4] = [0, 10, 11, 12];

pub async fn run(load: &Load) -> io::Result<Tally> {
    let queues = target::find(&load.common).await?;
    run_on(load, &queues, None).await
}

/// Sends to these queues. With `clock`, each body starts with the `mark` and
/// the microseconds since the clock's start.
pub async fn run_on(load: &Load, queues: &[Queue], clock: Option<Clock>) -> io::Result<Tally> {
    let mut by_broker: BTreeMap<SocketAddr, Vec<u32>> = BTreeMap::new();
    for queue in queues {
        by_broker.entry(queue.addr).or_default().push(queue.queue);
    }
    let connections = usize::from(load.common.connections);
    let mut paces = match load.rate {
        Some(rate) => {
            let requests = rate / f64::from(load.batch);
            pace::start(requests, connections, load.lasts()).into_iter().map(Some).collect()
        }
        None => (0..connections).map(|_| None).collect::<Vec<_>>(),
    };
    let limit = Rc::new(Limit {
        requests: Cell::new(load.count.map_or(u64::MAX, |n| n.div_ceil(load.batch.into()))),
        until: Instant::now() + load.lasts(),
    });
    let mut senders = Vec::new();
    let brokers = by_broker.iter().cycle().take(connections);
    for (n, (broker, queues)) in brokers.enumerate() {
        let stamps = (0..load.batch as usize).map(|m| m * record_len(load) + 20).collect();
        let sender = Sender {
            templates: templates(load, queues),
            stamps: if load.batch > 1 { stamps } else { vec![0] },
            clock,
            messages: load.batch.into(),
            bytes: u64::from(load.batch) * u64::from(load.size),
            in_flight: share(load.in_flight as usize, connections, n),
            limit: limit.clone(),
            pace: paces.pop().flatten(),
        };
        senders.push(spawn_local(sender.run(*broker)));
    }
    let mut total = Tally::default();
    for sender in senders {
        total.add(sender.await.map_err(io::Error::other)??);
    }
    Ok(total)
}

/// What end-to-end runs write into bodies.
#[derive(Clone, Copy)]
pub struct Clock {
    pub mark: u64,
    pub started: Instant,
}

struct Limit {
    requests: Cell<u64>,
    until: Instant,
}

impl Limit {
    fn take(&self, now: Instant) -> bool {
        let left = self.requests.get();
        self.requests.set(left.saturating_sub(1));
        left > 0 && now < self.until
    }
}

struct Sender {
    /// With the delay that each asks for.
    templates: Vec<(Template, Duration)>,
    /// Where in the request's body each message's body starts.
    stamps: Vec<usize>,
    clock: Option<Clock>,
    messages: u64,
    bytes: u64,
    in_flight: usize,
    limit: Rc<Limit>,
    pace: Option<mpsc::Receiver<Instant>>,
}

impl Sender {
    async fn run(mut self, broker: SocketAddr) -> io::Result<Tally> {
        let mut link = Link::connect(broker).await?;
        let mut tally = Tally::default();
        let began = Instant::now();
        // When the request in each place was sent or due; the place is its opaque.
        let mut sent: Vec<Option<Instant>> = vec![None; self.in_flight];
        let mut free: Vec<usize> = (0..self.in_flight).rev().collect();
        let mut due: Option<Instant> = None;
        let mut finished = false;
        for turn in 0usize.. {
            while let (false, Some(place)) = (finished, free.last()) {
                let now = Instant::now();
                let start = match &mut self.pace {
                    None => Some(now),
                    Some(pace) => match due.take().map_or_else(|| pace.try_recv(), Ok) {
                        Ok(due) => Some(due),
                        Err(mpsc::error::TryRecvError::Empty) => break,
                        Err(mpsc::error::TryRecvError::Disconnected) => None,
                    },
                };
                let Some(start) = start.filter(|_| self.limit.take(now)) else {
                    finished = true;
                    break;
                };
                self.push(&mut link, turn + place, *place, now);
                sent[*place] = Some(start);
                free.pop();
            }
            if finished && free.len() == sent.len() {
                break;
            }
            let wants_more = !finished && !free.is_empty();
            let wait = poll_fn(|cx| {
                let arrived = link.poll_exchange(cx);
                if let (true, Some(pace)) = (wants_more, &mut self.pace)
                    && let Poll::Ready(item) = pace.poll_recv(cx)
                {
                    due = item;
                    finished = item.is_none();
                    return Poll::Ready(Ok(()));
                }
                arrived
            });
            let patience = if free.len() == sent.len() { Duration::MAX } else { SILENCE };
            tokio::time::timeout(patience, wait).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "no answer from the broker for 30 s")
            })??;
            let now = Instant::now();
            tally.took = now - began;
            while let Some(answer) = link.next_answer()? {
                let place = answer.opaque as usize;
                let Some(start) = sent.get_mut(place).and_then(Option::take) else { continue };
                free.push(place);
                tally.latencies.add(now.duration_since(start));
                self.count(&mut tally, answer)?;
            }
        }
        Ok(tally)
    }

    fn push(&self, link: &mut Link, turn: usize, place: usize, now: Instant) {
        let (template, delay) = &self.templates[turn % self.templates.len()];
        let Some(clock) = self.clock else { return link.push(template, place as i32, &[]) };
        let micros = (now.duration_since(clock.started) + *delay).as_micros() as u64;
        let stamp = |at: &usize| [(*at, clock.mark), (at + 8, micros)];
        let stamps: Vec<(usize, u64)> = self.stamps.iter().flat_map(stamp).collect();
        link.push(template, place as i32, &stamps);
    }

    fn count(&self, tally: &mut Tally, answer: Answer) -> io::Result<()> {
        if STORED.contains(&answer.code) {
            tally.messages += self.messages;
            tally.bytes += self.bytes;
            return Ok(());
        }
        tally.fail(answer)
    }
}

/// One for each queue, and for each of some delays spread over all.
fn templates(load: &Load, queues: &[u32]) -> Vec<(Template, Duration)> {
    let delays: Vec<u64> = match load.delay {
        None => vec![0],
        Some(longest) => (1..=DELAYS).map(|n| longest * n / DELAYS).collect(),
    };
    let each = delays.iter().flat_map(|delay| queues.iter().map(|queue| (*queue, *delay)));
    each.map(|(queue, delay)| (template(load, queue, delay), Duration::from_millis(delay)))
        .collect()
}

fn template(load: &Load, queue: u32, delay: u64) -> Template {
    let mut properties = Vec::new();
    if delay > 0 {
        Properties::put(&mut properties, property::TIMER_DELAY_MS, &delay.to_string());
    }
    let properties = String::from_utf8(properties).expect("they are text");
    let header = SendHeader {
        producer_group: "stormglass-bench",
        topic: &load.common.topic,
        default_topic: Some("TBW102"),
        default_topic_queues: Some(4),
        queue: queue as i32,
        sys_flag: 0,
        born_wall: 0,
        flag: 0,
        properties: (!properties.is_empty()).then_some(&properties),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: Some(load.batch > 1),
        producer_id: None,
        producer_epoch: None,
        sequence: None,
    };
    // Bytes that do not compress to nothing.
    let body: Vec<u8> = (0..load.size).map(|n| tag_hash(&n.to_string()) as u8).collect();
    if load.batch == 1 {
        return Template::new(request::SEND_MESSAGE_V2, header.short_fields(), body);
    }
    let mut batch = Vec::with_capacity(record_len(load) * load.batch as usize);
    for _ in 0..load.batch {
        put_batch_record(&mut batch, BatchRecord { flag: 0, body: &body, properties: &[] });
    }
    Template::new(request::SEND_BATCH_MESSAGE, header.short_fields(), batch)
}

/// Bytes of one message in a batch's body.
fn record_len(load: &Load) -> usize {
    22 + load.size as usize
}

/// The n-th of so many parts of `whole`, at least one.
fn share(whole: usize, parts: usize, n: usize) -> usize {
    (whole / parts + usize::from(n < whole % parts)).max(1)
}
