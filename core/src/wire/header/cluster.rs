//! Headers about a replica set as a whole.

use super::{FieldValue, unusable};
use crate::{error::Rejected, wire::Fields};

header!(
    /// 20042: the leader hands over. Answered before it has.
    TransferLeaderHeader {
        /// The replica that shall lead; absent: whoever is furthest.
        to: Option<u64> = "to",
    }
);
