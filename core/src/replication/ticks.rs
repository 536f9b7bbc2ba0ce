//! Raft's clock. It is not run tick by tick: whoever waits sleeps until the next
//! heartbeat or election is due, and the ticks slept through are made up for.

use std::time::Duration;

use crate::{ids::Term, rng::Rng, time::Time};

/// Ticks of the shortest election timeout; the longest is just below twice that.
pub(super) const ELECTION: usize = 20;
pub(super) const HEARTBEAT: usize = 4;

pub(super) struct Ticks {
    length: Duration,
    /// All ticks up to here are done.
    done: Time,
    seed: u64,
    campaigns: u64,
    overslept: bool,
}

impl Ticks {
    pub fn new(election_timeout: Duration, seed: u64) -> Ticks {
        let length = (election_timeout / ELECTION as u32).max(Duration::from_micros(1));
        Ticks { length, done: Time::ZERO, seed, campaigns: 0, overslept: false }
    }

    /// The clock runs from here on.
    pub fn start(&mut self, now: Time) {
        self.done = now;
    }

    /// The election timeout, in ticks: from the node's seed, a new one for each
    /// term and campaign. (raft-rs would ask the operating system.)
    pub fn timeout(&self, term: Term) -> usize {
        let mut rng = Rng::new(self.seed ^ term.0.rotate_left(32) ^ self.campaigns);
        ELECTION + rng.below(ELECTION as u64) as usize
    }

    /// Another campaign began: the next one waits for another time.
    pub fn campaigned(&mut self) {
        self.campaigns += 1;
    }

    /// How many ticks are due if something is to happen after `wanted` of them.
    pub fn due(&mut self, now: Time, wanted: usize) -> usize {
        let passed = now.since(self.done).as_micros() / self.length.as_micros();
        self.done = self.done + self.length * passed.min(u128::from(u32::MAX)) as u32;
        let passed = passed as usize;
        // Who was paused hears what waits for it before it calls others silent,
        // but not for ever.
        let late = passed > wanted + 2;
        let due = if late && !self.overslept { wanted.saturating_sub(1) } else { passed };
        self.overslept = late;
        due.min(wanted)
    }

    /// When `wanted` more ticks will be due.
    pub fn deadline(&self, wanted: usize) -> Time {
        self.done + self.length * wanted as u32
    }

    /// For so long after a follower heard from its leader nobody else is elected
    /// with its vote. A quarter less than the shortest election timeout, for
    /// clocks that run at different speeds and ticks that have begun.
    pub fn lease(&self) -> Duration {
        self.length * (ELECTION as u32 * 3 / 4)
    }
}
