//! 222: a group is set to another place in a topic, and nothing that its members
//! said before can undo that, however late it arrives (O4).
//!
//! Each reset of a queue has a number. A commit under an older one is refused:
//! our client says the number that it knows; of others it is known by whether
//! they asked for the offset, or pulled from it, since.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Broker, Output, command::Command, propose::Answer, state::QueueKey};
use crate::{
    error::Rejected,
    ids::{ConnId, Name, Shard},
    runtime::Disk,
    wire::{
        Fields, Frame, LANGUAGE_JAVA,
        body::{MessageQueue, ResetOffset, ResetOffsets},
        code,
        header::ResetOffsetHeader,
        request,
    },
};

/// A group goes on at these offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub group: Name,
    pub to: Vec<(Shard, u64)>,
}

/// The last reset of a group on a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// How many there were.
    pub epoch: u64,
    pub offset: u64,
    /// Nobody has gone on from there yet.
    pub is_open: bool,
}

/// The resets of all groups.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Resets(BTreeMap<Name, BTreeMap<Shard, Reset>>);

impl Resets {
    pub fn apply(&mut self, change: &Change) {
        let shards = self.0.entry(change.group.clone()).or_default();
        for (shard, offset) in &change.to {
            let epoch = shards.get(shard).map_or(0, |reset| reset.epoch) + 1;
            shards.insert(shard.clone(), Reset { epoch, offset: *offset, is_open: true });
        }
    }

    pub fn get(&self, group: &str, shard: &Shard) -> Option<&Reset> {
        self.0.get(group)?.get(shard)
    }

    pub fn epoch(&self, group: &str, shard: &Shard) -> u64 {
        self.get(group, shard).map_or(0, |reset| reset.epoch)
    }

    /// A member goes on from there.
    pub fn close(&mut self, group: &str, shard: &Shard) {
        let reset = self.0.get_mut(group).and_then(|shards| shards.get_mut(shard));
        reset.into_iter().for_each(|reset| reset.is_open = false);
    }

    /// Where nobody has gone on yet.
    fn open_of(&self, group: &str) -> impl Iterator<Item = (&Shard, &Reset)> {
        self.0.get(group).into_iter().flatten().filter(|(_, reset)| reset.is_open)
    }
}

/// Who has learned of a reset that this process made or found open.
#[derive(Default)]
pub(super) struct Learned {
    /// Connections that were there when it was made are this old, or older.
    newest: Option<ConnId>,
    conns: BTreeSet<ConnId>,
}

/// By group and queue.
pub(super) type Awareness = BTreeMap<Name, BTreeMap<Shard, Learned>>;

