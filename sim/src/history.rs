//! What happened in a run: what clients saw, which faults fired, and what the
//! probe saw of the brokers. Plain events in the order in which they happened;
//! everything the oracles, the coverage table and the reports know, they know
//! from here.

mod body;
mod event;
mod names;
mod recorder;
mod story;
mod words;

use serde::{Deserialize, Serialize};

pub use body::{BadBody, Body, body_hash};
pub use event::{Event, EventKind};
pub use names::{
    BatchId, CheckId, DeliveryId, EndId, FaultId, GroupId, KeyId, LaneId, MemberId, MemberName,
    MessageId, Names, OpId, ShardId, ShardName, TagId, TopicId,
};
pub use recorder::Recorder;
pub use story::Story;
pub use words::*;

/// All events of a run, with the names they mention.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub struct History {
    pub names: Names,
    pub events: Vec<Event>,
}

impl History {
    /// The event as a person tells it.
    pub fn tell<'a>(&'a self, event: &'a Event) -> Story<'a> {
        Story { names: &self.names, event }
    }
}
