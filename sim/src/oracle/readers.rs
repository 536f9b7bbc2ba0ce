//! Who consumes what: groups and their members, how far they have come, and
//! what became of each delivery.

use std::collections::BTreeMap;

use super::{
    facts::{EventIndex, grown},
    sparse::{Bits, Sparse},
};
use crate::history::{
    DeliveryId, From, GroupId, MemberId, MemberStarted, MessageId, Mode, Pace, ShardId, TagId,
    TopicId,
};

#[derive(Debug)]
pub struct Delivery {
    pub event: EventIndex,
    pub at: u64,
    pub member: MemberId,
    pub shard: ShardId,
    pub offset: u64,
    pub message: Option<MessageId>,
    pub answer: Answer,
    /// From 1, as the application was told.
    pub attempt: u32,
    /// It came by way of the group's retry topic.
    pub is_retry: bool,
    pub is_leased: bool,
    /// Its client gave it back while the handler still worked on it (D4).
    pub timed_out: bool,
    /// What the handler asked for when it wanted it again.
    pub again_after: Option<u64>,
    pub sent_back: SentBack,
}

/// What became of asking the broker for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentBack {
    Never,
    /// Asked for, and perhaps done.
    Begun,
    Ok,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Open,
    Acked,
    Nacked,
    Forgotten,
}

/// Who reads a shard with one cursor: a group, or in broadcasting each member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId(pub(super) usize);

impl ReaderId {
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
pub struct Reader {
    pub group: GroupId,
    pub mode: Mode,
    pub orderly: bool,
    pub from: From,
    pub members: Vec<MemberId>,
    /// Whether its members lease single messages.
    pub pops: bool,
    /// Deliveries of one message, after which it is a dead letter.
    pub max_attempts: u32,
    pub delivered: Bits,
    pub acked: Bits,
    /// Whose handlers will never answer.
    pub forgotten: Bits,
    /// Who reads the group's dead letters has found them there.
    pub dead: Bits,
    /// What was sent back.
    pub retries: BTreeMap<MessageId, Retries>,
    pub(super) progress: Vec<Option<Box<Progress>>>,
}

impl Reader {
    pub fn progress(&self, shard: ShardId) -> Option<&Progress> {
        self.progress.get(shard.index())?.as_deref()
    }

    pub fn retries(&self, message: MessageId) -> Retries {
        self.retries.get(&message).copied().unwrap_or_default()
    }

    pub(super) fn progress_mut(&mut self, shard: ShardId) -> &mut Progress {
        grown(&mut self.progress, shard.index()).get_or_insert_default()
    }

    pub(super) fn shards_mut(&mut self) -> impl Iterator<Item = (ShardId, &mut Progress)> {
        let all = self.progress.iter_mut().enumerate();
        all.filter_map(|(i, progress)| Some((ShardId::at(i), progress.as_deref_mut()?)))
    }

    /// The shards it was ever assigned or got anything from.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &Progress)> {
        let all = self.progress.iter().enumerate();
        all.filter_map(|(i, progress)| Some((ShardId::at(i), progress.as_deref()?)))
    }
}

/// One message on its way through a group's retry topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retries {
    /// Requests to send it back that may have been served, and the deliveries
    /// that they were about.
    pub send_backs: u32,
    pub sent_back: u32,
    /// Requests that were copies of their own.
    pub resends: u32,
    /// Those of them that came after the last attempt.
    pub exhausted: u32,
    /// Its places in the retry topic.
    pub slots: u32,
    /// Its deliveries from there, and the highest attempt of all.
    pub deliveries: u32,
    pub highest: u32,
    /// The latest of all.
    pub last: EventIndex,
    /// Power loss may have taken that it was sent back, and it has not come since.
    pub cut: bool,
    /// It was given back while somebody worked on it: what became of that says
    /// nothing about what became of the message (D4).
    pub timed_out: bool,
}

