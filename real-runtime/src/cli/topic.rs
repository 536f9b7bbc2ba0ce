//! `stormglass topic`.

use std::io;

use clap::{Args, Subcommand};
use serde_json::Value;
use stormglass_core::wire::body::perm;

use super::{
    admin::{Admin, Server, queues_of},
    output::{Format, Table},
};

#[derive(Debug, Subcommand)]
pub enum Topic {
    /// Create a topic on every broker, or change its number of queues.
    Create(Create),
    /// All topics.
    List(List),
    /// The queues of a topic and how far they reach.
    Describe(Describe),
}

#[derive(Debug, Args)]
pub struct Create {
    topic: String,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    queues: u32,
    /// Keys stay on their queues whatever brokers come and go: the list of
    /// queues is fixed until the topic is created again.
    #[arg(long)]
    ordered: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct List {
    /// Also those that consumer groups have for themselves.
    #[arg(long)]
    all: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Describe {
    topic: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

impl Topic {
    pub async fn run(self) -> io::Result<()> {
        match self {
            Topic::Create(create) => create.run().await,
            Topic::List(list) => list.run().await,
            Topic::Describe(describe) => describe.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        admin.create_topic(&self.topic, self.queues, self.ordered).await
    }
}

impl List {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&["topic", "queues", "perm", "brokers"]);
        for topic in admin.topics().await? {
            // Gone since it was listed, or for groups alone.
            let is_groups = topic.starts_with("%RETRY%") || topic.starts_with("%DLQ%");
            if is_groups && !self.all {
                continue;
            }
            let Some(route) = admin.route(&topic).await? else { continue };
            let queues: u32 = route.queues.iter().map(|data| data.read_queues).sum();
            let perms = route.queues.iter().fold(0, |all, data| all | data.perm);
            let brokers: Vec<&str> =
                route.queues.iter().map(|data| data.broker_name.as_str()).collect();
            table.row([topic.into(), queues.into(), shown(perms), brokers.join(",").into()]);
        }
        table.print(self.output);
        Ok(())
    }
}

impl Describe {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let Some(route) = admin.route(&self.topic).await? else {
            return Err(io::Error::other(format!("there is no topic {}", self.topic)));
        };
        let columns = &["broker", "addr", "queue", "min_offset", "max_offset", "messages"];
        let mut table = Table::new(columns);
        for queue in queues_of(&self.topic, &route)? {
            let (min, max) = (admin.min_offset(&queue).await?, admin.max_offset(&queue).await?);
            table.row([
                queue.broker.into(),
                queue.addr.to_string().into(),
                queue.queue.into(),
                min.into(),
                max.into(),
                (max - min).into(),
            ]);
        }
        table.print(self.output);
        Ok(())
    }
}

fn shown(perms: u32) -> Value {
    let has = |bit, letter| if perms & bit != 0 { letter } else { "" };
    format!("{}{}", has(perm::READ, "r"), has(perm::WRITE, "w")).into()
}
