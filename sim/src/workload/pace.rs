//! How fast a consumer's handlers work, as faults will have it.

use std::{cell::Cell, time::Duration};

use crate::history::Pace;

/// The pace of one consumer.
#[derive(Default)]
pub struct Pacer {
    /// Handlers do not return before this true time, in microseconds.
    stalled_until: Cell<u64>,
    /// What a message takes, in place of what the workload says; zero: nothing special.
    handling: Cell<Duration>,
    told: Cell<Option<Pace>>,
}

impl Pacer {
    pub fn stall_until(&self, us: u64) {
        self.stalled_until.set(self.stalled_until.get().max(us));
    }

    pub fn slow(&self, handling: Duration) {
        self.handling.set(handling);
    }

    /// A new process does not hang where the old one did.
    pub fn revive(&self) {
        self.stalled_until.set(0);
        self.told.set(None);
    }

    /// How long the work on a message takes that would take `usual`.
    pub fn handling(&self, usual: Duration) -> Duration {
        match self.handling.get() {
            Duration::ZERO => usual,
            slow => slow,
        }
    }

    /// How long handlers stand still from now on.
    pub fn stall(&self, now_us: u64) -> Option<Duration> {
        let left = self.stalled_until.get().saturating_sub(now_us);
        (left > 0).then(|| Duration::from_micros(left))
    }

    /// The pace, if it is another one than this said before. Nobody starts
    /// with a pace to tell, other than the usual one.
    pub fn changed(&self, now_us: u64) -> Option<Pace> {
        let pace = match (self.stall(now_us), self.handling.get()) {
            (Some(_), _) => Pace::Stalled,
            (None, Duration::ZERO) => Pace::Normal,
            (None, _) => Pace::Slow,
        };
        let before = self.told.replace(Some(pace)).unwrap_or(Pace::Normal);
        (pace != before).then_some(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_hides_slowness_and_ends_by_itself() {
        let pacer = Pacer::default();
        assert_eq!(pacer.changed(0), None);
        pacer.slow(Duration::from_millis(80));
        assert_eq!(pacer.changed(0), Some(Pace::Slow));
        pacer.stall_until(5_000);
        pacer.stall_until(3_000);
        assert_eq!(pacer.changed(1_000), Some(Pace::Stalled));
        assert_eq!(pacer.changed(4_999), None);
        assert_eq!(pacer.stall(4_000), Some(Duration::from_millis(1)));
        assert_eq!(pacer.changed(5_000), Some(Pace::Slow));
        pacer.slow(Duration::ZERO);
        assert_eq!(pacer.changed(6_000), Some(Pace::Normal));
        assert_eq!(pacer.handling(Duration::from_millis(7)), Duration::from_millis(7));
    }

    #[test]
    fn a_restart_ends_a_stall_but_not_slowness() {
        let pacer = Pacer::default();
        pacer.slow(Duration::from_millis(80));
        pacer.stall_until(5_000);
        assert_eq!(pacer.changed(0), Some(Pace::Stalled));
        pacer.revive();
        assert_eq!(pacer.stall(1), None);
        assert_eq!(pacer.changed(1), Some(Pace::Slow), "the new process has to say so again");
    }
}