/// What a reader has done with a shard.
#[derive(Debug, Default)]
pub struct Progress {
    /// Where it first read from, or where a later reset moved it forward to.
    pub start: Option<u64>,
    /// Since when it has read it without missing anything.
    pub since: Option<EventIndex>,
    /// Where a reset moved it forward to.
    pub moved_to: Option<u64>,
    /// The highest offset delivered, and by which event.
    pub high: Option<(u64, EventIndex)>,
    /// The last time that somebody moved it on purpose.
    pub reset: Option<EventIndex>,
    /// Somebody has asked to move it, and it has not moved yet.
    pub resetting: Option<EventIndex>,
    /// How often a member began to read it.
    pub readings: u32,
    /// The owner that was assigned last, and when.
    pub owner: Option<(MemberId, u64, EventIndex)>,
    /// The group's committed offset, as the broker last had it.
    pub committed: Option<u64>,
    /// The lowest offset whose handler will never answer.
    pub forgotten: Option<u64>,
    pub(super) seen: Sparse<Seen>,
}

impl Progress {
    pub fn seen(&self, offset: u64) -> Option<&Seen> {
        self.seen.get(offset).filter(|seen| seen.deliveries > 0)
    }

    /// Somebody has moved it on purpose.
    pub(super) fn moved(&mut self, event: EventIndex, to: u64) {
        self.reset = Some(event);
        self.moved_to = Some(to);
        self.start = Some(self.start.map_or(to, |start| start.max(to)));
    }

    /// Whether the reader is beyond this offset, so that it will not see it any more.
    pub fn has_passed(&self, offset: u64) -> bool {
        let is_beyond = self.high.is_some_and(|(high, _)| high > offset);
        is_beyond || self.committed.is_some_and(|committed| committed > offset)
    }
}

/// What a reader has done with a slot.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub deliveries: u32,
    pub nacks: u32,
    pub acked: bool,
    /// The latest delivery that was acknowledged, as an event.
    pub acked_from: EventIndex,
    /// The broker has taken it back for another attempt, or as a dead letter.
    pub sent_back: bool,
    pub forgotten: bool,
    /// The latest delivery.
    pub last: Option<DeliveryId>,
}

#[derive(Debug, Default)]
pub struct Member {
    pub started: Option<MemberStarted>,
    pub reader: Option<ReaderId>,
    pub alive: bool,
    /// When this incarnation began.
    pub begun: EventIndex,
    pub paced: Option<Pace>,
    /// When its pace changed last.
    pub paced_at: u64,
    pub owns: Box<[ShardId]>,
    pub(super) readings: Vec<Option<Reading>>,
}

impl Member {
    pub fn reading(&self, shard: ShardId) -> Option<&Reading> {
        self.readings.get(shard.index())?.as_ref()
    }

    pub fn is_paced(&self) -> bool {
        self.paced.is_some_and(|pace| pace != Pace::Normal)
    }

    /// Whether its subscription asks for this.
    pub fn wants(&self, topic: TopicId, tag: Option<TagId>) -> bool {
        self.started.as_ref().is_some_and(|started| {
            started.subscriptions.iter().any(|s| {
                s.topic == topic
                    && (s.tags.is_empty() || tag.is_some_and(|tag| s.tags.contains(&tag)))
            })
        })
    }
}

impl Seen {
    /// Whether the group has nothing more to do with it in this place.
    pub fn is_settled(&self) -> bool {
        self.acked || self.sent_back
    }
}

/// One stretch of a member reading a shard, from when it got the shard or was
/// told where to read from.
#[derive(Debug)]
pub struct Reading {
    pub since: EventIndex,
    pub start: Option<u64>,
    pub high: Option<(u64, EventIndex)>,
    pub last: Option<DeliveryId>,
    /// When it lost the shard again.
    pub released: Option<u64>,
}

impl Reading {
    pub(super) fn new(since: EventIndex) -> Reading {
        Reading { since, start: None, high: None, last: None, released: None }
    }
}
