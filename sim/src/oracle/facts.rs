//! What is known of a run so far, folded once from the history so that each
//! oracle need only say what must hold. An oracle sees the facts as they were
//! before the event it judges.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Context, GroupRules,
    held::{End, Half, Producer, Recall, StoredHeld},
    readers::{Delivery, Member, Reader, ReaderId},
    replicas::ReplicaSet,
    sparse::Sparse,
    wall_clock::WallClock,
};
use crate::history::{
    DeliveryId, EndId, FaultId, FaultKind, GroupId, Held, KeyId, LaneId, MemberId, MemberName,
    MessageId, Mode, Names, OpId, ShardId, ShardName, Stop, TagId, TopicId,
};

/// The place of an event in the history, from zero.
pub type EventIndex = u32;

/// Requests that a send which is still under way may have made.
const MOST_TRIES: u32 = 3;

/// Where and when something was stored or seen.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub event: EventIndex,
    pub at: u64,
    pub shard: ShardId,
    pub offset: u64,
    pub position: Option<u64>,
}

#[derive(Debug)]
pub struct Message {
    pub begun: EventIndex,
    pub begun_at: u64,
    pub producer: LaneId,
    pub topic: TopicId,
    pub shard: Option<ShardId>,
    pub key: Option<KeyId>,
    pub tag: Option<TagId>,
    pub body_hash: u32,
    /// Operations not answered yet. One-way sends are never open.
    pub open: u32,
    /// Some operation's outcome will never be known.
    pub unknown: bool,
    pub refused: Option<EventIndex>,
    /// The first answer that promised what the mode promises.
    pub ok: Option<Place>,
    /// The first delivery to anybody.
    pub seen: Option<Place>,
    /// Slots it is known to fill, and requests that may have filled one.
    pub copies: u32,
    pub tries: u32,
    /// The recovery that cut it off the log.
    pub lost: Option<EventIndex>,
    /// However many requests were made, it is to be stored once.
    pub idempotent: bool,
    /// Why it is not to be visible at once.
    pub held: Option<Held>,
    /// The first answer that it is stored, and not visible.
    pub stored_held: Option<StoredHeld>,
    pub half: Option<Box<Half>>,
    pub recall: Option<Recall>,
}

impl Message {
    /// The first proof that it was stored.
    pub fn stored(&self) -> Option<Place> {
        match (self.ok, self.seen) {
            (Some(ok), Some(seen)) if seen.event < ok.event => Some(seen),
            (ok, seen) => ok.or(seen),
        }
    }

    /// How many slots it may fill, given how often it was asked for.
    pub fn most_copies(&self) -> u32 {
        let tries = self.tries + self.open * MOST_TRIES;
        if self.idempotent { tries.min(1) } else { tries }
    }
}

#[derive(Debug)]
pub struct Op {
    pub message: MessageId,
    pub begun: EventIndex,
    pub begun_at: u64,
    pub answered: bool,
}

/// One (shard, queue offset).
#[derive(Debug, Default)]
pub struct Slot {
    pub message: Option<MessageId>,
    pub known_by: EventIndex,
    /// The recovery that cut it off the log.
    pub lost: Option<EventIndex>,
}

