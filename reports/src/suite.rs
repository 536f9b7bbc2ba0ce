//! The runs of one invocation, and the rows of its table.

use std::collections::BTreeMap;

use crate::record::Record;

/// Runs ordered by scenario, world and seed, whatever order they ended in.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    runs: Vec<Record>,
}

/// One scenario in one world, over all its seeds.
pub struct Row<'a> {
    pub scenario: &'a str,
    pub world: &'a str,
    pub runs: Vec<&'a Record>,
}

impl Suite {
    pub fn new(mut runs: Vec<Record>) -> Suite {
        runs.sort_by(|a, b| (&a.scenario, &a.world, a.seed).cmp(&(&b.scenario, &b.world, b.seed)));
        Suite { runs }
    }

    pub fn runs(&self) -> &[Record] {
        &self.runs
    }

    pub fn failures(&self) -> impl Iterator<Item = &Record> {
        self.runs.iter().filter(|run| !run.passed())
    }

    /// False if nothing ran: that proves nothing.
    pub fn passed(&self) -> bool {
        let ran = self.runs.iter().any(|run| run.not_applicable.is_none());
        ran && self.failures().next().is_none()
    }

    pub fn rows(&self) -> Vec<Row<'_>> {
        self.runs
            .chunk_by(|a, b| a.scenario == b.scenario && a.world == b.world)
            .map(|runs| Row {
                scenario: &runs[0].scenario,
                world: &runs[0].world,
                runs: runs.iter().collect(),
            })
            .collect()
    }

    /// Simulated microseconds of all runs together.
    pub fn simulated_us(&self) -> u64 {
        self.runs.iter().map(|run| run.ended_us).sum()
    }

    pub fn events(&self) -> u64 {
        self.runs.iter().map(|run| run.event_count).sum()
    }
}

impl<'a> Row<'a> {
    pub fn failures(&self) -> impl Iterator<Item = &'a Record> {
        self.runs.iter().copied().filter(|run| !run.passed())
    }

    pub fn simulated_us(&self) -> u64 {
        self.runs.iter().map(|run| run.ended_us).sum()
    }

    /// `holds`, `n/a` and why, or the promises that were broken and the first seed that shows it.
    pub fn verdict(&self) -> String {
        let Some(first) = self.failures().next() else {
            let impossible = self.runs.iter().find_map(|run| run.not_applicable.as_ref());
            return impossible.map_or("holds".to_string(), |why| format!("n/a: {why}"));
        };
        let mut titles: Vec<String> = Vec::new();
        for (verdict, _) in self.failures().flat_map(Record::broken) {
            if !titles.contains(&verdict.title()) {
                titles.push(verdict.title());
            }
        }
        if titles.is_empty() {
            titles.push("nothing was judged".to_string());
        }
        let others = match self.failures().count() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("BROKEN: {} (seed {}{others})", titles.join(", "), first.seed)
    }

    /// What happened, summed over the seeds, the rarest first: faults before traffic.
    pub fn fired(&self) -> Vec<(&'a str, u64)> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (mark, count) in self.runs.iter().flat_map(|run| &run.coverage) {
            *sums.entry(mark).or_default() += count;
        }
        let mut fired: Vec<_> = sums.into_iter().filter(|(_, count)| *count > 0).collect();
        fired.sort_by_key(|(_, count)| *count);
        fired
    }
}
