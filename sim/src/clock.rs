//! A node's two clocks: what it believes the time to be. Monotonic time runs
//! with the node's drift and never steps; wall time drifts with it and jumps.
//! And true time, which no node knows.

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc};

use stormglass_core::time::{Now, Time};

use crate::disk::Timer;

thread_local! {
    static WALL_AT_START_MS: Cell<i64> = const { Cell::new(WALL_AT_START) };
    static TRUE_NOW_US: Cell<u64> = const { Cell::new(0) };
    static ORIGIN_US: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// True time on this thread in microseconds since the start of the run: when
/// the task that runs was woken. Zero while the world is only set up.
pub fn true_now_us() -> u64 {
    TRUE_NOW_US.get()
}

/// A world begins.
pub(crate) fn begin_setup() {
    TRUE_NOW_US.set(0);
    ORIGIN_US.set(u64::MAX);
}

/// The world is set up: the run starts at this time of the world.
pub(crate) fn begin_run(world_us: u64) {
    ORIGIN_US.set(world_us);
}

/// A world's time, counted from the start of the run.
pub struct SinceStart(pub Rc<dyn Timer>);

impl Timer for SinceStart {
    fn now_us(&self) -> u64 {
        true_now_us()
    }

    fn sleep_us(&self, us: u64) -> Pin<Box<dyn Future<Output = ()>>> {
        self.0.sleep_us(us)
    }
}

/// Takes microseconds since the start of the world.
pub(crate) fn set_true_now_us(world_us: u64) {
    TRUE_NOW_US.set(world_us.saturating_sub(ORIGIN_US.get()));
}

/// What wall clocks without an offset show when a simulated run starts:
/// 2024-01-01T00:00:00Z, in milliseconds since the Unix epoch.
pub const WALL_AT_START: i64 = 1_704_067_200_000;

/// A world begins on this thread that has its own wall clock, which shows this.
pub(crate) fn set_wall_at_start(wall: i64) {
    WALL_AT_START_MS.set(wall);
}

/// What a wall clock that is right shows at this true time.
pub fn right_wall(true_us: u64) -> i64 {
    WALL_AT_START_MS.get() + ((ORIGIN_US.get() + true_us) / 1000) as i64
}

/// The true time at which a wall clock that is right shows this; zero if it was
/// before the run.
pub fn true_us_of(wall: i64) -> u64 {
    let since_start = u64::try_from(wall - WALL_AT_START_MS.get()).unwrap_or(0) * 1000;
    since_start.saturating_sub(ORIGIN_US.get())
}

const MILLION: i128 = 1_000_000;

/// Faster or slower than true time by more than this is not drift.
pub const MAX_DRIFT_PPM: i64 = 100_000;

#[derive(Clone, Debug, Default)]
pub struct NodeClock {
    /// When the drift last changed, in true and in monotonic microseconds.
    true_anchor: u64,
    mono_anchor: u64,
    drift_ppm: i64,
    /// Wall minus monotonic time, beyond `WALL_AT_START`, in milliseconds.
    wall_offset_ms: i64,
}

impl NodeClock {
    pub fn now(&self, true_us: u64) -> Now {
        let mono = self.mono(true_us);
        let wall = WALL_AT_START_MS.get() + (mono.0 / 1000) as i64 + self.wall_offset_ms;
        Now { mono, wall }
    }

    pub fn mono(&self, true_us: u64) -> Time {
        let passed = i128::from(true_us - self.true_anchor);
        let shown = passed * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        Time(self.mono_anchor + shown as u64)
    }

    /// The first true microsecond at which `mono` will show at least `until`,
    /// if the drift stays what it is.
    pub fn when(&self, until: Time) -> u64 {
        let ahead = i128::from(until.0.saturating_sub(self.mono_anchor));
        let rate = MILLION + i128::from(self.drift_ppm);
        let passed = (ahead * MILLION + rate - 1) / rate;
        self.true_anchor.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// How far its wall clock is ahead of a right one, in microseconds.
    pub fn ahead_us(&self, true_us: u64) -> i64 {
        self.mono(true_us).0 as i64 - true_us as i64 + self.wall_offset_ms * 1000
    }

    /// What stays the same as long as nobody touches it: the wall clock's
    /// offset from the monotonic one in milliseconds, and the drift.
    pub fn setting(&self) -> (i64, i64) {
        (self.wall_offset_ms, self.drift_ppm)
    }

    /// Steps the wall clock.
    pub fn jump(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }

    /// From now on runs this much faster than true time; bounded by
    /// `MAX_DRIFT_PPM` in either direction.
    pub fn set_drift(&mut self, true_us: u64, ppm: i64) {
        self.mono_anchor = self.mono(true_us).0;
        self.true_anchor = true_us;
        self.drift_ppm = ppm.clamp(-MAX_DRIFT_PPM, MAX_DRIFT_PPM);
    }

    /// The wall clock is right again; monotonic time keeps what it has gained.
    pub fn correct(&mut self, true_us: u64) {
        self.set_drift(true_us, 0);
        self.wall_offset_ms = (true_us / 1000) as i64 - (self.mono(true_us).0 / 1000) as i64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sleep_ends_on_the_first_microsecond_that_reaches_its_deadline(
            drift in -MAX_DRIFT_PPM..=MAX_DRIFT_PPM, at in 0u64..1_000_000, ahead in 0u64..10_000_000,
        ) {
            let mut clock = NodeClock::default();
            clock.set_drift(at, drift);
            let until = Time(clock.mono(at).0 + ahead);
            let when = clock.when(until);
            prop_assert!(clock.mono(when) >= until);
            prop_assert!(when == at || clock.mono(when - 1) < until);
        }
    }

    #[test]
    fn drift_moves_both_clocks_and_a_jump_only_the_wall() {
        let mut clock = NodeClock::default();
        clock.set_drift(1_000_000, 100_000);
        clock.jump(-5_000);
        let now = clock.now(11_000_000);
        assert_eq!(now.mono, Time(12_000_000));
        assert_eq!(now.wall, WALL_AT_START + 12_000 - 5_000);
        clock.correct(11_000_000);
        let now = clock.now(12_000_000);
        assert_eq!(now.mono, Time(13_000_000));
        assert_eq!(now.wall, WALL_AT_START + 12_000);
    }
}
