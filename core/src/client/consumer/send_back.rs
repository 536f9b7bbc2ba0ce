//! Messages that go back to a broker: for another attempt later, or to the
//! dead letters. Such a message stays unfinished until a broker says that it
//! has it, so no offset moves past one that could be lost (L18).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Call, Consumer};
use crate::{
    client::{
        Change, MessageQueue, SendStatus,
        context::{Context, Purpose, Reply, Timer},
        message::level_for,
    },
    ids::Name,
    message::{Properties, RETRY_PREFIX, Record, offset_message_id, property, sys_flag},
    sequence,
    wire::{
        Fields, code,
        header::{SendBackHeader, SendHeader},
        request,
    },
};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Unanswered requests to the message's own broker before another is tried.
const PATIENCE: u32 = 3;
/// The delay level of a first retry.
const FIRST_LEVEL: i32 = 3;

/// What a message goes back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another attempt, when the group's back-off says so.
    Retry,
    /// Another attempt after this long.
    After(Duration),
    DeadLetter,
}

/// A message that was given back and that no broker has taken yet.
pub struct Return {
    /// The number of its queue, and its offset there.
    pub(super) at: (u64, i64),
    record: Arc<Record>,
    fate: Fate,
    path: Path,
    /// Without an answer in a row.
    unanswered: u32,
    failures: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Its own broker is told where it lies.
    Back,
    /// It is sent to the group's retry topic, on any broker.
    Resend,
}

/// How far a request to take a message back came. Each request may have stored
/// a copy, unless it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendBack {
    /// Of requests that only name the message a broker takes the first; what is
    /// `resent` as a whole is another copy each time.
    Begun {
        resent: bool,
    },
    Taken,
    Refused {
        code: i32,
    },
    /// No answer came, and none will.
    Lost,
}

pub fn retry_topic(group: &str) -> Name {
    format!("{RETRY_PREFIX}{group}").into()
}

impl Consumer {
    pub(super) fn give_back(&mut self, cx: &mut Context, id: u64, at: (u64, i64), fate: Fate) {
        let progress = self.queues.get(&at.0).and_then(|owned| owned.progress.as_ref());
        let Some(record) = progress.and_then(|progress| progress.record(at.1)) else { return };
        let path = Path::Back;
        self.returns.insert(id, Return { at, record, fate, path, unanswered: 0, failures: 0 });
        self.try_return(cx, id);
    }

    /// The next request, or the first one.
    pub fn try_return(&mut self, cx: &mut Context, id: u64) {
        let Some(back) = self.returns.get(&id) else { return };
        let Some(owned) = self.queues.get(&back.at.0) else {
            // Another member has the queue now, and will get the message.
            self.returns.remove(&id);
            return self.part(cx);
        };
        let (queue, epoch) = (owned.queue.clone(), owned.lock_epoch());
        let resent = back.path == Path::Resend;
        let request = match back.path {
            Path::Back => self.send_back(cx, back, &queue, epoch),
            Path::Resend => self.resend(cx, back),
        };
        let Some((addr, code, fields, body)) = request else { return self.return_failed(cx, id) };
        self.tell_send_back(cx, id, SendBack::Begun { resent });
        let (timeout, call) = (cx.config.request_timeout, Call::SendBack { id });
        cx.call(addr, code, fields, body, timeout, Purpose::Consumer(self.id, call));
    }

    fn send_back(
        &self,
        cx: &mut Context,
        back: &Return,
        queue: &MessageQueue,
        lock_epoch: Option<u64>,
    ) -> Option<(SocketAddr, i32, Fields, Bytes)> {
        let addr = cx.route(&queue.topic, false)?.master(&queue.broker)?;
        let (delay_level, delay_ms) = match back.fate {
            Fate::Retry => (0, None),
            // The level is for brokers that do not know the other field.
            Fate::After(delay) => (level_for(delay) as i32, Some(delay.as_millis() as i64)),
            Fate::DeadLetter => (-1, None),
        };
        let header = SendBackHeader {
            offset: back.record.position.0 as i64,
            group: &self.group,
            delay_level,
            origin_message_id: Some(&origin_id(&back.record)),
            origin_topic: Some(origin_topic(&back.record)),
            unit_mode: Some(false),
            max_reconsume_times: self.max_reconsume_times(),
            delay_ms,
            lock_epoch,
        };
        Some((addr, request::CONSUMER_SEND_MSG_BACK, header.fields(), Bytes::new()))
    }

