//! The testbed.

pub mod disk;
pub mod fault;
pub mod history;
