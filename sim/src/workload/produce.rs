//! Producers: messages at a rate, with keys, tags, in batches and one way.

use std::{sync::Arc, time::Duration};

use stormglass_core::{
    client::{Message, SendError, SendOptions, SendReceipt},
    ids::Shard,
    rng::Rng,
    runtime::Runtime,
};
use stormglass_scenarios::{Burst, Produce};
use tokio::sync::Semaphore;

use super::{
    Stage,
    draft::{Delay, Draft, Pattern, Way, shard_of, status_of},
    draw,
    transact::refusal,
};
use crate::history::{Answered, EventKind, Fault, FaultKind, MessageId, OpId, Unanswered};

/// Requests that a client makes of one send, at most.
pub const MOST_TRIES: u8 = 3;

pub async fn run<R: Runtime>(stage: &Stage<R>, produce: &Produce) {
    let mut rng = Rng::new(stage.rt.entropy());
    let in_flight = Arc::new(Semaphore::new(produce.in_flight as usize));
    let mut turn = 0;
    while !stage.is_over() {
        let rate = rate(stage, produce);
        stage.sleep(pause(f64::from(produce.batch) / rate, &mut rng)).await;
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        if stage.is_over() {
            break;
        }
        let sending = Sending::begin(stage.clone(), produce, &mut rng, turn);
        turn += 1;
        stage.rt.spawn(async move {
            sending.finish().await;
            drop(permit);
        });
    }
    // The last sends end within their own time.
    let _ = in_flight.acquire_many(produce.in_flight).await;
}

/// Messages per second at this moment. A burst is a fault that strikes the
/// others, and is told as one.
fn rate<R: Runtime>(stage: &Stage<R>, produce: &Produce) -> f64 {
    let now = Duration::from_micros(stage.shared.time.now_us());
    let has_burst = |burst: &&Burst| (burst.at..burst.at + burst.lasts).contains(&now);
    let burst = produce.burst.as_ref().filter(has_burst);
    let (told, recorder) = (&stage.machine().burst, &stage.shared.recorder);
    match (burst, told.get()) {
        (Some(burst), None) => {
            let fault = recorder.next_fault();
            let (kind, lanes) = (FaultKind::Overload, vec![stage.machine().lane]);
            let text = format!("{} sends {} messages a second", stage.node, burst.rate);
            stage.push(EventKind::Fault(Box::new(Fault { fault, kind, lanes, side: 0, text })));
            told.set(Some(fault));
        }
        (None, Some(fault)) => {
            stage.push(EventKind::FaultHealed { fault });
            told.set(None);
        }
        _ => {}
    }
    burst.map_or(produce.rate, |burst| burst.rate)
}

/// From one send to the next: half as long as the mean to half as long again.
pub fn pause(mean_secs: f64, rng: &mut Rng) -> Duration {
    let mean = mean_secs * 1e6;
    Duration::from_micros((mean / 2.0) as u64 + rng.below(mean as u64 + 1))
}

fn delay(produce: &Produce, rng: &mut Rng) -> Option<Delay> {
    if let Some(delay) = produce.delay {
        let delay = draw(rng, delay);
        return Some(if rng.chance(0.5) { Delay::After(delay) } else { Delay::At(delay) });
    }
    let levels = &produce.delay_levels;
    let last = levels.len().checked_sub(1)?;
    Some(Delay::Level(levels[rng.below(last as u64 + 1) as usize]))
}

/// Some part of a length of time.
fn part(whole: Duration, rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.below(whole.as_micros() as u64 + 1))
}

/// One call of the client, and the messages in it.
struct Sending<R> {
    stage: Stage<R>,
    messages: Vec<Message>,
    ops: Vec<OpId>,
    ids: Vec<MessageId>,
    /// Keyed messages keep their order even when several are under way (R3).
    ordered: bool,
    one_way: bool,
    /// After how much of its delay a message is taken back.
    recall: Option<Duration>,
    is_delayed: bool,
}

