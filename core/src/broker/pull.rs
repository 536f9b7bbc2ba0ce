//! 11: what a consumer gets. A pull that finds nothing is held until a message
//! that it wants becomes visible, or its time is up.

use bytes::Bytes;

use super::{
    Broker, LEADER_ID, apply::Needed, command::Command, config::limit, parked::Waiting,
    state::QueueKey,
};
use crate::{
    error::{Corrupt, Rejected, StoreError},
    ids::{ConnId, Name, Position},
    message::Peek,
    pointer::{Appearance, Pointer},
    queue::QueueEntry,
    runtime::Disk,
    time::Now,
    wire::{
        Frame,
        body::{TagFilter, perm},
        code,
        frame::ReplyTo,
        header::{PullHeader, PullReply, pull_flag},
    },
};

/// A pull that was checked and can be tried any number of times.
pub(super) struct Pull {
    conn: ConnId,
    reply_to: ReplyTo,
    pub(super) group: Name,
    /// Of the lock that it was made under.
    pub(super) lock_epoch: Option<u64>,
    pub(super) to: QueueKey,
    pub(super) filter: TagFilter,
    /// Of the subscription that the filter comes from.
    version: i64,
    /// The next offset to look at: moves over what the filter refused.
    pub(super) offset: u64,
    max_messages: usize,
    max_bytes: usize,
}

impl Pull {
    pub fn new(
        conn: ConnId,
        reply_to: ReplyTo,
        group: Name,
        to: QueueKey,
        filter: TagFilter,
        offset: u64,
        header: &PullHeader<'_>,
    ) -> Pull {
        Pull {
            conn,
            reply_to,
            group,
            lock_epoch: header.lock_epoch,
            to,
            filter,
            version: header.sub_version,
            offset,
            max_messages: (header.max_messages.max(1) as usize).min(limit::PULL_MESSAGES),
            max_bytes: header
                .max_bytes
                .map_or(limit::PULL_BYTES, |max| (max.max(1) as usize).min(limit::PULL_BYTES)),
        }
    }
}

impl Waiting for Pull {
    type Key = QueueKey;

    fn conn(&self) -> ConnId {
        self.conn
    }

    fn keys(&self) -> impl Iterator<Item = QueueKey> + 'static {
        [self.to].into_iter()
    }
}

/// Messages for an answer, in slices of the log where they lie as they are.
#[derive(Default)]
pub(super) struct Found {
    pub slices: Vec<Bytes>,
    pub count: usize,
    pub bytes: usize,
    /// Where the last one's entry lies.
    pub last: Position,
}

impl Found {
    fn push<const N: usize>(&mut self, message: [Bytes; N]) {
        self.count += 1;
        self.bytes += message.iter().map(Bytes::len).sum::<usize>();
        self.slices.extend(message);
    }
}

/// What a try of a pull came to.
pub(super) enum Tried {
    Answered,
    /// Nothing for it up to the end of the queue, or nothing that this replica
    /// can serve.
    AtEnd(Pull),
}

