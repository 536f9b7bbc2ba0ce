//! 200050, 200054: messages of a queue that many share, each under a lease.
//!
//! What is handed out is on record before the answer leaves. Messages whose
//! lease ended come from the group's retry topic of the topic; only one who
//! wants them in order gets them from where they are.

mod take;

use std::time::Duration;

use self::take::Told;
use super::{
    Broker,
    apply::Needed,
    command::{Command, TopicConfig},
    config::limit,
    leases::{Change, Ending, Terms},
    parked::Waiting,
    propose::Answer,
    pull::Found,
    state::{QueueKey, RETRY_PREFIX},
};
use crate::{
    error::Rejected,
    ids::{ConnId, Name, Shard},
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{TagFilter, perm},
        code,
        frame::ReplyTo,
        header::{NotificationHeader, NotificationReply, PopHeader},
    },
};

/// A pop that was checked and can be tried any number of times.
pub(super) struct Pop {
    conn: ConnId,
    reply_to: ReplyTo,
    group: Name,
    topic: u32,
    /// The number of the group's retry topic for it.
    retry: u32,
    /// Any, if none.
    queue: Option<u32>,
    wants: Wants,
    filter: TagFilter,
}

enum Wants {
    Messages {
        most: usize,
        invisible: u64,
        in_order: bool,
        attempt: Option<Name>,
    },
    /// To know that there are some.
    Notice {
        in_order: bool,
    },
}

impl Pop {
    fn is_in_order(&self) -> bool {
        match &self.wants {
            Wants::Messages { in_order, .. } | Wants::Notice { in_order } => *in_order,
        }
    }

    /// Whether nothing for one of them is nothing for the other.
    fn wants_the_same(&self, other: &Pop) -> bool {
        (&self.group, self.topic, self.queue) == (&other.group, other.topic, other.queue)
            && self.filter == other.filter
            && self.is_in_order() == other.is_in_order()
    }
}

impl Waiting for Pop {
    /// The number of a topic.
    type Key = u32;

    fn conn(&self) -> ConnId {
        self.conn
    }

    fn keys(&self) -> impl Iterator<Item = u32> + 'static {
        [self.topic, self.retry].into_iter()
    }
}

/// The topic of messages that come again to a group which pops.
pub(super) fn retry_topic(group: &str, topic: &str) -> Name {
    format!("{RETRY_PREFIX}{group}_{topic}").into()
}

impl<D: Disk> Broker<D> {
    pub(super) fn pop_message(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let header = PopHeader::parse(&frame.fields)?;
        let invisible = u64::try_from(header.invisible_time).unwrap_or(0);
        if invisible == 0 || invisible > limit::INVISIBLE.as_millis() as u64 {
            let why = format!("is 1 to {} milliseconds", limit::INVISIBLE.as_millis());
            return Err(Rejected::bad_field("invisibleTime", why));
        }
        if frame.is_one_way() {
            return Err(Rejected::new(code::ILLEGAL_OPERATION, "a pop without an answer"));
        }
        let filter = match header.expression {
            Some(expression) => TagFilter::parse(expression, header.expression_type)?,
            None => self.members.filter(header.group, header.topic).cloned().unwrap_or_default(),
        };
        let attempt = header.attempt_id.filter(|id| id.len() <= limit::CLIENT_ID).map(Name::from);
        let wants = Wants::Messages {
            most: (header.max_messages.max(1) as usize).min(limit::POP_MESSAGES),
            invisible,
            in_order: header.order == Some(true),
            attempt,
        };
        let from_end = header.init_mode == 1;
        let (group, topic, queue) = (header.group, header.topic, header.queue);
        let Some((topic, retry)) = self.shared_topic(conn, &frame, group, topic, from_end)? else {
            return Ok(());
        };
        let pop = self.pop_of(conn, &frame, group, (topic, retry), queue, wants, filter)?;
        self.pop_or_park(now, pop, header.poll_time)
    }

    pub(super) fn notify_of_messages(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let header = NotificationHeader::parse(&frame.fields)?;
        let wants = Wants::Notice { in_order: header.order == Some(true) };
        let (group, topic, queue) = (header.group, header.topic, header.queue);
        let Some(topics) = self.shared_topic(conn, &frame, group, topic, false)? else {
            return Ok(());
        };
        let filter = TagFilter::all();
        let pop = self.pop_of(conn, &frame, group, topics, queue, wants, filter)?;
        self.pop_or_park(now, pop, header.poll_time)
    }

