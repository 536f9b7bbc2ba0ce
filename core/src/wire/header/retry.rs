//! Headers about messages that come again: sent back, dead, delayed, recalled.

use super::{FieldValue, unusable};
use crate::{error::Rejected, wire::Fields};

header!(
    /// 36: a consumer could not process a message and wants it again, later.
    SendBackHeader<'a> {
        /// Where the message lies, as its record said when it was served.
        offset: i64 = "offset",
        group: &'a str = "group",
        /// 0: the broker decides; below zero: to the dead-letter queue, now.
        delay_level: i32 = "delayLevel",
        origin_message_id: Option<&'a str> = "originMsgId",
        origin_topic: Option<&'a str> = "originTopic",
        unit_mode: Option<bool> = "unitMode",
        /// Deliveries before the dead-letter queue; absent or below zero: as
        /// the group is configured.
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
        /// Stormglass's own: milliseconds until the message comes again, to be
        /// used instead of the level unless that one is below zero.
        delay_ms: Option<i64> = "delayMs",
        /// Ours: as in `UpdateOffsetHeader`.
        lock_epoch: Option<u64> = "lockEpoch",
    }
);

header!(
    /// 370
    RecallHeader<'a> {
        producer_group: Option<&'a str> = "producerGroup",
        topic: &'a str = "topic",
        /// A `wire::RecallHandle`, as the answer to the send said it.
        recall_handle: &'a str = "recallHandle",
    }
);

header!(
    /// The answer to 370.
    RecallReply<'a> { message_id: &'a str = "msgId" }
);

header!(
    /// Stormglass's own 20036: dead letters of a group are made visible again.
    ReplayHeader<'a> {
        group: &'a str = "group",
        /// The first offset in the dead-letter queue to look at, and one past
        /// the last.
        from: u64 = "from",
        to: u64 = "to",
        /// Whether they go to the topic that they were sent to, for all its
        /// groups; else to this group's retry topic alone.
        to_origin: bool = "toOrigin",
        /// Whether those that were replayed before are replayed again.
        again: Option<bool> = "again",
    }
);

header!(
    /// The answer to 20036, which looks at a bounded number of dead letters.
    ReplayReply {
        replayed: u64 = "replayed",
        /// Replayed before, and left alone.
        skipped: u64 = "skipped",
        /// Could not be replayed: unreadable, or their topic is gone.
        failed: u64 = "failed",
        /// Where to go on; `to` once all were looked at.
        next: u64 = "next",
    }
);

header!(
    /// 352 and other requests about one group's configuration.
    GroupConfigHeader<'a> { group: &'a str = "group" }
);
