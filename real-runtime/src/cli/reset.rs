//! `stormglass group reset`.

use std::{
    collections::BTreeSet,
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use stormglass_core::wire::header::ResetOffsetHeader;

use super::{
    admin::{Admin, Server},
    output::{Format, Table},
};

#[derive(Debug, Args)]
pub struct Reset {
    group: String,
    #[arg(short, long)]
    topic: String,
    /// Where the group goes on: `earliest`, `latest`, a time ago like `90s`,
    /// `15m`, `2h` or `3d`, a time like `2026-01-31T12:00:00Z`, milliseconds since
    /// the epoch, or with --queue an offset like `offset:1200`.
    #[arg(long, value_name = "WHERE", value_parser = target)]
    to: Target,
    /// Only this queue.
    #[arg(short, long)]
    queue: Option<u32>,
    /// Move queues back only, and leave those alone that stand before it.
    #[arg(long)]
    only_back: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Offset(i64),
    /// Milliseconds since the epoch; below zero: behind the last message.
    Time(i64),
    /// Milliseconds before now.
    Ago(i64),
}

fn target(text: &str) -> Result<Target, String> {
    let usage = "not a place: try earliest, latest, 15m, 2026-01-31T12:00:00Z or offset:1200";
    let known = match text {
        "earliest" => Some(Target::Time(0)),
        "latest" => Some(Target::Time(-1)),
        _ => match text.strip_prefix("offset:") {
            Some(offset) => offset.parse().ok().map(Target::Offset),
            None => ago(text).or_else(|| utc(text)).or_else(|| text.parse().ok().map(Target::Time)),
        },
    };
    known.ok_or_else(|| usage.to_owned())
}

fn ago(text: &str) -> Option<Target> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    let count: i64 = text[..text.len() - 1].parse().ok().filter(|count| *count >= 0)?;
    count.checked_mul(seconds)?.checked_mul(1000).map(Target::Ago)
}

/// `YYYY-MM-DDTHH:MM:SSZ`
fn utc(text: &str) -> Option<Target> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, between| -> Option<Vec<i64>> {
        text.split(between).map(|part| part.parse().ok()).collect()
    };
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let [hour, minute, second] = numbers(time, ':')?[..] else { return None };
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..61).contains(&second);
    // Days since the epoch, with years that begin in March.
    let (shifted, from_march) = (year - i64::from(month <= 2), (month + 9) % 12);
    let leap_days = shifted / 4 - shifted / 100 + shifted / 400;
    let days = 365 * shifted + leap_days + (153 * from_march + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    in_range.then_some(Target::Time(seconds * 1000))
}

impl Reset {
    pub async fn run(self) -> io::Result<()> {
        let (timestamp, offset) = match self.to {
            Target::Time(time) => (time, None),
            Target::Ago(before) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |since| since.as_millis() as i64);
                (now.saturating_sub(before).max(0), None)
            }
            Target::Offset(offset) if self.queue.is_some() => (0, Some(offset)),
            Target::Offset(_) => {
                return Err(io::Error::other(
                    "an offset is one of a queue: say which with --queue",
                ));
            }
        };
        let mut admin = Admin::connect(&self.server).await?;
        let header = ResetOffsetHeader {
            topic: &self.topic,
            group: &self.group,
            timestamp,
            force: !self.only_back,
            queue: self.queue.map(|queue| i32::try_from(queue).unwrap_or(i32::MAX)),
            offset,
        };
        let mut table = Table::new(&["topic", "broker", "queue", "offset"]);
        let queues = admin.queues(&self.topic).await?;
        for addr in queues.iter().map(|queue| queue.addr).collect::<BTreeSet<_>>() {
            for reset in admin.reset(addr, &header).await?.offsets {
                table.row([
                    reset.queue.topic.into(),
                    reset.queue.broker_name.into(),
                    reset.queue.queue.into(),
                    reset.offset.into(),
                ]);
            }
        }
        table.print(self.output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        for (text, expected) in [
            ("earliest", Target::Time(0)),
            ("latest", Target::Time(-1)),
            ("15m", Target::Ago(900_000)),
            ("offset:7", Target::Offset(7)),
            ("1700000000000", Target::Time(1_700_000_000_000)),
            ("1970-01-01T00:00:00Z", Target::Time(0)),
            ("2024-02-29T12:30:15Z", Target::Time(1_709_209_815_000)),
            ("2026-01-31T12:00:00Z", Target::Time(1_769_860_800_000)),
        ] {
            assert_eq!(target(text), Ok(expected), "{text}");
        }
        for bad in ["", "x", "offset:", "-5m", "2026-13-01T00:00:00Z", "2026-01-31"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
