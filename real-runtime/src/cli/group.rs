//! `stormglass group`.

use std::io;

use clap::{Args, Subcommand};
use serde_json::Value;
use stormglass_core::wire::body::{RetryPolicy, SubscriptionGroup};

use super::{
    admin::{Admin, Server},
    members::Members,
    output::{Format, Table},
    reset::Reset,
};

/// Every consumer group has a topic of this name, made at its first heartbeat.
const RETRY: &str = "%RETRY%";

#[derive(Debug, Subcommand)]
pub enum Group {
    /// All consumer groups and how many members are connected.
    List(List),
    /// How far a group is behind, queue by queue.
    Lag(Lag),
    /// How often and how late the group gets what it sends back.
    Show(Show),
    /// Who the group's members are, and whether they want the same.
    Members(Members),
    /// Set the group to another place in a topic, whatever its members say.
    Reset(Reset),
    /// Change that, on every broker; the group need not exist.
    Set(Set),
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

#[derive(Debug, Args)]
pub struct Show {
    group: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Set {
    group: String,
    /// Deliveries after the first, before a message is a dead letter.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    retries: Option<i32>,
    /// Queues of the group's retry topic; with 0 what is sent back is refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=4096))]
    retry_queues: Option<i32>,
    /// Milliseconds before each delivery, like 100,1000,60000; the last one
    /// stays.
    #[arg(long, value_name = "MS,…", value_delimiter = ',', group = "back-off")]
    delays: Option<Vec<u64>>,
    /// Milliseconds before the first delivery, a factor from each to the next,
    /// and the longest, like 100,2,60000.
    #[arg(long, value_name = "MS,FACTOR,MS", value_parser = exponential, group = "back-off")]
    exponential: Option<RetryPolicy>,
    /// RocketMQ's levels: 10 s, 30 s, 1 min … 2 h.
    #[arg(long, group = "back-off")]
    levels: bool,
    #[command(flatten)]
    server: Server,
}

fn exponential(text: &str) -> Result<RetryPolicy, String> {
    let numbers: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([initial, multiplier, max]) => {
            let (initial, multiplier, max) = (*initial, *multiplier, *max);
            Ok(RetryPolicy::Exponential { initial, max, multiplier })
        }
        _ => Err("not MS,FACTOR,MS, like 100,2,60000".to_owned()),
    }
}

impl Group {
    pub async fn run(self) -> io::Result<()> {
        match self {
            Group::List(list) => list.run().await,
            Group::Lag(lag) => lag.run().await,
            Group::Show(show) => show.run().await,
            Group::Members(members) => members.run().await,
            Group::Reset(reset) => reset.run().await,
            Group::Set(set) => set.run().await,
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
        let columns = &["topic", "broker", "queue", "committed", "max_offset", "lag", "lost"];
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
                // What retention took before the group had read it.
                let lost = committed.as_ref().and_then(|reply| reply.lost).unwrap_or(0);
                let committed = committed.map(|reply| reply.offset);
                table.row([
                    queue.topic.into(),
                    queue.broker.into(),
                    queue.queue.into(),
                    committed.into(),
                    max.into(),
                    committed.map(|committed| max - committed).into(),
                    lost.into(),
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

impl Show {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&["group", "broker", "retries", "retry_queues", "back_off"]);
        for (broker, addr) in admin.brokers().await? {
            let Some(group) = admin.group(addr, &self.group).await? else { continue };
            table.row([
                group.name.into(),
                broker.into(),
                group.retry_max.into(),
                group.retry_queues.into(),
                shown(&group.policy).into(),
            ]);
        }
        if table.is_empty() {
            return Err(io::Error::other(format!("no broker knows the group {}", self.group)));
        }
        table.print(self.output);
        Ok(())
    }
}

fn shown(policy: &RetryPolicy) -> String {
    match policy {
        RetryPolicy::Steps(steps) if steps.is_empty() => "levels".to_owned(),
        RetryPolicy::Steps(steps) => {
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            format!("{} ms", steps.join(","))
        }
        RetryPolicy::Exponential { initial, max, multiplier } => {
            format!("{initial} ms, each time {multiplier} times as long, up to {max} ms")
        }
    }
}

impl Set {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        for (broker, addr) in admin.brokers().await? {
            // RocketMQ's defaults, for a group that is not there yet.
            let known = admin.group(addr, &self.group).await?;
            let mut group = known.unwrap_or(SubscriptionGroup {
                name: self.group.clone(),
                retry_queues: 1,
                retry_max: 16,
                policy: RetryPolicy::default(),
            });
            group.retry_max = self.retries.unwrap_or(group.retry_max);
            group.retry_queues = self.retry_queues.unwrap_or(group.retry_queues);
            if let Some(delays) = &self.delays {
                group.policy = RetryPolicy::Steps(delays.clone());
            } else if let Some(policy) = &self.exponential {
                group.policy = policy.clone();
            } else if self.levels {
                group.policy = RetryPolicy::default();
            }
            admin.set_group(addr, &group).await?;
            println!("{} is set on {broker}", self.group);
        }
        Ok(())
    }
}
