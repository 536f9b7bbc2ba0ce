//! 14, 15, 29, 30, 31: how far groups have come, and how far queues reach. A
//! group's progress is a record in the log like everything else (O1).

use super::{
    Broker,
    apply::Needed,
    command::{Command, OffsetCommit},
    config::limit,
    propose::Answer,
    state::QueueKey,
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Shard},
    message::Peek,
    pointer::Pointer,
    runtime::Disk,
    time::Now,
    wire::{
        Frame, code,
        header::{
            CommittedReply, OffsetReply, QueryOffsetHeader, QueueHeader, SearchOffsetHeader,
            UpdateOffsetHeader,
        },
    },
};

impl<D: Disk> Broker<D> {
    /// Remembers an offset that came with a pull; it is proposed within
    /// `limit::OFFSET_FLUSH`, because nobody waits for it.
    pub(super) fn note_offset(&mut self, now: Now, group: &str, shard: Shard, offset: u64) {
        if self.state.offset(group, &shard).is_some_and(|stored| stored >= offset) {
            return;
        }
        let noted = self.unproposed_offsets.entry((group.into(), shard)).or_default();
        *noted = offset.max(*noted);
        self.offsets_due.get_or_insert(now.mono + limit::OFFSET_FLUSH);
    }

    pub(super) fn flush_offsets(&mut self, now: Now) -> Result<(), StoreError> {
        if self.offsets_due.is_some_and(|due| due <= now.mono) {
            self.flush_all_offsets()?;
        }
        Ok(())
    }

    pub(super) fn flush_all_offsets(&mut self) -> Result<(), StoreError> {
        self.offsets_due = None;
        if self.unproposed_offsets.is_empty() {
            return Ok(());
        }
        let commits = std::mem::take(&mut self.unproposed_offsets)
            .into_iter()
            .map(|((group, shard), offset)| OffsetCommit {
                resets: self.state.resets.epoch(&group, &shard),
                group,
                topic: shard.topic,
                queue: shard.queue,
                offset,
            })
            .collect();
        match self.propose_command(Command::Offsets(commits), Answer::Nothing) {
            // Redelivery is the price of a full disk here; nothing was promised.
            Ok(_) | Err(StoreError::Full | StoreError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn update_offset(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let header = UpdateOffsetHeader::parse(&frame.fields)?;
        if self.state.group(header.group).is_none() {
            let group = self.implied_group(header.group)?;
            let needed = Needed::Group(group.name.clone());
            return self.await_creation(conn, frame, needed, Command::Group(group));
        }
        let offset = u64::try_from(header.commit_offset)
            .map_err(|_| Rejected::bad_field("commitOffset", "is below zero"))?;
        // A queue that is gone or not there yet keeps no progress.
        if self.state.find_queue(header.topic, header.queue).is_none() {
            let remark = format!("no queue {}/{}", header.topic, header.queue);
            return Err(Rejected::new(code::TOPIC_NOT_EXIST, remark));
        }
        let shard = Shard { topic: header.topic.into(), queue: header.queue };
        self.check_lock(now, conn, header.group, &shard, header.lock_epoch)?;
        let resets = self.check_reset(conn, header.group, &shard, header.reset_epoch)?;
        let (group, queue) = (header.group.into(), header.queue);
        let commit = OffsetCommit { group, topic: shard.topic, queue, offset, resets };
        self.propose_for(conn, frame.reply_to(), Command::Offsets(vec![commit]))
    }

    pub(super) fn query_offset(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = QueryOffsetHeader::parse(&frame.fields)?;
        let shard = Shard { topic: header.topic.into(), queue: header.queue };
        let noted = self.unproposed_offsets.get(&(header.group.into(), shard.clone())).copied();
        let stored = noted.max(self.state.offset(header.group, &shard));
        let offset =
            stored.or_else(|| self.implied_start(header.group, header.topic, header.queue));
        match offset {
            Some(offset) => {
                self.learns_offset(conn, header.group, &shard);
                let reset = self.state.resets.get(header.group, &shard);
                let reset_epoch = reset.map(|reset| reset.epoch);
                let lost =
                    Some(self.state.passed.loss(header.group, &shard)).filter(|lost| *lost > 0);
                let reply = CommittedReply { offset: offset as i64, reset_epoch, lost };
                self.reply_ok(conn, frame.reply_to(), reply.fields());
                Ok(())
            }
            None if header.set_zero_if_not_found == Some(true) => {
                self.reply_ok(conn, frame.reply_to(), OffsetReply { offset: 0 }.fields());
                Ok(())
            }
            None => Err(Rejected::new(
                code::QUERY_NOT_FOUND,
                format!("the group {} has no offset on {shard}", header.group),
            )),
        }
    }

    /// Where a group without an offset on a queue starts, if that is not for its
    /// members to choose (L14). A group that knows other queues of the topic
    /// starts a new one at its beginning: else it would skip what came before
    /// its members noticed. A queue that still has its first message at hand is
    /// read from 0 whatever the members prefer, as in RocketMQ.
    pub(super) fn implied_start(&mut self, group: &str, topic: &str, queue: u32) -> Option<u64> {
        let key = self.state.find_queue(topic, queue)?;
        let index = &self.state.queue(key).index;
        if self.state.knows_topic(group, topic) {
            return Some(index.min());
        }
        if index.min() > 0 {
            return None;
        }
        let mut first = Vec::new();
        let (log, disk) = self.replica.parts();
        self.state.queue_mut(key).index.read(disk, log, 0, 1, &mut first).ok()?;
        let is_at_hand =
            first.first().is_none_or(|(_, entry)| log.end().0 - entry.position.0 < limit::AT_HAND);
        is_at_hand.then_some(0)
    }

    pub(super) fn max_offset(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = QueueHeader::parse(&frame.fields)?;
        let to = self.readable_queue(header.topic, header.queue)?;
        let offset = self.state.queue(to).index.max() as i64;
        self.reply_ok(conn, frame.reply_to(), OffsetReply { offset }.fields());
        Ok(())
    }

    pub(super) fn min_offset(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = QueueHeader::parse(&frame.fields)?;
        let to = self.readable_queue(header.topic, header.queue)?;
        let offset = self.state.queue(to).index.min() as i64;
        self.reply_ok(conn, frame.reply_to(), OffsetReply { offset }.fields());
        Ok(())
    }

    /// The first message stored at or after a time, by binary search over store
    /// times; while the clock stepped, near it.
    pub(super) fn search_offset(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = SearchOffsetHeader::parse(&frame.fields)?;
        let to = self.readable_queue(header.topic, header.queue)?;
        let offset = self.offset_at(to, header.timestamp)? as i64;
        self.reply_ok(conn, frame.reply_to(), OffsetReply { offset }.fields());
        Ok(())
    }

    pub(super) fn offset_at(&mut self, to: QueueKey, timestamp: i64) -> Result<u64, Rejected> {
        let (log, disk) = self.replica.parts();
        let index = &mut self.state.queue_mut(to).index;
        let found = index.find_by(disk, log, |disk, entry| {
            let part = log.read(disk, entry.position, entry.size)?;
            let stored = if Pointer::is_one(&part) {
                Some(Pointer::decode(&part, entry.position)?.store_wall)
            } else {
                Peek(&part).store_wall()
            };
            Ok(stored.is_some_and(|wall| wall >= timestamp))
        });
        found.map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))
    }
}
