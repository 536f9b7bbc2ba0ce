//! How far a suite has come: a bar on a terminal, a line per run elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};
use stormglass_reports::record::Record;

use super::pool::InOrder;

pub enum Progress {
    Bar { bar: ProgressBar, broken: u64 },
    Lines(InOrder<String>),
}

impl Progress {
    pub fn new(runs: usize) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress::Lines(InOrder::new());
        }
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}")
            .expect("the template is well formed")
            .progress_chars("█▌ ");
        let bar = ProgressBar::new(runs as u64).with_style(style);
        bar.tick();
        Progress::Bar { bar, broken: 0 }
    }

    pub fn ended(&mut self, index: usize, record: &Record) {
        match self {
            Progress::Bar { bar, broken } => {
                *broken += u64::from(!record.passed());
                let broken =
                    if *broken == 0 { String::new() } else { format!("{broken} broken  ") };
                bar.set_message(format!("{broken}{} {}", record.scenario, record.world));
                bar.inc(1);
            }
            Progress::Lines(lines) => {
                let verdict = if record.passed() { "holds " } else { "BROKEN" };
                let Record { scenario, world, seed, .. } = record;
                let line = format!("{verdict}  {scenario}  {world}  seed {seed}");
                lines.add(index, line).iter().for_each(|line| eprintln!("{line}"));
            }
        }
    }

    pub fn finish(self) {
        if let Progress::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}
