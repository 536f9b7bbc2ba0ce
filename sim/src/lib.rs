//! The testbed.

pub mod clock;
pub mod coverage;
pub mod disk;
pub mod fault;
pub mod history;
pub mod logging;
pub mod oracle;
pub mod record;
pub mod workload;
pub mod world;
