//! From the history of a run to the record that reports are made from.

mod timeline;

use std::collections::BTreeMap;

use stormglass_reports::record::{Finding, Lane, LaneKind, PlanLine, Record, Verdict, Violation};
use stormglass_scenarios::Scenario;

use self::timeline::{Timeline, timeline};
use crate::{
    coverage::{coverage, missing},
    fault::{TimedFault, plan::Plan},
    history::History,
    oracle::{self, PROMISES},
};

/// A run that is over, before anybody tells of it.
pub struct Run<'a> {
    pub scenario: &'a Scenario,
    pub seed: u64,
    pub world: &'a str,
    pub plan: &'a Plan,
    pub history: &'a History,
    pub violations: &'a [oracle::Violation],
    /// Microseconds of simulated time.
    pub ended_us: u64,
}

/// The verdicts and counts of a run, without its history: all that the tables
/// show of a run that passed.
pub fn summary(run: &Run<'_>) -> Record {
    let coverage = coverage(run.history);
    let mut verdicts: Vec<Verdict> = PROMISES.iter().map(|promise| verdict(run, promise)).collect();
    verdicts.push(expectations(run, &coverage));
    Record {
        scenario: run.scenario.name.clone(),
        area: run.scenario.area.clone(),
        about: run.scenario.about.clone(),
        seed: run.seed,
        world: run.world.to_owned(),
        replay_as: run.scenario.name.clone(),
        stories: run.scenario.story.clone(),
        ended_us: run.ended_us,
        plan: plan_lines(run.plan),
        lanes: lanes(run.history),
        verdicts,
        coverage,
        event_count: run.history.events.len() as u64,
        ..Record::default()
    }
}

/// Everything, sealed with its hash.
pub fn record(run: &Run<'_>) -> Record {
    let mut record = summary(run);
    let Timeline { events, spans, positions } = timeline(run.history, run.ended_us);
    (record.events, record.spans, record.positions) = (events, spans, positions);
    record.history = stormglass_reports::record::digest(|out| {
        serde_json::to_writer(out, run.history).map_err(Into::into)
    });
    record.seal();
    record
}

fn plan_lines(plan: &Plan) -> Vec<PlanLine> {
    let line =
        |timed: &TimedFault| PlanLine { at_us: timed.at_ms * 1000, text: timed.fault.to_string() };
    plan.faults.iter().map(line).collect()
}

fn lanes(history: &History) -> Vec<Lane> {
    let names = history.names.lanes().iter();
    names
        .map(|name| {
            let kind = match name.split('-').next() {
                Some("names") => LaneKind::Names,
                Some("broker") => LaneKind::Broker,
                Some("producer") => LaneKind::Producer,
                Some("consumer") => LaneKind::Consumer,
                _ => LaneKind::Net,
            };
            Lane { name: name.to_string(), kind }
        })
        .collect()
}

fn verdict(run: &Run<'_>, promise: &oracle::Promise) -> Verdict {
    let broken = run.violations.iter().find(|v| v.promise().number == promise.number);
    Verdict {
        oracle: Some(promise.number),
        name: promise.name.replace('_', " "),
        promise: promise.says.to_owned(),
        finding: broken.map_or(Finding::Holds, |v| Finding::Broken(violation(run.history, v))),
    }
}

fn violation(history: &History, violation: &oracle::Violation) -> Violation {
    // What never happened is noticed at the very end; the last event that
    // proves it was owed is the one worth standing in the middle.
    let last = history.events.len() as u64 - 1;
    let at = u64::from(violation.at);
    let earlier = violation.cites.iter().map(|index| u64::from(*index)).filter(|i| *i != at);
    let mut cites: Vec<u64> = earlier.collect();
    if at == last && !cites.is_empty() {
        cites.reverse();
        cites.push(at);
    } else {
        cites.insert(0, at);
    }
    Violation {
        message: violation.tell(&history.names),
        values: values(history, violation),
        at_us: history.events[violation.at as usize].at,
        cites,
    }
}

/// The cited events themselves: the values that were compared.
fn values(history: &History, violation: &oracle::Violation) -> Vec<(String, String)> {
    let cited = violation.cites.iter().map(|index| &history.events[*index as usize]);
    cited
        .map(|event| {
            let place = history.names.of_lane(event.lane);
            (place.to_owned(), format!("{:#}", history.tell(event)))
        })
        .collect()
}

fn expectations(run: &Run<'_>, coverage: &BTreeMap<String, u64>) -> Verdict {
    let values = missing(&run.scenario.expect.at_least, coverage);
    let finding = if values.is_empty() {
        Finding::Holds
    } else {
        Finding::Broken(Violation {
            message: "less happened than the scenario expects, so the run proves little".into(),
            values,
            at_us: run.ended_us,
            cites: Vec::new(),
        })
    };
    Verdict {
        oracle: None,
        name: "expectations".into(),
        promise: "What [expect] asks for really happened.".into(),
        finding,
    }
}
