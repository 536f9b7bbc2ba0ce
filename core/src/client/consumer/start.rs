//! Where to start reading an owned queue. Each question is asked until it is
//! answered: an offset that could not be asked for is never guessed (O3).

use bytes::Bytes;

use super::{
    Call, Consumer, History,
    owned::{Owned, Stage},
    queue::query_offset,
};
use crate::{
    client::{
        Change, MessageQueue, OffsetSource, Output, StartAt,
        context::{Context, Reply},
        progress::Progress,
    },
    ids::Name,
    message::RETRY_PREFIX,
    wire::{body::MessageModel, code, header::CommittedReply, request},
};

impl Consumer {
    pub(super) fn on_stored(&mut self, cx: &mut Context, number: u64, reply: Reply) {
        let Some(frame) = self.answered(cx, number, reply) else { return };
        if frame.code == code::QUERY_NOT_FOUND {
            let Some(owned) = self.queues.get_mut(&number) else { return };
            // Whether the group is new or the queue is, both start at the first.
            // What a group is to get again was meant for it from the beginning.
            let is_retries = owned.queue.topic.starts_with(RETRY_PREFIX);
            owned.enter(match self.config.start_at {
                _ if is_retries => Stage::Start { first: true },
                StartAt::First => Stage::Start { first: true },
                _ => Stage::History,
            });
            return self.step(cx, number);
        }
        let Some(offset) = self.offset_in(cx, number, &frame) else { return };
        let Some(owned) = self.queues.get_mut(&number) else { return };
        owned.committed = Some(offset);
        owned.is_implied = true;
        let reply = CommittedReply::parse(&frame.fields);
        owned.reset_epoch = reply.ok().and_then(|reply| reply.reset_epoch);
        let source = match owned.was_reset {
            true => OffsetSource::Reset,
            false => OffsetSource::Committed,
        };
        let topic = owned.queue.topic.clone();
        self.start_pulling(cx, number, offset, source);
        self.learn_history(cx, &topic, Vec::new());
    }

    /// Asks, for all queues of the topic that wait, whether the group has an
    /// offset in any queue: only a group that has none anywhere is new (L14).
    pub(super) fn survey(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let name = owned.queue.topic.clone();
        let Some(route) = cx.route(&name, false) else { return self.try_again(cx, number) };
        let Some(topic) = self.topics.get_mut(&name) else { return };
        if matches!(topic.history, History::Unknown) {
            let queues = route.readable.clone();
            topic.history = History::Asking { surveyor: number, queues, at: 0 };
        }
        match &topic.history {
            History::Known { fresh } => {
                let first = !fresh.contains(&owned.queue);
                owned.enter(Stage::Start { first });
                self.step(cx, number);
            }
            History::Asking { surveyor, queues, at } if *surveyor == number => {
                let Some(queue) = queues.get(*at).cloned() else {
                    let queues = queues.clone();
                    return self.learn_history(cx, &name, queues);
                };
                let fields = query_offset(&self.group, &queue);
                let code = request::QUERY_CONSUMER_OFFSET;
                let (call, timeout) = (Call::Survey { queue: number }, cx.config.request_timeout);
                self.call_about(cx, number, &queue, code, fields, Bytes::new(), timeout, call);
            }
            _ => {}
        }
    }

    pub(super) fn on_survey(&mut self, cx: &mut Context, number: u64, reply: Reply) {
        let Some(frame) = self.answered(cx, number, reply) else { return };
        let Some(owned) = self.queues.get_mut(&number) else { return };
        owned.failures = 0;
        let name = owned.queue.topic.clone();
        if frame.code == code::SUCCESS {
            return self.learn_history(cx, &name, Vec::new());
        }
        if let Some(topic) = self.topics.get_mut(&name)
            && let History::Asking { at, .. } = &mut topic.history
        {
            *at += 1;
        }
        self.step(cx, number);
    }

    fn learn_history(&mut self, cx: &mut Context, name: &Name, fresh: Vec<MessageQueue>) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        if matches!(topic.history, History::Known { .. }) {
            return;
        }
        topic.history = History::Known { fresh: fresh.into_iter().collect() };
        self.step_waiting(cx, name);
    }

    /// A queue was lost; if it was asking for the others, another one goes on.
    pub(super) fn pass_on_survey(&mut self, cx: &mut Context, number: u64, name: &Name) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        if matches!(topic.history, History::Asking { surveyor, .. } if surveyor == number) {
            topic.history = History::Unknown;
            self.step_waiting(cx, name);
        }
    }

    fn step_waiting(&mut self, cx: &mut Context, name: &Name) {
        let waits = |owned: &Owned| owned.stage == Stage::History && owned.queue.topic == *name;
        let queues = self.queues.iter();
        let waiting: Vec<u64> =
            queues.filter(|(_, owned)| waits(owned)).map(|(number, _)| *number).collect();
        for number in waiting {
            self.step(cx, number);
        }
    }

    pub(super) fn on_start(
        &mut self,
        cx: &mut Context,
        number: u64,
        source: OffsetSource,
        reply: Reply,
    ) {
        let Some(frame) = self.answered(cx, number, reply) else { return };
        let Some(offset) = self.offset_in(cx, number, &frame) else { return };
        let Some(owned) = self.queues.get_mut(&number) else { return };
        match self.config.model {
            MessageModel::Broadcasting => self.start_pulling(cx, number, offset, source),
            MessageModel::Clustering => {
                owned.enter(Stage::Anchor(offset, source));
                self.step(cx, number);
            }
        }
    }

    pub(super) fn on_anchor(
        &mut self,
        cx: &mut Context,
        number: u64,
        offset: i64,
        source: OffsetSource,
        reply: Reply,
    ) {
        let Some(frame) = self.answered(cx, number, reply) else { return };
        if frame.code != code::SUCCESS {
            return self.try_again(cx, number);
        }
        if let Some(owned) = self.queues.get_mut(&number) {
            owned.committed = Some(offset);
        }
        self.start_pulling(cx, number, offset, source);
    }

    pub(super) fn start_pulling(
        &mut self,
        cx: &mut Context,
        number: u64,
        offset: i64,
        source: OffsetSource,
    ) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let change = Change::Reading { queue: owned.queue.clone(), offset, source };
        cx.outputs.push_back(Output::Changed { consumer: self.id, change });
        owned.enter(Stage::Pulling);
        owned.progress = Some(Progress::new(self.config.mode, offset));
        self.step(cx, number);
    }
}
