//! POP: messages under a lease that ends by an acknowledgement or by itself.
//! Their codes fit into JSON headers only.

use std::fmt;

use super::{FieldValue, unusable};
use crate::{error::Rejected, wire::Fields};

header!(
    /// 200050
    PopHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        /// Below zero: any.
        queue: i32 = "queueId",
        max_messages: i32 = "maxMsgNums",
        /// Milliseconds that the messages are this consumer's alone.
        invisible_time: i64 = "invisibleTime",
        /// Milliseconds that the broker may wait for a message.
        poll_time: i64 = "pollTime",
        /// When the client asked, on its clock.
        born_wall: i64 = "bornTime",
        /// Where a new group starts: 0 at the first message, 1 at the end.
        init_mode: i32 = "initMode",
        expression_type: Option<&'a str> = "expType",
        expression: Option<&'a str> = "exp",
        order: Option<bool> = "order",
        attempt_id: Option<&'a str> = "attemptId",
    }
);

header!(
    /// The answer to 200050.
    PopReply<'a> {
        pop_wall: i64 = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_queue: i32 = "reviveQid",
        rest: i64 = "restNum",
        /// `retry queue start` joined by `;`
        start_offsets: Option<&'a str> = "startOffsetInfo",
        /// `retry queue offset,offset,…` joined by `;`
        message_offsets: Option<&'a str> = "msgOffsetInfo",
        order_counts: Option<&'a str> = "orderCountInfo",
    }
);

header!(
    /// 200051
    AckHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue: i32 = "queueId",
        /// A [`ReceiptHandle`].
        handle: &'a str = "extraInfo",
        offset: i64 = "offset",
    }
);

header!(
    /// 200053
    ChangeInvisibleHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue: i32 = "queueId",
        handle: &'a str = "extraInfo",
        offset: i64 = "offset",
        /// Milliseconds from now on.
        invisible_time: i64 = "invisibleTime",
    }
);

header!(
    /// The answer to 200053: what the new handle is made of.
    ChangeInvisibleReply {
        pop_wall: i64 = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_queue: i32 = "reviveQid",
    }
);

header!(
    /// 200054: tell me when there is something to pop.
    NotificationHeader<'a> {
        group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        /// Below zero: any queue of the topic.
        queue: i32 = "queueId",
        poll_time: i64 = "pollTime",
        born_wall: i64 = "bornTime",
        order: Option<bool> = "order",
        attempt_id: Option<&'a str> = "attemptId",
    }
);

header!(
    /// The answer to 200054.
    NotificationReply {
        has_message: bool = "hasMsg",
        polling_full: Option<bool> = "pollingFull",
    }
);

/// Names one lease on one message: RocketMQ's `POP_CK`, with spaces between.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptHandle<'a> {
    /// The offset of the first message that was popped with it.
    pub start_offset: i64,
    /// Milliseconds since the epoch on the broker's clock.
    pub pop_wall: i64,
    /// Milliseconds.
    pub invisible_time: i64,
    pub revive_queue: i32,
    /// 0: from the topic itself, otherwise from the group's retries of it.
    pub retry: u8,
    pub broker_name: &'a str,
    pub queue: u32,
    pub offset: i64,
}

impl<'a> ReceiptHandle<'a> {
    /// None if it is not a handle.
    pub fn parse(text: &'a str) -> Option<ReceiptHandle<'a>> {
        let mut parts = text.split(' ');
        let handle = ReceiptHandle {
            start_offset: parts.next()?.parse().ok()?,
            pop_wall: parts.next()?.parse().ok()?,
            invisible_time: parts.next()?.parse().ok()?,
            revive_queue: parts.next()?.parse().ok()?,
            retry: parts.next()?.parse().ok()?,
            broker_name: parts.next()?,
            queue: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(handle)
    }
}

impl fmt::Display for ReceiptHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReceiptHandle { start_offset, pop_wall, invisible_time, revive_queue, .. } = self;
        let ReceiptHandle { retry, broker_name, queue, offset, .. } = self;
        write!(f, "{start_offset} {pop_wall} {invisible_time} {revive_queue} {retry} ")?;
        write!(f, "{broker_name} {queue} {offset}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_as_it_was_written() {
        let text = "10 1795000000000 60000 3 0 broker-a 2 12";
        let handle = ReceiptHandle::parse(text).unwrap();
        assert_eq!((handle.broker_name, handle.queue, handle.offset), ("broker-a", 2, 12));
        assert_eq!(handle.to_string(), text);
        for bad in ["", "10 1 2 3 0 broker-a 2", "x 1 2 3 0 b 2 12", "10 1 2 3 0 b 2 12 5"] {
            assert_eq!(ReceiptHandle::parse(bad), None);
        }
    }
}
