//! Dense ids for everything a history talks about, and the names behind them.
//! Ids are handed out in order of first mention, so that an oracle can keep its
//! state in plain vectors and two runs of one seed number everything alike.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! dense {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(NonZeroU32);

        impl $name {
            /// The id at a place counted from zero.
            pub fn at(index: usize) -> $name {
                let number = u32::try_from(index).ok().and_then(|n| n.checked_add(1));
                $name(number.and_then(NonZeroU32::new).expect("more than 2^32 ids in one run"))
            }

            /// Its place, counted from zero.
            pub fn index(self) -> usize {
                self.0.get() as usize - 1
            }

            /// Its number, counted from one, as people read it.
            pub fn number(self) -> u32 {
                self.0.get()
            }
        }
    )* };
}

dense! {
    /// A machine or a client: one lane of the timeline.
    LaneId
    TopicId
    /// One queue of one topic on one broker.
    ShardId
    GroupId
    /// One client's membership in a group. It outlives the client's restarts.
    MemberId
    KeyId
    TagId
    /// One logical message: what is sent again after an unknown outcome keeps
    /// its id. Travels in the body.
    MessageId
    /// One call of send, however many requests the client made of it. Each
    /// message of a batch has its own.
    OpId
    BatchId
    /// One start of a handler with one message.
    DeliveryId
    /// One END_TRANSACTION that a producer decided to send.
    EndId
    /// One question of the broker how a transaction ended.
    CheckId
    FaultId
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.number())
    }
}

/// Where a shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardName {
    pub topic: TopicId,
    pub broker: LaneId,
    pub queue: u32,
}

/// Who a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberName {
    pub group: GroupId,
    pub client: LaneId,
}

/// A table of names, each with its dense place.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<T>", into = "Vec<T>")]
#[serde(bound(
    serialize = "T: Clone + Serialize",
    deserialize = "T: Clone + Ord + Deserialize<'de>"
))]
pub struct Table<T> {
    all: Vec<T>,
    places: BTreeMap<T, usize>,
}

impl<T> Default for Table<T> {
    fn default() -> Table<T> {
        Table { all: Vec::new(), places: BTreeMap::new() }
    }
}

impl<T: Clone + Ord> From<Vec<T>> for Table<T> {
    fn from(all: Vec<T>) -> Table<T> {
        let places = all.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
        Table { all, places }
    }
}

impl<T> From<Table<T>> for Vec<T> {
    fn from(table: Table<T>) -> Vec<T> {
        table.all
    }
}

impl<T: Clone + Ord> Table<T> {
    /// The place of this name; the next free one if it is new.
    fn place<Q>(&mut self, name: &Q) -> usize
    where
        Q: Ord + ?Sized,
        T: std::borrow::Borrow<Q> + for<'a> From<&'a Q>,
    {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let name = T::from(name);
        self.all.push(name.clone());
        self.places.insert(name, self.all.len() - 1);
        self.all.len() - 1
    }
}

/// Every name a history mentions.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Names {
    lanes: Table<Arc<str>>,
    topics: Table<Arc<str>>,
    groups: Table<Arc<str>>,
    keys: Table<Arc<str>>,
    tags: Table<Arc<str>>,
    shards: Table<ShardName>,
    members: Table<MemberName>,
}

impl<'a> From<&'a ShardName> for ShardName {
    fn from(name: &'a ShardName) -> ShardName {
        *name
    }
}

impl<'a> From<&'a MemberName> for MemberName {
    fn from(name: &'a MemberName) -> MemberName {
        *name
    }
}

impl Names {
    pub fn lane(&mut self, name: &str) -> LaneId {
        LaneId::at(self.lanes.place(name))
    }

    pub fn topic(&mut self, name: &str) -> TopicId {
        TopicId::at(self.topics.place(name))
    }

    pub fn group(&mut self, name: &str) -> GroupId {
        GroupId::at(self.groups.place(name))
    }

    pub fn key(&mut self, name: &str) -> KeyId {
        KeyId::at(self.keys.place(name))
    }

    pub fn tag(&mut self, name: &str) -> TagId {
        TagId::at(self.tags.place(name))
    }

    pub fn shard(&mut self, topic: TopicId, broker: LaneId, queue: u32) -> ShardId {
        ShardId::at(self.shards.place(&ShardName { topic, broker, queue }))
    }

    pub fn member(&mut self, group: GroupId, client: LaneId) -> MemberId {
        MemberId::at(self.members.place(&MemberName { group, client }))
    }

    pub fn of_lane(&self, lane: LaneId) -> &str {
        &self.lanes.all[lane.index()]
    }

    pub fn of_topic(&self, topic: TopicId) -> &str {
        &self.topics.all[topic.index()]
    }

    pub fn of_group(&self, group: GroupId) -> &str {
        &self.groups.all[group.index()]
    }

    pub fn of_key(&self, key: KeyId) -> &str {
        &self.keys.all[key.index()]
    }

    pub fn of_tag(&self, tag: TagId) -> &str {
        &self.tags.all[tag.index()]
    }

    pub fn of_shard(&self, shard: ShardId) -> ShardName {
        self.shards.all[shard.index()]
    }

    pub fn of_member(&self, member: MemberId) -> MemberName {
        self.members.all[member.index()]
    }

    /// `orders/0@broker-1`.
    pub fn text_of_shard(&self, shard: ShardId) -> String {
        let name = self.of_shard(shard);
        format!("{}/{}@{}", self.of_topic(name.topic), name.queue, self.of_lane(name.broker))
    }

    /// `orders/0@broker-1[17]`.
    pub fn text_of_slot(&self, shard: ShardId, offset: u64) -> String {
        format!("{}[{offset}]", self.text_of_shard(shard))
    }

    /// Every lane, in the order of its first mention.
    pub fn lanes(&self) -> &[Arc<str>] {
        &self.lanes.all
    }

    pub fn groups(&self) -> &[Arc<str>] {
        &self.groups.all
    }

    pub fn shards(&self) -> &[ShardName] {
        &self.shards.all
    }

    pub fn members(&self) -> &[MemberName] {
        &self.members.all
    }
}
