//! The testbed.

pub mod clock;
pub mod coverage;
mod digest;
pub mod disk;
pub mod failover;
pub mod fault;
pub mod history;
pub mod logging;
pub mod oracle;
pub mod probe;
pub mod record;
pub mod run;
pub mod workload;
pub mod world;
