//! Dead letters: messages that a group could not process, in a queue of the
//! group's own that nobody consumes unless told to. They are looked at like any
//! queue; here they are made visible again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Broker, command::TopicConfig, config::limit, propose::Answer, state::RETRY_PREFIX};
use crate::{
    error::Rejected,
    ids::{ConnId, Name, Position},
    message::property,
    pointer::{Appearance, Settles},
    queue::QueueEntry,
    runtime::Disk,
    time::Now,
    wire::{
        Frame,
        body::perm,
        code,
        header::{ReplayHeader, ReplayReply},
    },
};

pub const DLQ_PREFIX: &str = "%DLQ%";

/// The topic of a group's dead letters.
pub(super) fn topic_of(group: &str) -> TopicConfig {
    TopicConfig {
        name: format!("{DLQ_PREFIX}{group}").into(),
        read_queues: 1,
        write_queues: 1,
        perm: perm::READ | perm::WRITE,
        order: false,
        order_list: None,
    }
}

/// Which dead letters of which group were replayed: ranges of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed(BTreeMap<Name, BTreeMap<u64, u64>>);

impl Replayed {
    pub fn contains(&self, group: &str, offset: u64) -> bool {
        let before = self.0.get(group).and_then(|ranges| ranges.range(..=offset).next_back());
        before.is_some_and(|(_, end)| offset < *end)
    }

    pub fn insert(&mut self, group: &Name, offset: u64) {
        if self.contains(group, offset) {
            return;
        }
        let ranges = self.0.entry(group.clone()).or_default();
        let end = ranges.remove(&(offset + 1)).unwrap_or(offset + 1);
        match ranges.range_mut(..offset).next_back() {
            Some((_, before)) if *before == offset => *before = end,
            _ => {
                ranges.insert(offset, end);
            }
        }
    }
}

/// Replays that are proposed and not yet applied, by their groups: where the
/// log ended then.
#[derive(Default)]
pub(super) struct Replaying(BTreeMap<Name, Position>);

impl<D: Disk> Broker<D> {
    /// 20036: makes dead letters visible again, all of the answer or none.
    pub(super) fn replay_dead_letters(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = ReplayHeader::parse(&frame.fields)?;
        let dlq = topic_of(header.group).name;
        let key = self.state.find_queue(&dlq, 0).ok_or_else(|| {
            let remark = format!("the group {} has no dead letters", header.group);
            Rejected::new(code::TOPIC_NOT_EXIST, remark)
        })?;
        let applied = self.applied.position;
        self.replaying.0.retain(|_, end| *end > applied);
        if self.replaying.0.contains_key(header.group) {
            let remark = format!("a replay for the group {} is under way", header.group);
            return Err(Rejected::new(code::SYSTEM_BUSY, remark));
        }
        let mut entries = Vec::new();
        let index = &mut self.state.queue_mut(key).index;
        let from = header.from.max(index.min());
        let (log, disk) = self.replica.parts();
        index
            .read(disk, log, from, limit::REPLAYED_AT_ONCE, &mut entries)
            .map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))?;
        let mut reply = ReplayReply { replayed: 0, skipped: 0, failed: 0, next: header.to };
        let mut shows = Vec::new();
        for (offset, entry) in entries {
            if offset >= header.to {
                break;
            }
            reply.next = offset + 1;
            if header.again != Some(true) && self.state.replayed.contains(header.group, offset) {
                reply.skipped += 1;
            } else if let Some(appearance) = self.replayed(&header, entry) {
                let settles = Settles::DeadLetter { group: header.group.into(), offset };
                shows.push((appearance, settles));
                reply.replayed += 1;
            } else {
                reply.failed += 1;
            }
        }
        if self.state.queue(key).index.max() <= reply.next {
            reply.next = header.to;
        }
        if shows.is_empty() {
            self.reply_ok(conn, frame.reply_to(), reply.fields());
            return Ok(());
        }
        let answer = Answer::with(conn, frame.reply_to(), reply.fields());
        match self.propose_pointers(now, shows, answer) {
            Ok(()) => {
                self.replaying.0.insert(header.group.into(), self.replica.log().end());
                Ok(())
            }
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    /// How a dead letter appears once more: as new, to its topic or to the group
    /// alone. None if it cannot.
    fn replayed(&mut self, header: &ReplayHeader<'_>, entry: QueueEntry) -> Option<Appearance> {
        let stored = self.stored(entry.position).ok().flatten()?;
        let mut shows = stored.appearance()?;
        let patch = &mut shows.patch;
        patch.reconsume_times = Some(0);
        patch.remove(property::DLQ_ORIGIN_TOPIC);
        patch.remove(property::DLQ_ORIGIN_MESSAGE_ID);
        let topic: Name = if header.to_origin {
            patch.remove(property::RETRY_TOPIC);
            stored.property(property::DLQ_ORIGIN_TOPIC)?.into()
        } else {
            format!("{RETRY_PREFIX}{}", header.group).into()
        };
        let (_, found) = self.state.topic(&topic)?;
        let queues = u64::from(found.config.write_queues);
        if queues == 0 {
            return None;
        }
        shows.queue = self.rng.below(queues) as u32;
        shows.topic = topic;
        Some(shows)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(offsets in prop::collection::vec(0u64..40, 0..60)) {
            let group: Name = "g".into();
            let mut ranges = Replayed::default();
            let mut model = BTreeSet::new();
            for offset in offsets {
                ranges.insert(&group, offset);
                model.insert(offset);
            }
            for offset in 0..41 {
                prop_assert_eq!(ranges.contains("g", offset), model.contains(&offset));
            }
            let runs = model.iter().filter(|at| !model.contains(&(**at + 1))).count();
            prop_assert_eq!(ranges.0.get("g").map_or(0, BTreeMap::len), runs);
        }
    }
}
