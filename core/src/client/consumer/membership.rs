//! Membership: sharing out the queues with the other members, and leaving.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Call, Consumer, Leaving, Parting,
    owned::{Owned, Stage},
    queue::update_offset,
};
use crate::{
    client::{
        Change, MessageQueue, Ticket,
        context::{Context, Purpose, Reply, Timer},
        rebalance,
    },
    ids::Name,
    time::Time,
    wire::{
        Fields,
        body::{ConsumerIds, MessageModel},
        code,
        header::{GroupHeader, UnregisterHeader},
        request,
    },
};

/// After a change or a failure the members may not agree yet.
const REBALANCE_AGAIN: Duration = Duration::from_secs(1);

impl Consumer {
    pub(super) fn rebalance_by(&mut self, cx: &mut Context, at: Time) {
        if at < self.rebalance_at {
            self.rebalance_at = at;
            cx.timers.set(at, Timer::Rebalance(self.id));
        }
    }

    /// Routes, members or their subscriptions changed.
    pub fn rebalance_now(&mut self, cx: &mut Context) {
        self.rebalance_by(cx, cx.now.mono);
    }

    pub fn on_topic_changed(&mut self, cx: &mut Context, topic: &Name) {
        if !self.topics.contains_key(topic) {
            return;
        }
        self.rebalance_now(cx);
        // What failed may have failed because somebody else leads now.
        let waits = |owned: &&mut Owned| owned.queue.topic == *topic && owned.failures > 0;
        for owned in self.queues.values_mut().filter(waits) {
            owned.not_before = cx.now.mono;
        }
        for number in self.queues.keys().copied().collect::<Vec<_>>() {
            self.step(cx, number);
        }
    }

    pub fn on_rebalance_timer(&mut self, cx: &mut Context) {
        if self.is_leaving() || cx.now.mono < self.rebalance_at {
            return;
        }
        self.rebalance_at = Time::MAX;
        self.rebalance_by(cx, cx.now.mono + self.config.rebalance_interval);
        if self.config.model == MessageModel::Clustering {
            // A broker that forgot us would leave us out of the list.
            self.introduce(cx);
        }
        for topic in self.topics.keys().cloned().collect::<Vec<_>>() {
            let Some(route) = cx.route(&topic, false) else { continue };
            match self.config.model {
                MessageModel::Broadcasting => self.assign(cx, &topic, &route.readable),
                MessageModel::Clustering => self.ask_members(cx, topic),
            }
        }
    }

    fn introduce(&mut self, cx: &mut Context) {
        let mut brokers = BTreeSet::new();
        for topic in self.topics.keys() {
            brokers.extend(cx.routes.get(topic).iter().flat_map(|route| route.masters()));
        }
        for broker in brokers {
            cx.send_heartbeat(broker);
        }
    }

    fn ask_members(&mut self, cx: &mut Context, name: Name) {
        let Some(route) = cx.route(&name, false) else { return };
        let Some(topic) = self.topics.get_mut(&name) else { return };
        let brokers: Vec<_> = route.masters().collect();
        if brokers.is_empty() {
            cx.refresh_route(&name);
            return self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        }
        if topic.asking_members {
            return;
        }
        topic.asking_members = true;
        let broker = brokers[topic.ask_broker % brokers.len()];
        let fields = GroupHeader { group: &self.group }.fields();
        let purpose = Purpose::Consumer(self.id, Call::Members { topic: name });
        let timeout = cx.config.request_timeout;
        let code = request::GET_CONSUMER_LIST_BY_GROUP;
        cx.call(broker, code, fields, Bytes::new(), timeout, purpose);
    }

    pub(super) fn on_members(&mut self, cx: &mut Context, name: &Name, reply: Reply) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.asking_members = false;
        let answered = reply.ok().filter(|frame| frame.code == code::SUCCESS);
        let Some(ConsumerIds { mut ids }) =
            answered.and_then(|frame| ConsumerIds::parse(&frame.body).ok())
        else {
            // Not knowing the members is no reason to give up any queue.
            topic.ask_broker = topic.ask_broker.wrapping_add(1);
            cx.refresh_route(name);
            return self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        };
        ids.sort();
        ids.dedup();
        let Some(route) = cx.route(name, false) else { return };
        if !ids.contains(&cx.client_id) {
            self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        }
        let mine = rebalance::average(&route.readable, &ids, &cx.client_id);
        self.assign(cx, name, mine);
    }

    fn assign(&mut self, cx: &mut Context, topic: &Name, mine: &[MessageQueue]) {
        let owned = self.by_queue.iter().filter(|(queue, _)| queue.topic == *topic);
        let (kept, lost): (Vec<_>, Vec<_>) =
            owned.partition(|(queue, _)| mine.binary_search(queue).is_ok());
        let numbers = |queues: Vec<(&MessageQueue, &u64)>| -> Vec<u64> {
            queues.into_iter().map(|(_, number)| *number).collect()
        };
        let (kept, mut lost) = (numbers(kept), numbers(lost));
        lost.retain(|number| self.queues.get(number).is_some_and(|owned| !owned.is_going()));
        for number in kept {
            self.keep(cx, number);
        }
        let gained: Vec<MessageQueue> =
            mine.iter().filter(|queue| !self.by_queue.contains_key(queue)).cloned().collect();
        if lost.is_empty() && gained.is_empty() {
            return;
        }
        self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        let needs_locks = self.needs_locks();
        for number in lost {
            match needs_locks {
                true => self.hand_over(cx, number),
                false => self.lose(cx, number),
            }
        }
        let stage = if needs_locks { Stage::Lock } else { Stage::Stored };
        let first_gained = self.next_number + 1;
        for queue in gained {
            self.next_number += 1;
            self.by_queue.insert(queue.clone(), self.next_number);
            self.queues.insert(self.next_number, Owned::new(queue, stage));
        }
        if !needs_locks {
            self.tell_assigned(cx);
        }
        for number in first_gained..=self.next_number {
            self.step(cx, number);
        }
    }

    pub(super) fn tell_assigned(&self, cx: &mut Context) {
        self.tell(cx, Change::Assigned(self.assignment()));
    }

    /// Stores what is processed and no more (L20). Deliveries without a verdict
    /// become stale.
    fn lose(&mut self, cx: &mut Context, number: u64) {
        self.commit(cx, number, true);
        let Some(owned) = self.queues.remove(&number) else { return };
        self.by_queue.remove(&owned.queue);
        self.ready.remove(&number);
        self.pass_on_survey(cx, number, &owned.queue.topic);
    }
}

