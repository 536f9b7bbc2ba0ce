//! Who a client is and what its groups consume (34), and a group's members (38).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{
    dialect::{self, null_as_default},
    subscription::Subscription,
};

/// The body of 34.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatData {
    #[serde(rename = "clientID")]
    pub client_id: String,
    #[serde(rename = "producerDataSet", default, with = "group_names")]
    pub producer_groups: Vec<String>,
    #[serde(rename = "consumerDataSet", default, deserialize_with = "null_as_default")]
    pub consumers: Vec<ConsumerData>,
}

/// One consumer group that the client is a member of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerData {
    #[serde(rename = "groupName")]
    pub group: String,
    #[serde(default)]
    pub consume_type: ConsumeType,
    #[serde(default)]
    pub message_model: MessageModel,
    #[serde(rename = "consumeFromWhere", default)]
    pub consume_from: ConsumeFrom,
    #[serde(rename = "subscriptionDataSet", default, deserialize_with = "null_as_default")]
    pub subscriptions: Vec<Subscription>,
}

/// The body of the answer to 38.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerIds {
    #[serde(rename = "consumerIdList", default, deserialize_with = "null_as_default")]
    pub ids: Vec<String>,
}

/// How a consumer gets its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeType {
    Pull,
    #[default]
    Push,
    Pop,
}

/// Whether a group shares its messages or each member gets all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageModel {
    Broadcasting,
    #[default]
    Clustering,
}

/// Where a group that never committed an offset starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFrom {
    #[default]
    Last,
    First,
    Timestamp,
}

/// Implements both directions for an enum that peers write by name or ordinal.
macro_rules! wire_enum {
    ($ty:ident, $what:literal, [$($name:literal => $variant:ident),* $(,)?]) => {
        impl $ty {
            const WIRE: &[(&str, $ty)] = &[$(($name, $ty::$variant)),*];
        }

        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let name = $ty::WIRE.iter().find(|(_, v)| v == self).map_or("", |(name, _)| name);
                serializer.serialize_str(name)
            }
        }

        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$ty, D::Error> {
                dialect::scalar(deserializer)?
                    .ordinal(&[$($name),*])
                    .map(|n| $ty::WIRE[n].1)
                    .ok_or_else(|| D::Error::custom(concat!("an unknown ", $what)))
            }
        }
    };
}

wire_enum!(ConsumeType, "consumeType", [
    "CONSUME_ACTIVELY" => Pull,
    "CONSUME_PASSIVELY" => Push,
    "CONSUME_POP" => Pop,
]);
wire_enum!(MessageModel, "messageModel", [
    "BROADCASTING" => Broadcasting,
    "CLUSTERING" => Clustering,
]);
// The three in the middle are deprecated spellings of the others.
wire_enum!(ConsumeFrom, "consumeFromWhere", [
    "CONSUME_FROM_LAST_OFFSET" => Last,
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST" => Last,
    "CONSUME_FROM_MIN_OFFSET" => First,
    "CONSUME_FROM_MAX_OFFSET" => Last,
    "CONSUME_FROM_FIRST_OFFSET" => First,
    "CONSUME_FROM_TIMESTAMP" => Timestamp,
]);

/// Group names travel as a list of objects with one member.
mod group_names {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Group {
        group_name: String,
    }

    pub fn serialize<S: Serializer>(names: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names.iter().map(|name| Group { group_name: name.clone() }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
        let groups: Vec<Group> = null_as_default(d)?;
        Ok(groups.into_iter().map(|group| group.group_name).collect())
    }
}