    fn resend(&self, cx: &mut Context, back: &Return) -> Option<(SocketAddr, i32, Fields, Bytes)> {
        let topic = retry_topic(&self.group);
        let route = cx.route(&topic, false)?;
        let queues = &route.writable;
        let queue = queues.get((back.failures as usize).checked_rem(queues.len())?)?;
        let header = SendHeader {
            producer_group: &self.group,
            topic: &topic,
            default_topic: Some("TBW102"),
            default_topic_queues: Some(1),
            queue: queue.queue as i32,
            sys_flag: back.record.sys_flag & sys_flag::ENCODING,
            born_wall: back.record.born_wall,
            flag: back.record.flag,
            properties: Some(&properties(&back.record, back.fate)),
            reconsume_times: Some(back.record.reconsume_times.saturating_add(1)),
            unit_mode: Some(false),
            max_reconsume_times: match back.fate {
                Fate::DeadLetter => Some(0),
                _ => self.max_reconsume_times(),
            },
            batch: Some(false),
            producer_id: None,
            producer_epoch: None,
            sequence: None,
        };
        let (fields, body) = (header.short_fields(), back.record.body.clone());
        Some((route.master(&queue.broker)?, request::SEND_MESSAGE_V2, fields, body))
    }

    fn max_reconsume_times(&self) -> Option<i32> {
        Some(i32::try_from(self.config.max_retries?).unwrap_or(i32::MAX))
    }

    pub(super) fn on_sent_back(&mut self, cx: &mut Context, id: u64, reply: Reply) {
        let answer = match &reply {
            Ok(frame) if SendStatus::of_code(frame.code).is_some() => SendBack::Taken,
            Ok(frame) => SendBack::Refused { code: frame.code },
            Err(_) => SendBack::Lost,
        };
        self.tell_send_back(cx, id, answer);
        let Some(back) = self.returns.get_mut(&id) else { return };
        match (answer, back.path) {
            (SendBack::Taken, _) => {
                let (number, offset) = back.at;
                self.returns.remove(&id);
                self.finish(cx, number, offset);
                self.part(cx);
            }
            // Another member has the queue, and will get the message.
            (SendBack::Refused { code: code::FENCED }, _) => {
                let (number, _) = back.at;
                self.returns.remove(&id);
                self.start_over(cx, number);
                self.part(cx);
            }
            // Not ready yet, after a fail-over say: only it knows the group's back-off (N2).
            (SendBack::Refused { code: code::SYSTEM_BUSY }, Path::Back) => {
                back.unanswered = 0;
                self.return_failed(cx, id);
            }
            (SendBack::Lost, Path::Back) if back.unanswered + 1 < PATIENCE => {
                back.unanswered += 1;
                self.return_failed(cx, id);
            }
            (_, path) => {
                back.unanswered = 0;
                back.path = if path == Path::Back { Path::Resend } else { Path::Back };
                self.return_failed(cx, id);
            }
        }
    }

    /// The same again, or another way, after a while.
    fn return_failed(&mut self, cx: &mut Context, id: u64) {
        let Some(back) = self.returns.get_mut(&id) else { return };
        let delay = cx.backoff(FIRST_RETRY, back.failures, LAST_RETRY);
        back.failures += 1;
        cx.timers.set(cx.now.mono + delay, Timer::Return(self.id, id));
        if let Some(owned) = self.queues.get(&back.at.0) {
            let topic = owned.queue.topic.clone();
            cx.refresh_route(&topic);
        }
    }

    fn tell_send_back(&self, cx: &mut Context, id: u64, step: SendBack) {
        let Some(Return { at: (number, offset), .. }) = self.returns.get(&id) else { return };
        let Some(owned) = self.queues.get(number) else { return };
        let change = Change::SendBack { queue: owned.queue.clone(), offset: *offset, step };
        self.tell(cx, change);
    }
}

fn origin_topic(record: &Record) -> &str {
    Properties(&record.properties).get(property::RETRY_TOPIC).unwrap_or(&record.topic)
}

fn origin_id(record: &Record) -> String {
    match Properties(&record.properties).get(property::ORIGIN_MESSAGE_ID) {
        Some(id) => id.to_owned(),
        None => offset_message_id(record.store_host, record.position),
    }
}

/// Of a message that is sent again: its own, but for what concerned its way
/// here.
fn properties(record: &Record, fate: Fate) -> String {
    const PASSED: [&str; 10] = [
        property::DELAY,
        property::TIMER_DELAY_SEC,
        property::TIMER_DELAY_MS,
        property::TIMER_DELIVER_MS,
        property::TRAN_MSG,
        property::PGROUP,
        property::RETRY_TOPIC,
        property::ORIGIN_MESSAGE_ID,
        property::POP_CK,
        sequence::PROPERTY,
    ];
    let mut out = Vec::new();
    let own = Properties(&record.properties).iter();
    for (key, value) in own.filter(|(key, _)| !PASSED.contains(key)) {
        Properties::put(&mut out, key, value);
    }
    Properties::put(&mut out, property::RETRY_TOPIC, origin_topic(record));
    Properties::put(&mut out, property::ORIGIN_MESSAGE_ID, &origin_id(record));
    match fate {
        Fate::Retry => {
            let level = FIRST_LEVEL.saturating_add(record.reconsume_times);
            Properties::put(&mut out, property::DELAY, &level.to_string());
        }
        Fate::After(delay) => {
            Properties::put(&mut out, property::TIMER_DELAY_MS, &delay.as_millis().to_string());
        }
        Fate::DeadLetter => {}
    }
    String::from_utf8(out).expect("made of strings")
}