    #[allow(clippy::too_many_arguments, reason = "a pop has this many parts")]
    fn pop_of(
        &self,
        conn: ConnId,
        frame: &Frame,
        group: &str,
        (topic, retry): (u32, u32),
        queue: i32,
        wants: Wants,
        filter: TagFilter,
    ) -> Result<Pop, Rejected> {
        let queue = u32::try_from(queue).ok();
        if let Some(queue) = queue {
            let topic = &self.state.shard(QueueKey { topic, queue: 0 }).topic;
            self.readable_queue(topic, queue)?;
        }
        let group = self.state.group(group).map_or_else(|| group.into(), |g| g.name.clone());
        Ok(Pop { conn, reply_to: frame.reply_to(), group, topic, retry, queue, wants, filter })
    }

    fn pop_or_park(&mut self, now: Now, pop: Pop, poll_time: i64) -> Result<(), Rejected> {
        let Some(pop) = self.try_pop(now, pop)? else { return Ok(()) };
        // The client's clock is no measure: it waits from here on (T11).
        let hold = Duration::from_millis(poll_time.max(0) as u64).min(limit::PULL_HOLD);
        if hold.is_zero() {
            self.answer_nothing(&pop, code::POLLING_TIMEOUT);
        } else if self.parked_pops.has_room(pop.conn) {
            self.parked_pops.park(now.mono + hold, pop);
        } else {
            self.answer_nothing(&pop, code::POLLING_FULL);
        }
        Ok(())
    }

    /// The numbers of a topic and of the group's retries of it, once the group
    /// has begun to pop there; until then the request waits.
    fn shared_topic(
        &mut self,
        conn: ConnId,
        frame: &Frame,
        group: &str,
        topic: &str,
        from_end: bool,
    ) -> Result<Option<(u32, u32)>, Rejected> {
        if self.state.group(group).is_none() {
            let group = self.implied_group(group)?;
            let needed = Needed::Group(group.name.clone());
            self.await_creation(conn, frame.clone(), needed, Command::Group(group))?;
            return Ok(None);
        }
        self.readable_queue(topic, 0)?;
        let retry_name = retry_topic(group, topic);
        let retry = self.state.topic(&retry_name).map(|(number, _)| number);
        let number = self.state.topic(topic).map_or(0, |(number, _)| number);
        let queues = self.state.topic(topic).map_or(0, |(_, topic)| topic.config.read_queues);
        let shard_of = |queue| Shard {
            topic: self.state.shard(QueueKey { topic: number, queue: 0 }).topic,
            queue,
        };
        let is_new = |shard: &Shard| self.state.leases.number(group, shard).is_none();
        let unopened: Vec<Shard> = (0..queues).map(shard_of).filter(is_new).collect();
        if let (Some(retry), true) = (retry, unopened.is_empty()) {
            return Ok(Some((number, retry)));
        }
        if retry.is_none() {
            super::send::check_topic_name(&retry_name)?;
        }
        if self.state.counts().0 >= limit::TOPICS {
            return Err(Rejected::new(code::SYSTEM_ERROR, "there are too many topics"));
        }
        let mut starts = Vec::new();
        for shard in unopened {
            let start = self.first_pop(group, &shard, from_end);
            starts.push((shard, start));
        }
        starts.push((Shard { topic: retry_name.clone(), queue: 0 }, 0));
        let config = TopicConfig {
            name: retry_name.clone(),
            read_queues: 1,
            write_queues: 1,
            perm: perm::READ | perm::WRITE,
            order: false,
            order_list: None,
        };
        let opened = Change::Opened { group: group.into(), retry: Some(config), starts };
        let needed = Needed::Topic(retry_name);
        self.await_creation(conn, frame.clone(), needed, Command::Lease(opened))?;
        Ok(None)
    }

    /// Where a group that pops from a queue for the first time begins.
    fn first_pop(&mut self, group: &str, shard: &Shard, from_end: bool) -> u64 {
        let known = self.state.offset(group, shard);
        known.or_else(|| self.implied_start(group, &shard.topic, shard.queue)).unwrap_or_else(
            || {
                let key = self.state.find_queue(&shard.topic, shard.queue);
                key.map_or(0, |key| {
                    let index = &self.state.queue(key).index;
                    if from_end { index.max() } else { index.min() }
                })
            },
        )
    }

