//! `stormglass serve`: the nodes of one process.

mod running;

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
};

use clap::Args;
use stormglass::on_tokio::block_on;
use stormglass_core::{
    broker::BrokerConfig, replication::Flush, replication::ReplicaSet, shell::node::NodeConfig,
};

use super::{
    Usage,
    config::{Flags, NodePlan},
};
use crate::metrics::Endpoint;

#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    flags: Flags,
    /// The replicas of this node begin sets that are new. Only for their very
    /// first start: a replica that is founded twice forgets what it promised.
    #[arg(long)]
    found: bool,
}

impl Serve {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let mut plan = self.flags.settings()?.plan()?;
        tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(plan.log).init();
        for node in &mut plan.nodes {
            self.found(node)?;
        }
        let metrics = plan.metrics.map(Endpoint::bind).transpose()?;
        block_on(running::run(plan.nodes, metrics))?
    }

    /// Only an operator knows that a set is new.
    fn found(&self, node: &mut NodePlan) -> Result<(), Usage> {
        let is_empty = node.is_empty_replica();
        let (Some(set), Some(data)) = (replica_set(&mut node.config), &node.data) else {
            return Ok(());
        };
        if self.found && !is_empty {
            return Err(Usage(format!(
                "{} was founded before, {} holds its store: start it without --found",
                node.title,
                data.display()
            )));
        }
        if is_empty && !self.found {
            tracing::warn!(
                "{} starts on an empty disk: it has no say in elections until a leader has brought \
                 it up to date; the first start of a new set needs --found",
                node.title
            );
        }
        set.founding = self.found;
        Ok(())
    }
}

fn replica_set(config: &mut NodeConfig) -> Option<&mut ReplicaSet> {
    config.broker.as_mut()?.replica_set.as_mut()
}

/// Said once a node can be used. Whoever started us may have closed the pipe:
/// no reason to stop.
fn announce(addr: SocketAddr, metrics: Option<SocketAddr>, node: &NodePlan) {
    let mut line = format!("stormglass serves on {addr}: {}", node.title);
    if let Some(peers) = &node.config.peers {
        line.push_str(&format!(", peers on {}", peers.listen));
    }
    if let (Some(BrokerConfig { flush, .. }), Some(data)) = (&node.config.broker, &node.data) {
        let flush = if *flush == Flush::Sync { "sync" } else { "async" };
        line.push_str(&format!(", {flush} flush, data in {}", data.display()));
    }
    if let Some(metrics) = metrics {
        line.push_str(&format!(", metrics on {metrics}"));
    }
    let _ = writeln!(io::stdout(), "{line}");
}
