//! Pull consumers: each member reads its share of the queues in rounds and
//! stores its own offsets.

use std::{collections::BTreeMap, time::Duration};

use stormglass_core::{
    client::{Change, MessageQueue, OffsetSource},
    message::{Properties, Record, property},
    rng::Rng,
    runtime::Runtime,
    shell::client::PullConsumer,
};
use stormglass_scenarios::{Pull, tags_of};

use super::{
    Stage, draw,
    member::{Joining, Member},
};
use crate::history;

pub async fn run<R: Runtime>(stage: &Stage<R>, pull: &Pull, members: u32) {
    let mut rng = Rng::new(stage.rt.entropy());
    let topics = [pull.topic.clone()];
    let member = Member::start(
        stage,
        &Joining {
            group: &pull.group,
            topics: &topics,
            filter: &pull.filter,
            mode: history::Mode::Clustering,
            access: history::Access::Pull,
            orderly: false,
            from: history::From::First,
            max_attempts: None,
        },
    );
    let mut reader = Reader {
        consumer: stage.client.pull_consumer(&pull.group),
        member: &member,
        pull,
        offsets: BTreeMap::new(),
    };
    let mut mine: Vec<MessageQueue> = Vec::new();
    while !stage.is_over() {
        if mine.is_empty() {
            let queues = reader.consumer.queues(&pull.topic).await.unwrap_or_default();
            let share = queues
                .into_iter()
                .enumerate()
                .filter(|(index, _)| *index as u32 % members == stage.machine().member);
            mine = share.map(|(_, queue)| queue).collect();
            member.changed(Change::Assigned(mine.clone()));
        }
        for queue in &mine {
            reader.round(queue).await;
        }
        stage.sleep(draw(&mut rng, pull.every)).await;
    }
    member.stopped();
}

struct Reader<'a, R> {
    consumer: PullConsumer,
    member: &'a Member<R>,
    pull: &'a Pull,
    /// Where to read on, of each queue for which somebody said so.
    offsets: BTreeMap<MessageQueue, i64>,
}

impl<R: Runtime> Reader<'_, R> {
    /// One look at one queue. What fails is tried again in the next round.
    async fn round(&mut self, queue: &MessageQueue) {
        let Some(offset) = self.start(queue).await else { return };
        let (batch, filter) = (self.pull.batch, self.pull.filter.as_str());
        let pulled = self.consumer.pull(queue, offset, batch, filter, Duration::ZERO).await;
        let Ok(pulled) = pulled else { return };
        if pulled.offset_moved {
            self.reads(queue, pulled.next_offset, OffsetSource::Corrected);
            return;
        }
        for record in pulled.records.iter().filter(|record| self.wants(record)) {
            let delivery = self.member.delivered(&queue.broker, record);
            self.member.acked(delivery);
        }
        self.offsets.insert(queue.clone(), pulled.next_offset);
        if pulled.next_offset > offset {
            // Not stored now, it is stored with the next batch.
            let _ = self.consumer.commit(queue, pulled.next_offset).await;
        }
    }

    /// Where to read; none while nobody answers the question, for then it is
    /// neither the beginning nor the end (O3).
    async fn start(&mut self, queue: &MessageQueue) -> Option<i64> {
        if let Some(offset) = self.offsets.get(queue) {
            return Some(*offset);
        }
        let committed = self.consumer.committed(queue).await.ok()?;
        match committed {
            Some(offset) => self.reads(queue, offset, OffsetSource::Committed),
            None => self.reads(queue, 0, OffsetSource::First),
        }
        self.offsets.get(queue).copied()
    }

    fn reads(&mut self, queue: &MessageQueue, offset: i64, source: OffsetSource) {
        self.member.changed(Change::Reading { queue: queue.clone(), offset, source });
        self.offsets.insert(queue.clone(), offset);
    }

    /// The broker filters by hash, and hashes collide.
    fn wants(&self, record: &Record) -> bool {
        let wanted = tags_of(&self.pull.filter);
        let tag = Properties(&record.properties).get(property::TAGS);
        wanted.is_empty() || tag.is_some_and(|tag| wanted.contains(&tag))
    }
}
