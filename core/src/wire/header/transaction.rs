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
    }
);

header!(
    /// 323: put back what was checked too often.
    ResumeCheckHeader<'a> {
        topic: Option<&'a str> = "topic",
        message_id: &'a str = "msgId",
    }
);
