//! One owned queue: where to start, pulling, and storing what is processed.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Call, Consumer,
    owned::{Owned, Stage},
};
use crate::{
    client::{
        MessageQueue, OffsetSource, StartAt,
        context::{Context, Purpose, Reply, Timer},
    },
    message::{Properties, Record, property},
    wire::{
        Fields, Frame,
        body::MessageModel,
        code,
        header::{
            OffsetReply, PullHeader, PullReply, QueryOffsetHeader, QueueHeader, SearchOffsetHeader,
            UpdateOffsetHeader, pull_flag,
        },
        request,
    },
};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(3);
/// A broker that answers an empty pull at once does not hold pulls now.
const UNHELD_PULL: Duration = Duration::from_millis(100);

impl Consumer {
    /// Does what the queue needs next, if it can be done now.
    pub fn step(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        if let Some(progress) = &mut owned.progress {
            progress.wake(cx.now.mono);
        }
        if owned.drain_until.is_some_and(|until| until <= cx.now.mono) {
            return self.release(cx, number);
        }
        self.look_at_lock(cx, number);
        self.note_ready(cx, number);
        let Some(owned) = self.queues.get_mut(&number) else { return };
        if owned.busy || cx.now.mono < owned.not_before {
            return;
        }
        let broadcasting = self.config.model == MessageModel::Broadcasting;
        let (topic, queue) = (&*owned.queue.topic, owned.queue.queue);
        match owned.stage {
            Stage::Lock => self.ask_for_lock(cx, number),
            Stage::LastCommit(offset) => self.commit_last(cx, number, offset),
            Stage::Unlock => self.unlock(cx, number),
            Stage::Stored if broadcasting => {
                match self.config.local_offsets.get(&owned.queue).copied() {
                    Some(offset) => self.start_pulling(cx, number, offset, OffsetSource::Committed),
                    None => {
                        owned.enter(Stage::Start { first: false });
                        self.step(cx, number);
                    }
                }
            }
            Stage::Stored => {
                let fields = query_offset(&self.group, &owned.queue);
                let (code, call) = (request::QUERY_CONSUMER_OFFSET, Call::Stored { queue: number });
                self.call(cx, number, code, fields, cx.config.request_timeout, call);
            }
            Stage::History => self.survey(cx, number),
            Stage::Start { first } => {
                let at = if first { StartAt::First } else { self.config.start_at };
                let header = QueueHeader { topic, queue };
                let (code, fields) = match at {
                    StartAt::First => (request::GET_MIN_OFFSET, header.fields()),
                    StartAt::Last => (request::GET_MAX_OFFSET, header.fields()),
                    StartAt::Time(timestamp) => {
                        let header = SearchOffsetHeader { topic, queue, timestamp };
                        (request::SEARCH_OFFSET_BY_TIMESTAMP, header.fields())
                    }
                };
                let call = Call::Start { queue: number, source: source_of(at) };
                self.call(cx, number, code, fields, cx.config.request_timeout, call);
            }
            Stage::Anchor(offset, source) => {
                let fields = update_offset(&self.group, owned, offset);
                let call = Call::Anchor { queue: number, offset, source };
                let code = request::UPDATE_CONSUMER_OFFSET;
                self.call(cx, number, code, fields, cx.config.request_timeout, call);
            }
            Stage::Pulling => self.pull(cx, number),
        }
    }

    /// Calls the broker that holds the queue, on behalf of its present stage.
    pub(super) fn call(
        &mut self,
        cx: &mut Context,
        number: u64,
        code: i32,
        fields: Fields,
        timeout: Duration,
        call: Call,
    ) {
        let Some(queue) = self.queues.get(&number).map(|owned| owned.queue.clone()) else { return };
        self.call_about(cx, number, &queue, code, fields, Bytes::new(), timeout, call);
    }

    pub(super) fn call_with_body(
        &mut self,
        cx: &mut Context,
        number: u64,
        code: i32,
        body: Bytes,
        timeout: Duration,
        call: Call,
    ) {
        let Some(queue) = self.queues.get(&number).map(|owned| owned.queue.clone()) else { return };
        self.call_about(cx, number, &queue, code, Fields::default(), body, timeout, call);
    }

