//! The testbed.

pub mod fault;