/// A machine's power failed.
#[derive(Clone, Copy, Debug)]
pub struct PowerLoss {
    pub at: u64,
    pub event: EventIndex,
    /// How far its log was durable, and how far it was there afterwards.
    pub durable: Option<u64>,
    pub kept: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Node {
    /// The set that it is a replica of.
    pub set: Option<LaneId>,
    pub life: u32,
    pub up: bool,
    pub down_by: Option<Stop>,
    pub durable: Option<u64>,
    /// What it last called durable in this life.
    pub(super) called_durable: Option<u64>,
    /// How far it has committed in this life: an entry, and its end.
    pub committed: Option<(u64, u64)>,
    /// Everything before this lies in its log for sure, as it was committed.
    pub holds: u64,
    /// How much of that was there when a leader was elected after the last one that
    /// served: what it commits before it serves reuses the positions of what is lost.
    pub held_at_election: u64,
    pub stopped: Option<EventIndex>,
    pub power_losses: Vec<PowerLoss>,
    /// In this life, and when.
    pub sync_failed: Option<(EventIndex, u64)>,
    pub started: Option<EventIndex>,
    pub recovered: Option<EventIndex>,
    /// Its disk has been damaged in a way that no sync guards against: the first
    /// and the last time.
    pub damaged: Option<(EventIndex, EventIndex)>,
    pub clock: WallClock,
    pub(super) log: Vec<Stretch>,
    /// Held messages by their place in the log, as answers came.
    pub(super) held: Vec<(u64, MessageId)>,
    /// Send-backs that it has taken since it last recovered, under async flush, and
    /// when it said so.
    pub(super) taken_back: Vec<(DeliveryId, EventIndex, u64)>,
}

/// A slot by its place in the log, and the highest place before it, itself
/// included: answers do not arrive quite in log order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) position: u64,
    pub(super) highest: u64,
    pub(super) shard: ShardId,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub struct ActiveFault {
    pub fault: FaultId,
    pub kind: FaultKind,
    pub lanes: Vec<LaneId>,
    /// Of a partition: so many of these, the first, are on one side.
    pub side: usize,
    pub event: EventIndex,
    /// When it was last disturbed before this.
    pub before: u64,
}

pub struct Facts {
    pub context: Context,
    /// The event under judgement, and its time.
    pub index: EventIndex,
    pub now: u64,
    pub messages: Vec<Option<Message>>,
    pub ops: Vec<Option<Op>>,
    pub deliveries: Vec<Option<Delivery>>,
    pub readers: Vec<Reader>,
    pub ends: Vec<Option<End>>,
    pub producers: BTreeMap<LaneId, Producer>,
    pub faults: Vec<ActiveFault>,
    pub chaos_ended: Option<(u64, EventIndex)>,
    pub quiesced: Option<EventIndex>,
    /// The last time that anything but traffic happened: a fault began or
    /// ended, a node or a member came or went. Handlers may be slow or stall.
    pub disturbed: (u64, EventIndex),
    /// When nodes ended, and when a fault was last over that loses answers.
    pub(super) stops: Vec<EventIndex>,
    pub(super) cut: Option<EventIndex>,
    pub(super) members: Vec<Member>,
    pub(super) nodes: Vec<Node>,
    pub(super) sets: BTreeMap<LaneId, ReplicaSet>,
    pub(super) slots: Vec<Sparse<Slot>>,
    /// Per shard: offsets below this have expired.
    pub(super) expired: Vec<(u64, EventIndex)>,
    /// When a broker's topic got which new queues, after its first ones.
    pub(super) sizes: Vec<(LaneId, TopicId, u32)>,
    pub(super) grown: Vec<(LaneId, TopicId, Range<u32>, EventIndex)>,
    /// When a group first had a committed offset in a topic.
    pub(super) committed: Vec<(GroupId, TopicId, EventIndex)>,
    pub(super) shards: Vec<ShardName>,
    pub(super) member_names: Vec<MemberName>,
    /// What each group asks for.
    pub(super) rules: Vec<GroupRules>,
}

impl Facts {
    pub fn new(context: Context) -> Facts {
        Facts {
            context,
            index: 0,
            now: 0,
            messages: Vec::new(),
            ops: Vec::new(),
            deliveries: Vec::new(),
            readers: Vec::new(),
            ends: Vec::new(),
            producers: BTreeMap::new(),
            faults: Vec::new(),
            chaos_ended: None,
            quiesced: None,
            disturbed: (0, 0),
            stops: Vec::new(),
            cut: None,
            members: Vec::new(),
            nodes: Vec::new(),
            sets: BTreeMap::new(),
            slots: Vec::new(),
            expired: Vec::new(),
            sizes: Vec::new(),
            grown: Vec::new(),
            committed: Vec::new(),
            shards: Vec::new(),
            member_names: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// Makes room for what has been named since.
    pub fn learn(&mut self, names: &Names) {
        self.shards.extend_from_slice(&names.shards()[self.shards.len()..]);
        self.member_names.extend_from_slice(&names.members()[self.member_names.len()..]);
        for name in &names.groups()[self.rules.len()..] {
            self.rules.push(self.context.groups.get(&**name).cloned().unwrap_or_default());
        }
        self.slots.resize_with(self.shards.len(), Sparse::default);
        self.expired.resize(self.shards.len(), (0, 0));
        self.members.resize_with(self.member_names.len(), Member::default);
        self.nodes.resize_with(names.lanes().len(), Node::default);
    }

    pub fn rules(&self, group: GroupId) -> &GroupRules {
        &self.rules[group.index()]
    }

    pub fn message(&self, message: MessageId) -> Option<&Message> {
        self.messages.get(message.index())?.as_ref()
    }

    pub fn op(&self, op: OpId) -> Option<&Op> {
        self.ops.get(op.index())?.as_ref()
    }

    pub fn message_of(&self, op: OpId) -> Option<&Message> {
        self.message(self.op(op)?.message)
    }

    pub fn end(&self, end: EndId) -> Option<&End> {
        self.ends.get(end.index())?.as_ref()
    }

    pub fn delivery(&self, delivery: DeliveryId) -> Option<&Delivery> {
        self.deliveries.get(delivery.index())?.as_ref()
    }

    pub fn slot(&self, shard: ShardId, offset: u64) -> Option<&Slot> {
        self.slots[shard.index()].get(offset)
    }

    pub fn is_expired(&self, shard: ShardId, offset: u64) -> bool {
        offset < self.expired(shard).0
    }

    /// Offsets below this have expired, and which event said so.
    pub fn expired(&self, shard: ShardId) -> (u64, EventIndex) {
        self.expired[shard.index()]
    }

    pub fn shard(&self, shard: ShardId) -> ShardName {
        self.shards[shard.index()]
    }

    pub fn node(&self, lane: LaneId) -> &Node {
        &self.nodes[lane.index()]
    }

    pub fn nodes(&self) -> impl Iterator<Item = (LaneId, &Node)> {
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, node)| node.life > 0).map(|(i, node)| (LaneId::at(i), node))
    }

