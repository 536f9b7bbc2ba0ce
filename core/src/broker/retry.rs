//! 36: a consumer sends a message back, and it comes again later, or goes to
//! the dead letters. 200 and 352: how often and how late, for each group.
//!
//! What is sent back is deferred: a record of its own says what shall appear
//! when, and the answer waits until that is as durable as the message (L24).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Broker,
    apply::Needed,
    command::{Command, GroupConfig},
    config::limit,
    dead_letters, delay,
    propose::Answer,
    state::RETRY_PREFIX,
    stored::Stored,
    timers::{Change, Deferred},
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Name, Position, Shard},
    message::{MAX_PROPERTIES, Peek, Properties, offset_message_id, property},
    pointer::{Appearance, Patch, Settles},
    runtime::Disk,
    time::Now,
    wire::{
        Fields, Frame,
        body::{RetryPolicy, SubscriptionGroup},
        code,
        header::{GroupConfigHeader, SendBackHeader, SendHeader},
    },
};

/// From this version on a client's own limit of deliveries is honoured
/// (RocketMQ 3.4.9).
const KNOWS_ITS_LIMIT: i32 = 121;

/// The delay level of the first retry.
const FIRST_LEVEL: i32 = 3;

/// How long a message that was sent back waits, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackOff {
    /// 10 s, 30 s, 1 min … 2 h: the delay levels from the third on.
    #[default]
    Levels,
    /// One for each time that it was consumed before; the last one stays.
    Steps(Vec<u64>),
    Exponential {
        initial: u64,
        max: u64,
        multiplier: u64,
    },
}

impl BackOff {
    /// `times` is how often it came again already.
    fn delay(&self, times: i32) -> i64 {
        let longest = limit::DELAY.as_millis() as i64;
        let delay = match self {
            BackOff::Levels => return delay::of_level(FIRST_LEVEL.saturating_add(times)),
            BackOff::Steps(steps) => {
                let step = steps.get(times.max(0) as usize).or(steps.last());
                step.copied().unwrap_or(0)
            }
            BackOff::Exponential { initial, max, multiplier } => {
                let factor = multiplier.saturating_pow(times.max(0) as u32);
                initial.saturating_mul(factor).min(*max)
            }
        };
        i64::try_from(delay).map_or(longest, |delay| delay.min(longest))
    }
}

/// Deliveries that were sent back and whose group has not passed them yet. Who
/// gets one of them again, because a member died before it could say how far it
/// was, and sends it back again, shall not make a second copy of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBack(BTreeMap<(Name, Shard), BTreeSet<u64>>);

impl SentBack {
    pub fn contains(&self, group: &Name, shard: &Shard, offset: u64) -> bool {
        let offsets = self.0.get(&(group.clone(), shard.clone()));
        offsets.is_some_and(|offsets| offsets.contains(&offset))
    }

    /// Remembers a bounded number; the oldest are forgotten first.
    pub fn insert(&mut self, group: &Name, shard: Shard, offset: u64) {
        let offsets = self.0.entry((group.clone(), shard)).or_default();
        offsets.insert(offset);
        if offsets.len() > limit::SENT_BACK {
            offsets.pop_first();
        }
    }

    /// The group goes on at `offset`: nothing before it comes again.
    pub fn passed(&mut self, group: &Name, shard: &Shard, offset: u64) {
        let key = (group.clone(), shard.clone());
        if let Some(offsets) = self.0.get_mut(&key) {
            *offsets = offsets.split_off(&offset);
            if offsets.is_empty() {
                self.0.remove(&key);
            }
        }
    }
}

/// What becomes of a normal send to a retry topic, by which clients send back
/// when 36 fails, if its message was delivered often enough.
pub(super) struct Exhausted {
    pub topic: String,
    pub properties: String,
    pub reconsume_times: i32,
}

