//! What the header of each request and response says: one declaration serves
//! the side that writes it and the side that reads it.

use std::fmt;

pub use cluster::TransferLeaderHeader;
pub use pop::{
    AckHeader, ChangeInvisibleHeader, ChangeInvisibleReply, NotificationHeader, NotificationReply,
    PopHeader, PopReply, ReceiptHandle,
};
pub use progress::{CommittedReply, ResetOffsetHeader};
pub use retry::{
    GroupConfigHeader, RecallHeader, RecallReply, ReplayHeader, ReplayReply, SendBackHeader,
};
pub use transaction::{
    CheckReceipt, CheckTransactionHeader, EndTransactionHeader, HalfHeader, ListHalvesHeader,
    Resolution, ResumeCheckHeader,
};

use super::frame::{Fields, FieldsBuilder};
use crate::error::Rejected;

/// A type that a header field can hold.
pub trait FieldValue<'a>: Sized {
    fn parse(text: &'a str) -> Option<Self>;
    fn write(&self, key: &str, out: &mut FieldsBuilder);
    /// The value of an absent field; none if the field is required.
    fn absent() -> Option<Self> {
        None
    }
}

macro_rules! displayed {
    ($($ty:ty),*) => {$(
        impl<'a> FieldValue<'a> for $ty {
            fn parse(text: &'a str) -> Option<Self> {
                text.parse().ok()
            }
            fn write(&self, key: &str, out: &mut FieldsBuilder) {
                out.put(key, self);
            }
        }
    )*};
}
displayed!(i32, i64, u32, u64);

impl<'a> FieldValue<'a> for &'a str {
    fn parse(text: &'a str) -> Option<Self> {
        Some(text)
    }
    fn write(&self, key: &str, out: &mut FieldsBuilder) {
        out.put(key, self);
    }
}

