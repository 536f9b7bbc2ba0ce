//! A node's configuration as the file that `stormglass serve --config` reads.

use std::{fmt::Write, net::SocketAddr, path::Path, time::Duration};

use stormglass_core::{broker::BrokerConfig, replication::Flush, shell::node::NodeConfig};

/// `beside` is where a node really listens that others find at an address.
pub fn text(
    config: &NodeConfig,
    addr: SocketAddr,
    dir: &Path,
    beside: fn(SocketAddr) -> SocketAddr,
) -> String {
    let Some(broker) = &config.broker else {
        return format!("[name_server]\nlisten = \"{}\"\n", beside(addr));
    };
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key} = {value}").expect("memory takes any text");
    };
    let quoted = |value: &dyn std::fmt::Display| format!("\"{value}\"");
    let time = |time: Duration| format!("\"{}ms\"", time.as_millis().max(1));
    let names: Vec<String> = broker.name_servers.iter().map(|addr| quoted(addr)).collect();
    line("cluster", &quoted(&broker.cluster));
    line("data", &format!("{:?}", dir));
    line("name_servers", &format!("[{}]", names.join(", ")));
    if let Some(peers) = &config.peers {
        line("secret", &quoted(&String::from_utf8_lossy(&peers.secret)));
    }
    line("\n[[replica]]\nset", &quoted(&broker.name));
    line("listen", &quoted(&beside(addr)));
    line("advertise", &quoted(&addr));
    match (&broker.replica_set, &config.peers) {
        (Some(set), Some(peers)) => {
            line("id", &set.id.0);
            line("peer_listen", &quoted(&beside(peers.listen)));
            let peers = set.peers.iter().map(|(id, addr)| format!("{} = \"{addr}\"", id.0));
            line("peers", &format!("{{ {} }}", peers.collect::<Vec<_>>().join(", ")));
        }
        _ => line("id", &1),
    }
    line("\n[broker]\nsegment", &quoted(&broker.log.segment_bytes));
    line("snapshot_every", &quoted(&broker.snapshot_every));
    if let Some(set) = &broker.replica_set {
        line("election_timeout", &time(set.election_timeout));
    }
    if let Flush::Async { interval } = broker.flush {
        line("flush", &quoted(&"async"));
        line("flush_interval", &time(interval));
    }
    line("auto_create_topics", &broker.auto_create_topics);
    line("default_queues", &broker.default_queues);
    line("lock_lease", &time(broker.lock_lease));
    line("check_after", &time(broker.check_back.first));
    line("check_every", &time(broker.check_back.every));
    line("check_longest", &time(broker.check_back.longest));
    line("checks_at_most", &broker.check_back.at_most);
    retention(broker, &mut line);
    text
}

fn retention(broker: &BrokerConfig, line: &mut impl FnMut(&str, &dyn std::fmt::Display)) {
    if let Some(bytes) = broker.retain_bytes {
        line("retain", &format!("\"{bytes}\""));
    }
    if let Some(age) = broker.retain_for {
        line("retain_for", &format!("\"{}ms\"", age.as_millis()));
    }
    line("retain_at_most", &broker.retain_at_most);
    line("retain_or_refuse", &broker.retain_or_refuse);
}
