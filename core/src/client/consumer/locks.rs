//! Locks: a member of an orderly group reads a queue only while it holds the
//! queue's lock, and gives it up only when it works on nothing of it (R1).

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Call, Consumer,
    owned::{Owned, Stage},
    queue::update_offset,
};
use crate::{
    client::{
        Change, ConsumeMode, MessageQueue,
        context::{Context, Purpose, Reply, Timer},
    },
    ids::Name,
    time::Time,
    wire::{
        Fields, Frame,
        body::{self, LockReply, LockRequest, MessageModel},
        code, request,
    },
};

/// Somebody else has the lock: asked again this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After a renewal that nobody answered.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// Tries to store the last offset, and to give up the lock.
const LAST_TRIES: u32 = 5;

/// A queue's lock, as this member knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// None from a broker that counts no owners.
    epoch: Option<u64>,
    /// When the last request was sent that was granted: the lease began no
    /// earlier.
    asked_at: Time,
    /// It was told that the lock may be over.
    lapsed: bool,
}

/// Why a member no longer holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// It gave it up.
    Released,
    /// The broker says that it is not the owner.
    Refused,
    /// It could not be renewed in time; perhaps it still can be.
    Expired,
}

impl Lock {
    /// Nothing may be done under it until it is renewed.
    pub fn has_lapsed(&self) -> bool {
        self.lapsed
    }
}

impl Owned {
    /// It is being handed over, or will be.
    pub fn is_going(&self) -> bool {
        self.is_released() || self.drain_until.is_some()
    }

    pub fn lock_epoch(&self) -> Option<u64> {
        self.lock.and_then(|lock| lock.epoch)
    }
}

impl Consumer {
    pub(super) fn needs_locks(&self) -> bool {
        self.config.mode == ConsumeMode::Orderly && self.config.model == MessageModel::Clustering
    }

    /// Whether messages of the queue may be handed out now.
    pub(super) fn holds(&self, owned: &Owned, now: Time) -> bool {
        let valid = |lock: Lock| now < lock.asked_at + self.config.lock_validity;
        !self.needs_locks() || owned.lock.is_some_and(valid)
    }

    /// Asks for the lock of one queue.
    pub(super) fn ask_for_lock(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get(&number) else { return };
        let queues = [&owned.queue];
        let (body, asked_at) = (self.lock_request(cx, &queues), cx.now.mono);
        let (code, call) = (request::LOCK_BATCH_MQ, Call::Lock { queue: number, asked_at });
        let timeout = cx.config.request_timeout;
        self.call_with_body(cx, number, code, body, timeout, call);
    }

    pub(super) fn on_locked(&mut self, cx: &mut Context, number: u64, at: Time, reply: Reply) {
        let Some(frame) = self.answered(cx, number, reply) else { return };
        let Some(owned) = self.queues.get_mut(&number) else { return };
        let Some(epoch) = granted(&frame, &owned.queue) else {
            owned.not_before = cx.now.mono + ASK_AGAIN;
            return cx.timers.set(owned.not_before, Timer::Queue(self.id, number));
        };
        owned.lock = Some(Lock { epoch, asked_at: at, lapsed: false });
        owned.enter(Stage::Stored);
        let queue = owned.queue.clone();
        self.tell(cx, Change::Locked { queue, epoch });
        self.tell_assigned(cx);
        self.watch_lock(cx, number);
        self.renew_by(cx, at + self.config.lock_renewal);
        self.step(cx, number);
    }

    /// Wakes up when the lock will be over, unless it is renewed before.
    fn watch_lock(&mut self, cx: &mut Context, number: u64) {
        if let Some(lock) = self.queues.get(&number).and_then(|owned| owned.lock) {
            let over = lock.asked_at + self.config.lock_validity;
            cx.timers.set(over, Timer::Queue(self.id, number));
        }
    }

    /// Notes that a lock is over: nothing is handed out until it is renewed.
    pub(super) fn look_at_lock(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get(&number) else { return };
        if !self.needs_locks() || self.holds(owned, cx.now.mono) {
            return;
        }
        let Some(Owned { queue, lock: Some(lock), .. }) = self.queues.get_mut(&number) else {
            return;
        };
        if !std::mem::replace(&mut lock.lapsed, true) {
            let (queue, why) = (queue.clone(), Unlocked::Expired);
            self.tell(cx, Change::Unlocked { queue, why });
        }
    }

