//! Which nodes a cluster has, and their configurations. They are written once
//! and stay: a replica set knows its members by their addresses.

use std::{
    error::Error,
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::Dev;
use crate::cli::{
    Usage,
    config::{NodePlan, Settings},
};

const NAME_SERVER: &str = "name-server";
/// Says that every set has had a leader: from then on an empty disk is one that
/// lost everything.
const FOUNDED: &str = "founded";

pub struct Layout {
    dir: PathBuf,
    pub members: Vec<Member>,
}

/// One process.
pub struct Member {
    pub name: String,
    pub config: PathBuf,
    pub plan: NodePlan,
    metrics: Option<SocketAddr>,
}

impl Member {
    pub fn is_broker(&self) -> bool {
        self.plan.config.broker.is_some()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.plan.listen, self.plan.title)?;
        match self.metrics {
            Some(metrics) => write!(f, "  http://{metrics}/metrics"),
            None => Ok(()),
        }
    }
}

impl Layout {
    /// The cluster that is in the directory, or a new one.
    pub fn open(dev: &Dev) -> Result<Layout, Box<dyn Error>> {
        let in_dir = |error| format!("cannot use {}: {error}", dev.data.display());
        fs::create_dir_all(&dev.data).map_err(in_dir)?;
        let dir = dev.data.canonicalize().map_err(in_dir)?;
        if !configuration(&dir, NAME_SERVER).exists() {
            write(&dir, dev).map_err(in_dir)?;
        }
        let mut members = vec![member(&dir, NAME_SERVER)?];
        for number in 1.. {
            let name = format!("broker-{number}");
            if !configuration(&dir, &name).exists() {
                break;
            }
            members.push(member(&dir, &name)?);
        }
        let layout = Layout { dir, members };
        layout.check(dev)?;
        Ok(layout)
    }

    /// Whether what is there is what was asked for.
    fn check(&self, dev: &Dev) -> Result<(), Usage> {
        let brokers = self.members.len() as u64 - 1;
        let name_server = self.name_server();
        let other_brokers = dev.brokers.is_some_and(|asked| asked != brokers);
        let other_replicas =
            dev.replicas.is_some_and(|asked| asked * self.sets() as u64 != brokers);
        let is_elsewhere = |asked: SocketAddr| asked.port() != 0 && asked != name_server;
        if other_brokers || other_replicas || dev.listen.is_some_and(is_elsewhere) {
            return Err(Usage(format!(
                "{} holds a cluster of {brokers} brokers in {} sets with the name server \
                 {name_server}: name another --data, or leave the rest to it",
                self.dir.display(),
                self.sets()
            )));
        }
        Ok(())
    }

    pub fn name_server(&self) -> SocketAddr {
        self.members[0].plan.listen
    }

    pub fn sets(&self) -> usize {
        let brokers = self.members.iter().filter_map(|member| member.plan.config.broker.as_ref());
        let mut sets: Vec<&str> = brokers.map(|broker| broker.name.as_str()).collect();
        sets.dedup();
        sets.len()
    }

    /// Who listens there.
    pub fn named(&self, addr: SocketAddr) -> String {
        let found = self.members.iter().find(|member| member.plan.listen == addr);
        found.map_or_else(|| addr.to_string(), |member| member.name.clone())
    }

    pub fn is_founded(&self) -> bool {
        self.dir.join(FOUNDED).exists()
    }

    pub fn founded(&self) -> io::Result<()> {
        fs::write(self.dir.join(FOUNDED), "")
    }
}

fn configuration(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.toml"))
}

fn member(dir: &Path, name: &str) -> Result<Member, Usage> {
    let config = configuration(dir, name);
    let plan = Settings::of_file(&config)?.plan()?;
    let metrics = plan.metrics;
    let plan = plan.nodes.into_iter().next();
    let plan = plan.ok_or_else(|| Usage(format!("{} describes no node", config.display())))?;
    Ok(Member { name: name.to_owned(), config, plan, metrics })
}

/// Writes a new cluster. The name server comes last: with it the cluster is
/// complete.
fn write(dir: &Path, dev: &Dev) -> io::Result<()> {
    let brokers = dev.brokers.unwrap_or(3);
    let replicas = dev.replicas.unwrap_or(brokers);
    if !brokers.is_multiple_of(replicas) {
        let why = format!("{brokers} brokers do not make whole sets of {replicas} replicas");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let listen = dev.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9876)));
    let addrs = addresses(listen, 1 + 3 * brokers as usize)?;
    let (clients, others) = addrs[1..].split_at(brokers as usize);
    let (peers, metrics) = others.split_at(brokers as usize);
    let secret = secret()?;
    for broker in 0..brokers {
        let (set, first) = (1 + broker / replicas, broker - broker % replicas);
        let peers: Vec<String> = (0..replicas)
            .map(|peer| format!("{} = \"{}\"", peer + 1, peers[(first + peer) as usize]))
            .collect();
        let name = format!("broker-{}", broker + 1);
        let mut text = format!(
            "data = {:?}\nname_servers = [\"{}\"]\nsecret = \"{secret}\"\n\
             metrics = \"{}\"\n\n[[replica]]\nset = \"set-{set}\"\nid = {}\nlisten = \"{}\"\n",
            dir.join(&name),
            addrs[0],
            metrics[broker as usize],
            broker % replicas + 1,
            clients[broker as usize],
        );
        if replicas > 1 {
            text.push_str(&format!("peers = {{ {} }}\n", peers.join(", ")));
        }
        write_private(&configuration(dir, &name), &text)?;
    }
    let text = format!("[name_server]\nlisten = \"{}\"\n", addrs[0]);
    fs::write(configuration(dir, NAME_SERVER), text)
}

fn secret() -> io::Result<String> {
    let half = || getrandom::u64().map_err(|error| io::Error::other(error.to_string()));
    Ok(format!("{:016x}{:016x}", half()?, half()?))
}

/// The secret is in there.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// So many addresses, from this one on, or any that are free.
fn addresses(first: SocketAddr, count: usize) -> io::Result<Vec<SocketAddr>> {
    if first.port() == 0 {
        let free = (0..count).map(|_| TcpListener::bind(first));
        let free: Vec<TcpListener> = free.collect::<io::Result<_>>()?;
        return free.iter().map(TcpListener::local_addr).collect();
    }
    let port = |number: usize| first.port().checked_add(u16::try_from(number).ok()?);
    let all = (0..count).map(|number| Some(SocketAddr::new(first.ip(), port(number)?)));
    all.collect::<Option<_>>().ok_or_else(|| {
        let why = format!("there are no {count} ports from {} on", first.port());
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}
