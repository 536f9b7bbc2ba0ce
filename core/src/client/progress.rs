//! The messages of one queue between their arrival and their last
//! acknowledgement, and the offset up to which the queue is processed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::ConsumeMode;
use crate::{message::Record, time::Time};

/// One queue's progress. Only unfinished messages are kept.
#[derive(Debug)]
pub struct Progress {
    mode: ConsumeMode,
    /// Where the next pull starts: everything below was pulled.
    next: i64,
    unfinished: BTreeMap<i64, Unfinished>,
    ready: BTreeSet<i64>,
    delayed: BTreeSet<(Time, i64)>,
    bytes: usize,
}

#[derive(Debug)]
struct Unfinished {
    record: Arc<Record>,
    size: usize,
    refused: u32,
}

impl Progress {
    pub fn new(mode: ConsumeMode, start: i64) -> Progress {
        Progress {
            mode,
            next: start,
            unfinished: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Takes what a pull found: records that passed the filter, and where the
    /// next pull starts. Records that were there before are not taken twice.
    pub fn extend(&mut self, records: impl IntoIterator<Item = Record>, next: i64) {
        let mut seen = self.next;
        for record in records {
            let Ok(offset) = i64::try_from(record.queue_offset) else { continue };
            if offset < seen {
                continue;
            }
            seen = offset + 1;
            let size = record.encoded_len();
            self.bytes += size;
            self.ready.insert(offset);
            let record = Arc::new(record);
            self.unfinished.insert(offset, Unfinished { record, size, refused: 0 });
        }
        self.next = seen.max(next);
    }

    /// The next message to hand out, and how often it was refused before. In
    /// orderly mode there is none while one is out or waits to come again.
    pub fn take(&mut self) -> Option<(i64, Arc<Record>, u32)> {
        let offset = *self.ready.first()?;
        if !self.has_ready() {
            return None;
        }
        self.ready.remove(&offset);
        let message = self.unfinished.get(&offset)?;
        Some((offset, message.record.clone(), message.refused))
    }

    pub fn has_ready(&self) -> bool {
        match (self.mode, self.ready.first()) {
            (_, None) => false,
            (ConsumeMode::Concurrent, Some(_)) => true,
            (ConsumeMode::Orderly, first) => first == self.unfinished.keys().next(),
        }
    }

    /// The message was processed.
    pub fn ack(&mut self, offset: i64) {
        if let Some(message) = self.unfinished.remove(&offset) {
            self.bytes -= message.size;
            self.ready.remove(&offset);
        }
    }

    /// An unfinished message.
    pub fn record(&self, offset: i64) -> Option<Arc<Record>> {
        Some(self.unfinished.get(&offset)?.record.clone())
    }

    /// How often an unfinished message was delivered, as far as its broker and
    /// this member know.
    pub fn attempts(&self, offset: i64) -> u32 {
        let Some(message) = self.unfinished.get(&offset) else { return 0 };
        let before = u32::try_from(message.record.reconsume_times).unwrap_or(0);
        before.saturating_add(message.refused).saturating_add(1)
    }

    /// The message was refused and is due again at `due`.
    pub fn nack(&mut self, offset: i64, due: Time) {
        if let Some(message) = self.unfinished.get_mut(&offset) {
            message.refused += 1;
            self.delayed.insert((due, offset));
        }
    }

    /// Makes messages ready whose delay is over.
    pub fn wake(&mut self, now: Time) {
        while let Some((due, offset)) = self.delayed.first().copied()
            && due <= now
        {
            self.delayed.pop_first();
            if self.unfinished.contains_key(&offset) {
                self.ready.insert(offset);
            }
        }
    }

    /// Everything below was processed or filtered out; nothing above is said.
    pub fn processed(&self) -> i64 {
        self.unfinished.keys().next().copied().unwrap_or(self.next)
    }

    pub fn next_pull(&self) -> i64 {
        self.next
    }

    pub fn len(&self) -> usize {
        self.unfinished.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Distance from the oldest unfinished message to the next pull.
    pub fn span(&self) -> u64 {
        self.next.abs_diff(self.processed())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ids::Position;
    use proptest::prelude::*;

    pub fn record(offset: u64, tag: &str) -> Record {
        let mut properties = Vec::new();
        crate::message::Properties::put(&mut properties, "TAGS", tag);
        Record {
            topic: "orders".to_owned(),
            queue: 0,
            queue_offset: offset,
            position: Position(offset * 100),
            flag: 0,
            sys_flag: 0,
            born_wall: 0,
            born_host: "10.0.0.9:1".parse().unwrap(),
            store_wall: 0,
            store_host: "10.0.0.1:10911".parse().unwrap(),
            reconsume_times: 0,
            prepared_position: 0,
            properties: properties.into(),
            body: format!("body-{offset}").into_bytes().into(),
        }
    }

    proptest! {
        /// What is processed never passes an unfinished message, never goes
        /// back, and reaches the end once everything is acknowledged.
        #[test]
        fn processed_is_a_contiguous_prefix(
            kept in prop::collection::vec(any::<bool>(), 1..40),
            choices in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..200),
            batch in 1..8usize,
        ) {
            let mut progress = Progress::new(ConsumeMode::Concurrent, 100);
            let mut model: BTreeSet<i64> = BTreeSet::new();
            let mut out: Vec<i64> = Vec::new();
            let (mut pulled, mut last) = (0, 100);
            for (choice, ack) in choices {
                if pulled < kept.len() {
                    let end = (pulled + batch).min(kept.len());
                    let offsets = (pulled..end).filter(|n| kept[*n]).map(|n| 100 + n as i64);
                    let offsets: Vec<i64> = offsets.collect();
                    progress.extend(offsets.iter().map(|o| record(*o as u64, "a")), 100 + end as i64);
                    model.extend(&offsets);
                    pulled = end;
                }
                progress.wake(Time(1));
                while let Some((offset, _, _)) = progress.take() {
                    out.push(offset);
                }
                if !out.is_empty() {
                    let offset = out.swap_remove(choice.index(out.len()));
                    if ack {
                        progress.ack(offset);
                        model.remove(&offset);
                    } else {
                        progress.nack(offset, Time(1));
                    }
                }
                let expected = model.first().copied().unwrap_or(100 + pulled as i64);
                prop_assert_eq!(progress.processed(), expected);
                prop_assert!(progress.processed() >= last);
                last = progress.processed();
            }
            progress.extend([], 100 + kept.len() as i64);
            for offset in model {
                progress.ack(offset);
            }
            prop_assert_eq!(progress.processed(), 100 + kept.len() as i64);
            prop_assert_eq!((progress.len(), progress.bytes(), progress.has_ready()), (0, 0, false));
        }
    }

    #[test]
    fn an_orderly_queue_waits_for_the_message_that_was_refused() {
        let mut progress = Progress::new(ConsumeMode::Orderly, 0);
        progress.extend((0..3).map(|n| record(n, "a")), 3);
        assert_eq!(progress.take().map(|(offset, _, refused)| (offset, refused)), Some((0, 0)));
        assert!(progress.take().is_none(), "one at a time");
        progress.nack(0, Time(500));
        assert!(progress.take().is_none(), "nothing overtakes a refused message");
        progress.wake(Time(500));
        assert_eq!(progress.take().map(|(offset, _, refused)| (offset, refused)), Some((0, 1)));
        progress.ack(0);
        assert_eq!(progress.take().map(|(offset, _, _)| offset), Some(1));
    }

    #[test]
    fn a_record_that_comes_twice_is_taken_once() {
        let mut progress = Progress::new(ConsumeMode::Concurrent, 5);
        progress.extend([record(4, "a"), record(5, "a"), record(5, "a")], 6);
        assert_eq!((progress.len(), progress.next_pull()), (1, 6));
    }
}
