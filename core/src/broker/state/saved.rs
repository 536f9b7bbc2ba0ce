//! The folded state as a snapshot holds it.
//!
//! Consume queues have files of their own, on which a snapshot relies. Where
//! they are missing or damaged they are made anew from the log: after a
//! snapshot came from another replica, which sends no such files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    GroupConfig, Halves, HalvesSnapshot, Leases, Locks, OffsetCommit, Owner, PassedGroups, Queue,
    QueueKey, Replayed, Resets, Roots, SentBack, Sequences, SequencesSnapshot, SharedQueue, State,
    Timers, Topic, TopicConfig, timers,
};
use crate::{
    error::{Corrupt, StoreError},
    ids::{Name, Position, Shard},
    log::{CommitLog, Kind},
    pointer::Pointer,
    queue::{ConsumeQueue, QueueConfig, QueueSnapshot, Rebuilding},
    replication::configuration::Configuration,
    runtime::{Disk, FileId},
};

const VERSION: u8 = 4;

/// A snapshot's contents.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    version: u8,
    /// Who belonged to the replica set.
    configuration: Configuration,
    topics: Vec<(TopicConfig, Vec<QueueSnapshot>)>,
    groups: Vec<GroupConfig>,
    offsets: Vec<OffsetCommit>,
    passed: PassedGroups,
    resets: Resets,
    locks: Vec<(Name, Shard, Owner)>,
    leases: Vec<SharedQueue>,
    sequences: SequencesSnapshot,
    halves: HalvesSnapshot,
    timers: timers::Snapshot,
    sent_back: SentBack,
    replayed: Replayed,
    roots: Roots,
    async_flush: bool,
    expired: u64,
}

impl Saved {
    pub fn decode(bytes: &[u8]) -> Result<Saved, Corrupt> {
        let saved: Saved = postcard::from_bytes(bytes)
            .map_err(|error| corrupt(format!("not a snapshot: {error}")))?;
        if saved.version != VERSION {
            let version = saved.version;
            let what = format!("a snapshot of version {version}; this broker knows {VERSION}");
            return Err(corrupt(what));
        }
        Ok(saved)
    }

    /// Who belonged to the replica set, if there was one.
    pub fn configuration(&self) -> Option<Configuration> {
        Some(self.configuration.clone()).filter(|known| !known.seats.is_empty())
    }
}

impl State {
    /// The state as bytes, and the files of consume queues that must become
    /// durable along with them.
    pub fn snapshot(&mut self, configuration: Configuration) -> (Vec<u8>, Vec<FileId>) {
        let mut files = Vec::new();
        let mut topics = Vec::new();
        for topic in &mut self.topics {
            let mut queues = Vec::new();
            for queue in &mut topic.queues {
                let (saved, dirty) = queue.index.snapshot();
                queues.push(saved);
                files.extend(dirty);
            }
            topics.push((topic.config.clone(), queues));
        }
        let saved = Saved {
            version: VERSION,
            configuration,
            topics,
            groups: self.groups.values().cloned().collect(),
            offsets: self
                .offsets()
                .map(|(group, shard, offset)| OffsetCommit {
                    group: group.clone(),
                    topic: shard.topic.clone(),
                    queue: shard.queue,
                    offset,
                    resets: 0,
                })
                .collect(),
            passed: self.passed.clone(),
            resets: self.resets.clone(),
            locks: self.locks.snapshot(),
            leases: self.leases.snapshot(),
            sequences: self.sequences.snapshot(),
            halves: self.halves.snapshot(),
            timers: self.timers.snapshot(),
            sent_back: self.sent_back.clone(),
            replayed: self.replayed.clone(),
            roots: self.roots.clone(),
            async_flush: self.async_flush,
            expired: self.expired,
        };
        let bytes = postcard::to_allocvec(&saved).expect("snapshots have no unencodable parts");
        (bytes, files)
    }

