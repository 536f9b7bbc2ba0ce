//! What one pop takes, queue by queue, and what its answer says of that.

use super::Pop;
use crate::{
    broker::{
        Broker,
        config::limit,
        leases::{Taken, Terms},
        pull::Found,
        state::QueueKey,
    },
    error::StoreError,
    ids::Name,
    queue::QueueEntry,
    runtime::Disk,
    time::Now,
    wire::{Fields, header::PopReply},
};

/// RocketMQ's mark of the queues that revive in order, and of all others here.
const REVIVES_IN_ORDER: i32 = 999;
const REVIVES: i32 = 0;

/// What the answer says of messages, in RocketMQ's words.
#[derive(Default)]
pub(super) struct Told {
    starts: String,
    offsets: String,
    counts: String,
    pub rest: u64,
}

impl<D: Disk> Broker<D> {
    /// In which order the queues are looked through: any first, so that all are
    /// shared out alike, and one time in five what comes again before the rest.
    pub(super) fn queues_to_pop(&mut self, pop: &Pop) -> Vec<(QueueKey, bool)> {
        let topic = pop.topic;
        let all = self.state.read_queues(topic);
        let mut queues: Vec<(QueueKey, bool)> = match pop.queue {
            Some(queue) => vec![(QueueKey { topic, queue }, false)],
            None => (0..all).map(|queue| (QueueKey { topic, queue }, false)).collect(),
        };
        if queues.len() > 1 {
            let first = self.rng.below(queues.len() as u64) as usize;
            queues.rotate_left(first);
        }
        if !pop.is_in_order() {
            let at = if self.rng.below(5) == 0 { 0 } else { queues.len() };
            queues.insert(at, (QueueKey { topic: pop.retry, queue: 0 }, true));
        }
        queues
    }

    /// Takes messages of one queue, as many as there is room for.
    pub(super) fn take(
        &mut self,
        now: Now,
        pop: &Pop,
        key: QueueKey,
        room: usize,
        attempt: Option<&Name>,
        found: &mut Found,
    ) -> Result<Option<Taken>, StoreError> {
        let shard = self.state.shard(key);
        let Some(number) = self.state.leases.number(&pop.group, &shard) else { return Ok(None) };
        let is_full = self.state.leases.len() >= limit::LEASES;
        let queue = self.state.leases.queue_mut(number);
        let lapsed =
            if pop.is_in_order() { queue.lapsed(now.mono, attempt) } else { Some(Vec::new()) };
        let Some(lapsed) = lapsed.filter(|_| !is_full && !queue.is_full()) else {
            queue.is_awaited = true;
            return Ok(None);
        };
        let (resets, from) = (queue.resets, queue.next);
        let mut taken = Taken { number, resets, to: from, messages: Vec::new() };
        let full = found.count + room;
        let mut lost = Vec::new();
        for (offset, attempts) in lapsed {
            if found.count == full {
                return Ok(Some(taken));
            }
            let entry = self.entry(key, offset)?;
            if self.add_message(key, offset, entry, found)? {
                taken.messages.push((offset, attempts));
            } else {
                lost.push((number, offset));
            }
        }
        if !lost.is_empty() {
            self.counters.leases_lost += lost.len() as u64;
            self.propose_ends(now, lost)?;
        }
        // What newer members want is not passed over by an older one (L15).
        let unseen = self.members.unseen_by(pop.conn, &pop.group, &shard.topic, &pop.filter, 0);
        let unseen = unseen.cloned();
        let mut entries = Vec::new();
        let index = &mut self.state.queue_mut(key).index;
        let mut at = from.max(index.min());
        let end = index.max();
        let mut scanned = 0;
        while at < end && found.count < full && scanned < limit::PULL_SCAN {
            entries.clear();
            let (log, disk) = self.replica.parts();
            let index = &mut self.state.queue_mut(key).index;
            index.read(disk, log, at, 64, &mut entries)?;
            if entries.is_empty() {
                at = end;
            }
            scanned += entries.len();
            for (offset, entry) in &entries {
                let is_over =
                    found.count > 0 && found.bytes + entry.size as usize > limit::PULL_BYTES;
                if found.count == full || is_over {
                    taken.to = at;
                    return Ok(Some(taken));
                }
                let is_wanted = pop.filter.matches_hash(entry.tag);
                if !is_wanted && unseen.as_ref().is_some_and(|all| all.matches_hash(entry.tag)) {
                    taken.to = at;
                    return Ok((at != from || !taken.messages.is_empty()).then_some(taken));
                }
                if is_wanted && self.add_message(key, *offset, Some(*entry), found)? {
                    taken.messages.push((*offset, 0));
                }
                at = offset + 1;
            }
        }
        taken.to = at;
        Ok((at != from || !taken.messages.is_empty()).then_some(taken))
    }

    /// False if retention took the message.
    fn add_message(
        &mut self,
        key: QueueKey,
        offset: u64,
        entry: Option<QueueEntry>,
        found: &mut Found,
    ) -> Result<bool, StoreError> {
        let Some(entry) = entry else { return Ok(false) };
        let before = found.count;
        self.read_message(key, offset, entry, found)?;
        Ok(found.count > before)
    }

    /// The entry of exactly this offset, if it is there.
    pub(in crate::broker) fn entry(
        &mut self,
        key: QueueKey,
        offset: u64,
    ) -> Result<Option<QueueEntry>, StoreError> {
        let mut entries = Vec::new();
        let (log, disk) = self.replica.parts();
        let index = &mut self.state.queue_mut(key).index;
        index.read(disk, log, offset, 1, &mut entries)?;
        Ok(entries.first().filter(|(found, _)| *found == offset).map(|(_, entry)| *entry))
    }
}

impl Told {
    pub fn add(&mut self, key: QueueKey, is_retry: bool, taken: &Taken) {
        let Some((start, _)) = taken.messages.first() else { return };
        let (retry, queue) = (u8::from(is_retry), key.queue);
        let list = |out: &mut String, text: String, between: &str| {
            if !out.is_empty() {
                out.push_str(between);
            }
            out.push_str(&text);
        };
        list(&mut self.starts, format!("{retry} {queue} {start}"), ";");
        let mut offsets = String::new();
        for (offset, attempts) in &taken.messages {
            list(&mut offsets, offset.to_string(), ",");
            if *attempts > 0 {
                list(&mut self.counts, format!("{retry} qo{queue}%{offset} {attempts}"), ";");
            }
        }
        list(&mut self.offsets, format!("{retry} {queue} {offsets}"), ";");
    }

    pub fn fields(&self, terms: &Terms) -> Fields {
        PopReply {
            pop_wall: terms.pop_wall,
            invisible_time: terms.invisible as i64,
            revive_queue: if terms.in_order { REVIVES_IN_ORDER } else { REVIVES },
            rest: self.rest as i64,
            start_offsets: Some(&self.starts),
            message_offsets: Some(&self.offsets),
            order_counts: Some(&self.counts)
                .filter(|counts| !counts.is_empty())
                .map(String::as_str),
        }
        .fields()
    }
}
