//! The suite as one self-contained page: no network, no other file. Without
//! JavaScript it is the table and the text of each failure; with it, every run
//! whose history is kept becomes a timeline.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

use serde::Serialize;

use crate::{
    failure::failure_text,
    record::{Lane, PlanLine, Position, Record, Span, Verdict, Violation},
    suite::{Row, Suite},
    summary::bottom_line,
};

/// How many events the page has room for: of a failing run, of all failing runs
/// together, and of a run that passed; see [`Record::trim`].
pub const EVENTS_OF_A_FAILURE: usize = 60_000;
pub const EVENTS_OF_FAILURES: usize = 150_000;
pub const EVENTS_OF_A_SAMPLE: usize = 2_000;

/// How many failures are told in full; the table and the JSON know them all.
pub const FAILURES: usize = 30;

const STYLE: &str = include_str!("page/page.css");
/// One function: the parts share what is shown, and nothing else can reach it.
const SCRIPT: &str = concat!(
    "\"use strict\";\n(() => {\n",
    include_str!("page/state.js"),
    include_str!("page/panels.js"),
    include_str!("page/moving.js"),
    include_str!("page/drawing.js"),
    "})();\n"
);
const TIMELINE: &str = include_str!("page/timeline.html");

pub fn write_page(suite: &Suite, out: &mut impl Write) -> io::Result<()> {
    let (class, word) = match suite.passed() {
        true => ("holds", "holds"),
        false => ("broken", "broken"),
    };
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Stormglass: {word}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>Stormglass</h1><span class=\"pill {class}\">{word}</span>\
         <p><a href=\"#{}\">{}</a></p><button id=\"theme\" type=\"button\" hidden>dark / light</button></header>\n<main>\n",
        if suite.passed() { "timeline" } else { "failures" },
        Escaped(&bottom_line(suite))
    )?;
    write_table(suite, out)?;
    write_failures(suite, out)?;
    out.write_all(TIMELINE.as_bytes())?;
    write!(out, "</main>\n<script type=\"application/json\" id=\"runs\">\n")?;
    write_histories(suite, out)?;
    write!(out, "</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
}