    /// The state at the position `at`. Queues whose files are missing are made
    /// anew from the log; all of them, if the files were not saved along.
    pub fn restore(
        disk: &mut impl Disk,
        log: &CommitLog,
        queue_config: QueueConfig,
        saved: Saved,
        at: Position,
        has_files: bool,
    ) -> Result<State, StoreError> {
        let mut state = State::new(queue_config.clone());
        state.async_flush = saved.async_flush;
        state.passed = saved.passed;
        state.resets = saved.resets;
        state.locks = Locks::restore(saved.locks);
        state.leases = Leases::restore(saved.leases);
        state.sequences = Sequences::restore(saved.sequences);
        state.expired = saved.expired;
        state.halves = Halves::restore(saved.halves)
            .ok_or_else(|| corrupt("half messages that contradict themselves".into()))?;
        state.timers = Timers::restore(saved.timers)?;
        state.sent_back = saved.sent_back;
        state.replayed = saved.replayed;
        state.roots = saved.roots;
        let mut missing = BTreeMap::new();
        for (number, (config, queues)) in (0..).zip(saved.topics) {
            let mut restored = Vec::new();
            for (queue, saved) in (0..).zip(queues) {
                let shard = Shard { topic: config.name.clone(), queue };
                let key = QueueKey { topic: number, queue };
                let found = match has_files {
                    true => ConsumeQueue::restore(disk, &saved, shard.clone(), &queue_config),
                    false => Err(corrupt("its queues are elsewhere".into()).into()),
                };
                let index = match found {
                    Ok(index) => index,
                    Err(StoreError::Corrupt(_)) => {
                        let rebuilding = Rebuilding::new(saved, shard.clone(), &queue_config)?;
                        missing.insert(key, rebuilding);
                        ConsumeQueue::new(shard, queue_config.clone())
                    }
                    Err(error) => return Err(error),
                };
                restored.push(Queue { next: index.max(), index });
            }
            state.numbers.insert(config.name.clone(), number);
            state.topics.push(Topic { config, queues: restored });
        }
        for config in saved.groups {
            state.groups.insert(config.name.clone(), config);
        }
        for commit in saved.offsets {
            let shard = Shard { topic: commit.topic, queue: commit.queue };
            state.offsets.entry(commit.group).or_default().insert(shard, commit.offset);
        }
        if !missing.is_empty() {
            state.rebuild(disk, log, missing, at)?;
        }
        Ok(state)
    }

    /// Makes queues anew from what is kept of the log up to `end`.
    fn rebuild(
        &mut self,
        disk: &mut impl Disk,
        log: &CommitLog,
        mut missing: BTreeMap<QueueKey, Rebuilding>,
        end: Position,
    ) -> Result<(), StoreError> {
        tracing::info!(queues = missing.len(), %end, "making consume queues anew from the log");
        let mut at = log.start();
        while at < end
            && let Some(entry) = log.entry_at(disk, at)?
            && entry.place.end <= end
        {
            for (position, part) in &entry.parts {
                let dispatch = match entry.kind {
                    Kind::Messages => self.dispatch(part, *position)?,
                    Kind::Pointers => {
                        let pointer = Pointer::decode(part, *position)?;
                        self.dispatch_pointer(&pointer, *position, part.len() as u32)?
                    }
                    Kind::Command | Kind::Held | Kind::Mark | Kind::Configuration => break,
                };
                if let Some(queue) = missing.get_mut(&dispatch.to) {
                    queue.push(disk, dispatch.offset, dispatch.entry)?;
                }
            }
            at = entry.place.end;
        }
        for (key, rebuilt) in missing {
            let index = rebuilt.finish()?;
            *self.queue_mut(key) = Queue { next: index.max(), index };
        }
        Ok(())
    }
}

fn corrupt(what: String) -> Corrupt {
    Corrupt { file: "snapshot".into(), position: None, what }
}
