//! Stormglass on real sockets and disks.

pub mod disk;
pub mod on_tokio;
