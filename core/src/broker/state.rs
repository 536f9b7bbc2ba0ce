//! The folded state: everything the broker knows is what the committed log says,
//! kept here, and written out as a snapshot now and then.

mod saved;

use std::collections::BTreeMap;

pub use saved::Saved;

use super::{
    command::{Command, GroupConfig, OffsetCommit, TopicConfig},
    dead_letters::Replayed,
    halves::{Halves, HalvesSnapshot},
    leases::{self, Leases, SharedQueue},
    locks::{Locks, Owner},
    resets::{self, Resets},
    retention::PassedGroups,
    retry::SentBack,
    roots::Roots,
    sequences::{Sequences, SequencesSnapshot},
    timers::{self, Timer, Timers},
};
use crate::{
    error::{Corrupt, StoreError},
    ids::{Name, Position, Shard},
    log::CommitLog,
    message::{Peek, property, tag_hash},
    pointer::{Held, Hold, Pointer, Settles},
    queue::{ConsumeQueue, QueueConfig, QueueEntry},
    runtime::Disk,
    wire::body::perm,
};

/// The topic that unknown topics are created after.
pub const DEFAULT_TOPIC: &str = "TBW102";
pub const RETRY_PREFIX: &str = "%RETRY%";

/// A place in the table of queues: topic number and queue number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    pub topic: u32,
    pub queue: u32,
}

/// What applying one message does: this entry at this offset of this queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    pub to: QueueKey,
    pub offset: u64,
    pub entry: QueueEntry,
    /// The record that it shows, if that lies elsewhere.
    pub shown: Option<Position>,
}

pub struct Topic {
    pub config: TopicConfig,
    pub queues: Vec<Queue>,
}

pub struct Queue {
    /// The applied messages: what a consumer may see.
    pub index: ConsumeQueue,
    /// The offset of the next message proposed here.
    pub next: u64,
}

pub struct State {
    queue_config: QueueConfig,
    numbers: BTreeMap<Name, u32>,
    topics: Vec<Topic>,
    groups: BTreeMap<Name, GroupConfig>,
    offsets: BTreeMap<Name, BTreeMap<Shard, u64>>,
    pub passed: PassedGroups,
    pub resets: Resets,
    pub locks: Locks,
    pub leases: Leases,
    pub sequences: Sequences,
    pub halves: Halves,
    pub timers: Timers,
    pub sent_back: SentBack,
    pub replayed: Replayed,
    pub roots: Roots,
    /// Whether the last process to append did so under async flush.
    async_flush: bool,
    /// Grows with every change of topics, so that name servers notice.
    pub topics_version: u64,
    /// Messages that retention took.
    pub expired: u64,
}

impl State {
    pub fn new(queue_config: QueueConfig) -> State {
        State {
            queue_config,
            numbers: BTreeMap::new(),
            topics: Vec::new(),
            groups: BTreeMap::new(),
            offsets: BTreeMap::new(),
            passed: PassedGroups::default(),
            resets: Resets::default(),
            locks: Locks::default(),
            leases: Leases::default(),
            sequences: Sequences::default(),
            halves: Halves::default(),
            timers: Timers::default(),
            sent_back: SentBack::default(),
            replayed: Replayed::default(),
            roots: Roots::default(),
            async_flush: false,
            topics_version: 0,
            expired: 0,
        }
    }