impl<R: Runtime> Sending<R> {
    /// Writes the messages and records them: no byte has left yet.
    fn begin(stage: Stage<R>, produce: &Produce, rng: &mut Rng, turn: u64) -> Sending<R> {
        let pattern = Pattern {
            topic: &produce.topic,
            keys: produce.keys,
            tags: &produce.tags,
            size: produce.size,
        };
        let one_way = rng.chance(produce.one_way);
        let count = if one_way { 1 } else { produce.batch };
        let batch = (count > 1).then(|| stage.shared.recorder.next_batch());
        let delay = delay(produce, rng);
        let recall = delay.filter(|_| !one_way && rng.chance(produce.recall));
        let way = Way {
            turn,
            batch,
            one_way,
            delay,
            idempotent: produce.idempotent && !one_way && delay.is_none(),
            ..Way::default()
        };
        let (mut messages, mut ops, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for nth in 0..count {
            let seq = turn * u64::from(produce.batch) + u64::from(nth);
            let draft = Draft::begin(&stage, &pattern, rng, Way { seq, ..way });
            messages.push(draft.message);
            ops.push(draft.op);
            ids.push(draft.id);
        }
        if !one_way {
            stage.machine().open.borrow_mut().extend(&ops);
        }
        let recall = recall.map(|delay| part(delay.length(), rng));
        Sending {
            stage,
            messages,
            ops,
            ids,
            ordered: produce.keys > 0,
            one_way,
            recall,
            is_delayed: delay.is_some(),
        }
    }

    async fn finish(mut self) {
        let client = self.stage.client.clone();
        let mut messages = std::mem::take(&mut self.messages);
        let options = SendOptions { ordered: self.ordered, ..SendOptions::default() };
        let begun = self.stage.rt.now().mono;
        let result = match (self.one_way, messages.len()) {
            (true, _) => {
                // Whatever it says, it says nothing about the message.
                let _ = client.send_one_way(messages.remove(0)).await;
                return;
            }
            (false, 1) => client.send_with(messages.remove(0), options).await,
            (false, _) => client.send_batch_with(messages, options).await,
        };
        match result {
            Ok(receipt) => {
                self.stored(&receipt);
                self.take_back(&receipt).await;
            }
            Err(SendError::Refused(rejected)) => {
                self.failed(|op| EventKind::SendRefused { op, code: rejected.code, tries: 1 })
            }
            Err(SendError::Unknown { tries, .. }) => {
                let why = unanswered(self.stage.rt.now().mono.since(begun));
                self.failed(|op| EventKind::SendUnknown { op, why, tries: few(tries) });
            }
        }
    }

    fn stored(&mut self, receipt: &SendReceipt) {
        let Shard { topic, queue } = &receipt.shard;
        let shard = shard_of(&self.stage, &receipt.broker_name, topic, *queue);
        let (status, tries) = (status_of(receipt), few(receipt.tries));
        let mut positions = receipt.offset_message_id.split(',').map(position);
        for (nth, op) in self.ops.iter().enumerate() {
            let (op, position) = (*op, positions.next().flatten());
            self.stage.push(match self.is_delayed {
                true => EventKind::SendHeld { op, shard, position, status, tries },
                false => EventKind::SendOk {
                    op,
                    shard,
                    queue_offset: receipt.queue_offset + nth as u64,
                    position,
                    status,
                    tries,
                },
            });
        }
        self.ended();
    }

    /// Some delayed messages are taken back before they are due.
    async fn take_back(&self, receipt: &SendReceipt) {
        let (Some(after), Some(handle)) = (self.recall, &receipt.recall_handle) else { return };
        let message = self.ids[0];
        self.stage.sleep(after).await;
        self.stage.push(EventKind::RecallBegun { message });
        let answered = match self.stage.client.recall(handle).await {
            Ok(()) => Answered::Ok,
            Err(error) => refusal(&error),
        };
        self.stage.push(EventKind::RecallAnswered { message, answered });
    }

    fn failed(&mut self, outcome: impl Fn(OpId) -> EventKind) {
        for op in &self.ops {
            self.stage.push(outcome(*op));
        }
        self.ended();
    }

    fn ended(&mut self) {
        let mut open = self.stage.machine().open.borrow_mut();
        for op in &self.ops {
            open.remove(op);
        }
    }
}

/// Why a send has no outcome that took so long.
pub fn unanswered(took: Duration) -> Unanswered {
    match took < Duration::from_secs(1) {
        true => Unanswered::ConnectionLost,
        false => Unanswered::TimedOut,
    }
}

pub fn few(tries: u32) -> u8 {
    tries.min(u32::from(MOST_TRIES)) as u8
}

/// Where in the log a message is, from the id that the broker gave it: its
/// last 16 hexadecimal digits.
fn position(offset_message_id: &str) -> Option<u64> {
    let digits = offset_message_id.len().checked_sub(16)?;
    u64::from_str_radix(offset_message_id.get(digits..)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use stormglass_core::{ids::Position, message};

    use super::*;

    #[test]
    fn a_position_is_read_from_the_brokers_id() {
        let host = "10.0.0.1:10911".parse().unwrap();
        let id = message::offset_message_id(host, Position(123_456_789_012));
        assert_eq!(position(&id), Some(123_456_789_012));
        assert_eq!(position("short"), None);
    }
}
