//! The record of one run: everything a report needs, and nothing that could
//! differ between two runs of the same scenario, seed and world.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::{Deserialize, Serialize};
use serde_json::ser::Serializer;

use crate::encoding::{Digest, OneALine};

/// One run. Written as one JSON object; the fields keep this order, so equal
/// runs give equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub scenario: String,
    /// What kind of storm it is: the scenario's folder.
    pub area: String,
    /// The scenario in plain words.
    pub about: String,
    pub seed: u64,
    pub world: String,
    /// What to type after `cargo sim replay`: the scenario's name, or the file
    /// as it was given. Not part of the hash.
    pub replay_as: String,
    /// The incidents that the scenario retells (`L3`, `O1`, …).
    pub stories: Vec<String>,
    /// Simulated microseconds from the start to the end of the run.
    pub ended_us: u64,
    pub plan: Vec<PlanLine>,
    pub lanes: Vec<Lane>,
    pub verdicts: Vec<Verdict>,
    /// Why the scenario cannot be run in this world; then nothing else is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_applicable: Option<String>,
    /// How often each fault and each marked piece of behaviour really happened.
    pub coverage: BTreeMap<String, u64>,
    pub spans: Vec<Span>,
    pub positions: Vec<Position>,
    /// How many events the run had; more than `events` holds once a passing
    /// run has been trimmed.
    pub event_count: u64,
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// The digest of the history that the events tell: they leave out bodies'
    /// hashes and the like, but a hash must tell those apart too.
    pub history: String,
    /// Sixteen hexadecimal digits over everything else; see [`Record::seal`].
    pub hash: String,
}

/// A fault or another step of the plan, as computed before the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanLine {
    pub at_us: u64,
    pub text: String,
}

/// A node or a client. Events and spans refer to it by its index in
/// [`Record::lanes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    pub name: String,
    pub kind: LaneKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneKind {
    Names,
    Broker,
    Producer,
    Consumer,
    Net,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub at_us: u64,
    /// Where it happened: an index into [`Record::lanes`].
    pub lane: u32,
    /// The other end, if something travelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_lane: Option<u32>,
    pub kind: EventKind,
    pub text: String,
    /// The workload's number for the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<u64>,
    /// `topic/queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A producer begins to send.
    Send,
    /// The send was answered OK.
    Stored,
    /// The send was refused: it must never be visible.
    Refused,
    /// The send ended without an answer: it may be either.
    Unknown,
    /// A consumer was handed a message.
    Deliver,
    Ack,
    /// A consumer gave a message back for another delivery.
    Retry,
    /// How a transaction or a delayed message ends, and the broker's answer.
    Decide,
    /// The broker asks how a transaction ended.
    Check,
    /// A consumer told the broker how far its group has come.
    Commit,
    /// A group's shards were dealt out.
    Assign,
    /// A node or a client came up, went down, or changed its role.
    Life,
    /// The plan did something to the world.
    Fault,
    /// Seen on a replica: appended, synced, applied, cut.
    Replica,
    Note,
}

impl EventKind {
    /// As it stands in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Send => "send",
            EventKind::Stored => "stored",
            EventKind::Refused => "refused",
            EventKind::Unknown => "unknown",
            EventKind::Deliver => "deliver",
            EventKind::Ack => "ack",
            EventKind::Retry => "retry",
            EventKind::Decide => "decide",
            EventKind::Check => "check",
            EventKind::Commit => "commit",
            EventKind::Assign => "assign",
            EventKind::Life => "life",
            EventKind::Fault => "fault",
            EventKind::Replica => "replica",
            EventKind::Note => "note",
        }
    }
}

/// A stretch of time in which a lane was not in its ordinary state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub from_us: u64,
    /// [`Record::ended_us`] if it never ended.
    pub to_us: u64,
    pub lane: u32,
    pub kind: SpanKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    Down,
    Paused,
    Partitioned,
    DiskFull,
    DiskFailing,
    DiskSlow,
    NetworkSlow,
    ClockWrong,
    /// A client that is slow or stalled on purpose.
    Slow,
    Other,
}

/// How far a broker's log had come, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub at_us: u64,
    pub lane: u32,
    pub written: u64,
    /// What a power failure at this moment would leave; never above `written`.
    pub durable: u64,
}

/// What an oracle found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The oracle's number in the table of promises; none for what is judged
    /// outside it: the scenario's expectations, a panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle: Option<u32>,
    pub name: String,
    /// What was promised, in one sentence.
    pub promise: String,
    pub finding: Finding,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    Holds,
    /// The world does not show what it is judged by.
    NotJudged,
    Broken(Violation),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    pub message: String,
    /// What was compared, by name, in the order worth reading.
    pub values: Vec<(String, String)>,
    pub at_us: u64,
    /// Indexes into [`Record::events`], the violating event first.
    pub cites: Vec<u64>,
}

impl Verdict {
    pub fn violation(&self) -> Option<&Violation> {
        match &self.finding {
            Finding::Holds | Finding::NotJudged => None,
            Finding::Broken(violation) => Some(violation),
        }
    }