    pub fn topic(&self, name: &str) -> Option<(u32, &Topic)> {
        let number = *self.numbers.get(name)?;
        Some((number, &self.topics[number as usize]))
    }

    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter()
    }

    pub fn queue(&self, key: QueueKey) -> &Queue {
        &self.topics[key.topic as usize].queues[key.queue as usize]
    }

    pub fn read_queues(&self, topic: u32) -> u32 {
        self.topics[topic as usize].config.read_queues
    }

    pub fn topic_name(&self, topic: u32) -> &Name {
        &self.topics[topic as usize].config.name
    }

    pub fn shard(&self, key: QueueKey) -> Shard {
        Shard { topic: self.topics[key.topic as usize].config.name.clone(), queue: key.queue }
    }

    pub fn queue_mut(&mut self, key: QueueKey) -> &mut Queue {
        &mut self.topics[key.topic as usize].queues[key.queue as usize]
    }

    pub fn find_queue(&self, topic: &str, queue: u32) -> Option<QueueKey> {
        let (number, topic) = self.topic(topic)?;
        ((queue as usize) < topic.queues.len()).then_some(QueueKey { topic: number, queue })
    }

    pub fn group(&self, name: &str) -> Option<&GroupConfig> {
        self.groups.get(name)
    }

    pub fn groups(&self) -> impl Iterator<Item = &GroupConfig> {
        self.groups.values()
    }

    pub fn counts(&self) -> (usize, usize) {
        (self.topics.len(), self.groups.len())
    }

    pub fn offset(&self, group: &str, shard: &Shard) -> Option<u64> {
        self.offsets.get(group)?.get(shard).copied()
    }

    /// Whether the group has an offset on any queue of the topic.
    pub fn knows_topic(&self, group: &str, topic: &str) -> bool {
        let from = Shard { topic: topic.into(), queue: 0 };
        self.offsets.get(group).is_some_and(|shards| {
            shards.range(from..).next().is_some_and(|(shard, _)| &*shard.topic == topic)
        })
    }

    pub fn offsets(&self) -> impl Iterator<Item = (&Name, &Shard, u64)> {
        self.offsets
            .iter()
            .flat_map(|(group, shards)| shards.iter().map(move |(shard, at)| (group, shard, *at)))
    }

    /// Whether the last process to append did so under async flush: if it died,
    /// offsets that it handed out may have been lost.
    pub fn was_async(&self) -> bool {
        self.async_flush
    }

    /// Reads what applying a message record does. The record's bytes were
    /// verified by the log; that they name a queue which the log created before
    /// is checked here.
    pub fn dispatch(&self, record: &[u8], position: Position) -> Result<Dispatch, Corrupt> {
        let corrupt = |what: &str| Corrupt {
            file: "log".into(),
            position: Some(position),
            what: what.to_owned(),
        };
        let peek = Peek(record);
        let (topic, queue) =
            peek.topic().zip(peek.queue()).ok_or_else(|| corrupt("a record without a topic"))?;
        let to = self
            .find_queue(topic, queue)
            .ok_or_else(|| corrupt("a record for a queue that the log never created"))?;
        let offset = peek.queue_offset().ok_or_else(|| corrupt("a record without an offset"))?;
        let tag = peek.properties().and_then(|p| p.get(property::TAGS)).map_or(0, tag_hash);
        let entry = QueueEntry { position, size: record.len() as u32, tag };
        Ok(Dispatch { to, offset, entry, shown: None })
    }

    /// What applying a pointer does to its queue.
    pub fn dispatch_pointer(
        &self,
        pointer: &Pointer,
        position: Position,
        size: u32,
    ) -> Result<Dispatch, Corrupt> {
        let shows = &pointer.shows;
        let to = self.find_queue(&shows.topic, shows.queue).ok_or_else(|| Corrupt {
            file: "log".into(),
            position: Some(position),
            what: "a pointer for a queue that the log never created".into(),
        })?;
        let entry = QueueEntry { position, size, tag: shows.tag };
        let shown = Some(shows.origin);
        Ok(Dispatch { to, offset: pointer.queue_offset, entry, shown })
    }

    /// Takes note of a committed record that is not visible yet.
    pub fn apply_held(&mut self, held: &Held) {
        match &held.hold {
            Hold::Half { number, producer_group, immunity } => {
                self.halves.hold(held.at, *number, producer_group, *immunity, held.store_wall);
            }
            Hold::Until { due_wall } => {
                self.timers.insert(Timer { due_wall: *due_wall, at: held.at }, held.at);
            }
        }
    }

    /// Ends what a pointer that was applied has settled.
    pub fn settle(&mut self, settles: &Settles) {
        match settles {
            Settles::Half(at) => self.halves.committed(*at),
            Settles::Lease { number, offset } => {
                self.leases.end(*number, *offset);
                self.stands(*number);
            }
            Settles::Nothing => {}
            Settles::Timer { due_wall, at } => {
                self.timers.remove(Timer { due_wall: *due_wall, at: *at });
            }
            Settles::Delivery { group, topic, queue, offset } => {
                let shard = Shard { topic: topic.clone(), queue: *queue };
                self.sent_back.insert(group, shard, *offset);
            }
            Settles::DeadLetter { group, offset } => self.replayed.insert(group, *offset),
        }
    }

    /// Whether this was settled before, so that it must not be a second time.
    fn is_settled(&self, settles: &Settles) -> bool {
        match settles {
            Settles::Delivery { group, topic, queue, offset } => {
                let shard = Shard { topic: topic.clone(), queue: *queue };
                self.sent_back.contains(group, &shard, *offset)
            }
            Settles::DeadLetter { group, offset } => self.replayed.contains(group, *offset),
            _ => false,
        }
    }

    /// `at` is where the command lies.
    fn apply_timer(&mut self, change: &timers::Change, at: Position) {
        match change {
            timers::Change::Deferred(deferred) if self.is_settled(&deferred.settles) => {}
            timers::Change::Deferred(deferred) => {
                self.settle(&deferred.settles);
                let timer = Timer { due_wall: deferred.due_wall, at };
                self.timers.insert(timer, deferred.shows.origin);
            }
            timers::Change::Recalled(timer) => self.timers.recall(*timer),
            timers::Change::Lost(timer) => self.timers.lose(*timer),
        }
    }

    /// Makes a committed message visible in its queue.
    pub fn apply_message(
        &mut self,
        disk: &mut impl Disk,
        dispatch: Dispatch,
    ) -> Result<(), StoreError> {
        let queue = self.queue_mut(dispatch.to);
        // The index of an entry is its offset, always (R5).
        if queue.index.max() != dispatch.offset {
            return Err(StoreError::Corrupt(Corrupt {
                file: "log".into(),
                position: Some(dispatch.entry.position),
                what: format!(
                    "a message says queue offset {}, its queue goes on at {}",
                    dispatch.offset,
                    queue.index.max()
                ),
            }));
        }
        queue.index.push(disk, dispatch.offset, dispatch.entry)?;
        queue.next = queue.next.max(dispatch.offset + 1);
        Ok(())
    }

    /// `at` is where the command lies.
    pub fn apply_command(&mut self, command: &Command, at: Position) {
        match command {
            Command::Started { async_flush, .. } => self.async_flush = *async_flush,
            Command::Jumped { by } => {
                for queue in self.topics.iter_mut().flat_map(|topic| &mut topic.queues) {
                    let to = queue.index.max() + by;
                    queue.index.jump(to);
                    queue.next = queue.next.max(to);
                }
                self.halves.jump(*by);
            }
            Command::Topic(config) => self.put_topic(config.clone()),
            Command::Group(config) => {
                let name: Name = format!("{RETRY_PREFIX}{}", config.name).into();
                // What waits in queues that are no longer written to is read on.
                let before = self.topic(&name).map_or(0, |(_, topic)| topic.config.read_queues);
                self.put_topic(TopicConfig {
                    name,
                    read_queues: config.retry_queues.max(before),
                    write_queues: config.retry_queues,
                    perm: perm::READ | perm::WRITE,
                    order: false,
                    order_list: None,
                });
                self.groups.insert(config.name.clone(), config.clone());
            }
            Command::Passed(passed) => self.passed.apply(passed),
            Command::Reset(change) => self.apply_reset(change),
            Command::Lease(change) => self.apply_lease(change),
            Command::Lock(change) => self.locks.apply(change),
            Command::Offsets(commits) => commits.iter().for_each(|commit| self.put_offset(commit)),
            Command::Transaction(change) => self.halves.apply(change),
            Command::Timer(change) => self.apply_timer(change, at),
        }
    }

    /// Queues are only ever added: fewer queues than before stay readable.
    fn put_topic(&mut self, mut config: TopicConfig) {
        self.topics_version += 1;
        let queues = config.read_queues.max(config.write_queues);
        let number = match self.numbers.get(&config.name) {
            Some(number) => *number,
            None => {
                let number = self.topics.len() as u32;
                self.numbers.insert(config.name.clone(), number);
                self.topics.push(Topic { config: config.clone(), queues: Vec::new() });
                number
            }
        };
        let topic = &mut self.topics[number as usize];
        for queue in topic.queues.len() as u32..queues {
            let shard = Shard { topic: config.name.clone(), queue };
            let index = ConsumeQueue::new(shard, self.queue_config.clone());
            topic.queues.push(Queue { index, next: 0 });
        }
        if config.order {
            // Who says nothing of the list does not change it (R2).
            config.order_list = config.order_list.max(topic.config.order_list.take());
        }
        topic.config = config;
    }

    /// A group's progress only moves forward, so that a late update of an old
    /// owner cannot undo a newer one; unless the stored offset lies beyond the
    /// queue, which the client was told to correct (O2).
    fn put_offset(&mut self, commit: &OffsetCommit) {
        let shard = Shard { topic: commit.topic.clone(), queue: commit.queue };
        if commit.resets != self.resets.epoch(&commit.group, &shard) {
            return;
        }
        self.resets.close(&commit.group, &shard);
        let end = self.find_queue(&shard.topic, shard.queue).map(|key| self.queue(key).index.max());
        let stored = self.offsets.entry(commit.group.clone()).or_default().entry(shard.clone());
        let stored = stored.or_insert(commit.offset);
        if commit.offset > *stored || end.is_some_and(|end| *stored > end) {
            *stored = commit.offset;
        }
        self.sent_back.passed(&commit.group, &shard, *stored);
    }

    /// What alone may move a group back (O4).
    fn apply_reset(&mut self, change: &resets::Change) {
        self.resets.apply(change);
        for (shard, offset) in &change.to {
            self.leases.reset(&change.group, shard, *offset);
            // Who reads on purpose what was sent back may send it back again.
            self.sent_back.passed(&change.group, shard, u64::MAX);
            let offsets = self.offsets.entry(change.group.clone()).or_default();
            offsets.insert(shard.clone(), *offset);
        }
    }

    fn apply_lease(&mut self, change: &leases::Change) {
        if let leases::Change::Opened { retry: Some(config), .. } = change
            && self.topic(&config.name).is_none()
        {
            self.put_topic(config.clone());
        }
        for number in self.leases.apply(change) {
            self.stands(number);
        }
    }

    /// A group that pops stands at the first message that is not done.
    fn stands(&mut self, number: u64) {
        let (queue, offset) = self.leases.standing(number);
        let (group, topic) = (queue.group.clone(), queue.shard.topic.clone());
        let resets = self.resets.epoch(&group, &queue.shard);
        let queue = queue.shard.queue;
        self.put_offset(&OffsetCommit { group, topic, queue, offset, resets });
    }

    /// Forgets what retention took from the front of the log, or shall take.
    pub fn expire(&mut self, disk: &mut impl Disk, log: &CommitLog) -> Result<(), StoreError> {
        let start = log.start().max(self.passed.to());
        for queue in self.topics.iter_mut().flat_map(|topic| &mut topic.queues) {
            self.expired += queue.index.expire(disk, log, start)?;
        }
        self.halves.expire(start);
        self.roots.expire(start);
        Ok(())
    }

    /// The last snapshot is durable: what it no longer needs may go.
    pub fn saved(&mut self, disk: &mut impl Disk) -> Result<(), StoreError> {
        let mut queues = self.topics.iter_mut().flat_map(|topic| &mut topic.queues);
        queues.try_for_each(|queue| queue.index.saved(disk))
    }
}
