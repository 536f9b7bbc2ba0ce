//! Latencies in buckets: constant memory however long the run.

use std::time::Duration;

/// Buckets per doubling: each is at most 1/32 wider than its lower bound, so a
/// percentile is at most 3 % too high.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.ilog2();

/// Counts of latencies from 1 µs to days, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    total: Duration,
    max: Duration,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let at = bucket_of(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if at >= self.buckets.len() {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.count += 1;
        self.total += latency;
        self.max = self.max.max(latency);
    }

    pub fn merge(&mut self, other: &Latencies) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(to, n)| *to += n);
        self.count += other.count;
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub fn total(&self) -> Duration {
        self.total
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that this share (0.0 to 1.0) of all does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Duration::from_micros(upper_bound(at)).min(self.max);
            }
        }
        self.max
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let doubling = micros.ilog2() - STEP_BITS;
    (u64::from(doubling) * STEPS + (micros >> doubling)) as usize
}

/// The largest number of microseconds that falls into the bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let doubling = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    ((step + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_lies_in_a_bucket_that_is_hardly_wider_than_it() {
        for micros in (0..100_000).chain((0..40).map(|n| (1 << n) + 12345)) {
            let upper = upper_bound(bucket_of(micros));
            assert!(upper >= micros && upper <= micros + micros / 32, "{micros}: {upper}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut latencies = Latencies::default();
        (1..=1000u64).rev().for_each(|n| latencies.add(Duration::from_micros(n * 100)));
        for (share, exact) in [(0.5, 50_000u64), (0.99, 99_000), (1.0, 100_000)] {
            let found = latencies.quantile(share).as_micros() as u64;
            assert!(found >= exact && found <= exact + exact / 32, "{share}: {found}");
        }
    }
}