impl<D: Disk> Broker<D> {
    /// 36. Answered once what is to come is committed.
    pub(super) fn send_back(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let header = SendBackHeader::parse(&frame.fields)?;
        let Some(group) = self.state.group(header.group).cloned() else {
            let group = self.implied_group(header.group)?;
            let needed = Needed::Group(group.name.clone());
            return self.await_creation(conn, frame, needed, Command::Group(group));
        };
        if self.replica.undurable() > limit::UNDURABLE {
            let remark = "[OVERLOAD] too many bytes wait for the disk";
            return Err(Rejected::new(code::SYSTEM_BUSY, remark));
        }
        let (stored, shows, offset) = self.delivered(header.offset)?;
        let shard = Shard { topic: shows.topic.clone(), queue: shows.queue };
        self.check_lock(now, conn, &group.name, &shard, header.lock_epoch)?;
        let times = stored.reconsume_times();
        let own_limit = header.max_reconsume_times.filter(|_| frame.version >= KNOWS_ITS_LIMIT);
        let most = own_limit.filter(|most| *most >= 0).unwrap_or(group.retry_max);
        let is_dead = header.delay_level < 0 || times >= most;
        let delay = match header {
            _ if is_dead => 0,
            SendBackHeader { delay_ms: Some(ms), .. } => ms,
            SendBackHeader { delay_level: 0, .. } => group.back_off.delay(times),
            SendBackHeader { delay_level, .. } => delay::of_level(delay_level),
        };
        if delay < 0 {
            return Err(Rejected::new(code::MESSAGE_ILLEGAL, "delayMs is below zero"));
        }
        delay::check_delay(delay)?;
        let settles = Settles::Delivery {
            group: group.name.clone(),
            topic: shard.topic,
            queue: shard.queue,
            offset,
        };
        let shows = if is_dead {
            self.dead_letter(&group.name, &stored, shows)
        } else {
            self.retried(&group, &stored, shows)
        }?;
        let deferred = Deferred { due_wall: delay::over(delay, now.wall), shows, settles };
        self.propose_for(conn, frame.reply_to(), Command::Timer(Change::Deferred(deferred)))?;
        self.counters.sent_back += 1;
        Ok(())
    }

    /// The message that was delivered with this physical offset, how it
    /// appeared, and at which offset of its queue. What a client names may be
    /// anything; only what a queue shows was ever delivered.
    fn delivered(&mut self, position: i64) -> Result<(Stored, Appearance, u64), Rejected> {
        let unknown = || {
            let remark = format!("look message by offset failed, {position}");
            Rejected::new(code::SYSTEM_ERROR, remark)
        };
        let at = Position(u64::try_from(position).map_err(|_| unknown())?);
        let broken = |error: StoreError| Rejected::new(code::SYSTEM_ERROR, error.to_string());
        let stored = self.stored(at).map_err(broken)?.ok_or_else(unknown)?;
        let shows = stored.appearance().ok_or_else(unknown)?;
        let offset = stored.queue_offset().ok_or_else(unknown)?;
        let key = self.state.find_queue(&shows.topic, shows.queue).ok_or_else(unknown)?;
        let mut entries = Vec::new();
        let (log, disk) = self.replica.parts();
        let index = &mut self.state.queue_mut(key).index;
        index.read(disk, log, offset, 1, &mut entries).map_err(broken)?;
        let is_there =
            entries.first().is_some_and(|(found, entry)| *found == offset && entry.position == at);
        if is_there { Ok((stored, shows, offset)) } else { Err(unknown()) }
    }

    /// How it appears when it comes again.
    fn retried(
        &mut self,
        group: &GroupConfig,
        stored: &Stored,
        mut shows: Appearance,
    ) -> Result<Appearance, Rejected> {
        let topic: Name = format!("{RETRY_PREFIX}{}", group.name).into();
        let queues = self.state.topic(&topic).map_or(0, |(_, topic)| topic.config.write_queues);
        // Not dropped, as RocketMQ would (L17): its consumer keeps it.
        if queues == 0 {
            let remark = format!("the group {} has no queues for retries", group.name);
            return Err(Rejected::new(code::NO_PERMISSION, remark));
        }
        self.sent_again(stored, &mut shows);
        shows.queue = self.rng.below(u64::from(queues)) as u32;
        shows.topic = topic;
        fitting(stored, shows)
    }

