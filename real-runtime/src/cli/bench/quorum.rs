//! What it costs to wait for a majority: the same sends to one broker and to a
//! set of three, turn by turn in one run.

use std::{io, path::Path, time::Duration};

use super::{
    Common, Load, Sets, Table,
    nodes::{Data, Nodes},
    produce,
    tally::{Turns, failed, millis, rounded},
    target,
};

/// Turns of each cluster.
const TURNS: u32 = 2;

pub async fn run(sets: &Sets) -> io::Result<()> {
    let columns =
        &["flush", "in_flight", "brokers", "msgs/s", "p50_ms", "p99_ms", "cpu_us/msg", "of_one"];
    let mut table = Table::new(columns);
    for flush in ["sync", "async"] {
        let data = Data::new(&sets.dir, "quorum")?;
        let mut clusters = Vec::new();
        for brokers in [1, 3] {
            clusters.push(start(&data.0, brokers, flush).await?);
        }
        for in_flight in [1, 64] {
            let mut turns = [SetTurns::default(), SetTurns::default()];
            for _ in 0..TURNS {
                for (turns, nodes) in turns.iter_mut().zip(&clusters) {
                    turns.send(sets, nodes, in_flight).await?;
                }
            }
            let alone = turns[0].all.rate();
            for (brokers, SetTurns { all, cpu }) in [1, 3].into_iter().zip(turns) {
                let (rate, sent) = (all.rate(), all.tally.messages.max(1));
                table.row([
                    flush.into(),
                    in_flight.into(),
                    brokers.into(),
                    rounded(rate, 0),
                    millis(all.tally.latencies.quantile(0.5)),
                    millis(all.tally.latencies.quantile(0.99)),
                    rounded(cpu.as_secs_f64() * 1e6 / sent as f64, 2),
                    rounded(rate / alone, 3),
                ]);
                failed(all.tally.first_failure)?;
            }
        }
        for nodes in clusters {
            nodes.stop().await?;
        }
    }
    table.print(sets.output);
    Ok(())
}

async fn start(data: &Path, brokers: u32, flush: &str) -> io::Result<Nodes> {
    let settings = [&format!("broker.flush={flush}"), "broker.segment=256MiB"];
    Nodes::start(&data.join(brokers.to_string()), brokers, &settings).await
}

/// The turns of one cluster, and what its brokers computed.
#[derive(Default)]
struct SetTurns {
    all: Turns,
    cpu: Duration,
}

impl SetTurns {
    async fn send(&mut self, sets: &Sets, nodes: &Nodes, in_flight: u32) -> io::Result<()> {
        let common = Common::of(nodes.server(), "stormglass-bench");
        let queues = target::create(&common).await?;
        let load = Load { in_flight, ..Load::lasting(common, sets.size, sets.seconds) };
        let before = nodes.cpu_time()?;
        self.all.add(produce::run_on(&load, &queues, None).await?);
        self.cpu += nodes.cpu_time()?.saturating_sub(before);
        Ok(())
    }
}
