//! When a send that has no outcome yet goes out again, or for the first time.

use std::time::Duration;

use super::{Producer, Send, State};
use crate::{
    client::{
        MessageQueue, Ticket,
        context::{Context, Timer},
        selection::Target,
    },
    error::Rejected,
    ids::Name,
    wire::code,
};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);

impl Send {
    /// Whether a broker other than the last one may take it.
    fn may_go_elsewhere(&self, cx: &mut Context) -> bool {
        let failed = self.queue.as_ref().map(|queue| &queue.broker);
        let route = cx.route(&self.topic, true).filter(|_| matches!(self.target, Target::Any));
        route.is_some_and(|route| route.writable.iter().any(|queue| Some(&queue.broker) != failed))
    }
}

impl Producer {
    /// The broker misses a message before this one, which is not stored.
    pub(super) fn on_gap(
        &mut self,
        cx: &mut Context,
        ticket: Ticket,
        queue: &MessageQueue,
        why: String,
    ) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        send.maybe_stored = None;
        if !self.numbering.is_behind_a_gap(queue, ticket) {
            return self.retry_later(cx, ticket, &why);
        }
        send.refusal = Rejected::new(code::OUT_OF_SEQUENCE, why);
        (send.stamp, send.state) = (None, State::WaitsForTurn);
        self.next_in_series(cx, queue);
    }

    /// Sends what waited for its number.
    pub(super) fn next_in_series(&mut self, cx: &mut Context, queue: &MessageQueue) {
        let mut before = None;
        while let Some(next) = self.numbering.next(queue).filter(|next| Some(*next) != before) {
            before = Some(next);
            self.try_send(cx, next);
        }
    }

    /// A try may have had an effect: only so many of those, unless its broker
    /// will know it again.
    pub(super) fn retry_or_give_up(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        if send.stamp.is_some() {
            send.tries_left = send.tries_left.saturating_sub(1);
            send.failures += 1;
            return self.wait_for_retry(cx, ticket);
        }
        if send.tries_left == 0 {
            return self.give_up(cx, ticket);
        }
        send.tries_left -= 1;
        send.failures += 1;
        if send.may_go_elsewhere(cx) {
            return self.try_send(cx, ticket);
        }
        self.wait_for_retry(cx, ticket);
    }

    /// Its replica set has no leader there: another set takes it at once, and its
    /// own as soon as somebody leads.
    pub(super) fn retry_elsewhere(&mut self, cx: &mut Context, ticket: Ticket, why: Rejected) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        send.refusal = why;
        send.failures += 1;
        if send.failures == 1 && send.may_go_elsewhere(cx) {
            return self.try_send(cx, ticket);
        }
        self.wait_for_retry(cx, ticket);
    }

    /// The topic's route or a leader has changed: what waits for another try
    /// waits no longer.
    pub(super) fn hurry(&mut self, cx: &mut Context, topic: &Name) {
        let waits =
            |send: &Send| send.topic == *topic && matches!(send.state, State::WaitsForRetry(_));
        let waiting = self.sends.iter().filter(|(_, send)| waits(send));
        for ticket in waiting.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.try_send(cx, ticket);
        }
    }

    /// Nothing was sent: try again as long as there is time.
    pub(super) fn retry_later(&mut self, cx: &mut Context, ticket: Ticket, why: &str) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        send.refusal = Rejected::new(code::SERVICE_NOT_AVAILABLE, why);
        send.failures += 1;
        self.wait_for_retry(cx, ticket);
    }

    fn wait_for_retry(&mut self, cx: &mut Context, ticket: Ticket) {
        let Some(send) = self.sends.get_mut(&ticket) else { return };
        let delay = cx.backoff(FIRST_RETRY, send.failures - 1, LAST_RETRY);
        let at = cx.now.mono + delay;
        send.state = State::WaitsForRetry(at);
        if at < send.deadline {
            cx.timers.set(at, Timer::Send(ticket));
        }
    }

    pub(super) fn next_in_lane(&mut self, cx: &mut Context, ticket: Ticket, send: Send) {
        let Some(queue) = send.queue.filter(|_| send.ordered) else { return };
        let Some(lane) = self.lanes.get_mut(&queue) else { return };
        let was_first = lane.front() == Some(&ticket);
        lane.retain(|other| *other != ticket);
        match lane.front().copied() {
            Some(next) if was_first => self.try_send(cx, next),
            Some(_) => {}
            None => {
                self.lanes.remove(&queue);
            }
        }
    }
}
