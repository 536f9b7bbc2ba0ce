//! RocketMQ's remoting protocol: frames, and what their headers and bodies say.

mod base64;
pub mod body;
pub mod frame;
pub mod header;
mod recall;

pub use frame::{Encoding, Fields, Frame, FrameError};
pub use recall::RecallHandle;

/// Request codes.
pub mod request {
    pub const SEND_MESSAGE: i32 = 10;
    pub const PULL_MESSAGE: i32 = 11;
    pub const QUERY_CONSUMER_OFFSET: i32 = 14;
    pub const UPDATE_CONSUMER_OFFSET: i32 = 15;
    pub const UPDATE_AND_CREATE_TOPIC: i32 = 17;
    pub const SEARCH_OFFSET_BY_TIMESTAMP: i32 = 29;
    pub const GET_MAX_OFFSET: i32 = 30;
    pub const GET_MIN_OFFSET: i32 = 31;
    pub const VIEW_MESSAGE_BY_ID: i32 = 33;
    pub const HEART_BEAT: i32 = 34;
    pub const UNREGISTER_CLIENT: i32 = 35;
    pub const CONSUMER_SEND_MSG_BACK: i32 = 36;
    pub const END_TRANSACTION: i32 = 37;
    pub const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
    pub const CHECK_TRANSACTION_STATE: i32 = 39;
    pub const NOTIFY_CONSUMER_IDS_CHANGED: i32 = 40;
    pub const LOCK_BATCH_MQ: i32 = 41;
    pub const UNLOCK_BATCH_MQ: i32 = 42;
    pub const REGISTER_BROKER: i32 = 103;
    pub const UNREGISTER_BROKER: i32 = 104;
    pub const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
    pub const GET_BROKER_CLUSTER_INFO: i32 = 106;
    pub const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: i32 = 200;
    pub const GET_ALL_TOPIC_LIST_FROM_NAMESERVER: i32 = 206;
    pub const GET_CONSUMER_CONNECTION_LIST: i32 = 203;
    pub const GET_CONSUME_STATS: i32 = 208;
    pub const RESET_CONSUMER_CLIENT_OFFSET: i32 = 220;
    pub const INVOKE_BROKER_TO_RESET_OFFSET: i32 = 222;
    pub const SEND_MESSAGE_V2: i32 = 310;
    pub const SEND_BATCH_MESSAGE: i32 = 320;
    pub const RESUME_CHECK_HALF_MESSAGE: i32 = 323;
    pub const GET_SUBSCRIPTIONGROUP_CONFIG: i32 = 352;
    pub const RECALL_MESSAGE: i32 = 370;
    /// Stormglass's own: 20 000 and more, within the 16 bits of a binary header.
    pub const REPLAY_DEAD_LETTERS: i32 = 20_036;
    pub const LIST_HALVES: i32 = 20_037;
    pub const SHOW_HALF: i32 = 20_038;
    pub const SETTLE_HALF: i32 = 20_039;
    pub const CLUSTER_STATUS: i32 = 20_040;
    pub const CHANGE_MEMBERS: i32 = 20_041;
    pub const TRANSFER_LEADER: i32 = 20_042;
    // Beyond what a binary header can hold: these come with JSON headers only.
    pub const POP_MESSAGE: i32 = 200_050;
    pub const ACK_MESSAGE: i32 = 200_051;
    pub const CHANGE_MESSAGE_INVISIBLE_TIME: i32 = 200_053;
    pub const NOTIFICATION: i32 = 200_054;
    pub const BATCH_ACK_MESSAGE: i32 = 200_151;
}

/// Response codes.
pub mod code {
    pub const SUCCESS: i32 = 0;
    pub const SYSTEM_ERROR: i32 = 1;
    pub const SYSTEM_BUSY: i32 = 2;
    pub const REQUEST_CODE_NOT_SUPPORTED: i32 = 3;
    pub const FLUSH_DISK_TIMEOUT: i32 = 10;
    pub const MESSAGE_ILLEGAL: i32 = 13;
    pub const SERVICE_NOT_AVAILABLE: i32 = 14;
    pub const VERSION_NOT_SUPPORTED: i32 = 15;
    pub const NO_PERMISSION: i32 = 16;
    pub const TOPIC_NOT_EXIST: i32 = 17;
    pub const PULL_NOT_FOUND: i32 = 19;
    pub const PULL_RETRY_IMMEDIATELY: i32 = 20;
    pub const PULL_OFFSET_MOVED: i32 = 21;
    pub const QUERY_NOT_FOUND: i32 = 22;
    pub const SUBSCRIPTION_PARSE_FAILED: i32 = 23;
    pub const SUBSCRIPTION_NOT_EXIST: i32 = 24;
    pub const SUBSCRIPTION_NOT_LATEST: i32 = 25;
    pub const SUBSCRIPTION_GROUP_NOT_EXIST: i32 = 26;
    pub const INVALID_PARAMETER: i32 = 29;
    pub const CONSUMER_NOT_ONLINE: i32 = 206;
    /// What was to be acknowledged, or its lease, is gone.
    pub const NO_MESSAGE: i32 = 208;
    pub const POLLING_FULL: i32 = 209;
    pub const POLLING_TIMEOUT: i32 = 210;
    pub const ILLEGAL_OPERATION: i32 = 604;
    /// Stormglass's own. Another owner holds the lock, a newer producer the
    /// sequence, or the group was reset since: nothing was changed, and asking
    /// again will not help.
    pub const FENCED: i32 = 20_001;
    /// Stormglass's own. A message came before the one that its producer sent
    /// before it, or too late to know whether it is a repetition: nothing was
    /// stored.
    pub const OUT_OF_SEQUENCE: i32 = 20_002;
    /// Stormglass's own. Another replica of the set leads, or nobody does: ask
    /// there, or again. Nothing was changed.
    pub const NOT_LEADER: i32 = 20_003;
}

/// `language` of the header: Java, and what Stormglass says of itself.
pub const LANGUAGE_JAVA: u8 = 0;
pub const LANGUAGE_RUST: u8 = 12;
/// `version` of the header: RocketMQ 5.3.1's ordinal, whose headers we speak.
pub const VERSION: i32 = 475;
