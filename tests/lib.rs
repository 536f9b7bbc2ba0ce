//! What the tests share.

pub mod by_hand;
pub mod cluster;
pub mod http;
pub mod server;