    /// A process that ought to run and does not, or a set that nobody leads.
    pub fn absent(&self) -> Option<LaneId> {
        let is_absent = |node: &Node| !node.up && node.down_by != Some(Stop::Graceful);
        self.nodes().find(|(_, node)| is_absent(node)).map(|(lane, _)| lane)
    }

    /// The only broker there is, if there is only one.
    pub fn only_broker(&self) -> Option<LaneId> {
        let first = self.shards.first()?.broker;
        self.shards.iter().all(|shard| shard.broker == first).then_some(first)
    }

    pub fn member(&self, member: MemberId) -> &Member {
        &self.members[member.index()]
    }

    pub fn lane_of(&self, member: MemberId) -> LaneId {
        self.member_names[member.index()].client
    }

    pub fn group_of(&self, member: MemberId) -> GroupId {
        self.member_names[member.index()].group
    }

    pub fn reader(&self, reader: ReaderId) -> &Reader {
        &self.readers[reader.0]
    }

    pub fn reader_of(&self, member: MemberId) -> Option<&Reader> {
        Some(self.reader(self.member(member).reader?))
    }

    pub fn clustering(&self, group: GroupId) -> Option<&Reader> {
        self.readers.iter().find(|r| r.mode == Mode::Clustering && r.group == group)
    }

    pub fn living<'a>(&'a self, reader: &'a Reader) -> impl Iterator<Item = &'a Member> {
        reader.members.iter().map(|m| self.member(*m)).filter(|m| m.alive)
    }

    /// Whether nothing but traffic has happened for this long, stalled and slow
    /// handlers aside, and whatever replica sets bear without their clients
    /// noticing.
    pub fn calm_for(&self, micros: u64) -> bool {
        self.now - self.disturbed.0 >= micros
            && self.faults.iter().all(|fault| fault.kind.is_of_handlers() || self.is_borne(fault))
    }

    /// How many answers in a row may have been lost on their way since this
    /// event: one with each node that ended, any number during some faults.
    pub fn lost_answers_since(&self, event: EventIndex) -> u32 {
        let is_cut = self.faults.iter().any(|fault| fault.kind.loses_answers());
        match is_cut || self.cut > Some(event) {
            true => u32::MAX,
            false => self.stops.iter().rev().take_while(|stop| **stop > event).count() as u32,
        }
    }

    pub fn all_messages(&self) -> impl Iterator<Item = (MessageId, &Message)> {
        let all = self.messages.iter().enumerate();
        all.filter_map(|(i, message)| Some((MessageId::at(i), message.as_ref()?)))
    }

    pub fn all_ops(&self) -> impl Iterator<Item = (OpId, &Op)> {
        let all = self.ops.iter().enumerate();
        all.filter_map(|(i, op)| Some((OpId::at(i), op.as_ref()?)))
    }

    /// The slots of a broker's log at and after this position.
    pub fn log_from(
        &self,
        broker: LaneId,
        position: u64,
    ) -> impl Iterator<Item = (u64, ShardId, u64)> {
        let log = self.node(broker).log.iter().rev();
        log.take_while(move |s| s.highest >= position)
            .filter(move |s| s.position >= position)
            .map(|s| (s.position, s.shard, s.offset))
    }
}

/// The element at `index` of a vector that grows to hold it.
pub(super) fn grown<T>(all: &mut Vec<Option<T>>, index: usize) -> &mut Option<T> {
    if all.len() <= index {
        all.resize_with(index + 1, || None);
    }
    &mut all[index]
}