    /// How it appears among the dead letters, whose queue is seen to.
    pub(super) fn dead_letter(
        &mut self,
        group: &Name,
        stored: &Stored,
        mut shows: Appearance,
    ) -> Result<Appearance, Rejected> {
        let dlq = dead_letters::topic_of(group);
        self.sent_again(stored, &mut shows);
        for (origin, key) in [
            (property::RETRY_TOPIC, property::DLQ_ORIGIN_TOPIC),
            (property::ORIGIN_MESSAGE_ID, property::DLQ_ORIGIN_MESSAGE_ID),
        ] {
            let properties = Peek(&stored.record).properties().unwrap_or(Properties(&[]));
            let value = shows.patch.property(properties, origin).map(str::to_owned);
            value.into_iter().for_each(|value| shows.patch.set(key, value));
        }
        shows.queue = 0;
        shows.topic = dlq.name.clone();
        let shows = fitting(stored, shows)?;
        // The log applies it before what needs it.
        if self.state.find_queue(&dlq.name, 0).is_none()
            && let Err(error) = self.propose_command(Command::Topic(dlq), Answer::Nothing)
        {
            return Err(self.refused_or_failed(error));
        }
        Ok(shows)
    }

    /// What is the same for every way back.
    pub(super) fn sent_again(&self, stored: &Stored, shows: &mut Appearance) {
        let origin = offset_message_id(self.config.host, stored.origin);
        let patch = &mut shows.patch;
        for (key, value) in
            [(property::RETRY_TOPIC, &*shows.topic), (property::ORIGIN_MESSAGE_ID, &origin)]
        {
            if stored.property(key).is_none() {
                patch.set(key, value);
            }
        }
        delay::forget_delay(patch, Peek(&stored.record).properties().unwrap_or(Properties(&[])));
        patch.reconsume_times = Some(stored.reconsume_times().saturating_add(1));
    }

    /// What a send to a retry topic becomes if its message is not to be retried
    /// again. The client has counted the next delivery already: more than
    /// allowed, not as many, is too much. Members of an orderly group have not,
    /// but retry by themselves and send only what is exhausted (R6).
    pub(super) fn exhausted(
        &self,
        now: Now,
        header: &SendHeader<'_>,
        version: i32,
    ) -> Result<Option<Exhausted>, Rejected> {
        let Some(group) = header.topic.strip_prefix(RETRY_PREFIX) else { return Ok(None) };
        // Of a group that is not known the topic is not, either.
        let Some(group) = self.state.group(group) else { return Ok(None) };
        let properties = Properties(header.properties.unwrap_or_default().as_bytes());
        let number = |key| properties.get(key).and_then(|text| text.parse::<i32>().ok());
        let times = header.reconsume_times.filter(|times| *times > 0);
        let times = times.or_else(|| number(property::RECONSUME_TIME)).unwrap_or(0);
        let most = header.max_reconsume_times.filter(|_| version >= KNOWS_ITS_LIMIT);
        let most = most.or_else(|| number(property::MAX_RECONSUME_TIMES));
        let most = most.filter(|most| *most >= 0).unwrap_or(group.retry_max);
        if times <= most && !self.state.locks.is_orderly(&group.name, now.mono) {
            return Ok(None);
        }
        let mut patch = Patch::default();
        delay::forget_delay(&mut patch, properties);
        for (origin, key) in [
            (property::RETRY_TOPIC, property::DLQ_ORIGIN_TOPIC),
            (property::ORIGIN_MESSAGE_ID, property::DLQ_ORIGIN_MESSAGE_ID),
        ] {
            properties.get(origin).into_iter().for_each(|value| patch.set(key, value));
        }
        let properties = String::from_utf8(patch.properties(properties));
        Ok(Some(Exhausted {
            topic: dead_letters::topic_of(&group.name).name.to_string(),
            properties: properties.map_err(|_| Rejected::bad_field("properties", "is no text"))?,
            reconsume_times: times,
        }))
    }