impl<D: Disk> Broker<D> {
    pub(super) fn pull_message(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let header = PullHeader::parse(&frame.fields)?;
        let Some(group) = self.state.group(header.group) else {
            let group = self.implied_group(header.group)?;
            let needed = Needed::Group(group.name.clone());
            return self.await_creation(conn, frame, needed, Command::Group(group));
        };
        let group = group.name.clone();
        let to = self.readable_queue(header.topic, header.queue)?;
        let filter = self.pull_filter(&header)?;
        self.check_reader(now, conn, header.group, to, header.lock_epoch)?;
        if header.sys_flag & pull_flag::COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
            let offset = header.commit_offset as u64;
            let shard = self.state.shard(to);
            let owns = self.check_lock(now, conn, header.group, &shard, header.lock_epoch);
            let knows = self.check_reset(conn, header.group, &shard, header.reset_epoch);
            if owns.is_ok() && knows.is_ok() {
                self.note_offset(now, header.group, shard, offset);
            }
        }
        let reply_to = frame.reply_to();
        let index = &self.state.queue(to).index;
        let (min, max) = (index.min(), index.max());
        let asked = u64::try_from(header.queue_offset).ok().filter(|at| (min..=max).contains(at));
        // A group that is ahead of the queue goes on at its end, never at 0 (O2).
        let next = if header.queue_offset > max as i64 { max } else { min };
        let pull = Pull::new(conn, reply_to, group, to, filter, asked.unwrap_or(next), &header);
        if asked.is_none() {
            let remark = if next == max { "OFFSET_OVERFLOW_BADLY" } else { "OFFSET_TOO_SMALL" };
            self.answer_pull(&pull, code::PULL_OFFSET_MOVED, remark, LEADER_ID, Vec::new());
            return Ok(());
        }
        self.pulls_from(conn, &pull.group, to, pull.offset);
        if let Tried::AtEnd(pull) = self.try_pull(pull) {
            let may_hold = header.sys_flag & pull_flag::SUSPEND != 0 && !reply_to.one_way;
            let hold = std::time::Duration::from_millis(header.suspend_timeout.max(0) as u64);
            if may_hold && !hold.is_zero() && self.parked.has_room(conn) {
                self.parked.park(now.mono + hold.min(limit::PULL_HOLD), pull);
            } else {
                self.answer_at_end(pull);
            }
        }
        Ok(())
    }

    pub(super) fn pull_filter(&self, header: &PullHeader<'_>) -> Result<TagFilter, Rejected> {
        if header.sys_flag & pull_flag::SUBSCRIPTION != 0 {
            return TagFilter::parse(header.subscription.unwrap_or("*"), header.expression_type);
        }
        match self.members.filter(header.group, header.topic) {
            Some(filter) => Ok(filter.clone()),
            None => Err(Rejected::new(
                code::SUBSCRIPTION_NOT_EXIST,
                format!("the group {} has not said that it wants {}", header.group, header.topic),
            )),
        }
    }

    pub(super) fn readable_queue(&self, topic: &str, queue: u32) -> Result<QueueKey, Rejected> {
        let Some((number, found)) = self.state.topic(topic) else {
            let remark = format!("the topic {topic} does not exist");
            return Err(Rejected::new(code::TOPIC_NOT_EXIST, remark));
        };
        if found.config.perm & perm::READ == 0 {
            let remark = format!("the topic {topic} is not readable");
            return Err(Rejected::new(code::NO_PERMISSION, remark));
        }
        if queue >= found.config.read_queues {
            let queues = found.config.read_queues;
            let remark = format!("queueId {queue} is illegal: {topic} has {queues} queues");
            return Err(Rejected::new(code::INVALID_PARAMETER, remark));
        }
        Ok(QueueKey { topic: number, queue })
    }

    /// Looks for messages from the pull's offset on, and answers if there are
    /// some, or if looking took long enough.
    pub(super) fn try_pull(&mut self, mut pull: Pull) -> Tried {
        let mut entries = std::mem::take(&mut self.scratch.entries);
        let mut found = Found::default();
        let mut scanned = 0;
        let end = self.state.queue(pull.to).index.max();
        let unseen = self.unseen_by(&pull);
        let mut is_outdated = false;
        let failed = loop {
            if pull.offset >= end || scanned >= limit::PULL_SCAN {
                break None;
            }
            entries.clear();
            let window = pull.max_messages.clamp(32, 512);
            let (log, disk) = self.replica.parts();
            let index = &mut self.state.queue_mut(pull.to).index;
            let read = index.read(disk, log, pull.offset, window, &mut entries);
            if let Err(error) = read {
                break Some(error);
            }
            if entries.is_empty() {
                // The rest of the queue was skipped after an unclean start.
                pull.offset = end;
                break None;
            }
            scanned += entries.len();
            // What newer members want is not passed over by an older one (L15).
            if let Some(unseen) = &unseen {
                let passes = |entry: &QueueEntry| {
                    unseen.matches_hash(entry.tag) && !pull.filter.matches_hash(entry.tag)
                };
                if let Some(stop) = entries.iter().position(|(_, entry)| passes(entry)) {
                    entries.truncate(stop);
                    is_outdated = true;
                }
            }
            match self.collect(&mut pull, &entries, &mut found) {
                Ok(false) if is_outdated => break None,
                Ok(true) => break None,
                Ok(false) => {}
                Err(error) => break Some(error),
            }
        };
        self.scratch.entries = entries;
        let Pull { conn, reply_to, offset, .. } = pull;
        if found.count > 0 {
            self.counters.served += found.count as u64;
            if self.is_following() {
                self.counters.served_following += found.count as u64;
            }
            let suggested = self.best_replica(&pull, found.last);
            self.answer_pull(&pull, code::SUCCESS, "FOUND", suggested, found.slices);
        } else if let Some(error) = failed {
            self.counters.corrupt_reads += 1;
            tracing::error!(%error, "a stored message cannot be served");
            if self.is_following() {
                return Tried::AtEnd(pull);
            }
            self.refuse(conn, reply_to, Rejected::new(code::SYSTEM_ERROR, error.to_string()));
        } else if is_outdated {
            self.counters.outdated_pulls += 1;
            let remark =
                "a newer member of the group wants the next message, and this one does not";
            self.refuse(conn, reply_to, Rejected::new(code::SUBSCRIPTION_NOT_LATEST, remark));
        } else if offset < end {
            let code = code::PULL_RETRY_IMMEDIATELY;
            self.answer_pull(&pull, code, "NO_MATCHED_MESSAGE", LEADER_ID, Vec::new());
        } else {
            return Tried::AtEnd(pull);
        }
        Tried::Answered
    }

    fn unseen_by(&self, pull: &Pull) -> Option<TagFilter> {
        let topic = self.state.topic_name(pull.to.topic);
        let Pull { conn, group, filter, version, .. } = pull;
        self.members.unseen_by(*conn, group, topic, filter, *version).cloned()
    }

    /// Takes what the filter lets through; true once the answer is full. An
    /// error counts only if nothing was found before it.
    fn collect(
        &mut self,
        pull: &mut Pull,
        entries: &[(u64, QueueEntry)],
        found: &mut Found,
    ) -> Result<bool, StoreError> {
        for (offset, entry) in entries {
            if !pull.filter.matches_hash(entry.tag) {
                pull.offset = offset + 1;
                continue;
            }
            if found.count == pull.max_messages
                || (found.count > 0 && found.bytes + entry.size as usize > pull.max_bytes)
            {
                return Ok(true);
            }
            self.read_message(pull.to, *offset, *entry, found)?;
            found.last = entry.position;
            pull.offset = offset + 1;
        }
        Ok(found.count >= pull.max_messages)
    }

    /// Adds the message that a queue's entry stands for: a record as it lies,
    /// or what a pointer makes of one. Of a message that retention took from
    /// under its pointer nothing is added.
    pub(super) fn read_message(
        &mut self,
        queue: QueueKey,
        offset: u64,
        entry: QueueEntry,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let (log, disk) = self.replica.parts();
        let part = log.read(disk, entry.position, entry.size)?;
        // The index is derived: what it points to must say the same.
        let corrupt = |what: String| {
            let position = Some(entry.position);
            StoreError::Corrupt(Corrupt { file: "queue".into(), position, what })
        };
        let other = || corrupt(format!("offset {offset} points to another message"));
        if !Pointer::is_one(&part) {
            let peek = Peek(&part);
            if (peek.queue(), peek.queue_offset()) != (Some(queue.queue), Some(offset)) {
                return Err(other());
            }
            found.push([part]);
            return Ok(());
        }
        let pointer = Pointer::decode(&part, entry.position)?;
        let Appearance { origin, size, queue: number, .. } = pointer.shows;
        if (number, pointer.queue_offset) != (queue.queue, offset) {
            return Err(other());
        }
        if origin < log.start() {
            return Ok(());
        }
        let record = log.read(disk, origin, size)?;
        let slices = pointer.present(entry.position, &record);
        found.push(slices.map_err(|error| corrupt(error.to_string()))?);
        Ok(())
    }

    /// Tries the held pulls of queues that got messages.
    pub(super) fn wake_parked(&mut self, now: Now) {
        for queue in std::mem::take(&mut self.scratch.woken) {
            for (until, pull) in self.parked.take_waiting(queue) {
                // Its lock may have passed on while it was held.
                let Pull { conn, reply_to, lock_epoch, .. } = pull;
                let owns = self.check_reader(now, conn, &pull.group, pull.to, lock_epoch);
                if let Err(rejected) = owns {
                    self.refuse(conn, reply_to, rejected);
                } else if let Tried::AtEnd(pull) = self.try_pull(pull) {
                    self.parked.park(until.max(now.mono), pull);
                }
            }
        }
    }

    pub(super) fn expire_parked(&mut self, now: Now) {
        while let Some(pull) = self.parked.take_due(now.mono) {
            self.answer_at_end(pull);
        }
    }

    fn answer_at_end(&mut self, pull: Pull) {
        let code = code::PULL_NOT_FOUND;
        self.answer_pull(&pull, code, "OFFSET_OVERFLOW_ONE", LEADER_ID, Vec::new());
    }

    fn answer_pull(
        &mut self,
        pull: &Pull,
        code: i32,
        remark: &str,
        suggest_broker: i64,
        found: Vec<Bytes>,
    ) {
        let index = &self.state.queue(pull.to).index;
        let fields = PullReply {
            suggest_broker,
            next_offset: pull.offset as i64,
            min_offset: index.min() as i64,
            max_offset: index.max() as i64,
        }
        .fields();
        self.reply(pull.conn, pull.reply_to, code, remark, fields, found);
    }
}
