//! Membership: sharing out the queues with the other members, and leaving.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Call, Consumer, Leaving,
    queue::{Owned, update_offset},
};
use crate::{
    client::{
        Change, MessageQueue, Output, Ticket,
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
        if self.topics.contains_key(topic) {
            self.rebalance_now(cx);
        }
    }

    pub fn on_rebalance_timer(&mut self, cx: &mut Context) {
        if self.leaving.is_some() || cx.now.mono < self.rebalance_at {
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
        let lost: Vec<u64> = owned
            .filter(|(queue, _)| mine.binary_search(queue).is_err())
            .map(|(_, number)| *number)
            .collect();
        let gained: Vec<MessageQueue> =
            mine.iter().filter(|queue| !self.by_queue.contains_key(queue)).cloned().collect();
        if lost.is_empty() && gained.is_empty() {
            return;
        }
        self.rebalance_by(cx, cx.now.mono + REBALANCE_AGAIN);
        for number in lost {
            self.lose(cx, number);
        }
        let first_gained = self.next_number + 1;
        for queue in gained {
            self.next_number += 1;
            self.by_queue.insert(queue.clone(), self.next_number);
            self.queues.insert(self.next_number, Owned::new(queue));
        }
        self.tell_assigned(cx);
        for number in first_gained..=self.next_number {
            self.step(cx, number);
        }
    }

    fn tell_assigned(&self, cx: &mut Context) {
        let change = Change::Assigned(self.assignment());
        cx.outputs.push_back(Output::Changed { consumer: self.id, change });
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
    /// Stores what is processed, then leaves the group.
    pub fn leave(&mut self, cx: &mut Context, ticket: Option<Ticket>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.tickets.extend(ticket);
            return;
        }
        let mut owed = 0;
        for owned in self.queues.values() {
            let Some(offset) = owned.uncommitted() else { continue };
            let queue = &owned.queue;
            if self.config.model == MessageModel::Broadcasting {
                continue;
            }
            let master = cx.routes.get(&queue.topic).and_then(|route| route.master(&queue.broker));
            if let Some(addr) = master {
                let fields = update_offset(&self.group, queue, offset);
                self.say_farewell(cx, addr, request::UPDATE_CONSUMER_OFFSET, fields);
                owed += 1;
            }
        }
        self.queues.clear();
        self.by_queue.clear();
        self.ready.clear();
        self.outstanding.clear();
        self.tell_assigned(cx);
        let tickets = ticket.into_iter().collect();
        self.leaving = Some(Leaving { tickets, owed, unregistered: false });
        if owed == 0 {
            self.unregister(cx);
        }
    }

    pub(super) fn on_farewell(&mut self, cx: &mut Context) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.owed -= 1;
        if leaving.owed == 0 && !leaving.unregistered {
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
            self.say_farewell(cx, *addr, request::UNREGISTER_CLIENT, fields);
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.owed += brokers.len();
            leaving.unregistered = true;
        }
    }

    fn say_farewell(&self, cx: &mut Context, addr: SocketAddr, code: i32, fields: Fields) {
        let (timeout, purpose) =
            (cx.config.request_timeout, Purpose::Consumer(self.id, Call::Farewell));
        cx.call(addr, code, fields, Bytes::new(), timeout, purpose);
    }

    /// Whoever waits for this consumer to have left, once it has.
    pub fn has_left(&mut self) -> Option<Vec<Ticket>> {
        let leaving = self.leaving.as_mut()?;
        (leaving.unregistered && leaving.owed == 0).then(|| std::mem::take(&mut leaving.tickets))
    }
}