impl<'a> FieldValue<'a> for bool {
    /// C++ clients write "1" and "0".
    fn parse(text: &'a str) -> Option<Self> {
        match text {
            "1" => Some(true),
            "0" | "" => Some(false),
            _ if text.eq_ignore_ascii_case("true") => Some(true),
            _ if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }
    fn write(&self, key: &str, out: &mut FieldsBuilder) {
        out.put(key, self);
    }
}

impl<'a, T: FieldValue<'a>> FieldValue<'a> for Option<T> {
    fn parse(text: &'a str) -> Option<Self> {
        // An empty optional field is an absent one (the C++ clients send both).
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }
    fn write(&self, key: &str, out: &mut FieldsBuilder) {
        if let Some(value) = self {
            value.write(key, out);
        }
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

macro_rules! header {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? {
        $( $(#[$fdoc:meta])* $field:ident : $ty:ty = $key:literal $(| $alias:literal)? ),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name $(<$life>)? {
            $( $(#[$fdoc])* pub $field: $ty ),*
        }

        header!(@impl $name $(<$life>)? { $( $field : $ty = $key $(| $alias)? ),* });
    };
    (@impl $name:ident <$life:lifetime> { $( $field:ident : $ty:ty = $key:literal $(| $alias:literal)? ),* }) => {
        impl<$life> $name<$life> {
            /// Reads the header; names the first field that is missing or unusable.
            pub fn parse(fields: &$life Fields) -> Result<Self, Rejected> {
                header!(@parse fields, { $( $field : $ty = $key $(| $alias)? ),* })
            }
            /// The fields under their long names.
            pub fn fields(&self) -> Fields {
                let mut out = Fields::builder();
                $( self.$field.write($key, &mut out); )*
                out.finish()
            }
        }
    };
    (@impl $name:ident { $( $field:ident : $ty:ty = $key:literal $(| $alias:literal)? ),* }) => {
        impl $name {
            /// Reads the header; names the first field that is missing or unusable.
            pub fn parse(fields: &Fields) -> Result<Self, Rejected> {
                header!(@parse fields, { $( $field : $ty = $key $(| $alias)? ),* })
            }
            /// The fields under their long names.
            pub fn fields(&self) -> Fields {
                let mut out = Fields::builder();
                $( self.$field.write($key, &mut out); )*
                out.finish()
            }
        }
    };
    (@parse $fields:ident, { $( $field:ident : $ty:ty = $key:literal $(| $alias:literal)? ),* }) => {{
        $( let mut $field: Option<$ty> = None; )*
        for (key, value) in $fields.iter() {
            match key {
                $( $key $(| $alias)? => $field = Some(
                    FieldValue::parse(value).ok_or_else(|| unusable($key, value))?
                ), )*
                _ => {}
            }
        }
        Ok(Self {
            $( $field: match $field.or_else(<$ty as FieldValue>::absent) {
                Some(value) => value,
                None => return Err(Rejected::bad_field($key, "is missing")),
            } ),*
        })
    }};
}

// Below the macro, which is visible from there on.
mod cluster;
mod pop;
mod progress;
mod retry;
mod transaction;

fn unusable(key: &str, value: impl fmt::Debug) -> Rejected {
    let mut shown = format!("{value:?}");
    if let Some((cut, _)) = shown.char_indices().nth(64) {
        shown.truncate(cut);
        shown.push('…');
    }
    Rejected::bad_field(key, format!("has the unusable value {shown}"))
}

header!(
    /// 10, and with one-letter names 310 and 320.
    SendHeader<'a> {
        producer_group: &'a str = "producerGroup" | "a",
        topic: &'a str = "topic" | "b",
        default_topic: Option<&'a str> = "defaultTopic" | "c",
        default_topic_queues: Option<u32> = "defaultTopicQueueNums" | "d",
        /// Below zero: the broker chooses.
        queue: i32 = "queueId" | "e",
        sys_flag: i32 = "sysFlag" | "f",
        born_wall: i64 = "bornTimestamp" | "g",
        flag: i32 = "flag" | "h",
        properties: Option<&'a str> = "properties" | "i",
        reconsume_times: Option<i32> = "reconsumeTimes" | "j",
        unit_mode: Option<bool> = "unitMode" | "k",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes" | "l",
        batch: Option<bool> = "batch" | "m",
        /// Ours, as are the next two: who numbers its sends to this queue, so
        /// that a repeated one is stored once (D1) and none overtakes (R3).
        producer_id: Option<u64> = "producerId",
        producer_epoch: Option<u32> = "producerEpoch",
        /// Of the (first) message, from 0 in each epoch.
        sequence: Option<u64> = "sequence",
    }
);

impl SendHeader<'_> {
    /// The fields under the one-letter names of 310 and 320.
    pub fn short_fields(&self) -> Fields {
        let mut out = Fields::builder();
        self.producer_group.write("a", &mut out);
        self.topic.write("b", &mut out);
        self.default_topic.write("c", &mut out);
        self.default_topic_queues.write("d", &mut out);
        self.queue.write("e", &mut out);
        self.sys_flag.write("f", &mut out);
        self.born_wall.write("g", &mut out);
        self.flag.write("h", &mut out);
        self.properties.write("i", &mut out);
        self.reconsume_times.write("j", &mut out);
        self.unit_mode.write("k", &mut out);
        self.max_reconsume_times.write("l", &mut out);
        self.batch.write("m", &mut out);
        self.producer_id.write("producerId", &mut out);
        self.producer_epoch.write("producerEpoch", &mut out);
        self.sequence.write("sequence", &mut out);
        out.finish()
    }
}

header!(
    /// The answer to 10, 310 and 320.
    SendReply<'a> {
        /// Offset message ids, joined by commas for a batch.
        message_id: &'a str = "msgId",
        queue: u32 = "queueId",
        /// Of the first message.
        queue_offset: i64 = "queueOffset",
        transaction_id: Option<&'a str> = "transactionId",
        region: Option<&'a str> = "MSG_REGION",
        trace_on: Option<bool> = "TRACE_ON",
        /// A `wire::RecallHandle`, if the message is delayed.
        recall_handle: Option<&'a str> = "recallHandle",
    }
);

/// Bits of `PullHeader::sys_flag`.
pub mod pull_flag {
    pub const COMMIT_OFFSET: i32 = 1;
    pub const SUSPEND: i32 = 2;
    pub const SUBSCRIPTION: i32 = 4;
}

header!(
    /// 11
    PullHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue: u32 = "queueId",
        queue_offset: i64 = "queueOffset",
        max_messages: i32 = "maxMsgNums",
        sys_flag: i32 = "sysFlag",
        commit_offset: i64 = "commitOffset",
        /// Milliseconds.
        suspend_timeout: i64 = "suspendTimeoutMillis",
        subscription: Option<&'a str> = "subscription",
        sub_version: i64 = "subVersion",
        expression_type: Option<&'a str> = "expressionType",
        max_bytes: Option<i32> = "maxMsgBytes",
        /// Ours: as in `UpdateOffsetHeader`.
        lock_epoch: Option<u64> = "lockEpoch",
        reset_epoch: Option<u64> = "resetEpoch",
    }
);

header!(
    /// The answer to 11, in every code.
    PullReply {
        suggest_broker: i64 = "suggestWhichBrokerId",
        next_offset: i64 = "nextBeginOffset",
        min_offset: i64 = "minOffset",
        max_offset: i64 = "maxOffset",
    }
);

header!(
    /// Ours: what a replica adds to a refusal (2) because it does not lead.
    NotLeader {
        /// The leader's number in its set, if it is known.
        leader: Option<u64> = "leaderId",
        /// The newest term that the replica knows.
        term: u64 = "term",
    }
);

header!(
    /// 30, 31, and with its answer also 14.
    QueueHeader<'a> {
        topic: &'a str = "topic",
        queue: u32 = "queueId",
    }
);

