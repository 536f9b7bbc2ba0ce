//! Pulls as a consumer does, and looks at no more of a message than its length.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use stormglass_core::{
    broker::LEADER_ID,
    message::sys_flag,
    wire::{
        Encoding, Frame,
        body::{ConsumeFrom, ConsumeType, ConsumerData, HeartbeatData, MessageModel, Subscription},
        code,
        header::{OffsetReply, PullHeader, PullReply, QueueHeader, pull_flag},
        request,
    },
};
use tokio::task::spawn_local;

use super::{Read, SILENCE, tally::Tally, target};
use crate::cli::{
    admin::{Queue, succeeded},
    link::Link,
};

pub async fn run(read: &Read) -> io::Result<Tally> {
    let queues = target::find(&read.common).await?;
    // Each connection has its own queues; all count together.
    let wanted = read.count.map(|count| std::rc::Rc::new(std::cell::Cell::new(count)));
    let mut readers = Vec::new();
    for (broker, queues) in by_connection(&queues, read.common.connections.into()) {
        let (topic, batch, wanted) = (read.common.topic.clone(), read.batch, wanted.clone());
        readers.push(spawn_local(async move {
            let mut reader = Reader::connect(broker, &topic, batch).await?;
            for queue in queues {
                let min = reader.edge(request::GET_MIN_OFFSET, queue).await?;
                reader.follow(queue, min);
            }
            let mut tally = Tally::default();
            let began = Instant::now();
            let hold = wanted.is_some();
            while reader.is_reading() && wanted.as_ref().is_none_or(|left| left.get() > 0) {
                // Short, so that one connection sees that another had the last one.
                let hold = if hold { Duration::from_millis(500) } else { Duration::ZERO };
                for body in reader.next(hold).await? {
                    tally.took = began.elapsed();
                    tally.messages += 1;
                    tally.bytes += body.len() as u64;
                    if let Some(left) = &wanted {
                        left.set(left.get().saturating_sub(1));
                    }
                }
            }
            Ok::<_, io::Error>(tally)
        }));
    }
    let mut total = Tally::default();
    for reader in readers {
        total.add(reader.await.map_err(io::Error::other)??);
    }
    Ok(total)
}

/// Deals the queues out to so many connections, each to one broker.
pub fn by_connection(queues: &[Queue], connections: usize) -> Vec<(SocketAddr, Vec<u32>)> {
    let mut dealt: BTreeMap<(usize, SocketAddr), Vec<u32>> = BTreeMap::new();
    for (n, queue) in queues.iter().enumerate() {
        dealt.entry((n % connections, queue.addr)).or_default().push(queue.queue);
    }
    dealt.into_iter().map(|((_, broker), queues)| (broker, queues)).collect()
}

/// Pulls from some queues of one broker, one pull in flight for each.
pub struct Reader {
    link: Link,
    topic: String,
    group: String,
    batch: u32,
    queues: BTreeMap<u32, Place>,
}

/// Where a queue goes on.
struct Place {
    offset: i64,
    is_asked: bool,
    /// The id of the broker that should be asked next.
    suggested: i64,
}

impl Reader {
    pub async fn connect(broker: SocketAddr, topic: &str, batch: u32) -> io::Result<Reader> {
        let mut link = Link::connect(broker).await?;
        let group = format!("stormglass-bench-{}", std::process::id());
        let consumer = ConsumerData {
            group: group.clone(),
            consume_type: ConsumeType::Pull,
            message_model: MessageModel::Clustering,
            consume_from: ConsumeFrom::First,
            subscriptions: vec![Subscription::tags(topic, "*", 1)],
        };
        let heartbeat = HeartbeatData {
            client_id: group.clone(),
            producer_groups: Vec::new(),
            consumers: vec![consumer],
        };
        let body = heartbeat.to_bytes();
        let beat = Frame::request(request::HEART_BEAT, i32::MAX, Default::default(), body);
        succeeded(link.ask(&beat.encoding(Encoding::Binary)).await?)?;
        Ok(Reader { link, topic: topic.to_owned(), group, batch, queues: BTreeMap::new() })
    }

    /// The first (31) or the next (30) offset of a queue.
    pub async fn edge(&mut self, code: i32, queue: u32) -> io::Result<i64> {
        let fields = QueueHeader { topic: &self.topic, queue }.fields();
        let ask = Frame::request(code, i32::MAX, fields, Bytes::new());
        let answer = succeeded(self.link.ask(&ask.encoding(Encoding::Binary)).await?)?;
        Ok(OffsetReply::parse(&answer.fields).map_err(io::Error::other)?.offset)
    }

