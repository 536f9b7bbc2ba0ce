//! Transactions: what becomes of a message that was accepted and is not
//! visible yet.

use super::{FieldValue, FieldsBuilder, unusable};
use crate::{error::Rejected, message::sys_flag, wire::Fields};

/// What a producer says of a half message: the transaction bits of `sys_flag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resolution {
    /// Not decided yet, or not known to whoever was asked.
    Unknown,
    Commit,
    Rollback,
}

impl FieldValue<'_> for Resolution {
    fn parse(text: &str) -> Option<Self> {
        match text.parse::<i32>().ok()? {
            0 => Some(Resolution::Unknown),
            sys_flag::TRANSACTION_COMMIT => Some(Resolution::Commit),
            sys_flag::TRANSACTION_ROLLBACK => Some(Resolution::Rollback),
            _ => None,
        }
    }

    fn write(&self, key: &str, out: &mut FieldsBuilder) {
        let bits = match self {
            Resolution::Unknown => 0,
            Resolution::Commit => sys_flag::TRANSACTION_COMMIT,
            Resolution::Rollback => sys_flag::TRANSACTION_ROLLBACK,
        };
        out.put(key, bits);
    }
}

header!(
    /// 37
    EndTransactionHeader<'a> {
        producer_group: &'a str = "producerGroup",
        topic: Option<&'a str> = "topic",
        /// The queue offset in the answer to the half's send.
        half_offset: i64 = "tranStateTableOffset",
        /// The half's place in the log, as its offset message id says.
        position: i64 = "commitLogOffset",
        resolution: Resolution = "commitOrRollback",
        /// It answers a check (39).
        from_check: Option<bool> = "fromTransactionCheck",
        message_id: &'a str = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
        broker_name: Option<&'a str> = "bname",
    }
);

header!(
    /// 39, from a broker to a producer; the half's record is its body.
    CheckTransactionHeader<'a> {
        topic: Option<&'a str> = "topic",
        half_offset: i64 = "tranStateTableOffset",
        position: i64 = "commitLogOffset",
        message_id: Option<&'a str> = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
        offset_message_id: Option<&'a str> = "offsetMsgId",
        broker_name: Option<&'a str> = "bname",
        /// Ours: the broker would like a [`CheckReceipt`] at once. Plain clients
        /// ignore it.
        acknowledge: Option<bool> = "acknowledge",
    }
);

header!(
    /// Ours: a response to 39 with its opaque and code 0, sent as soon as the
    /// check has arrived (T13). What became of the transaction follows in a 37.
    CheckReceipt {
        half_offset: i64 = "tranStateTableOffset",
        position: i64 = "commitLogOffset",
    }
);

header!(
    /// 323: put back what was checked too often.
    ResumeCheckHeader<'a> {
        topic: Option<&'a str> = "topic",
        message_id: &'a str = "msgId",
    }
);

header!(
    /// Ours, 20037: undecided half messages, oldest first.
    ListHalvesHeader<'a> {
        /// Only those of this producer group.
        producer_group: Option<&'a str> = "producerGroup",
        /// Only those that were checked too often.
        parked: Option<bool> = "parked",
        /// Only those behind this position: where the last list ended.
        after: Option<i64> = "after",
        /// At most so many, 1 to 1000.
        limit: u32 = "limit",
    }
);

header!(
    /// Ours, 20038: one half message and what became of it; 20039: it is settled
    /// as an operator says.
    HalfHeader<'a> {
        /// Its offset message id.
        message_id: &'a str = "msgId",
        /// In 20039, and not `Unknown`.
        resolution: Option<Resolution> = "commitOrRollback",
    }
);
