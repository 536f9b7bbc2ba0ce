//! From the history of a run to the record that reports are made from.

mod timeline;

use stormglass_reports::record::{Finding, Lane, LaneKind, PlanLine, Record, Verdict, Violation};
use stormglass_scenarios::Scenario;

use self::timeline::{Timeline, timeline};
use crate::{
    fault::{TimedFault, plan::Plan},
    history::History,
    oracle::{self, PROMISES},
    run::RunRecord,
};

/// The verdicts and counts of a run, without its history: all that the tables
/// show of a run that passed.
pub fn summary(scenario: &Scenario, run: &RunRecord) -> Record {
    let mut verdicts = Vec::new();
    if run.not_applicable.is_none() {
        // A run that panicked ends early, and then much is missing: the cause
        // comes first.
        verdicts.push(no_panic(run));
        verdicts.extend(PROMISES.iter().map(|promise| verdict(run, promise)));
        verdicts.push(expectations(run));
    }
    Record {
        scenario: scenario.name.clone(),
        area: scenario.area.clone(),
        about: scenario.about.clone(),
        seed: run.seed,
        world: run.world.to_string(),
        replay_as: scenario.name.clone(),
        stories: scenario.story.clone(),
        ended_us: run.ended_us,
        plan: plan_lines(&run.plan),
        lanes: lanes(&run.history),
        verdicts,
        not_applicable: run.not_applicable.clone(),
        coverage: run.coverage.clone(),
        event_count: run.history.events.len() as u64,
        history: format!("{:016x}", run.hash),
        ..Record::default()
    }
}

/// Everything, sealed with its hash.
pub fn record(scenario: &Scenario, run: &RunRecord) -> Record {
    let mut record = summary(scenario, run);
    let Timeline { events, spans, positions } = timeline(&run.history, run.ended_us);
    (record.events, record.spans, record.positions) = (events, spans, positions);
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

fn verdict(run: &RunRecord, promise: &oracle::Promise) -> Verdict {
    let broken = run.violations.iter().find(|v| v.promise().number == promise.number);
    let held = if run.world.judges(promise.number) { Finding::Holds } else { Finding::NotJudged };
    Verdict {
        oracle: Some(promise.number),
        name: promise.name.replace('_', " "),
        promise: promise.says.to_owned(),
        finding: broken.map_or(held, |v| Finding::Broken(violation(&run.history, v))),
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

fn expectations(run: &RunRecord) -> Verdict {
    let missing: Vec<String> =
        run.missing.iter().map(|(name, found)| format!("{name} {found}")).collect();
    let broken = Violation {
        message: format!("too little happened to prove anything: {}", missing.join("; ")),
        values: run.missing.clone(),
        at_us: run.ended_us,
        cites: Vec::new(),
    };
    Verdict {
        oracle: None,
        name: "expectations".to_owned(),
        promise: "What [expect] asks for really happened.".to_owned(),
        finding: if run.missing.is_empty() { Finding::Holds } else { Finding::Broken(broken) },
    }
}

fn no_panic(run: &RunRecord) -> Verdict {
    let broken = |panic: &String| {
        Finding::Broken(Violation {
            message: format!("the broker or a client panicked: {panic}"),
            values: Vec::new(),
            at_us: run.history.events.last().map_or(0, |event| event.at),
            cites: Vec::new(),
        })
    };
    Verdict {
        oracle: None,
        name: "no panic".to_owned(),
        promise: "No assertion fails.".to_owned(),
        finding: run.panic.as_ref().map_or(Finding::Holds, broken),
    }
}
