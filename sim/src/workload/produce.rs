//! Producers: messages at a rate, with keys, tags, in batches and one way.

use std::{sync::Arc, time::Duration};

use stormglass_core::{
    client::{Message, SendError, SendOptions, SendReceipt, SendStatus},
    rng::Rng,
    runtime::Runtime,
};
use stormglass_scenarios::Produce;
use tokio::sync::Semaphore;

use super::Stage;
use crate::history::{Body, EventKind, OpId, Stored, Unanswered, body_hash};

/// Requests that a client makes of one send, at most.
pub const MOST_TRIES: u8 = 3;

pub async fn run<R: Runtime>(stage: &Stage<R>, produce: &Produce) {
    let mut rng = Rng::new(stage.rt.entropy());
    let in_flight = Arc::new(Semaphore::new(produce.in_flight as usize));
    let mut turn = 0;
    while !stage.is_over() {
        stage.sleep(gap(produce, &mut rng)).await;
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

/// From one send to the next: half as long as the mean to half as long again.
fn gap(produce: &Produce, rng: &mut Rng) -> Duration {
    let mean = f64::from(produce.batch) / produce.rate * 1e6;
    Duration::from_micros((mean / 2.0) as u64 + rng.below(mean as u64 + 1))
}

/// One call of the client, and the messages in it.
struct Sending<R> {
    stage: Stage<R>,
    messages: Vec<Message>,
    ops: Vec<OpId>,
    /// Keyed messages keep their order even when several are under way (R3).
    ordered: bool,
    one_way: bool,
}

impl<R: Runtime> Sending<R> {
    /// Writes the messages and records them: no byte has left yet.
    fn begin(stage: Stage<R>, produce: &Produce, rng: &mut Rng, turn: u64) -> Sending<R> {
        let recorder = stage.shared.recorder.clone();
        let key = (produce.keys > 0)
            .then(|| format!("{}-key-{}", stage.node, turn % u64::from(produce.keys)));
        let one_way = rng.chance(produce.one_way);
        let count = if one_way { 1 } else { produce.batch };
        let batch = (count > 1).then(|| recorder.next_batch());
        let (mut messages, mut ops) = (Vec::new(), Vec::new());
        for nth in 0..count {
            let (op, id) = (recorder.next_op(), recorder.next_message());
            let tag = match produce.tags.len() {
                0 => None,
                many => Some(&produce.tags[rng.below(many as u64) as usize]),
            };
            let size = produce.size.min + rng.below(produce.size.max - produce.size.min + 1);
            let seq = turn * u64::from(produce.batch) + u64::from(nth);
            let body = Body { message: id, seq, key: key.as_deref().unwrap_or_default() };
            let body = body.encode(size as usize);
            let (topic, key_id, tag_id) = recorder.name(|names| {
                let key = key.as_deref().map(|key| names.key(key));
                (names.topic(&produce.topic), key, tag.map(|tag| names.tag(tag)))
            });
            stage.push(EventKind::SendBegun {
                op,
                message: id,
                topic,
                shard: None,
                key: key_id,
                tag: tag_id,
                body_hash: body_hash(&body),
                size: body.len() as u32,
                batch,
                one_way,
                held: None,
                idempotent: false,
            });
            let mut message = Message::new(&produce.topic, body);
            message.sharding_key = key.clone();
            message.tag = tag.cloned();
            messages.push(message);
            ops.push(op);
        }
        if !one_way {
            stage.machine().open.borrow_mut().extend(&ops);
        }
        Sending { stage, messages, ops, ordered: key.is_some(), one_way }
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
            Ok(receipt) => self.stored(&receipt),
            Err(SendError::Refused(rejected)) => {
                self.failed(|op| EventKind::SendRefused { op, code: rejected.code, tries: 1 })
            }
            Err(SendError::Unknown { tries, .. }) => {
                let took = self.stage.rt.now().mono.since(begun);
                let why = match took < Duration::from_secs(1) {
                    true => Unanswered::ConnectionLost,
                    false => Unanswered::TimedOut,
                };
                self.failed(|op| EventKind::SendUnknown { op, why, tries: few(tries) });
            }
        }
    }

    fn stored(&mut self, receipt: &SendReceipt) {
        let shard = self.stage.shared.recorder.name(|names| {
            let (topic, broker) =
                (names.topic(&receipt.shard.topic), names.lane(&receipt.broker_name));
            names.shard(topic, broker, receipt.shard.queue)
        });
        let status = match receipt.status {
            SendStatus::Ok => Stored::AsPromised,
            _ => Stored::Weakly,
        };
        let mut ids = receipt.offset_message_id.split(',');
        for (nth, op) in self.ops.iter().enumerate() {
            self.stage.push(EventKind::SendOk {
                op: *op,
                shard,
                queue_offset: receipt.queue_offset + nth as u64,
                position: ids.next().and_then(position),
                status,
                tries: few(receipt.tries),
            });
        }
        self.ended();
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

fn few(tries: u32) -> u8 {
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
