//! The nodes that a configuration describes, and what does not fit together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use stormglass_core::{
    broker::{BrokerConfig, CheckBack},
    ids::NodeId,
    log::LogConfig,
    replication::{Flush, ReplicaSet},
    shell::{node::NodeConfig, peers::PeerConfig},
};

use super::{Settings, value::SECRET_BYTES};
use crate::cli::Usage;

/// All that one process runs.
pub struct Plan {
    pub log: tracing::Level,
    /// Where metrics and health are served.
    pub metrics: Option<SocketAddr>,
    pub nodes: Vec<NodePlan>,
}

/// A name server, a broker or both, behind one port.
pub struct NodePlan {
    /// What it is, as people say it.
    pub title: String,
    pub cluster: String,
    pub listen: SocketAddr,
    pub config: NodeConfig,
    /// None for a name server, which keeps nothing.
    pub data: Option<PathBuf>,
}

impl NodePlan {
    /// Whether this is a replica without anything on its disk.
    pub fn is_empty_replica(&self) -> bool {
        let has_set = self.config.peers.is_some();
        let has_store = |data: &PathBuf| {
            data.join("store").read_dir().is_ok_and(|mut files| files.next().is_some())
        };
        has_set && !self.data.as_ref().is_some_and(has_store)
    }
}

impl Settings {
    pub fn plan(&self) -> Result<Plan, Usage> {
        let log = match self.text("log") {
            Some("error") => tracing::Level::ERROR,
            Some("info") => tracing::Level::INFO,
            Some("debug") => tracing::Level::DEBUG,
            _ => tracing::Level::WARN,
        };
        let replicas = self.numbers_below("replica");
        let name_server = self.listening("name_server.listen")?;
        let nodes = if replicas.is_empty() && name_server.is_none() {
            vec![self.all_in_one()?]
        } else {
            self.of_a_cluster(name_server, &replicas)?
        };
        let metrics = self.listening("metrics")?;
        Ok(Plan { log, metrics, nodes })
    }

    /// A broker and a name server on one port.
    fn all_in_one(&self) -> Result<NodePlan, Usage> {
        for key in ["name_servers", "secret", "secret_file"] {
            if self.text(key).is_some() {
                return Err(self.wrong(key, "needs a [[replica]] or a [name_server]"));
            }
        }
        let listen = self.required_listening("listen")?;
        let host = self.advertised("advertise", "listen", listen)?;
        Ok(NodePlan {
            title: "name server and broker".to_owned(),
            cluster: self.cluster(),
            listen,
            config: NodeConfig::standalone(self.broker(host)),
            data: self.text("data").map(PathBuf::from),
        })
    }

    fn of_a_cluster(
        &self,
        name_server: Option<SocketAddr>,
        replicas: &[u64],
    ) -> Result<Vec<NodePlan>, Usage> {
        for key in ["listen", "advertise"] {
            if self.0.get(key).is_some_and(|setting| setting.source != super::Source::Default) {
                let why = "is that of a node without [name_server] and [[replica]]; \
                           each of these has its own";
                return Err(self.wrong(key, why));
            }
        }
        let mut nodes: Vec<NodePlan> = replicas
            .iter()
            .map(|number| self.replica(&format!("replica.{number}"), name_server))
            .collect::<Result<_, _>>()?;
        nodes.extend(name_server.map(|listen| NodePlan {
            title: "name server".to_owned(),
            cluster: self.cluster(),
            listen,
            config: NodeConfig::name_server(),
            data: None,
        }));
        let mut sets = BTreeSet::new();
        let mut dirs = BTreeSet::new();
        for (number, node) in replicas.iter().zip(&nodes) {
            if let Some(broker) = &node.config.broker
                && !sets.insert(broker.name.clone())
            {
                let key = format!("replica.{number}.set");
                return Err(self.wrong(&key, "another replica of this set is on this node"));
            }
            if !dirs.insert(node.data.clone()) {
                let key = format!("replica.{number}.data");
                return Err(self.wrong(&key, "another replica keeps its data there"));
            }
        }
        Ok(nodes)
    }