    /// 200: answered once it is committed.
    pub(super) fn configure_group(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let group = SubscriptionGroup::parse(&frame.body)?;
        let mut config = self.implied_group(&group.name)?;
        let bad = |field: &str, why: String| Err(Rejected::bad_field(field, why));
        match u32::try_from(group.retry_queues) {
            Ok(queues) if queues <= limit::QUEUES => config.retry_queues = queues,
            _ => return bad("retryQueueNums", format!("is {}", group.retry_queues)),
        }
        if group.retry_max < 0 {
            return bad("retryMaxTimes", format!("is {}", group.retry_max));
        }
        config.retry_max = group.retry_max;
        config.back_off = match group.policy {
            RetryPolicy::Steps(steps) if steps.is_empty() => BackOff::Levels,
            RetryPolicy::Steps(steps) if steps.len() > limit::BACK_OFF_STEPS => {
                return bad("groupRetryPolicy", format!("has {} steps", steps.len()));
            }
            RetryPolicy::Steps(steps) => BackOff::Steps(steps),
            RetryPolicy::Exponential { initial, max, multiplier } => {
                BackOff::Exponential { initial, max, multiplier }
            }
        };
        self.propose_for(conn, frame.reply_to(), Command::Group(config))
    }

    /// 352
    pub(super) fn show_group(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = GroupConfigHeader::parse(&frame.fields)?;
        let config = self.state.group(header.group).ok_or_else(|| {
            let remark = format!("the group {} does not exist", header.group);
            Rejected::new(code::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
        })?;
        let policy = match &config.back_off {
            BackOff::Levels => RetryPolicy::default(),
            BackOff::Steps(steps) => RetryPolicy::Steps(steps.clone()),
            BackOff::Exponential { initial, max, multiplier } => {
                RetryPolicy::Exponential { initial: *initial, max: *max, multiplier: *multiplier }
            }
        };
        let body = SubscriptionGroup {
            name: config.name.to_string(),
            retry_queues: config.retry_queues as i32,
            retry_max: config.retry_max,
            policy,
        }
        .to_bytes();
        self.reply(conn, frame.reply_to(), code::SUCCESS, "", Fields::default(), vec![body]);
        Ok(())
    }
}

/// Refuses what no record could hold: what is added to a message's properties
/// may be too much for one that is full of them.
pub(super) fn fitting(stored: &Stored, shows: Appearance) -> Result<Appearance, Rejected> {
    let properties = Peek(&stored.record).properties().unwrap_or(Properties(&[]));
    if shows.patch.properties(properties).len() > MAX_PROPERTIES {
        let remark = "the message has no room for the properties of a retry";
        return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
    }
    Ok(shows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_offs_grow_and_stay_in_bounds() {
        let levels: Vec<i64> = (0..4).map(|times| BackOff::Levels.delay(times)).collect();
        assert_eq!(levels, [10_000, 30_000, 60_000, 120_000]);
        assert_eq!(BackOff::Levels.delay(i32::MAX), 7_200_000);
        let steps = BackOff::Steps(vec![100, 200]);
        assert_eq!([0, 1, 2, 99].map(|times| steps.delay(times)), [100, 200, 200, 200]);
        let doubled = BackOff::Exponential { initial: 5, max: 30, multiplier: 2 };
        assert_eq!([0, 1, 2, 3, 1_000].map(|times| doubled.delay(times)), [5, 10, 20, 30, 30]);
        let endless = BackOff::Exponential { initial: 5, max: u64::MAX, multiplier: 9 };
        assert_eq!(endless.delay(1_000), limit::DELAY.as_millis() as i64);
    }

    #[test]
    fn what_was_sent_back_is_remembered_until_it_is_passed() {
        let (group, shard) = ("g".into(), Shard { topic: "orders".into(), queue: 1 });
        let mut sent_back = SentBack::default();
        for offset in [3, 5, 8] {
            sent_back.insert(&group, shard.clone(), offset);
        }
        sent_back.passed(&group, &shard, 5);
        let found = [3, 5, 8].map(|offset| sent_back.contains(&group, &shard, offset));
        assert_eq!(found, [false, true, true]);
        sent_back.passed(&group, &shard, 9);
        assert_eq!(sent_back, SentBack::default());
        for offset in 0..limit::SENT_BACK as u64 + 2 {
            sent_back.insert(&group, shard.clone(), offset);
        }
        assert!(!sent_back.contains(&group, &shard, 1) && sent_back.contains(&group, &shard, 2));
    }
}
