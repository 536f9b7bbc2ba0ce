//! The broker, the name server and the clients of Stormglass, as values.
//!
//! Nothing in this crate reads a clock, opens a file or a socket, starts a
//! thread or draws entropy. Time, frames, finished syncs and seeds come in;
//! frames and syncs go out. The modules stand in the order in which a message
//! travels through them.

pub mod error;
pub mod ids;
pub mod message;
pub mod pointer;
pub mod rng;
pub mod runtime;
pub mod sequence;
pub mod time;

pub mod broker;
pub mod client;
pub mod log;
pub mod nameserver;
pub mod peer;
pub mod queue;
pub mod replication;
pub mod shell;
pub mod wire;
