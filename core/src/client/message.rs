//! What an application sends.

use std::time::Duration;

use bytes::Bytes;

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub body: Bytes,
    /// What consumers filter by.
    pub tag: Option<String>,
    /// What people search by; without spaces.
    pub keys: Vec<String>,
    /// Messages with one sharding key go to one shard.
    pub sharding_key: Option<String>,
    /// The application's own 32 bits.
    pub flag: i32,
    /// When consumers are to see it; none: at once.
    pub delay: Option<Delay>,
    /// The application's own properties.
    pub properties: Vec<(String, String)>,
}

impl Message {
    pub fn new(topic: impl Into<String>, body: impl Into<Bytes>) -> Message {
        Message { topic: topic.into(), body: body.into(), ..Message::default() }
    }

    pub fn tag(mut self, tag: impl Into<String>) -> Message {
        self.tag = Some(tag.into());
        self
    }

    pub fn key(mut self, key: impl Into<String>) -> Message {
        self.keys.push(key.into());
        self
    }

    pub fn sharding_key(mut self, key: impl Into<String>) -> Message {
        self.sharding_key = Some(key.into());
        self
    }

    /// Visible after one of RocketMQ's delays: 1 to 18 mean 1 s to 2 h.
    pub fn delay_level(mut self, level: u32) -> Message {
        self.delay = Some(Delay::Level(level));
        self
    }

    /// Visible this long after it was stored; to the millisecond, up to what
    /// the broker allows (3 days, if nobody changed it).
    pub fn deliver_after(mut self, delay: Duration) -> Message {
        self.delay = Some(Delay::After(delay));
        self
    }

    /// Visible at this time of the broker's clock, in milliseconds since the epoch.
    pub fn deliver_at(mut self, wall: i64) -> Message {
        self.delay = Some(Delay::At(wall));
        self
    }

    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Message {
        self.properties.push((key.into(), value.into()));
        self
    }
}

/// When a message becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// One of RocketMQ's 18 delay levels.
    Level(u32),
    /// After it was stored.
    After(Duration),
    /// Milliseconds since the epoch.
    At(i64),
}

/// RocketMQ's delay levels from 1 on, in seconds.
const LEVELS: [u64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

/// The first delay level that is not shorter than this, or the last one.
pub fn level_for(delay: Duration) -> u32 {
    let shorter = LEVELS.iter().filter(|seconds| Duration::from_secs(**seconds) < delay);
    (shorter.count() as u32 + 1).min(LEVELS.len() as u32)
}