    fn renew_by(&mut self, cx: &mut Context, at: Time) {
        if at < self.renew_at {
            self.renew_at = at;
            cx.timers.set(at, Timer::Locks(self.id));
        }
    }

    /// Renews all locks, with one request to each broker.
    pub fn on_locks_timer(&mut self, cx: &mut Context) {
        if self.leaving.is_some() || cx.now.mono < self.renew_at {
            return;
        }
        self.renew_at = Time::MAX;
        let mut by_broker: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
        // A renewal that arrives after the unlocking would lock anew, for nobody.
        let is_renewed = |owned: &Owned| owned.lock.is_some() && !owned.is_released();
        for (number, owned) in self.queues.iter().filter(|(_, owned)| is_renewed(owned)) {
            by_broker.entry(owned.queue.broker.clone()).or_default().push(*number);
        }
        if by_broker.is_empty() {
            return;
        }
        self.renew_by(cx, cx.now.mono + self.config.lock_renewal);
        for numbers in by_broker.into_values() {
            let queues: Vec<&MessageQueue> =
                numbers.iter().map(|number| &self.queues[number].queue).collect();
            let route = cx.routes.get(&queues[0].topic);
            let Some(addr) = route.and_then(|route| route.master(&queues[0].broker)) else {
                self.renew_by(cx, cx.now.mono + RENEW_AGAIN);
                continue;
            };
            let (body, asked_at) = (self.lock_request(cx, &queues), cx.now.mono);
            let (code, timeout) = (request::LOCK_BATCH_MQ, cx.config.request_timeout);
            let purpose = Purpose::Consumer(self.id, Call::Renew { queues: numbers, asked_at });
            cx.call(addr, code, Fields::default(), body, timeout, purpose);
        }
    }

    pub(super) fn on_renewed(&mut self, cx: &mut Context, numbers: &[u64], at: Time, reply: Reply) {
        let Some(frame) = reply.ok().filter(|frame| frame.code == code::SUCCESS) else {
            return self.renew_by(cx, cx.now.mono + RENEW_AGAIN);
        };
        for number in numbers.iter().copied() {
            let Some(Owned { queue, lock: Some(lock), .. }) = self.queues.get_mut(&number) else {
                continue;
            };
            let epoch = granted(&frame, queue);
            // Who counts no owners cannot tell whether there was another one meanwhile.
            let is_same = epoch == Some(lock.epoch) && !(lock.lapsed && lock.epoch.is_none());
            if !is_same {
                self.start_over(cx, number);
                continue;
            }
            lock.asked_at = lock.asked_at.max(at);
            if std::mem::replace(&mut lock.lapsed, false) {
                let (queue, epoch) = (queue.clone(), lock.epoch);
                self.tell(cx, Change::Locked { queue, epoch });
            }
            self.watch_lock(cx, number);
            self.step(cx, number);
        }
    }

    /// This member does not own the queue any more, or an offset of it was set
    /// from outside: what it has of it is void, and it begins anew.
    pub(super) fn start_over(&mut self, cx: &mut Context, number: u64) {
        let Some(old) = self.queues.get(&number) else { return };
        if old.is_released() {
            return;
        }
        let (queue, had_lock) = (old.queue.clone(), old.lock.is_some());
        let stage = if self.needs_locks() { Stage::Lock } else { Stage::Stored };
        let going = old.drain_until.is_some();
        self.pass_on_survey(cx, number, &queue.topic);
        let number = self.replace(number, stage);
        if let Some(owned) = self.queues.get_mut(&number) {
            owned.lock = None;
            owned.was_reset = !had_lock;
        }
        if had_lock {
            self.tell(cx, Change::Unlocked { queue, why: Unlocked::Refused });
            self.tell_assigned(cx);
        }
        match going {
            // Nothing is left to hand over.
            true => self.forget(cx, number),
            // Not at once: who is refused may be refused again.
            false => self.try_again(cx, number),
        }
    }

    pub(super) fn lock_request(&self, cx: &Context, queues: &[&MessageQueue]) -> Bytes {
        let name = |queue: &&MessageQueue| {
            body::MessageQueue::new(&queue.topic, &queue.broker, queue.queue)
        };
        let request = LockRequest {
            group: self.group.to_string(),
            client_id: cx.client_id.clone(),
            only_this_broker: false,
            queues: queues.iter().map(name).collect(),
        };
        request.to_bytes()
    }
}

