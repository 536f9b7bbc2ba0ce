//! The broker as a value.

use crate::runtime::Disk;

/// The broker.
pub struct Broker<D: Disk> {
    _disk: D,
}
