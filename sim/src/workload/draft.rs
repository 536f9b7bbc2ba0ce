//! Messages as producers write them: recorded before a byte has left.

use std::time::Duration;

use stormglass_core::{
    client::{Message, SendReceipt, SendStatus},
    ids::Name,
    rng::Rng,
    runtime::Runtime,
};
use stormglass_scenarios::SizeRange;

use super::Stage;
use crate::{
    clock,
    history::{BatchId, Body, EventKind, Held, MessageId, OpId, ShardId, Stored, body_hash},
};

/// RocketMQ's delay levels from 1 on, in seconds.
const LEVELS: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

/// What the messages of a workload look like.
pub struct Pattern<'a> {
    pub topic: &'a str,
    pub keys: u32,
    pub tags: &'a [String],
    pub size: SizeRange,
}

/// How one message is to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// The member's own count of its sends; it chooses the key.
    pub turn: u64,
    /// The member's own count of its messages.
    pub seq: u64,
    pub batch: Option<BatchId>,
    pub one_way: bool,
    pub delay: Option<Delay>,
    pub half: bool,
    pub idempotent: bool,
}

/// When a message may be delivered.
#[derive(Clone, Copy, Debug)]
pub enum Delay {
    Level(u32),
    After(Duration),
    /// So long from now, named as a time of the day.
    At(Duration),
}

/// A message that is about to be sent.
pub struct Draft {
    pub op: OpId,
    pub id: MessageId,
    pub message: Message,
}

impl Draft {
    pub fn begin<R: Runtime>(
        stage: &Stage<R>,
        pattern: &Pattern,
        rng: &mut Rng,
        way: Way,
    ) -> Draft {
        let recorder = &stage.shared.recorder;
        let key = (pattern.keys > 0)
            .then(|| format!("{}-key-{}", stage.node, way.turn % u64::from(pattern.keys)));
        let (op, id) = (recorder.next_op(), recorder.next_message());
        let tag = match pattern.tags.len() {
            0 => None,
            many => Some(&pattern.tags[rng.below(many as u64) as usize]),
        };
        let size = pattern.size.min + rng.below(pattern.size.max - pattern.size.min + 1);
        let body = Body { message: id, seq: way.seq, key: key.as_deref().unwrap_or_default() };
        let body = body.encode(size as usize);
        let (topic, key_id, tag_id) = recorder.name(|names| {
            let key = key.as_deref().map(|key| names.key(key));
            (names.topic(pattern.topic), key, tag.map(|tag| names.tag(tag)))
        });
        let (held, delay) = way.delay.map(Delay::held).unzip();
        stage.push(EventKind::SendBegun {
            op,
            message: id,
            topic,
            shard: None,
            key: key_id,
            tag: tag_id,
            body_hash: body_hash(&body),
            size: body.len() as u32,
            batch: way.batch,
            one_way: way.one_way,
            held: if way.half { Some(Held::Half) } else { held },
            idempotent: way.idempotent,
        });
        let mut message = Message::new(pattern.topic, body);
        message.sharding_key = key;
        message.tag = tag.cloned();
        message.delay = delay;
        Draft { op, id, message }
    }
}

impl Delay {
    /// How long it is.
    pub fn length(self) -> Duration {
        match self {
            Delay::Level(level) => Duration::from_secs(LEVELS[level as usize - 1]),
            Delay::After(delay) | Delay::At(delay) => delay,
        }
    }

    /// From now on, as the history says it and as the client does.
    fn held(self) -> (Held, stormglass_core::client::Delay) {
        use stormglass_core::client::Delay as OfClient;
        let held_for = Held::For(self.length().as_micros() as u64);
        match self {
            Delay::Level(level) => (held_for, OfClient::Level(level)),
            Delay::After(delay) => (held_for, OfClient::After(delay)),
            Delay::At(delay) => {
                // Whole milliseconds, as the protocol has it.
                let wall = clock::right_wall(clock::true_now_us() + delay.as_micros() as u64);
                (Held::Until(clock::true_us_of(wall)), OfClient::At(wall))
            }
        }
    }
}

/// The shard that an answer names.
pub fn shard_of<R: Runtime>(stage: &Stage<R>, broker: &Name, topic: &str, queue: u32) -> ShardId {
    stage.shared.recorder.name(|names| {
        let (topic, broker) = (names.topic(topic), names.lane(broker));
        names.shard(topic, broker, queue)
    })
}

pub fn status_of(receipt: &SendReceipt) -> Stored {
    match receipt.status {
        SendStatus::Ok => Stored::AsPromised,
        _ => Stored::Weakly,
    }
}