impl<D: Disk> Broker<D> {
    /// 222. Answered with where each queue was set to, once that is committed.
    pub(super) fn reset_offsets(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = ResetOffsetHeader::parse(&frame.fields)?;
        let Some(group) = self.state.group(header.group) else {
            let remark = format!("there is no group {}", header.group);
            return Err(Rejected::new(code::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
        };
        let group = group.name.clone();
        let one = header.queue.and_then(|queue| u32::try_from(queue).ok());
        let first = self.readable_queue(header.topic, one.unwrap_or(0))?;
        let queues = match one {
            Some(queue) => queue..queue + 1,
            None => 0..self.state.read_queues(first.topic),
        };
        let mut to = Vec::new();
        for queue in queues {
            let key = QueueKey { topic: first.topic, queue };
            let shard = self.state.shard(key);
            let offset = self.reset_target(key, &header)?;
            let stands = self.state.offset(&group, &shard);
            if header.force || stands.is_none_or(|stands| offset < stands) {
                to.push((shard, offset));
            }
        }
        let resets = &self.state.resets;
        let done = self.told(&to, |shard| resets.epoch(&group, shard) + 1);
        let body = vec![as_read_by(frame.language, &done)];
        let answer = Answer::with_body(conn, frame.reply_to(), Fields::default(), body);
        if to.is_empty() {
            self.answer(answer);
            return Ok(());
        }
        let change = Command::Reset(Change { group, to });
        match self.propose_command(change, answer) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    fn reset_target(
        &mut self,
        key: QueueKey,
        header: &ResetOffsetHeader<'_>,
    ) -> Result<u64, Rejected> {
        let index = &self.state.queue(key).index;
        let (min, max) = (index.min(), index.max());
        let named = header.offset.filter(|_| header.queue.is_some_and(|queue| queue >= 0));
        match named.and_then(|offset| u64::try_from(offset).ok()) {
            Some(offset) => Ok(offset.clamp(min, max)),
            None if header.timestamp < 0 => Ok(max),
            None => self.offset_at(key, header.timestamp),
        }
    }

    fn told(&self, to: &[(Shard, u64)], epoch: impl Fn(&Shard) -> u64) -> ResetOffsets {
        let offset_of = |(shard, offset): &(Shard, u64)| ResetOffset {
            queue: MessageQueue::new(&shard.topic, &self.config.name, shard.queue),
            offset: *offset as i64,
            reset_epoch: Some(epoch(shard)),
        };
        ResetOffsets { offsets: to.iter().map(offset_of).collect() }
    }

    /// A committed reset: whoever is connected has to learn of it.
    pub(super) fn was_reset(&mut self, change: &Change) {
        let newest = self.sessions.ids().last();
        let known = self.awareness.entry(change.group.clone()).or_default();
        for (shard, _) in &change.to {
            known.insert(shard.clone(), Learned { newest, conns: BTreeSet::new() });
            self.unproposed_offsets.remove(&(change.group.clone(), shard.clone()));
        }
        for (conn, language) in self.members.speakers(&change.group) {
            self.tell_reset(conn, language, &change.group);
        }
    }

    /// Says where nobody has gone on yet: clients then drop what they have of
    /// these queues and ask where to go on.
    pub(super) fn tell_reset(&mut self, conn: ConnId, language: u8, group: &str) {
        let mut by_topic: BTreeMap<Name, Vec<(Shard, u64)>> = BTreeMap::new();
        for (shard, reset) in self.state.resets.open_of(group) {
            let to = by_topic.entry(shard.topic.clone()).or_default();
            to.push((shard.clone(), reset.offset));
        }
        for (topic, to) in by_topic {
            let header = ResetOffsetHeader {
                topic: &topic,
                group,
                timestamp: 0,
                force: true,
                queue: None,
                offset: None,
            };
            let body = self.told(&to, |shard| self.state.resets.epoch(group, shard));
            let body = as_read_by(language, &body);
            let code = request::RESET_CONSUMER_CLIENT_OFFSET;
            let frame = Frame::request(code, self.members.next_opaque(), header.fields(), body);
            self.outputs.push_back(Output::Send { conn, packet: frame.one_way().encode() });
        }
    }

    /// Somebody learns where the group stands on a queue.
    pub(super) fn learns_offset(&mut self, conn: ConnId, group: &str, shard: &Shard) {
        let Some(reset) = self.state.resets.get(group, shard) else { return };
        let known = self.awareness.get(group).is_some_and(|shards| shards.contains_key(shard));
        if !known && !reset.is_open {
            return;
        }
        let group = self.awareness.entry(group.into()).or_default();
        group.entry(shard.clone()).or_default().conns.insert(conn);
    }

    pub(super) fn forgets_resets(&mut self, conn: ConnId) {
        for learned in self.awareness.values_mut().flat_map(BTreeMap::values_mut) {
            learned.conns.remove(&conn);
        }
    }

    /// Tells a member that just said it lives, unless it has learned already.
    pub(super) fn remind_of_resets(&mut self, conn: ConnId, language: u8, group: &str) {
        let known = self.awareness.get(group);
        let has_learned = |shard: &Shard| {
            let learned = known.and_then(|shards| shards.get(shard));
            learned.is_some_and(|learned| learned.conns.contains(&conn))
        };
        if self.state.resets.open_of(group).any(|(shard, _)| !has_learned(shard)) {
            self.tell_reset(conn, language, group);
        }
    }

    /// Somebody pulls: from where the group was set to, it has learned of that.
    pub(super) fn pulls_from(&mut self, conn: ConnId, group: &str, key: QueueKey, offset: u64) {
        if !self.state.resets.0.contains_key(group) {
            return;
        }
        let shard = self.state.shard(key);
        if self.state.resets.get(group, &shard).is_some_and(|reset| reset.offset == offset) {
            self.learns_offset(conn, group, &shard);
        }
    }

    /// The number of the reset that an offset is said under; refuses one that
    /// was said in ignorance of the last.
    pub(super) fn check_reset(
        &self,
        conn: ConnId,
        group: &str,
        shard: &Shard,
        epoch: Option<u64>,
    ) -> Result<u64, Rejected> {
        let reset = self.state.resets.get(group, shard);
        let current = reset.map_or(0, |reset| reset.epoch);
        let learned = self.awareness.get(group).and_then(|shards| shards.get(shard));
        let knows = match (epoch, reset) {
            (Some(epoch), _) => epoch == current,
            (None, None) => true,
            (None, Some(_)) if learned.is_some_and(|learned| learned.conns.contains(&conn)) => true,
            (None, Some(reset)) => {
                let was_there = learned.is_some_and(|learned| learned.newest >= Some(conn));
                !reset.is_open && !was_there
            }
        };
        if knows {
            return Ok(current);
        }
        let remark = format!("the group {group} was set elsewhere on {shard} meanwhile: ask where");
        Err(Rejected::new(code::FENCED, remark))
    }
}

fn as_read_by(language: u8, offsets: &ResetOffsets) -> Bytes {
    if language == LANGUAGE_JAVA { offsets.to_java_bytes() } else { offsets.to_bytes() }
}
