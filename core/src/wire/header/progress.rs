//! Where a group goes on, and how it is set somewhere else.

use super::{FieldValue, unusable};
use crate::{error::Rejected, wire::Fields};

header!(
    /// 222, and 220 to the members.
    ResetOffsetHeader<'a> {
        topic: &'a str = "topic",
        group: &'a str = "group",
        /// Milliseconds since the epoch, compared with store times; below zero:
        /// behind the last message.
        timestamp: i64 = "timestamp",
        /// Whether a group may also be moved forward.
        force: bool = "isForce",
        /// One queue only, if not below zero; then `offset` may say where to.
        queue: Option<i32> = "queueId",
        offset: Option<i64> = "offset",
    }
);

header!(
    /// The answer to 14.
    CommittedReply {
        offset: i64 = "offset",
        /// Stormglass's own: how often the group was reset here, if ever. Who
        /// says it with later updates cannot undo a reset that it missed.
        reset_epoch: Option<u64> = "resetEpoch",
        /// Ours: messages that retention took from the group here before it had
        /// read them, if any (L13).
        lost: Option<u64> = "lost",
    }
);
