//! The suite for other programs: every run with its verdicts, without its history.

use std::{collections::BTreeMap, io};

use serde::Serialize;

use crate::{
    record::{Record, Verdict},
    suite::Suite,
};

#[derive(Serialize)]
struct SuiteJson<'a> {
    passed: bool,
    runs: Vec<RunJson<'a>>,
}

#[derive(Serialize)]
struct RunJson<'a> {
    scenario: &'a str,
    seed: u64,
    world: &'a str,
    passed: bool,
    repro: String,
    stories: &'a [String],
    simulated_us: u64,
    events: u64,
    coverage: &'a BTreeMap<String, u64>,
    verdicts: &'a [Verdict],
    hash: &'a str,
}

pub fn write_json(suite: &Suite, out: &mut impl io::Write) -> io::Result<()> {
    let json =
        SuiteJson { passed: suite.passed(), runs: suite.runs().iter().map(run_json).collect() };
    serde_json::to_writer_pretty(&mut *out, &json)?;
    out.write_all(b"\n")
}

fn run_json(record: &Record) -> RunJson<'_> {
    RunJson {
        scenario: &record.scenario,
        seed: record.seed,
        world: &record.world,
        passed: record.passed(),
        repro: record.repro_line(),
        stories: &record.stories,
        simulated_us: record.ended_us,
        events: record.event_count,
        coverage: &record.coverage,
        verdicts: &record.verdicts,
        hash: &record.hash,
    }
}
