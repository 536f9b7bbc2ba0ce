//! Who leads, where no probe sees it: name servers are asked, as clients do.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, time::Duration};

use stormglass_core::{client::ClientConfig, ids::Name, runtime::Runtime, shell::client};
use stormglass_scenarios::Scenario;

use super::nodes;
use crate::{history::Stop, probe::Set};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks at the replica sets of a run. A leader is seen a little late.
#[derive(Clone)]
pub struct Lookout {
    name_servers: Vec<SocketAddr>,
    /// By their names; those of single brokers are not looked at.
    sets: BTreeMap<String, Rc<Set>>,
    /// By the addresses that clients are told.
    brokers: BTreeMap<String, Name>,
}

impl Lookout {
    pub fn new(scenario: &Scenario, name_servers: Vec<SocketAddr>, sets: &[Rc<Set>]) -> Lookout {
        let named = scenario.sets().into_iter().map(|set| set.name).zip(sets.iter().cloned());
        let brokers = nodes::brokers(scenario).into_iter();
        Lookout {
            name_servers,
            sets: named.filter(|(_, set)| !set.is_alone()).collect(),
            brokers: brokers.map(|(name, addr)| (addr.to_string(), name)).collect(),
        }
    }

    pub async fn look<R: Runtime>(self, rt: R) -> Stop {
        let client = client::start(rt.clone(), ClientConfig::new(self.name_servers.clone()));
        loop {
            if let Ok(cluster) = client.cluster().await {
                for (name, set) in &self.sets {
                    let addrs = cluster.brokers.get(name).map(|broker| &broker.addrs);
                    let leader = addrs.and_then(|addrs| self.brokers.get(addrs.get(&0)?));
                    set.seems_served_by(leader);
                }
            }
            rt.sleep_until(rt.now().mono + LOOK_EVERY).await;
        }
    }
}