fn write_table(suite: &Suite, out: &mut impl Write) -> io::Result<()> {
    out.write_all(
        b"<section id=\"suite\">\n<table>\n<thead><tr><th>scenario<th>world<th>seeds\
          <th class=\"number\">simulated<th class=\"number\">events<th>verdict<th>what happened\
          </tr></thead>\n<tbody>\n",
    )?;
    let rows = suite.rows();
    let mut scenarios: Vec<&[Row<'_>]> = rows.chunk_by(|a, b| a.scenario == b.scenario).collect();
    // What broke comes first.
    scenarios.sort_by_key(|worlds| worlds.iter().all(|row| row.failures().next().is_none()));
    for worlds in scenarios {
        write_scenario(worlds[0].runs[0], worlds.len(), out)?;
        for (index, row) in worlds.iter().enumerate() {
            out.write_all(if index > 0 { b"<tr>" } else { b"" })?;
            write_row(suite, row, out)?;
        }
    }
    out.write_all(b"</tbody>\n</table>\n</section>\n")
}

/// The start of a row, with the cell that its scenario's rows share.
fn write_scenario(run: &Record, rows: usize, out: &mut impl Write) -> io::Result<()> {
    write!(out, "<tr class=\"first\"><td rowspan=\"{rows}\"><b>{}</b>", Escaped(&run.scenario))?;
    if !run.stories.is_empty() {
        write!(out, " <small>{}</small>", Escaped(&run.stories.join(" ")))?;
    }
    write!(out, "<div class=\"about\">{}</div>", Escaped(&run.about))
}

fn write_row(suite: &Suite, row: &Row<'_>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "<td>{}<td>", Escaped(row.world))?;
    write_seeds(suite, row, out)?;
    let class = if row.failures().next().is_some() { "broken" } else { "holds" };
    write!(
        out,
        "<td class=\"number\">{:.1}s<td class=\"number\">{}<td class=\"{class}\">{}<td class=\"fired\">",
        row.simulated_us() as f64 / 1e6,
        row.runs.iter().map(|run| run.event_count).sum::<u64>(),
        Escaped(&row.verdict())
    )?;
    let fired = row.fired();
    if fired.is_empty() {
        out.write_all(b"nothing")?;
    }
    for (mark, count) in fired {
        write!(out, "<span>{} <b>{count}</b></span> ", Escaped(mark))?;
    }
    out.write_all(b"</tr>\n")
}

/// A mark per seed, a link where the page holds the run's history.
fn write_seeds(suite: &Suite, row: &Row<'_>, out: &mut impl Write) -> io::Result<()> {
    const SHOWN: usize = 24;
    let mut plain = 0;
    for run in &row.runs {
        let class = if run.passed() { "holds" } else { "broken" };
        if !run.events.is_empty() {
            let index = index_of(suite, run);
            write!(out, "<a class=\"seed {class}\" href=\"#run-{index}\">{}</a> ", run.seed)?;
        } else if plain < SHOWN {
            plain += 1;
            write!(out, "<span class=\"seed {class}\">{}</span> ", run.seed)?;
        }
    }
    if row.runs.len() > SHOWN {
        write!(out, "<small>{} in all</small>", row.runs.len())?;
    }
    Ok(())
}

fn index_of(suite: &Suite, run: &Record) -> usize {
    suite.runs().iter().position(|other| std::ptr::eq(other, run)).expect("a run of this suite")
}

fn write_failures(suite: &Suite, out: &mut impl Write) -> io::Result<()> {
    let broken = suite.failures().count();
    if broken == 0 {
        return Ok(());
    }
    out.write_all(b"<section id=\"failures\">\n")?;
    for record in suite.failures().take(FAILURES) {
        let (title, message) = match record.first_broken() {
            Some((verdict, violation)) => (verdict.title(), violation.message.as_str()),
            None => ("no verdict".to_string(), "nothing was judged"),
        };
        write!(
            out,
            "<details class=\"failure\"><summary><code>{}</code><br><b>{}</b> {}",
            Escaped(&record.repro_line()),
            Escaped(&title),
            Escaped(message)
        )?;
        if !record.events.is_empty() {
            write!(out, " <a href=\"#run-{}\">timeline</a>", index_of(suite, record))?;
        }
        writeln!(out, "</summary><pre>{}</pre></details>", Escaped(&failure_text(record)))?;
    }
    if broken > FAILURES {
        writeln!(out, "<p>And {} more, in the table above.</p>", broken - FAILURES)?;
    }
    out.write_all(b"</section>\n")
}

fn write_histories(suite: &Suite, out: &mut impl Write) -> io::Result<()> {
    let kept = suite.runs().iter().enumerate().filter(|(_, run)| !run.events.is_empty());
    let mut separator = "[\n";
    for (index, record) in kept {
        out.write_all(separator.as_bytes())?;
        separator = ",\n";
        let json = serde_json::to_string(&history(index, record))?;
        // Inside a script element only `<` could end it or open a comment.
        out.write_all(json.replace('<', "\\u003c").as_bytes())?;
    }
    out.write_all(if separator == ",\n" { b"\n]\n" } else { b"[]\n" })
}

#[derive(Serialize)]
struct History<'a> {
    index: usize,
    scenario: &'a str,
    world: &'a str,
    seed: u64,
    repro: String,
    ended_us: u64,
    event_count: u64,
    lanes: &'a [Lane],
    spans: &'a [Span],
    plan: &'a [PlanLine],
    verdicts: &'a [Verdict],
    broken: Vec<Broken<'a>>,
    positions: &'a [Position],
    events: Columns<'a>,
}

#[derive(Serialize)]
struct Broken<'a> {
    title: String,
    promise: &'a str,
    event: usize,
    violation: &'a Violation,
}

