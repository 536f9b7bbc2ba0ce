//! How long clients wait when a leader is lost: over many seeds, from the fault
//! to the first send that is answered OK and to the first delivery.

use stormglass_sim::{
    failover::{FailOver, fail_overs},
    run::{self, Options},
};

use super::{
    Outcome, Refused, Selection,
    interrupt::Interrupt,
    pool::work_on,
    print,
    selection::{Job, committed},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

pub fn failover(args: &Args) -> Result<Outcome, Refused> {
    let mut selection = args.selection.clone();
    if selection.scenarios.is_empty() {
        let replicated = committed()?.into_iter().filter(|scenario| scenario.cluster.brokers > 1);
        selection.scenarios = replicated.map(|scenario| scenario.name).collect();
    }
    let jobs = selection.jobs()?;
    let interrupt = Interrupt::listen();
    let mut held = true;
    let mut found: Vec<Vec<FailOver>> = vec![Vec::new(); jobs.len()];
    let run = |job: &Job| {
        let run = run::run(&job.scenario, job.seed, job.world, &Options::default());
        (run.passed(), fail_overs(&run.history))
    };
    work_on(&jobs, selection.threads(), &interrupt, run, |index, (passed, all)| {
        held &= passed;
        found[index] = all;
    });
    let mut text = String::new();
    let is_same = |a: &Job, b: &Job| (&a.scenario.name, a.world) == (&b.scenario.name, b.world);
    let mut done = 0;
    for alike in jobs.chunk_by(is_same) {
        let all: Vec<FailOver> = found[done..done + alike.len()].concat();
        done += alike.len();
        if !all.is_empty() {
            text += &tell(&alike[0], alike.len(), &all);
        }
    }
    if text.is_empty() {
        text = "no leader was lost\n".to_owned();
    }
    print(&text)?;
    Ok(if interrupt.came() { Outcome::Interrupted } else { Outcome::of(held) })
}

fn tell(job: &Job, seeds: usize, all: &[FailOver]) -> String {
    let mut text = format!(
        "{}, {}, {seeds} seeds, {} fail-overs; milliseconds from the fault\n{:<18}{:>8}{:>8}{:>8}\n",
        job.scenario.name,
        job.world,
        all.len(),
        "",
        "median",
        "p99",
        "max"
    );
    type Since = fn(&FailOver) -> Option<u64>;
    let rows: [(&str, Since); 4] = [
        ("  leader elected", |one| Some(one.elected)),
        ("  leader serves", |one| Some(one.served)),
        ("  first send OK", |one| one.stored),
        ("  first delivery", |one| one.delivered),
    ];
    for (name, since) in rows {
        let mut times: Vec<u64> = all.iter().filter_map(since).collect();
        times.sort_unstable();
        let [median, p99, max] = [50, 99, 100].map(|percent| percentile(&times, percent) / 1000);
        text += &format!("{name:<18}{median:>8}{p99:>8}{max:>8}\n");
    }
    text
}

/// The smallest of these sorted times that so many in a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let times: Vec<u64> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&times, percent)), [100, 198, 200]);
        assert_eq!(percentile(&[7], 50), 7);
    }
}