    /// Answers with what there is; gives the pop back if there is nothing.
    fn try_pop(&mut self, now: Now, pop: Pop) -> Result<Option<Pop>, Rejected> {
        let queues = self.queues_to_pop(&pop);
        let Wants::Messages { most, invisible, in_order, attempt } = &pop.wants else {
            return Ok(self.try_notice(now, pop, queues));
        };
        let (mut found, mut told, mut taken) = (Found::default(), Told::default(), Vec::new());
        for (key, is_retry) in queues {
            let room = most - found.count;
            match self.take(now, &pop, key, room, attempt.as_ref(), &mut found) {
                Ok(None) => {}
                Ok(Some(part)) => {
                    told.add(key, is_retry, &part);
                    told.rest += self.state.queue(key).index.max().saturating_sub(part.to);
                    taken.push(part);
                }
                // An error counts only if nothing was found before it.
                Err(_) if found.count > 0 => break,
                Err(error) => {
                    self.counters.corrupt_reads += 1;
                    tracing::error!(%error, "a stored message cannot be served");
                    return Err(Rejected::new(code::SYSTEM_ERROR, error.to_string()));
                }
            }
            if found.count == *most {
                break;
            }
        }
        if taken.is_empty() {
            return Ok(Some(pop));
        }
        let terms = Terms {
            pop_wall: now.wall,
            invisible: *invisible,
            in_order: *in_order,
            attempt: attempt.clone(),
        };
        let count = found.count;
        let answer = if count == 0 {
            Answer::Nothing
        } else {
            let fields = told.fields(&terms);
            Answer::with_body(pop.conn, pop.reply_to, fields, found.slices)
        };
        let change = Change::Popped { taken: taken.clone(), terms };
        if let Err(error) = self.propose_command(Command::Lease(change), answer) {
            return Err(self.refused_or_failed(error));
        }
        for part in &taken {
            let queue = self.state.leases.queue_mut(part.number);
            queue.next = queue.next.max(part.to);
            for (offset, _) in &part.messages {
                if *in_order {
                    self.state.leases.ends(part.number, *offset, Ending::Renewal);
                }
            }
        }
        self.counters.served += count as u64;
        Ok((count == 0).then_some(pop))
    }

    /// Whether there is something, without taking it. The filter is left out: who
    /// is told in vain asks again.
    fn try_notice(&mut self, now: Now, pop: Pop, queues: Vec<(QueueKey, bool)>) -> Option<Pop> {
        for (key, _) in queues {
            let shard = self.state.shard(key);
            let Some(number) = self.state.leases.number(&pop.group, &shard) else { continue };
            let max = self.state.queue(key).index.max();
            let queue = self.state.leases.queue_mut(number);
            let lapsed =
                if pop.is_in_order() { queue.lapsed(now.mono, None) } else { Some(Vec::new()) };
            match lapsed {
                Some(lapsed) if queue.next < max || !lapsed.is_empty() => {
                    let fields =
                        NotificationReply { has_message: true, polling_full: None }.fields();
                    self.reply_ok(pop.conn, pop.reply_to, fields);
                    return None;
                }
                Some(_) => {}
                None => queue.is_awaited = true,
            }
        }
        Some(pop)
    }

    fn answer_nothing(&mut self, pop: &Pop, code: i32) {
        match pop.wants {
            Wants::Messages { .. } => {
                let none = Rejected::new(code, "no message");
                self.reply(
                    pop.conn,
                    pop.reply_to,
                    none.code,
                    &none.remark,
                    Fields::default(),
                    Vec::new(),
                );
            }
            Wants::Notice { .. } => {
                let is_full = code == code::POLLING_FULL;
                let polling_full = is_full.then_some(true);
                let fields = NotificationReply { has_message: false, polling_full }.fields();
                self.reply_ok(pop.conn, pop.reply_to, fields);
            }
        }
    }

    pub(super) fn expire_pops(&mut self, now: Now) {
        while let Some(pop) = self.parked_pops.take_due(now.mono) {
            self.answer_nothing(&pop, code::POLLING_TIMEOUT);
        }
    }

    /// Tries the held pops of topics that got messages, or where a lease ended;
    /// true if there was anything to try.
    pub(super) fn wake_pops(&mut self, now: Now) -> bool {
        for number in self.state.leases.take_freed() {
            let shard = &self.state.leases.queue(number).shard;
            self.scratch
                .woken_topics
                .extend(self.state.topic(&shard.topic).map(|(topic, _)| topic));
        }
        let woken = std::mem::take(&mut self.scratch.woken_topics);
        let is_any = !woken.is_empty();
        for topic in woken {
            let mut in_vain: Vec<(Time, Pop)> = Vec::new();
            for (until, pop) in self.parked_pops.take_waiting(topic) {
                if in_vain.iter().any(|(_, other)| other.wants_the_same(&pop)) {
                    in_vain.push((until, pop));
                    continue;
                }
                let (conn, reply_to) = (pop.conn, pop.reply_to);
                match self.try_pop(now, pop) {
                    Ok(None) => {}
                    Ok(Some(pop)) => in_vain.push((until, pop)),
                    Err(rejected) => self.refuse(conn, reply_to, rejected),
                }
            }
            for (until, pop) in in_vain {
                self.parked_pops.park(until, pop);
            }
        }
        is_any
    }
}