/// Leaving.
impl Consumer {
    /// Stores what is processed, then leaves the group; first of all, what the
    /// application gave back goes to a broker.
    pub fn leave(&mut self, cx: &mut Context, ticket: Option<Ticket>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.tickets.extend(ticket);
            return;
        }
        let parting = self.parting.get_or_insert_with(|| {
            let until = cx.now.mono + cx.config.request_timeout;
            cx.timers.set(until, Timer::Commit(self.id));
            Parting { tickets: Vec::new(), until }
        });
        parting.tickets.extend(ticket);
        self.ready.clear();
        self.part(cx);
    }

    /// Leaves, once nothing waits for a broker to take it, or it took too long.
    pub(super) fn part(&mut self, cx: &mut Context) {
        let is_due =
            |parting: &mut Parting| self.returns.is_empty() || parting.until <= cx.now.mono;
        let Some(Parting { tickets, .. }) = self.parting.take_if(is_due) else { return };
        let (mut commits, mut unlocks) = (Vec::new(), Vec::new());
        for owned in self.queues.values() {
            let queue = &owned.queue;
            let master = cx.routes.get(&queue.topic).and_then(|route| route.master(&queue.broker));
            let Some(addr) = master.filter(|_| self.config.model == MessageModel::Clustering)
            else {
                continue;
            };
            let last = match owned.stage {
                Stage::LastCommit(offset) => Some(offset),
                _ => owned.uncommitted(),
            };
            commits.extend(last.map(|offset| (addr, update_offset(&self.group, owned, offset))));
            if self.needs_locks() {
                unlocks.push((addr, self.lock_request(cx, &[queue])));
            }
        }
        self.queues.clear();
        self.by_queue.clear();
        self.ready.clear();
        self.outstanding.clear();
        self.returns.clear();
        self.tell_assigned(cx);
        let owed = commits.len();
        self.leaving = Some(Leaving { tickets, owed, unlocks, unregistered: false });
        for (addr, fields) in commits {
            self.say_farewell(cx, addr, request::UPDATE_CONSUMER_OFFSET, fields, Bytes::new());
        }
        self.leave_further(cx);
    }

    pub(super) fn on_farewell(&mut self, cx: &mut Context) {
        if let Some(leaving) = &mut self.leaving {
            leaving.owed -= 1;
        }
        self.leave_further(cx);
    }

    /// Offsets first, then locks, then membership: who comes after us starts
    /// where we ended.
    fn leave_further(&mut self, cx: &mut Context) {
        let Some(leaving) = self.leaving.as_mut().filter(|leaving| leaving.owed == 0) else {
            return;
        };
        let unlocks = std::mem::take(&mut leaving.unlocks);
        if !unlocks.is_empty() {
            leaving.owed = unlocks.len();
            for (addr, body) in unlocks {
                self.say_farewell(cx, addr, request::UNLOCK_BATCH_MQ, Fields::default(), body);
            }
        } else if !leaving.unregistered {
            self.unregister(cx);
        }
    }

    fn unregister(&mut self, cx: &mut Context) {
        let mut brokers = cx.routes.brokers();
        brokers.retain(|addr| cx.links.is_up(*addr));
        for addr in &brokers {
            let header = UnregisterHeader {
                client_id: &cx.client_id,
                producer_group: None,
                consumer_group: Some(&self.group),
            };
            let fields = header.fields();
            self.say_farewell(cx, *addr, request::UNREGISTER_CLIENT, fields, Bytes::new());
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.owed += brokers.len();
            leaving.unregistered = true;
        }
    }

    fn say_farewell(
        &self,
        cx: &mut Context,
        addr: SocketAddr,
        code: i32,
        fields: Fields,
        body: Bytes,
    ) {
        let (timeout, purpose) =
            (cx.config.request_timeout, Purpose::Consumer(self.id, Call::Farewell));
        cx.call(addr, code, fields, body, timeout, purpose);
    }

    /// Whoever waits for this consumer to have left, once it has.
    pub fn has_left(&mut self) -> Option<Vec<Ticket>> {
        let leaving = self.leaving.as_mut()?;
        (leaving.unregistered && leaving.owed == 0).then(|| std::mem::take(&mut leaving.tickets))
    }
}
