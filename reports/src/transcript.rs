//! A run as lines of text: one event a line, stamped with virtual time.

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write},
};

use crate::record::{Event, Lane, LaneKind, PlanLine, Record};

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

/// The whole run: its plan, then every event, then the verdicts.
pub fn write_history(record: &Record, out: &mut impl Write) -> io::Result<()> {
    let Record { scenario, seed, world, .. } = record;
    writeln!(out, "{}, seed {seed}, {world}", OneLine(scenario))?;
    if !record.plan.is_empty() {
        writeln!(out, "\nThe plan:")?;
        for line in &record.plan {
            writeln!(out, "{}", plan_line(line))?;
        }
    }
    writeln!(out, "\nWhat happened:")?;
    for event in &record.events {
        writeln!(out, "{}", event_line(record, event))?;
    }
    writeln!(out, "\nVerdicts after {} of simulated time:", Seconds(record.ended_us))?;
    out.write_all(verdict_table(record).as_bytes())
}

/// One promise a line, broken ones with what broke them.
pub fn verdict_table(record: &Record) -> String {
    let mut table = String::new();
    for verdict in &record.verdicts {
        let number = verdict.oracle.map_or(String::new(), |number| number.to_string());
        let found = match verdict.violation() {
            None => "holds".to_string(),
            Some(violation) => format!("BROKEN  {}", OneLine(&violation.message)),
        };
        let _ = writeln!(table, "{number:>4}  {:<24}  {found}", OneLine(&verdict.name));
    }
    table
}
