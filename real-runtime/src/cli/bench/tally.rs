//! What a run comes to, and how it is told.

use std::{io, time::Duration};

use serde_json::Value;

use super::latency::Latencies;
use crate::cli::link::Answer;

/// What a run came to.
#[derive(Default)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    pub latencies: Latencies,
    /// From the first send or pull to the last message; without what a run
    /// needs to begin and to end.
    pub took: Duration,
}

impl Tally {
    pub fn fail(&mut self, answer: Answer) -> io::Result<()> {
        self.failed += 1;
        if self.first_failure.is_none() {
            let answer = answer.decode()?;
            self.first_failure = Some(format!("code {}: {}", answer.code, answer.remark));
        }
        Ok(())
    }

    pub fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latencies.merge(&other.latencies);
        self.took = self.took.max(other.took);
    }
}

/// What several runs of one kind came to that others of another kind took turns
/// with.
#[derive(Default)]
pub struct Turns {
    pub tally: Tally,
    spent: Duration,
}

impl Turns {
    pub fn add(&mut self, turn: Tally) {
        self.spent += turn.took;
        self.tally.add(turn);
    }

    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.tally.messages as f64 / self.spent.as_secs_f64().max(1e-6)
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.tally.bytes as f64 / self.spent.as_secs_f64().max(1e-6)
    }
}

pub fn failed(failure: Option<String>) -> io::Result<()> {
    match failure {
        Some(why) => Err(io::Error::other(format!("requests failed: {why}"))),
        None => Ok(()),
    }
}

pub fn millis(latency: Duration) -> Value {
    if latency.is_zero() { Value::Null } else { rounded(latency.as_secs_f64() * 1e3, 3) }
}

pub fn rounded(number: f64, digits: i32) -> Value {
    let scale = 10f64.powi(digits);
    let rounded = (number * scale).round() / scale;
    if digits == 0 { Value::from(rounded as u64) } else { Value::from(rounded) }
}
