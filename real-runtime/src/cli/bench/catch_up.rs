//! How fast a replica comes back that lost its disk.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Backlog, Common, Load, Sets, Table,
    nodes::{Data, Nodes},
    produce,
    tally::{failed, rounded},
    target,
};
use crate::cli::{admin::Admin, cluster};

const SETTINGS: [&str; 2] = ["broker.flush=async", "broker.segment=256MiB"];
/// The topic of the backlog.
pub const TOPIC: &str = "stormglass-backlog";

pub async fn run(backlog: &Backlog) -> io::Result<()> {
    let data = Data::new(&backlog.sets.dir, "catch-up")?;
    let mut nodes = start_with(&data.0, backlog).await?;
    let mut admin = Admin::connect(&nodes.server()).await?;
    let mut follower = None;
    let mut end = 0;
    for addr in admin.replicas().await?.into_values().flatten() {
        let status = cluster::status(&mut admin, addr).await?;
        end = end.max(status.own.committed);
        if status.leader != Some(status.own.id) {
            follower = Some((format!("broker-{}", status.own.id), addr));
        }
    }
    let (name, addr) = follower.ok_or_else(|| io::Error::other("nobody follows"))?;
    nodes.kill(&name)?;
    fs::remove_dir_all(data.0.join(&name))?;
    nodes.wait_for(&format!("{name:<11}  pid")).await?;
    let began = Instant::now();
    let own = loop {
        match cluster::status(&mut admin, addr).await {
            Ok(status) if status.own.trusted && status.own.applied >= end => break status.own,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let (took, bytes) = (began.elapsed().as_secs_f64(), own.applied - own.start);
    let mut table = Table::new(&["messages", "MB", "seconds", "MB/s", "msgs/s"]);
    table.row([
        backlog.backlog.into(),
        rounded(bytes as f64 / 1e6, 0),
        rounded(took, 2),
        rounded(bytes as f64 / 1e6 / took, 1),
        rounded(backlog.backlog as f64 / took, 0),
    ]);
    table.print(backlog.sets.output);
    nodes.stop().await
}

/// Three brokers with a backlog.
pub async fn start_with(data: &Path, backlog: &Backlog) -> io::Result<Nodes> {
    let nodes = start(data).await?;
    let Sets { size, .. } = backlog.sets;
    let common = Common::of(nodes.server(), TOPIC);
    let queues = target::create(&common).await?;
    let load = Load {
        in_flight: 16,
        batch: 32,
        count: Some(backlog.backlog),
        duration: None,
        ..Load::lasting(common, size, 0)
    };
    failed(produce::run_on(&load, &queues, None).await?.first_failure)?;
    Ok(nodes)
}

/// The same brokers again.
pub async fn start(data: &Path) -> io::Result<Nodes> {
    Nodes::start(data, 3, &SETTINGS).await
}