    #[expect(clippy::too_many_arguments, reason = "a call is this much")]
    pub(super) fn call_about(
        &mut self,
        cx: &mut Context,
        number: u64,
        queue: &MessageQueue,
        code: i32,
        fields: Fields,
        body: Bytes,
        timeout: Duration,
        call: Call,
    ) {
        let route = cx.route(&queue.topic, false);
        let Some(addr) = route.and_then(|route| route.master(&queue.broker)) else {
            return self.try_again(cx, number);
        };
        if let Some(owned) = self.queues.get_mut(&number) {
            owned.busy = true;
        }
        cx.call(addr, code, fields, body, timeout, Purpose::Consumer(self.id, call));
    }

    /// The stage's call failed: the same again, later.
    pub(super) fn try_again(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let delay = cx.backoff(FIRST_RETRY, owned.failures, LAST_RETRY);
        owned.failures += 1;
        owned.not_before = cx.now.mono + delay;
        cx.timers.set(owned.not_before, Timer::Queue(self.id, number));
        let topic = owned.queue.topic.clone();
        cx.refresh_route(&topic);
    }

    /// The answer to the stage's call. None: it failed and is taken care of, or
    /// the queue is no longer owned.
    pub(super) fn answered(
        &mut self,
        cx: &mut Context,
        number: u64,
        reply: Reply,
    ) -> Option<Frame> {
        let owned = self.queues.get_mut(&number)?;
        owned.busy = false;
        match reply {
            Ok(frame) if frame.code == code::SUCCESS || frame.code == code::QUERY_NOT_FOUND => {
                Some(frame)
            }
            Ok(frame) if frame.code == code::FENCED => {
                self.start_over(cx, number);
                None
            }
            _ => {
                self.try_again(cx, number);
                None
            }
        }
    }

    pub(super) fn offset_in(
        &mut self,
        cx: &mut Context,
        number: u64,
        frame: &Frame,
    ) -> Option<i64> {
        let reply = OffsetReply::parse(&frame.fields).ok().filter(|reply| reply.offset >= 0);
        if frame.code != code::SUCCESS || reply.is_none() {
            self.try_again(cx, number);
            return None;
        }
        reply.map(|reply| reply.offset)
    }

    /// Pulls, unless enough messages wait for the application already.
    fn pull(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let Some(progress) = &owned.progress else { return };
        let room = self.config.max_cached_messages.saturating_sub(progress.len());
        if room == 0
            || progress.bytes() >= self.config.max_cached_bytes
            || progress.span() >= self.config.max_span
            || owned.drain_until.is_some()
            || owned.lock.is_some_and(|lock| lock.has_lapsed())
        {
            return;
        }
        let Some(topic) = self.topics.get(&owned.queue.topic) else { return };
        owned.pulled_at = cx.now.mono;
        let header = PullHeader {
            group: &self.group,
            topic: &owned.queue.topic,
            queue: owned.queue.queue,
            queue_offset: progress.next_pull(),
            max_messages: room.min(self.config.pull_batch as usize) as i32,
            sys_flag: pull_flag::SUSPEND | pull_flag::SUBSCRIPTION,
            commit_offset: -1,
            suspend_timeout: self.config.pull_hold.as_millis() as i64,
            subscription: Some(&topic.subscription.expression),
            sub_version: topic.subscription.version,
            expression_type: Some(&topic.subscription.expression_type),
            max_bytes: None,
            lock_epoch: owned.lock_epoch(),
            reset_epoch: owned.reset_epoch,
        };
        let fields = header.fields();
        let queue = owned.queue.clone();
        let route = cx.route(&queue.topic, false);
        let Some(addr) = route.and_then(|route| owned.reader.ask(&route, &queue)) else {
            return self.try_again(cx, number);
        };
        owned.busy = true;
        let purpose = Purpose::Consumer(self.id, Call::Pull { queue: number });
        let (code, timeout) = (request::PULL_MESSAGE, self.config.pull_timeout);
        cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
    }

