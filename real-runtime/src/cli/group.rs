//! `stormglass group`.

use std::io;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    admin::{Admin, Server},
    output::{Format, Table},
};

/// Every consumer group has a topic of this name, made at its first heartbeat.
const RETRY: &str = "%RETRY%";

#[derive(Debug, Subcommand)]
pub enum Group {
    /// All consumer groups and how many members are connected.
    List(List),
    /// How far a group is behind, queue by queue.
    Lag(Lag),
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Lag {
    group: String,
    /// Only this topic, and also if the group never stored an offset for it.
    #[arg(short, long)]
    topic: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

impl Group {
    pub async fn run(self) -> io::Result<()> {
        match self {
            Group::List(list) => list.run().await,
            Group::Lag(lag) => lag.run().await,
        }
    }
}

impl List {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&["group", "members"]);
        for topic in admin.topics().await? {
            let Some(group) = topic.strip_prefix(RETRY) else { continue };
            // Every broker knows all members: any one will do.
            let members = match admin.queues(&topic).await?.first() {
                Some(queue) => admin.members(queue.addr, group).await?.len().into(),
                None => Value::Null,
            };
            table.row([group.into(), members]);
        }
        table.print(self.output);
        Ok(())
    }
}

impl Lag {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let topics = match &self.topic {
            Some(topic) => vec![topic.clone()],
            None => admin.topics().await?,
        };
        let columns = &["topic", "broker", "queue", "committed", "max_offset", "lag"];
        let mut table = Table::new(columns);
        let mut found = self.topic.is_some();
        for topic in topics {
            for queue in admin.queues(&topic).await? {
                let committed = admin.committed(&self.group, &queue).await?;
                if committed.is_none() && self.topic.is_none() {
                    continue;
                }
                found = true;
                let max = admin.max_offset(&queue).await?;
                table.row([
                    queue.topic.into(),
                    queue.broker.into(),
                    queue.queue.into(),
                    committed.into(),
                    max.into(),
                    committed.map(|committed| max - committed).into(),
                ]);
            }
        }
        if !found {
            let why = format!("the group {} has stored no offset for any topic", self.group);
            return Err(io::Error::other(why));
        }
        table.print(self.output);
        Ok(())
    }
}