    pub fn follow(&mut self, queue: u32, offset: i64) {
        let place = Place { offset, is_asked: false, suggested: LEADER_ID };
        self.queues.insert(queue, place);
    }

    /// The same reader of the same group at another replica, still without queues.
    pub async fn moved_to(self, broker: SocketAddr) -> io::Result<Reader> {
        Ok(Reader { link: Link::connect(broker).await?, queues: BTreeMap::new(), ..self })
    }

    /// The broker that should be asked next for a queue, and for which offset;
    /// none for one that is done.
    pub fn goes_on_at(&self, queue: u32) -> Option<(i64, i64)> {
        self.queues.get(&queue).map(|place| (place.suggested, place.offset))
    }

    /// Whether a queue is left that may have messages.
    pub fn is_reading(&self) -> bool {
        !self.queues.is_empty()
    }

    /// The bodies of the messages that came next. With no time to hold pulls, a
    /// queue is done once nothing is left in it.
    pub async fn next(&mut self, hold: Duration) -> io::Result<Vec<Bytes>> {
        self.ask_all(hold);
        let arrived = poll_fn(|cx| self.link.poll_exchange(cx));
        tokio::time::timeout(SILENCE + hold, arrived).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "no answer from the broker for 30 s")
        })??;
        let mut bodies = Vec::new();
        while let Some(answer) = self.link.next_answer()? {
            let answer = answer.decode()?;
            let queue = answer.opaque as u32;
            let Some(place) = self.queues.get_mut(&queue) else { continue };
            let (code, reply) = (answer.code, PullReply::parse(&answer.fields));
            match code {
                code::SUCCESS => split(answer.body, &mut bodies)?,
                code::PULL_NOT_FOUND | code::PULL_RETRY_IMMEDIATELY | code::PULL_OFFSET_MOVED => {}
                _ => return succeeded(answer).map(|_| bodies),
            }
            let reply = reply.map_err(io::Error::other)?;
            let (offset, suggested) = (reply.next_offset, reply.suggest_broker);
            *place = Place { offset, is_asked: false, suggested };
            let is_at_end = offset >= reply.max_offset && code != code::PULL_RETRY_IMMEDIATELY;
            if hold.is_zero() && is_at_end {
                self.queues.remove(&queue);
            }
        }
        Ok(bodies)
    }

    fn ask_all(&mut self, hold: Duration) {
        let suspend = if hold.is_zero() { 0 } else { pull_flag::SUSPEND };
        for (queue, place) in self.queues.iter_mut().filter(|(_, place)| !place.is_asked) {
            let header = PullHeader {
                group: &self.group,
                topic: &self.topic,
                queue: *queue,
                queue_offset: place.offset,
                max_messages: self.batch as i32,
                sys_flag: pull_flag::SUBSCRIPTION | suspend,
                commit_offset: 0,
                suspend_timeout: hold.as_millis() as i64,
                subscription: Some("*"),
                sub_version: 1,
                expression_type: Some("TAG"),
                max_bytes: None,
                lock_epoch: None,
                reset_epoch: None,
            };
            let opaque = *queue as i32;
            let pull = Frame::request(request::PULL_MESSAGE, opaque, header.fields(), Bytes::new());
            self.link.push_frame(&pull.encoding(Encoding::Binary));
            place.is_asked = true;
        }
    }
}

/// The bodies of the records that lie one after another in a pull's answer.
fn split(mut records: Bytes, bodies: &mut Vec<Bytes>) -> io::Result<()> {
    while !records.is_empty() {
        let body = body_of(&records);
        let (body, len) = body.ok_or_else(|| io::Error::other("a pulled record is cut short"))?;
        bodies.push(body);
        records.advance(len);
    }
    Ok(())
}

/// The body of the first record, and the record's length.
fn body_of(records: &Bytes) -> Option<(Bytes, usize)> {
    let word = |at: usize| Some(u32::from_be_bytes(records.get(at..at + 4)?.try_into().ok()?));
    let len = word(0)? as usize;
    let flag = word(36)? as i32;
    let longer = |bit| if flag & bit != 0 { 12 } else { 0 };
    let at = 84 + longer(sys_flag::BORN_HOST_V6) + longer(sys_flag::STORE_HOST_V6);
    let end = at + 4 + word(at)? as usize;
    (end <= len && len <= records.len()).then(|| (records.slice(at + 4..end), len))
}