    pub(super) fn on_pulled(&mut self, cx: &mut Context, number: u64, reply: Reply) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        owned.busy = false;
        let Some(progress) = &mut owned.progress else { return };
        let Some(topic) = self.topics.get(&owned.queue.topic) else { return };
        if owned.reader.was_in_vain(cx.now.mono, &reply) {
            return self.step(cx, number);
        }
        let Ok(frame) = reply else { return self.try_again(cx, number) };
        let offsets = PullReply::parse(&frame.fields);
        match (frame.code, offsets) {
            (code::SUCCESS, Ok(offsets)) => {
                let Ok(mut records) = Record::parse_all(&frame.body) else {
                    return self.try_again(cx, number);
                };
                // Tags of one hash look the same to the broker's index.
                records.retain(|record| {
                    let tag = Properties(&record.properties).get(property::TAGS);
                    topic.filter.matches_tag(tag)
                });
                let before = progress.next_pull();
                progress.extend(records, offsets.next_offset);
                if progress.next_pull() == before {
                    return self.try_again(cx, number);
                }
                owned.reader.is_sent_to(cx.now.mono, offsets.suggest_broker);
            }
            (code::PULL_RETRY_IMMEDIATELY, Ok(offsets))
                if offsets.next_offset > progress.next_pull() =>
            {
                progress.extend([], offsets.next_offset);
            }
            (code::PULL_NOT_FOUND | code::PULL_RETRY_IMMEDIATELY, Ok(offsets)) => {
                progress.extend([], offsets.next_offset);
                if cx.now.mono.since(owned.pulled_at) < UNHELD_PULL {
                    owned.not_before = cx.now.mono + UNHELD_PULL;
                    cx.timers.set(owned.not_before, Timer::Queue(self.id, number));
                }
            }
            (code::PULL_OFFSET_MOVED, Ok(offsets)) if offsets.next_offset >= 0 => {
                return self.restart_at(cx, number, offsets.next_offset);
            }
            (code::FENCED, _) => return self.start_over(cx, number),
            (
                code::SUBSCRIPTION_NOT_EXIST
                | code::SUBSCRIPTION_NOT_LATEST
                | code::SUBSCRIPTION_GROUP_NOT_EXIST,
                _,
            ) => {
                let queue = owned.queue.clone();
                let route = cx.route(&queue.topic, false);
                if let Some(addr) = route.and_then(|route| route.master(&queue.broker)) {
                    cx.send_heartbeat(addr);
                }
                return self.try_again(cx, number);
            }
            _ => return self.try_again(cx, number),
        }
        owned.failures = 0;
        self.step(cx, number);
    }

    /// Stores the processed offset, or keeps it if this member is on its own.
    /// One at a time, so that a late one cannot undo a newer one, unless it is
    /// the `last`.
    pub(super) fn commit(&mut self, cx: &mut Context, number: u64, last: bool) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let implied = owned.committed.filter(|_| owned.is_implied && !last);
        let Some(offset) = owned.uncommitted().or(implied) else { return };
        if self.config.model == MessageModel::Broadcasting {
            self.config.local_offsets.insert(owned.queue.clone(), offset);
            owned.committed = Some(offset);
            return;
        }
        let queue = &owned.queue;
        let master = cx.routes.get(&queue.topic).and_then(|route| route.master(&queue.broker));
        let Some(addr) = master.filter(|_| last || !owned.committing) else { return };
        owned.committing = true;
        let fields = update_offset(&self.group, owned, offset);
        let purpose = Purpose::Consumer(self.id, Call::Commit { queue: number, offset });
        let (code, timeout) = (request::UPDATE_CONSUMER_OFFSET, cx.config.request_timeout);
        cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
    }

    pub(super) fn on_committed(
        &mut self,
        cx: &mut Context,
        number: u64,
        offset: i64,
        reply: Reply,
    ) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        owned.committing = false;
        match reply.map(|frame| frame.code) {
            Ok(code::SUCCESS) => {
                owned.committed = Some(offset);
                owned.is_implied = false;
            }
            Ok(code::FENCED) => self.start_over(cx, number),
            _ => {}
        }
    }
}

fn source_of(start_at: StartAt) -> OffsetSource {
    match start_at {
        StartAt::First => OffsetSource::First,
        StartAt::Last => OffsetSource::Last,
        StartAt::Time(_) => OffsetSource::Time,
    }
}

pub(super) fn query_offset(group: &str, queue: &MessageQueue) -> Fields {
    let header = QueryOffsetHeader {
        group,
        topic: &queue.topic,
        queue: queue.queue,
        set_zero_if_not_found: Some(false),
    };
    header.fields()
}

pub(super) fn update_offset(group: &str, owned: &Owned, offset: i64) -> Fields {
    let header = UpdateOffsetHeader {
        group,
        topic: &owned.queue.topic,
        queue: owned.queue.queue,
        commit_offset: offset,
        lock_epoch: owned.lock_epoch(),
        reset_epoch: owned.reset_epoch,
    };
    header.fields()
}