    fn replica(&self, at: &str, own_name_server: Option<SocketAddr>) -> Result<NodePlan, Usage> {
        let key = |key: &str| format!("{at}.{key}");
        let set = self.owned(&key("set")).ok_or_else(|| self.missing(&key("set")))?;
        let id = self.number(&key("id")).ok_or_else(|| self.missing(&key("id")))?;
        let listen = self.required_listening(&key("listen"))?;
        let host = self.advertised(&key("advertise"), &key("listen"), listen)?;
        let data = self.text(&key("data")).map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(self.text("data")?).join(&set)));
        let mut name_servers = self.addresses("name_servers")?;
        if name_servers.is_empty() {
            name_servers.extend(own_name_server);
        }
        if name_servers.is_empty() {
            return Err(self.missing("name_servers"));
        }
        let mut broker = BrokerConfig { name: set.clone(), name_servers, ..self.broker(host) };
        let title = format!("replica {id} of {set}");
        let mut config = NodeConfig::default();
        let known = self.numbers_below(&key("peers"));
        if !known.is_empty() {
            let address = |peer| self.required_address(&key(&format!("peers.{peer}")));
            let peers = known.iter().map(|peer| Ok((NodeId(*peer), address(peer)?)));
            let peers: BTreeMap<NodeId, SocketAddr> = peers.collect::<Result<_, Usage>>()?;
            if !known.contains(&id) {
                let why = format!("{id} is not among the peers: {known:?}");
                return Err(self.wrong(&key("id"), why));
            }
            let listen = match self.listening(&key("peer_listen"))? {
                Some(listen) => listen,
                None => self.required_listening(&key(&format!("peers.{id}")))?,
            };
            config.peers = Some(PeerConfig { listen, secret: self.secret()? });
            let election_timeout = self.time("broker.election_timeout").unwrap_or_default();
            let id = NodeId(id);
            broker.replica_set = Some(ReplicaSet { id, peers, election_timeout, founding: false });
        }
        config.broker = Some(broker);
        Ok(NodePlan { title, cluster: self.cluster(), listen, config, data })
    }

    fn cluster(&self) -> String {
        self.owned("cluster").unwrap_or_default()
    }

    fn broker(&self, host: SocketAddr) -> BrokerConfig {
        let defaults = BrokerConfig::new(host);
        let segment_bytes = self.size("broker.segment").unwrap_or(defaults.log.segment_bytes);
        let interval = self.time("broker.flush_interval").unwrap_or(Duration::from_millis(500));
        let number = |key| self.number(key).and_then(|number| u32::try_from(number).ok());
        BrokerConfig {
            cluster: self.cluster(),
            flush: match self.text("broker.flush") {
                Some("async") => Flush::Async { interval },
                _ => Flush::Sync,
            },
            log: LogConfig { segment_bytes, ..defaults.log },
            lock_lease: self.time("broker.lock_lease").unwrap_or(defaults.lock_lease),
            check_back: self.check_back(),
            snapshot_every: self.size("broker.snapshot_every").unwrap_or(defaults.snapshot_every),
            retain_bytes: self.size("broker.retain"),
            retain_for: self.time("broker.retain_for"),
            retain_at_most: number("broker.retain_at_most").unwrap_or(defaults.retain_at_most),
            retain_or_refuse: self.is_on("broker.retain_or_refuse"),
            auto_create_topics: self.is_on("broker.auto_create_topics"),
            default_queues: number("broker.default_queues").unwrap_or(defaults.default_queues),
            ..defaults
        }
    }

    fn check_back(&self) -> CheckBack {
        let defaults = CheckBack::default();
        let at_most = self.number("broker.checks_at_most").and_then(|n| u8::try_from(n).ok());
        CheckBack {
            first: self.time("broker.check_after").unwrap_or(defaults.first),
            every: self.time("broker.check_every").unwrap_or(defaults.every),
            longest: self.time("broker.check_longest").unwrap_or(defaults.longest),
            at_most: at_most.unwrap_or(defaults.at_most),
            ..defaults
        }
    }

    /// What proves that a replica belongs to its set (L6).
    fn secret(&self) -> Result<Vec<u8>, Usage> {
        match (self.text("secret"), self.text("secret_file")) {
            (Some(secret), None) => Ok(secret.as_bytes().to_vec()),
            (None, Some(file)) => {
                let wrong = |why: String| self.wrong("secret_file", format!("{file}: {why}"));
                let secret = fs::read(file).map_err(|error| wrong(error.to_string()))?;
                let secret = secret.trim_ascii();
                if secret.len() < SECRET_BYTES {
                    return Err(wrong(format!("a secret has at least {SECRET_BYTES} bytes")));
                }
                Ok(secret.to_vec())
            }
            (Some(_), Some(_)) => Err(self.wrong("secret_file", "there is a secret as well")),
            (None, None) => Err(Usage(
                "secret or secret_file is missing: replicas of a set prove with it that they \
                 belong to it"
                    .to_owned(),
            )),
        }
    }

    fn advertised(
        &self,
        advertise: &str,
        listen_key: &str,
        listen: SocketAddr,
    ) -> Result<SocketAddr, Usage> {
        match self.address(advertise)? {
            Some(addr) => Ok(addr),
            None if listen.ip().is_unspecified() => {
                let flag = if advertise == "advertise" { "--advertise ADDR" } else { advertise };
                Err(self.wrong(
                    listen_key,
                    format!(
                        "clients cannot connect to {listen}: name the address that they can \
                         reach with {flag}"
                    ),
                ))
            }
            None => Ok(listen),
        }
    }

    fn required_listening(&self, key: &str) -> Result<SocketAddr, Usage> {
        self.listening(key)?.ok_or_else(|| self.missing(key))
    }

    /// Connections are not encrypted, and clients are not authenticated.
    fn listening(&self, key: &str) -> Result<Option<SocketAddr>, Usage> {
        match self.address(key)? {
            Some(addr) if !addr.ip().is_loopback() && !self.is_on("insecure_plaintext") => {
                let why = format!(
                    "other machines can reach {addr}, and the connection is neither encrypted nor \
                     authenticated; to accept that, add --insecure-plaintext"
                );
                Err(self.wrong(key, why))
            }
            addr => Ok(addr),
        }
    }

    fn required_address(&self, key: &str) -> Result<SocketAddr, Usage> {
        self.address(key)?.ok_or_else(|| self.missing(key))
    }

    fn address(&self, key: &str) -> Result<Option<SocketAddr>, Usage> {
        self.text(key).map(|text| self.resolve(key, text)).transpose()
    }

    fn addresses(&self, key: &str) -> Result<Vec<SocketAddr>, Usage> {
        let several = self.text(key).into_iter().flat_map(|text| text.split(','));
        several.map(|one| self.resolve(key, one.trim())).collect()
    }

    fn resolve(&self, key: &str, text: &str) -> Result<SocketAddr, Usage> {
        let mut found = text.to_socket_addrs().map_err(|error| {
            self.wrong(key, format!("`{text}` does not resolve to an address: {error}"))
        })?;
        found.next().ok_or_else(|| self.wrong(key, format!("`{text}` resolves to no address")))
    }

    fn missing(&self, key: &str) -> Usage {
        Usage(format!("{key} is missing"))
    }
}
