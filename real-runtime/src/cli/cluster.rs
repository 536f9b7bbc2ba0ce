//! `stormglass cluster`: who is in a replica set, and how far.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;
use stormglass_core::wire::{
    Fields, Frame,
    body::{ClusterStatus, MemberChange, ReplicaRole, ReplicaStatus},
    code,
    header::TransferLeaderHeader,
    request,
};
use tokio::time::{Instant, sleep};

use super::{
    admin::{Admin, Server, succeeded},
    output::{Format, Table},
};

/// Before the name server is asked again who leads.
const ASK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// The replicas of each set, who leads, and how far the others are behind.
    Status(Status),
    /// Add a replica. It votes once it has caught up.
    Add(Add),
    /// Remove a replica. Stop its node afterwards.
    Remove(Remove),
    /// Put a new replica in the place of another one, in one step.
    Replace(Replace),
    /// Hand over to another leader.
    Transfer(Transfer),
}

/// Which replica set, and where to ask for it.
#[derive(Debug, Args)]
pub struct Set {
    /// The replica set, if there are several.
    #[arg(long, value_name = "SET")]
    set: Option<String>,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Ask this replica, which the name server may not know.
    #[arg(long, value_name = "ADDR")]
    broker: Option<SocketAddr>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    set: Set,
}

#[derive(Debug, Args)]
pub struct Add {
    /// Its number, which no replica of the set has or had.
    id: u64,
    /// Where it listens for the other replicas.
    address: SocketAddr,
    #[command(flatten)]
    set: Set,
}

#[derive(Debug, Args)]
pub struct Remove {
    id: u64,
    #[command(flatten)]
    set: Set,
}

#[derive(Debug, Args)]
pub struct Replace {
    /// The one that leaves.
    id: u64,
    /// The number of the new one.
    by: u64,
    /// Where the new one listens for the other replicas.
    address: SocketAddr,
    #[command(flatten)]
    set: Set,
}

#[derive(Debug, Args)]
pub struct Transfer {
    /// Who shall lead; whoever is furthest if nobody is named.
    #[arg(long, value_name = "ID")]
    to: Option<u64>,
    #[command(flatten)]
    set: Set,
}

impl Cluster {
    pub async fn run(self) -> io::Result<()> {
        let change = |change: MemberChange| {
            Bytes::from(serde_json::to_vec(&change).expect("a change of members is plain data"))
        };
        let (set, code, fields, body) = match self {
            Cluster::Status(status) => return status.run().await,
            Cluster::Add(Add { id, address, set }) => {
                let body = change(MemberChange::Add { id, address });
                (set, request::CHANGE_MEMBERS, Fields::default(), body)
            }
            Cluster::Remove(Remove { id, set }) => {
                let body = change(MemberChange::Remove { id });
                (set, request::CHANGE_MEMBERS, Fields::default(), body)
            }
            Cluster::Replace(Replace { id, by, address, set }) => {
                let body = change(MemberChange::Replace { id, by, address });
                (set, request::CHANGE_MEMBERS, Fields::default(), body)
            }
            Cluster::Transfer(Transfer { to, set }) => {
                let fields = TransferLeaderHeader { to }.fields();
                (set, request::TRANSFER_LEADER, fields, Bytes::new())
            }
        };
        let mut admin = Admin::connect(&set.server).await?;
        set.ask_leader(&mut admin, code, fields, body).await.map(drop)
    }
}

impl Status {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.set.server).await?;
        let mut statuses = Vec::new();
        if let Some(addr) = self.broker {
            statuses.push(status(&mut admin, addr).await?);
        } else {
            for (name, replicas) in admin.replicas().await? {
                if self.set.set.as_ref().is_none_or(|asked| *asked == name) {
                    statuses.push(best(&mut admin, replicas).await?);
                }
            }
        }
        let columns = &["set", "replica", "peers", "role", "state", "behind", "term"];
        let mut table = Table::new(columns);
        for status in &statuses {
            for replica in &status.replicas {
                table.row([
                    status.set.as_str().into(),
                    replica.id.into(),
                    replica.address.to_string().into(),
                    role(replica.role).into(),
                    state(status, replica).into(),
                    behind(status, replica),
                    status.term.into(),
                ]);
            }
        }
        if table.is_empty() {
            return Err(io::Error::other("there is no such replica set"));
        }
        table.print(self.output);
        Ok(())
    }
}

impl Set {
    /// Asks the set's leader, and again if another one leads meanwhile.
    async fn ask_leader(
        &self,
        admin: &mut Admin,
        code: i32,
        fields: Fields,
        body: Bytes,
    ) -> io::Result<Frame> {
        let give_up = Instant::now() + self.server.timeout();
        loop {
            let leaders = admin.brokers().await?;
            let addr = self.one_of(&leaders)?;
            let answer = admin.ask_with(addr, code, fields.clone(), body.clone()).await;
            let is_elsewhere = |answer: &Frame| answer.code == code::NOT_LEADER;
            if !answer.as_ref().is_ok_and(is_elsewhere) || Instant::now() >= give_up {
                return succeeded(answer?);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    fn one_of(&self, leaders: &BTreeMap<String, SocketAddr>) -> io::Result<SocketAddr> {
        let names = leaders.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let refused = |why: String| Err(io::Error::other(format!("{why}: {names}")));
        match (&self.set, leaders.first_key_value()) {
            (Some(set), _) => match leaders.get(set) {
                Some(addr) => Ok(*addr),
                None => refused(format!("nobody leads a set {set} now; others")),
            },
            (None, Some((_, addr))) if leaders.len() == 1 => Ok(*addr),
            (None, _) => refused("name one with --set".to_owned()),
        }
    }
}

/// What the leader says, or whoever answers: only the leader knows how far the
/// others are.
async fn best(admin: &mut Admin, replicas: Vec<SocketAddr>) -> io::Result<ClusterStatus> {
    let mut found: io::Result<ClusterStatus> = Err(io::ErrorKind::NotFound.into());
    for addr in replicas {
        match status(admin, addr).await {
            Ok(status) if status.leader == Some(status.own.id) => return Ok(status),
            Ok(status) => found = Ok(status),
            Err(error) if found.is_err() => found = Err(error),
            Err(_) => {}
        }
    }
    found
}

/// What a replica says of its set.
pub async fn status(admin: &mut Admin, addr: SocketAddr) -> io::Result<ClusterStatus> {
    let answer = admin.ask(addr, request::CLUSTER_STATUS, Fields::default()).await?;
    serde_json::from_slice(&succeeded(answer)?.body).map_err(|why| {
        io::Error::other(format!("{addr} gives an answer that makes no sense: {why}"))
    })
}

fn role(role: ReplicaRole) -> &'static str {
    match role {
        ReplicaRole::Voter => "voter",
        ReplicaRole::Learner => "learner",
        ReplicaRole::Incoming => "incoming",
        ReplicaRole::Outgoing => "outgoing",
    }
}

fn state(status: &ClusterStatus, replica: &ReplicaStatus) -> &'static str {
    match &replica.progress {
        _ if status.leader == Some(replica.id) => "leads",
        None => "unknown",
        Some(progress) if !progress.recently_active => "silent",
        Some(progress) if progress.installing => "gets a snapshot",
        Some(progress) if !progress.trusted => "repairs itself",
        Some(_) => "follows",
    }
}

/// In bytes of the leader's log.
fn behind(status: &ClusterStatus, replica: &ReplicaStatus) -> Value {
    match &replica.progress {
        _ if status.leader == Some(replica.id) => 0.into(),
        Some(progress) => progress.bytes_behind.into(),
        None => Value::Null,
    }
}