header!(
    /// 14
    QueryOffsetHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue: u32 = "queueId",
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }
);

header!(
    /// 15
    UpdateOffsetHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue: u32 = "queueId",
        commit_offset: i64 = "commitOffset",
        /// Ours: the epoch of the lock under which the offset was processed;
        /// an older one than the lock's is refused (R1).
        lock_epoch: Option<u64> = "lockEpoch",
        /// Ours: as the answer to 14 or a reset said it; an older one than the
        /// last reset's is refused (O4).
        reset_epoch: Option<u64> = "resetEpoch",
    }
);

header!(
    /// 29
    SearchOffsetHeader<'a> {
        topic: &'a str = "topic",
        queue: u32 = "queueId",
        /// Milliseconds since the epoch, compared with store times.
        timestamp: i64 = "timestamp",
    }
);

header!(
    /// The answer to 29, 30 and 31, and most of that to 14.
    OffsetReply { offset: i64 = "offset" }
);

header!(
    /// 17
    CreateTopicHeader<'a> {
        topic: &'a str = "topic",
        read_queues: u32 = "readQueueNums",
        write_queues: u32 = "writeQueueNums",
        perm: u32 = "perm",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: Option<bool> = "order",
        /// Ours: the queue list of an ordered topic, and its version.
        order_queues: Option<&'a str> = "orderTopicConf",
        order_version: Option<i64> = "orderTopicVersion",
    }
);

header!(
    /// 38 and 40
    GroupHeader<'a> { group: &'a str = "consumerGroup" }
);

header!(
    /// 35
    UnregisterHeader<'a> {
        client_id: &'a str = "clientID",
        producer_group: Option<&'a str> = "producerGroup",
        consumer_group: Option<&'a str> = "consumerGroup",
    }
);

header!(
    /// 105 and other requests about one topic
    TopicHeader<'a> { topic: &'a str = "topic" }
);

header!(
    /// 33
    ViewHeader { offset: i64 = "offset" }
);

header!(
    /// 103 and 104
    RegisterHeader<'a> {
        broker_name: &'a str = "brokerName",
        broker_addr: &'a str = "brokerAddr",
        cluster_name: &'a str = "clusterName",
        ha_server_addr: Option<&'a str> = "haServerAddr",
        broker_id: i64 = "brokerId",
        /// Ours: the term in which the replica says so; brokers without replicas
        /// have none.
        term: Option<u64> = "term",
        compressed: Option<bool> = "compressed",
        body_crc32: Option<i64> = "bodyCrc32",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_send_are_read() {
        let header = SendHeader {
            producer_group: "p",
            topic: "orders",
            default_topic: Some("TBW102"),
            default_topic_queues: Some(4),
            queue: -1,
            sys_flag: 0,
            born_wall: 1_700_000_000_000,
            flag: 9,
            properties: Some("TAGS\u{1}a\u{2}"),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(true),
            producer_id: Some(u64::MAX),
            producer_epoch: Some(1),
            sequence: Some(2),
        };
        assert_eq!(SendHeader::parse(&header.fields()).unwrap(), header);
        assert_eq!(SendHeader::parse(&header.short_fields()).unwrap(), header);
    }

    #[test]
    fn a_resolution_travels_as_its_number() {
        let header = EndTransactionHeader {
            producer_group: "p",
            topic: Some("orders"),
            half_offset: 3,
            position: 4096,
            resolution: Resolution::Rollback,
            from_check: Some(true),
            message_id: "0A000001",
            transaction_id: None,
            broker_name: None,
        };
        let fields = header.fields();
        assert_eq!(fields.get("commitOrRollback"), Some("12"));
        assert_eq!(EndTransactionHeader::parse(&fields).unwrap(), header);
        let fields = Fields::builder().put("commitOrRollback", 7).finish();
        let refused = EndTransactionHeader::parse(&fields).unwrap_err();
        assert_eq!(refused.remark, "the field commitOrRollback has the unusable value \"7\"");
    }

    #[test]
    fn a_refusal_names_the_field() {
        let fields = Fields::builder().put("topic", "t").put("queueId", "three").finish();
        assert_eq!(
            QueueHeader::parse(&fields).unwrap_err().remark,
            "the field queueId has the unusable value \"three\""
        );
        let fields = Fields::builder().put("topic", "t").finish();
        assert_eq!(QueueHeader::parse(&fields).unwrap_err().remark, "the field queueId is missing");
    }
}
