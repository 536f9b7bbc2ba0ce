//! Topics, and how far groups have come in them.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use stormglass_core::{
    broker::View,
    ids::{Name, Shard},
    runtime::Disk,
};

use super::{Counter, Gauge, Greatest, Labels, Numbers};

const RETRY: &str = "%RETRY%";
const DEAD_LETTERS: &str = "%DLQ%";
const GROUP_AND_TOPIC: &[&str] = &["consumer_group", "topic"];

struct Topic {
    name: Name,
    /// From the first message at hand to behind the last one.
    queues: Vec<Range<u64>>,
}

impl Topic {
    fn messages(&self) -> f64 {
        self.queues.iter().map(|queue| queue.end as f64).sum()
    }
}

pub fn tell<D: Disk>(all: &mut Numbers, view: &View<'_, D>) {
    let (topics, groups) = view.counts();
    all.one(Gauge, "rocketmq_topic_number", "Topics.", topics as f64);
    all.one(Gauge, "rocketmq_consumer_group_number", "Consumer groups.", groups as f64);
    let topics = topics_of(view);
    all.each(
        Counter,
        "rocketmq_messages_in_total",
        "Messages that became visible in a topic, by the ends of its queues: these skip numbers \
         after an unclean end under async flush.",
        &["topic"],
        topics.iter().map(|topic| (Labels::Name(topic.name.clone()), topic.messages())),
    );
    let dead = topics.iter().filter_map(|topic| Some((topic, group_of(topic, DEAD_LETTERS)?)));
    all.each(
        Counter,
        "rocketmq_send_to_dlq_messages_total",
        "Messages that a group could not process.",
        &["consumer_group"],
        dead.map(|(topic, group)| (Labels::Name(group.into()), topic.messages())),
    );
    lags(all, view, &topics);
    leases(all, view);
    losses(all, view);
    members(all, view);
}

/// Queues of a topic come one after the other.
fn topics_of<D: Disk>(view: &View<'_, D>) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    for (shard, queue) in view.queues() {
        let queue = queue.min..queue.max;
        match topics.last_mut() {
            Some(topic) if shard.queue > 0 => topic.queues.push(queue),
            _ => topics.push(Topic { name: shard.topic, queues: vec![queue] }),
        }
    }
    topics
}

fn group_of<'a>(topic: &'a Topic, prefix: &str) -> Option<&'a str> {
    topic.name.strip_prefix(prefix)
}

fn lags<D: Disk>(all: &mut Numbers, view: &View<'_, D>, topics: &[Topic]) {
    let by_name: HashMap<&str, usize> =
        topics.iter().zip(0..).map(|(topic, number)| (&*topic.name, number)).collect();
    let (mut of_topics, mut of_queues) = (Greatest::default(), Greatest::default());
    let mut retries_read = BTreeSet::new();
    let mut sum = |lag: Lag<'_>| of_topics.offer(lag.messages, || lag.labels());
    // Offsets come sorted by group, topic and queue. There may be a million.
    let mut current: Option<Lag<'_>> = None;
    for (group, shard, offset) in view.offsets() {
        let is_of = |lag: &Lag<'_>| std::ptr::eq(lag.group, group) && lag.topic.name == shard.topic;
        if !current.as_ref().is_some_and(is_of) {
            current.take().map(&mut sum);
            let Some(number) = by_name.get(&*shard.topic) else { continue };
            retries_read.extend(group_of(&topics[*number], RETRY).map(|_| *number));
            current = Some(Lag { group, topic: &topics[*number], messages: 0.0 });
        }
        let Some(lag) = &mut current else { continue };
        let Some(queue) = lag.topic.queues.get(shard.queue as usize) else { continue };
        let behind = queue.end.saturating_sub(offset.max(queue.start)) as f64;
        lag.messages += behind;
        if behind > 0.0 {
            let labels = || Labels::Queue(group.clone(), lag.topic.name.clone(), shard.queue);
            of_queues.offer(behind, labels);
        }
    }
    current.take().map(&mut sum);
    // A group reads its retries from the beginning, even if it has not begun.
    for (number, topic) in topics.iter().enumerate() {
        let Some(group) = group_of(topic, RETRY) else { continue };
        if !retries_read.contains(&number) {
            let messages: u64 = topic.queues.iter().map(|queue| queue.end - queue.start).sum();
            sum(Lag { group: &group.into(), topic, messages: messages as f64 });
        }
    }
    all.push(
        Gauge,
        "rocketmq_consumer_lag_messages",
        "Messages of a topic that a group has not done with.",
        GROUP_AND_TOPIC,
        of_topics,
    );
    all.push(
        Gauge,
        "stormglass_queue_lag_messages",
        "The same of one queue; of those only that have any.",
        &["consumer_group", "topic", "queue_id"],
        of_queues,
    );
}

/// Of a group in a topic.
struct Lag<'a> {
    group: &'a Name,
    topic: &'a Topic,
    messages: f64,
}

impl Lag<'_> {
    fn labels(&self) -> Labels {
        Labels::Names(self.group.clone(), self.topic.name.clone())
    }
}

/// What groups have in single queues, summed.
fn by_topic<'a>(
    of_queues: impl Iterator<Item = (&'a Name, &'a Shard, u64)>,
) -> impl Iterator<Item = (Labels, f64)> {
    let mut sums: HashMap<(&Name, &Name), u64> = HashMap::new();
    of_queues.for_each(|(group, shard, count)| {
        *sums.entry((group, &shard.topic)).or_default() += count;
    });
    let labels = |(group, topic): (&Name, &Name)| Labels::Names(group.clone(), topic.clone());
    sums.into_iter().map(move |(of, sum)| (labels(of), sum as f64))
}

fn leases<D: Disk>(all: &mut Numbers, view: &View<'_, D>) {
    let leased = view.leased().map(|(group, shard, count)| (group, shard, count as u64));
    all.each(
        Gauge,
        "rocketmq_consumer_inflight_messages",
        "Popped messages that are under lease.",
        GROUP_AND_TOPIC,
        by_topic(leased),
    );
}

fn losses<D: Disk>(all: &mut Numbers, view: &View<'_, D>) {
    all.each(
        Counter,
        "stormglass_lost_to_retention_total",
        "Messages that retention took from a group which had not read them.",
        GROUP_AND_TOPIC,
        by_topic(view.losses()),
    );
}

fn members<D: Disk>(all: &mut Numbers, view: &View<'_, D>) {
    all.each(
        Gauge,
        "rocketmq_consumer_connections",
        "Members of a group that are connected.",
        &["consumer_group"],
        view.groups().map(|(group, members)| (Labels::Name(group.clone()), members.count() as f64)),
    );
    all.each(
        Gauge,
        "stormglass_disagreeing_subscriptions",
        "Subscriptions of a group's members that are not what its newest member wants.",
        &["consumer_group"],
        view.disagreements()
            .map(|(group, those)| (Labels::Name(group.clone()), those.len() as f64)),
    );
}
