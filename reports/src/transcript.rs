//! A run as lines of text: one event a line, stamped with virtual time.

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write},
};

use crate::record::{Event, Finding, Lane, LaneKind, PlanLine, Record};

/// A simulated moment or duration, given in microseconds, as `12.345678s`.
pub struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000))
    }
}

/// Text that came from a run: names may hold what would move the cursor of a
/// terminal or break a line.
pub struct OneLine<'a>(pub &'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(char::is_control) {
            return f.pad(self.0);
        }
        let mut escaped = String::new();
        for c in self.0.chars() {
            match c.is_control() {
                true => escaped.extend(c.escape_default()),
                false => escaped.push(c),
            }
        }
        f.pad(&escaped)
    }
}

/// `3.201000s  producer-orders-1 → broker-1  send #17 m17 to orders/0`
pub fn event_line(record: &Record, event: &Event) -> String {
    let mut place = OneLine(record.lane_name(event.lane)).to_string();
    if let Some(to) = event.to_lane {
        let _ = write!(place, " → {}", OneLine(record.lane_name(to)));
    }
    let width = place_width(record);
    let text = OneLine(&event.text);
    format!("{:>11}  {place:<width$}  {text}", Seconds(event.at_us))
}

/// Room for a client and the broker that it talks to.
fn place_width(record: &Record) -> usize {
    let longest = |broker: bool| {
        let of_kind = |lane: &&Lane| (lane.kind == LaneKind::Broker) == broker;
        record.lanes.iter().filter(of_kind).map(|lane| lane.name.chars().count()).max()
    };
    (longest(false).unwrap_or(0) + 3 + longest(true).unwrap_or(0)).min(48)
}

pub fn plan_line(line: &PlanLine) -> String {
    format!("{:>11}  {}", Seconds(line.at_us), OneLine(&line.text))
}

/// What a node logged, and when in simulated microseconds.
pub struct LogLine<'a> {
    pub at_us: u64,
    pub text: &'a str,
}

/// The whole run: its plan, then every event with what was logged before it,
/// then the verdicts. `log` is in the order of time.
pub fn write_history(record: &Record, log: &[LogLine], out: &mut impl Write) -> io::Result<()> {
    let Record { scenario, seed, world, .. } = record;
    writeln!(out, "{}, seed {seed}, {world}", OneLine(scenario))?;
    if !record.plan.is_empty() {
        writeln!(out, "\nThe plan:")?;
        for line in &record.plan {
            writeln!(out, "{}", plan_line(line))?;
        }
    }
    writeln!(out, "\nWhat happened:")?;
    let mut log = log.iter().peekable();
    for event in &record.events {
        while let Some(line) = log.next_if(|line| line.at_us <= event.at_us) {
            write_log_line(line, out)?;
        }
        writeln!(out, "{}", event_line(record, event))?;
    }
    for line in log {
        write_log_line(line, out)?;
    }
    writeln!(out, "\nVerdicts after {} of simulated time:", Seconds(record.ended_us))?;
    out.write_all(verdict_table(record).as_bytes())
}

fn write_log_line(line: &LogLine, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>11}  | {}", Seconds(line.at_us), OneLine(line.text))
}

/// One promise a line, broken ones with what broke them.
pub fn verdict_table(record: &Record) -> String {
    let mut table = String::new();
    for verdict in &record.verdicts {
        let number = verdict.oracle.map_or(String::new(), |number| number.to_string());
        let found = match &verdict.finding {
            Finding::Holds => "holds".to_string(),
            Finding::NotJudged => "not judged in this world".to_string(),
            Finding::Broken(violation) => format!("BROKEN  {}", OneLine(&violation.message)),
        };
        let _ = writeln!(table, "{number:>4}  {:<24}  {found}", OneLine(&verdict.name));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn what_was_logged_stands_before_the_events_that_followed() {
        let record = sample::passing("crash", 1, "madsim", 1);
        let [_, started, send, ..] = &record.events[..] else { panic!("too few events") };
        let log = [
            LogLine { at_us: started.at_us + 1, text: "looking for\nlog files" },
            LogLine { at_us: record.ended_us, text: "bye" },
        ];
        let mut text = Vec::new();
        write_history(&record, &log, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = format!(
            "{}\n  0.001001s  | looking for\\nlog files\n{}\n",
            event_line(&record, started),
            event_line(&record, send)
        );
        assert!(text.contains(&expected), "{text}");
        assert!(text.contains("40.000000s  | bye\n\nVerdicts"), "{text}");
    }
}
