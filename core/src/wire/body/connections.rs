//! Who the members of a group are, and what they want (203).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConsumeFrom, ConsumeType, MessageModel, Subscription, dialect::null_as_default};

/// The body of the answer to 203.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerConnections {
    #[serde(rename = "connectionSet", default, deserialize_with = "null_as_default")]
    pub members: Vec<MemberConnection>,
    #[serde(rename = "subscriptionTable", default, deserialize_with = "null_as_default")]
    pub subscriptions: BTreeMap<String, Subscription>,
    #[serde(default)]
    pub consume_type: ConsumeType,
    #[serde(default)]
    pub message_model: MessageModel,
    #[serde(rename = "consumeFromWhere", default)]
    pub consume_from: ConsumeFrom,
    /// Ours: members that want something else than the newest one (L15).
    #[serde(default, deserialize_with = "null_as_default")]
    pub disagreements: Vec<MemberDisagreement>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberConnection {
    pub client_id: String,
    #[serde(default)]
    pub client_addr: String,
    #[serde(default)]
    pub language: String,
    #[serde(default)]
    pub version: i32,
}

/// What a member wants of a topic, if anything, and what the newest one does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberDisagreement {
    pub topic: String,
    pub client_id: String,
    #[serde(default)]
    pub expression: Option<String>,
    pub newest: String,
}

/// RocketMQ's name of a header's `language`.
pub fn language_name(language: u8) -> &'static str {
    const NAMES: [&str; 14] = [
        "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO",
        "PHP", "OMS", "RUST", "NODE_JS",
    ];
    NAMES.get(usize::from(language)).copied().unwrap_or("OTHER")
}
