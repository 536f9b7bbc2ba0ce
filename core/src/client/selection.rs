//! Which queue a message goes to.

use std::{collections::BTreeMap, time::Duration};

use super::{MessageQueue, routes::Route};
use crate::{ids::Name, time::Time};

/// How long a broker is avoided after a try that failed without an answer.
const AVOID_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// And after an answer that took longer than this, in milliseconds: for how
/// long, in seconds.
const AVOID_AFTER_LATENCY: [(u64, u64); 4] = [(3_000, 10), (1_800, 6), (1_000, 5), (550, 2)];

#[derive(Clone, Debug)]
pub enum Target {
    /// The queues take turns.
    Any,
    /// The shard of this key.
    Key(i64),
    Queue(MessageQueue),
}

impl Target {
    /// The one queue that a key or an explicit choice means. Keys are hashed as
    /// RocketMQ's own selector hashes strings.
    pub fn shard(&self, route: &Route) -> Option<MessageQueue> {
        match self {
            Target::Any => None,
            Target::Queue(queue) => Some(queue.clone()),
            Target::Key(hash) => {
                let hash = (*hash as i32).checked_abs().unwrap_or(0) as usize;
                route.fixed.get(hash.checked_rem(route.fixed.len())?).cloned()
            }
        }
    }
}

/// Brokers that failed or were slow, and until when to prefer others.
#[derive(Default)]
pub struct Avoided(BTreeMap<Name, Time>);

impl Avoided {
    pub fn on_failure(&mut self, broker: Name, now: Time) {
        self.0.insert(broker, now + AVOID_AFTER_FAILURE);
    }

    pub fn on_answer(&mut self, broker: Name, now: Time, took: Duration) {
        let took = took.as_millis() as u64;
        match AVOID_AFTER_LATENCY.iter().find(|(latency, _)| took >= *latency) {
            Some((_, seconds)) => {
                self.0.insert(broker, now + Duration::from_secs(*seconds));
            }
            None => {
                self.0.remove(&broker);
            }
        }
    }

    /// The next queue in turn: best on a broker that is well and is not the one
    /// that just failed, else on another one than that, else at least another
    /// queue.
    pub fn take_turn(
        &self,
        now: Time,
        turn: &mut usize,
        queues: &[MessageQueue],
        failed: Option<&MessageQueue>,
    ) -> Option<MessageQueue> {
        let start = *turn;
        *turn = turn.wrapping_add(1);
        let in_turn = || (0..queues.len()).map(|n| &queues[start.wrapping_add(n) % queues.len()]);
        let well = |queue: &&MessageQueue| self.0.get(&queue.broker).is_none_or(|t| *t <= now);
        let elsewhere =
            |queue: &&MessageQueue| failed.is_none_or(|failed| failed.broker != queue.broker);
        let another = |queue: &&MessageQueue| failed.is_none_or(|failed| failed != *queue);
        in_turn()
            .find(|queue| well(queue) && elsewhere(queue))
            .or_else(|| in_turn().find(elsewhere))
            .or_else(|| in_turn().find(another))
            .or_else(|| in_turn().next())
            .cloned()
    }
}