    /// `1 no loss`, or the name alone.
    pub fn title(&self) -> String {
        match self.oracle {
            Some(number) => format!("{number} {}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Record {
    /// A run that nothing judged proved nothing, so it did not pass, unless
    /// there could be none.
    pub fn passed(&self) -> bool {
        let was_judged = !self.verdicts.is_empty() || self.not_applicable.is_some();
        was_judged && self.broken().next().is_none()
    }

    pub fn broken(&self) -> impl Iterator<Item = (&Verdict, &Violation)> {
        self.verdicts.iter().filter_map(|verdict| Some((verdict, verdict.violation()?)))
    }

    /// The promise that was broken first; the others often follow from it.
    pub fn first_broken(&self) -> Option<(&Verdict, &Violation)> {
        self.broken().min_by_key(|(_, violation)| violation.at_us)
    }

    /// The index of the violating event, or of the last one up to that moment.
    pub fn violating_event(&self, violation: &Violation) -> usize {
        let cited = violation.cites.first().map(|index| *index as usize);
        cited.filter(|index| *index < self.events.len()).unwrap_or_else(|| {
            self.events.partition_point(|event| event.at_us <= violation.at_us).saturating_sub(1)
        })
    }

    pub fn lane_name(&self, lane: u32) -> &str {
        self.lanes.get(lane as usize).map_or("?", |lane| &lane.name)
    }

    /// The command that repeats this run.
    pub fn repro_line(&self) -> String {
        let scenario = if self.replay_as.is_empty() { &self.scenario } else { &self.replay_as };
        format!(
            "cargo sim replay {} --seed {} --world {}",
            shell_word(scenario),
            self.seed,
            self.world
        )
    }

    /// Sets [`Record::hash`] from all that happened in the run.
    pub fn seal(&mut self) {
        self.hash.clear();
        let replay_as = std::mem::take(&mut self.replay_as);
        let mut digest = Digest::default();
        self.write_json(&mut digest).expect("a digest takes every byte");
        self.replay_as = replay_as;
        self.hash = digest.to_string();
    }

    /// Keeps at most `limit` events: those nearest to the violation, or to the
    /// first fault of a run that passed. The tables still tell of the whole run.
    pub fn trim(&mut self, limit: usize) {
        if self.events.len() <= limit {
            return;
        }
        let centre = match self.first_broken() {
            Some((_, violation)) => self.violating_event(violation),
            None => self.events.iter().position(|e| e.kind == EventKind::Fault).unwrap_or(0),
        };
        let start = centre.saturating_sub(limit / 2).min(self.events.len() - limit);
        let kept = start..start + limit;
        for verdict in &mut self.verdicts {
            if let Finding::Broken(violation) = &mut verdict.finding {
                violation.cites.retain(|index| kept.contains(&(*index as usize)));
                violation.cites.iter_mut().for_each(|index| *index -= start as u64);
            }
        }
        self.events = self.events.drain(kept).collect();
        if let (Some(first), Some(last)) = (self.events.first(), self.events.last()) {
            let (from, to) = (first.at_us, last.at_us);
            self.positions.retain(|sample| (from..=to).contains(&sample.at_us));
        } else {
            self.positions.clear();
        }
    }

    /// Writes one JSON object, one event a line, so that `diff` shows where two
    /// records part.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let mut serializer = Serializer::with_formatter(&mut *out, OneALine::default());
        self.serialize(&mut serializer)?;
        out.write_all(b"\n")
    }
}

/// The name as a shell takes it for one word.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn record() -> Record {
        let event = |at_us, kind| Event {
            at_us,
            lane: 0,
            to_lane: None,
            kind,
            text: "m1".to_string(),
            message: Some(1),
            shard: Some("orders/0".to_string()),
            offset: None,
        };
        Record {
            scenario: "slow".to_string(),
            seed: 7,
            world: "madsim".to_string(),
            lanes: vec![Lane { name: "producer-1".to_string(), kind: LaneKind::Producer }],
            events: vec![event(10, EventKind::Send), event(20, EventKind::Stored)],
            event_count: 2,
            ..Record::default()
        }
    }

    #[test]
    fn a_record_survives_its_file_with_one_event_a_line() {
        let mut written = Vec::new();
        record().write_json(&mut written).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record());
        assert_eq!(text.lines().filter(|line| line.contains("at_us")).count(), 2);
    }

    #[test]
    fn the_hash_tells_runs_apart_but_not_how_they_were_asked_for() {
        let hash = |change: &dyn Fn(&mut Record)| {
            let mut record = record();
            change(&mut record);
            record.seal();
            record.hash
        };
        let plain = hash(&|_| ());
        assert_eq!(plain.len(), 16);
        assert_eq!(plain, hash(&|record| record.replay_as = "elsewhere/slow.toml".to_string()));
        assert_eq!(plain, hash(&|record| record.hash = "stale".to_string()));
        assert_ne!(plain, hash(&|record| record.events[1].at_us += 1));
    }

    #[test]
    fn the_repro_line_is_one_command_whatever_the_file_is_called() {
        let mut record = record();
        assert_eq!(record.repro_line(), "cargo sim replay slow --seed 7 --world madsim");
        record.replay_as = "my bug's.toml".to_string();
        let quoted = r"cargo sim replay 'my bug'\''s.toml' --seed 7 --world madsim";
        assert_eq!(record.repro_line(), quoted);
    }

    #[test]
    fn a_run_that_nothing_judged_did_not_pass() {
        assert!(!record().passed());
    }

    #[test]
    fn trimming_keeps_the_violation_and_what_it_cites() {
        let whole = sample::failing("crash", 7, "madsim", 300);
        let cited = |record: &Record| {
            let (_, violation) = record.first_broken().unwrap();
            let event = |index: &u64| record.events[usize::try_from(*index).unwrap()].clone();
            violation.cites.iter().map(event).collect::<Vec<_>>()
        };
        let mut trimmed = whole.clone();
        trimmed.trim(40);
        assert_eq!(trimmed.events.len(), 40);
        assert_eq!(cited(&trimmed), cited(&whole));
        assert_eq!(trimmed.event_count, whole.event_count);
    }
}
