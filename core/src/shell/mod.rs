//! The only asynchronous code: it moves bytes between sockets and the values,
//! and decides nothing. One loop owns each value; loops, readers and writers
//! talk through bounded queues.

pub mod client;
pub mod connection;
pub mod node;
pub mod peers;