/// Handing a queue over: finish the message in hand, store the offset, unlock.
impl Consumer {
    /// The queue is another member's from now on, or as soon as the application
    /// is done with the message that it has.
    pub(super) fn hand_over(&mut self, cx: &mut Context, number: u64) {
        if !self.is_in_hand(number) {
            return self.release(cx, number);
        }
        if let Some(owned) = self.queues.get_mut(&number) {
            let until = cx.now.mono + self.config.drain_timeout;
            owned.drain_until = Some(until);
            cx.timers.set(until, Timer::Queue(self.id, number));
            self.note_ready(cx, number);
        }
    }

    /// The queue stays, or comes back before it is gone.
    pub(super) fn keep(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        if owned.drain_until.take().is_some() {
            self.step(cx, number);
        }
    }

    pub(super) fn look_if_drained(&mut self, cx: &mut Context, number: u64) {
        let is_draining = self.queues.get(&number).is_some_and(|owned| owned.drain_until.is_some());
        if is_draining && !self.is_in_hand(number) {
            self.release(cx, number);
        }
    }

    fn is_in_hand(&self, number: u64) -> bool {
        let mut handed = self.outstanding.values().map(|handed| handed.at.0);
        let mut returned = self.returns.values().map(|back| back.at.0);
        handed.any(|queue| queue == number) || returned.any(|queue| queue == number)
    }

    /// Nothing of the queue is in hand, or the time for it is over.
    pub(super) fn release(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get(&number) else { return };
        let (queue, had_lock) = (owned.queue.clone(), owned.lock.is_some());
        // A lock that was asked for may still be granted.
        let may_be_locked = had_lock || owned.stage == Stage::Lock && owned.busy;
        let stage = match owned.uncommitted() {
            Some(offset) if had_lock => Stage::LastCommit(offset),
            _ => Stage::Unlock,
        };
        self.pass_on_survey(cx, number, &queue.topic);
        let number = self.replace(number, stage);
        if had_lock {
            self.tell(cx, Change::Unlocked { queue, why: Unlocked::Released });
            self.tell_assigned(cx);
        }
        match may_be_locked {
            true => self.step(cx, number),
            false => self.forget(cx, number),
        }
    }

    pub(super) fn commit_last(&mut self, cx: &mut Context, number: u64, offset: i64) {
        let Some(owned) = self.queues.get(&number) else { return };
        let fields = update_offset(&self.group, owned, offset);
        let (code, call) = (request::UPDATE_CONSUMER_OFFSET, Call::LastCommit { queue: number });
        self.call(cx, number, code, fields, cx.config.request_timeout, call);
    }

    pub(super) fn unlock(&mut self, cx: &mut Context, number: u64) {
        let Some(owned) = self.queues.get(&number) else { return };
        let body = self.lock_request(cx, &[&owned.queue]);
        let (code, call) = (request::UNLOCK_BATCH_MQ, Call::Unlock { queue: number });
        let timeout = cx.config.request_timeout;
        self.call_with_body(cx, number, code, body, timeout, call);
    }

    pub(super) fn on_last_step(&mut self, cx: &mut Context, number: u64, reply: Reply) {
        let Some(owned) = self.queues.get_mut(&number) else { return };
        owned.busy = false;
        let stage = owned.stage;
        // A refusal is final: the lock is another member's already.
        if reply.is_err() && owned.failures + 1 < LAST_TRIES {
            return self.try_again(cx, number);
        }
        match stage {
            Stage::LastCommit(_) => {
                owned.enter(Stage::Unlock);
                self.step(cx, number);
            }
            _ => self.forget(cx, number),
        }
    }

    /// The queue may have come back meanwhile.
    fn forget(&mut self, cx: &mut Context, number: u64) {
        if let Some(owned) = self.queues.remove(&number) {
            self.by_queue.remove(&owned.queue);
            self.rebalance_now(cx);
        }
    }
}

/// The epoch under which the answer grants this queue's lock, if it does.
fn granted(frame: &Frame, queue: &MessageQueue) -> Option<Option<u64>> {
    let reply = LockReply::parse(&frame.body).ok()?;
    let is_it = |locked: &&body::MessageQueue| {
        locked.topic == *queue.topic
            && locked.broker_name == *queue.broker
            && locked.queue == queue.queue
    };
    reply.locked.iter().find(is_it).map(|locked| locked.epoch)
}
