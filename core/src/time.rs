//! Time as the broker sees it: handed in with every input, never fetched.

use std::{fmt, ops, time::Duration};

/// A point on a node's monotonic clock, in microseconds since an arbitrary
/// start (for a real process: its own start). Deadlines live on this clock,
/// because it never steps.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);
    /// Later than every deadline.
    pub const MAX: Time = Time(u64::MAX);

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Both clocks of a node, read once for each batch of inputs.
///
/// `wall` is what RocketMQ writes into messages: milliseconds since the Unix
/// epoch, wrong by whatever the node's clock is wrong by, and free to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: Time,
    pub wall: i64,
}