/// Events field by field: at 60 000 events, their fields' names would be most
/// of the page.
#[derive(Serialize)]
struct Columns<'a> {
    at: Vec<u64>,
    lane: Vec<u32>,
    to: Vec<Option<u32>>,
    kind: Vec<&'static str>,
    message: Vec<Option<u64>>,
    shard: Vec<Option<&'a str>>,
    offset: Vec<Option<u64>>,
    text: Vec<&'a str>,
}

fn history(index: usize, record: &Record) -> History<'_> {
    let mut broken: Vec<Broken<'_>> = record
        .broken()
        .map(|(verdict, violation)| Broken {
            title: verdict.title(),
            promise: &verdict.promise,
            event: record.violating_event(violation),
            violation,
        })
        .collect();
    broken.sort_by_key(|broken| broken.violation.at_us);
    let events = &record.events;
    History {
        index,
        scenario: &record.scenario,
        world: &record.world,
        seed: record.seed,
        repro: record.repro_line(),
        ended_us: record.ended_us,
        event_count: record.event_count,
        lanes: &record.lanes,
        spans: &record.spans,
        plan: &record.plan,
        verdicts: &record.verdicts,
        broken,
        positions: &record.positions,
        events: Columns {
            at: events.iter().map(|event| event.at_us).collect(),
            lane: events.iter().map(|event| event.lane).collect(),
            to: events.iter().map(|event| event.to_lane).collect(),
            kind: events.iter().map(|event| event.kind.name()).collect(),
            message: events.iter().map(|event| event.message).collect(),
            shard: events.iter().map(|event| event.shard.as_deref()).collect(),
            offset: events.iter().map(|event| event.offset).collect(),
            text: events.iter().map(|event| event.text.as_str()).collect(),
        },
    }
}

/// Text from a run, harmless inside an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = self.0;
        while let Some(at) = plain.find(['&', '<', '>', '"', '\'']) {
            f.write_str(&plain[..at])?;
            f.write_str(match plain.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            plain = &plain[at + 1..];
        }
        f.write_str(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn page(runs: Vec<Record>) -> String {
        let mut page = Vec::new();
        write_page(&Suite::new(runs), &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    fn histories(page: &str) -> serde_json::Value {
        let json =
            page.split("id=\"runs\">").nth(1).and_then(|rest| rest.split("</script>").next());
        serde_json::from_str(json.expect("the page holds its data")).unwrap()
    }

    #[test]
    fn no_name_or_text_of_a_run_becomes_markup() {
        let page = page(vec![sample::hostile()]);
        assert!(!page.contains("<img"), "a name opened a tag");
        assert_eq!(page.matches("<script").count(), 2);
        assert_eq!(page.matches("</script>").count(), 2);
        assert_eq!(histories(&page)[0]["events"]["text"][0], sample::EVIL);
    }

    #[test]
    fn the_timeline_is_told_where_the_violation_is() {
        let failing = sample::failing("crash", 7, "madsim", 60);
        let page = page(vec![sample::passing("crash", 1, "madsim", 60), failing.clone()]);
        let run = &histories(&page)[1];
        let broken = &run["broken"][0];
        let event = &failing.events[usize::try_from(broken["event"].as_u64().unwrap()).unwrap()];
        assert_eq!((event.kind.name(), event.message), ("stored", Some(20)));
        assert_eq!(run["events"]["at"].as_array().unwrap().len(), failing.events.len());
        assert!(page.contains("href=\"#run-1\">timeline"));
    }

    #[test]
    fn without_a_history_a_run_is_still_told_but_not_linked() {
        let mut failing = sample::failing("crash", 7, "madsim", 60);
        failing.trim(0);
        let page = page(vec![failing]);
        assert!(page.contains("m20 was answered OK, and group billing never acknowledged it"));
        assert!(!page.contains("href=\"#run-0\""));
        assert_eq!(histories(&page), serde_json::json!([]));
    }
}
