//! The testbed.

pub mod fault;
pub mod history;
