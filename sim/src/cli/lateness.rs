//! How late delayed messages come: from the time at which one was to be
//! delivered to the first time that a consumer had it.

use std::collections::BTreeMap;

use stormglass_sim::{
    history::{EventKind, Held, History, MessageId},
    run::{self, Options, World},
};

use super::{Outcome, Refused, Selection, interrupt::Interrupt, pool::work_on, print};

/// A delayed message each 10 ms for a minute, on a disk that takes 5 to 30 ms to
/// sync.
const USUAL: &str = "delays-on-a-slow-disk";

pub fn lateness(selection: &Selection) -> Result<Outcome, Refused> {
    let mut selection = selection.clone();
    if selection.scenarios.is_empty() {
        selection.scenarios.push(USUAL.to_owned());
    }
    let jobs = selection.jobs()?;
    let mut all: BTreeMap<(String, World), Vec<u64>> = BTreeMap::new();
    let mut held = true;
    let live = |job: &super::selection::Job| {
        run::run(&job.scenario, job.seed, job.world, &Options::default())
    };
    work_on(&jobs, selection.threads(), &Interrupt::none(), live, |_, run| {
        held &= run.passed();
        all.entry((run.scenario.clone(), run.world)).or_default().extend(latenesses(&run.history));
    });
    let mut text =
        String::from("late by, ms                             p50      p99    worst    of\n");
    for ((scenario, world), mut late) in all {
        late.sort_unstable();
        let at = |share: f64| late.get((late.len() as f64 * share) as usize).copied().unwrap_or(0);
        let millis = |micros: u64| micros as f64 / 1000.0;
        let worst = late.last().copied().unwrap_or(0);
        text += &format!(
            "{scenario:<28} {world:<8} {:>7.1}  {:>7.1}  {:>7.1}  {:>5}\n",
            millis(at(0.5)),
            millis(at(0.99)),
            millis(worst),
            late.len()
        );
    }
    print(&text)?;
    Ok(Outcome::of(held))
}

/// Of each message that names the time at which it is due, in microseconds.
fn latenesses(history: &History) -> Vec<u64> {
    let mut due: BTreeMap<MessageId, u64> = BTreeMap::new();
    let mut late = Vec::new();
    for event in &history.events {
        match &event.kind {
            EventKind::SendBegun { message, held: Some(Held::Until(at)), .. } => {
                due.insert(*message, *at);
            }
            EventKind::Delivered { message: Some(message), .. } => {
                late.extend(due.remove(message).map(|due| event.at.saturating_sub(due)));
            }
            _ => {}
        }
    }
    late
}
