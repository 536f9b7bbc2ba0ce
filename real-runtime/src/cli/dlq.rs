//! `stormglass dlq`.

use std::io;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use stormglass_core::{
    message::{Properties, Record, property},
    wire::{
        code,
        header::{PullHeader, PullReply, ReplayHeader, ReplayReply, pull_flag},
        request,
    },
};

use super::{
    admin::{Admin, Queue, Server, parsed, succeeded},
    output::{Format, Table},
};

/// Every group whose messages died has a topic of this name.
const DLQ: &str = "%DLQ%";
/// Messages in one answer of a broker.
const PAGE: i32 = 32;
/// Characters of a body in a table.
const SHOWN: usize = 60;

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// Groups with dead letters, and how many.
    List(List),
    /// The dead letters of a group, oldest first.
    Show(Show),
    /// Make dead letters visible again, each of them once.
    Replay(Replay),
}

#[derive(Debug, Args)]
pub struct List {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Show {
    group: String,
    /// The offset to start at.
    #[arg(long, default_value_t = 0)]
    from: i64,
    /// At most so many of each broker.
    #[arg(short, long, default_value_t = 20)]
    count: usize,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Replay {
    group: String,
    /// Who gets them: this group alone, or everybody who reads their topic.
    #[arg(long, value_enum, default_value_t)]
    to: To,
    /// The first offset.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The last offset; without it all that are dead now.
    #[arg(long)]
    until: Option<u64>,
    /// Also those that were replayed before.
    #[arg(long)]
    again: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum To {
    #[default]
    Group,
    Topic,
}

impl Dlq {
    pub async fn run(self) -> io::Result<()> {
        match self {
            Dlq::List(list) => list.run().await,
            Dlq::Show(show) => show.run().await,
            Dlq::Replay(replay) => replay.run().await,
        }
    }
}

impl List {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&["group", "broker", "letters", "min_offset", "max_offset"]);
        for topic in admin.topics().await? {
            let Some(group) = topic.strip_prefix(DLQ) else { continue };
            for queue in admin.queues(&topic).await? {
                let min = admin.min_offset(&queue).await?;
                let max = admin.max_offset(&queue).await?;
                let letters = (max - min).into();
                table.row([group.into(), queue.broker.into(), letters, min.into(), max.into()]);
            }
        }
        table.print(self.output);
        Ok(())
    }
}

impl Show {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&[
            "broker",
            "offset",
            "topic",
            "message_id",
            "deliveries",
            "died_at",
            "keys",
            "tag",
            "body",
        ]);
        for queue in queues(&mut admin, &self.group).await? {
            let mut at = self.from.max(admin.min_offset(&queue).await?);
            let mut left = self.count;
            while left > 0 {
                let (records, next) = pull(&mut admin, &self.group, &queue, at).await?;
                for record in records.iter().take(left) {
                    table.row(self.row(&queue, record));
                }
                left = left.saturating_sub(records.len());
                if next <= at {
                    break;
                }
                at = next;
            }
        }
        table.print(self.output);
        Ok(())
    }

    fn row(&self, queue: &Queue, record: &Record) -> [Value; 9] {
        let get = |key: &str| Value::from(Properties(&record.properties).get(key));
        let mut body = String::from_utf8_lossy(&record.body).into_owned();
        if self.output == Format::Table
            && let Some((cut, _)) = body.char_indices().nth(SHOWN)
        {
            body.truncate(cut);
            body.push('…');
        }
        [
            queue.broker.as_str().into(),
            record.queue_offset.into(),
            get(property::DLQ_ORIGIN_TOPIC),
            get(property::DLQ_ORIGIN_MESSAGE_ID),
            record.reconsume_times.into(),
            record.store_wall.into(),
            get(property::KEYS),
            get(property::TAGS),
            body.into(),
        ]
    }
}

impl Replay {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&["broker", "replayed", "skipped", "failed"]);
        let mut failed = 0;
        for queue in queues(&mut admin, &self.group).await? {
            // What dies again meanwhile is not replayed once more.
            let end = admin.max_offset(&queue).await? as u64;
            let until = self.until.map_or(end, |until| end.min(until.saturating_add(1)));
            let mut sum = ReplayReply { replayed: 0, skipped: 0, failed: 0, next: self.from };
            while sum.next < until {
                let header = ReplayHeader {
                    group: &self.group,
                    from: sum.next,
                    to: until,
                    to_origin: self.to == To::Topic,
                    again: Some(self.again),
                };
                let asked = admin.ask(queue.addr, request::REPLAY_DEAD_LETTERS, header.fields());
                let reply = parsed(ReplayReply::parse(&succeeded(asked.await?)?.fields))?;
                sum.replayed += reply.replayed;
                sum.skipped += reply.skipped;
                sum.failed += reply.failed;
                sum.next = reply.next.max(sum.next + 1);
            }
            failed += sum.failed;
            let counts = [sum.replayed, sum.skipped, sum.failed].map(Value::from);
            table.row(std::iter::once(queue.broker.into()).chain(counts));
        }
        table.print(self.output);
        if failed > 0 {
            let why = "they cannot be read, or their topic is gone";
            return Err(io::Error::other(format!(
                "{failed} dead letters were not replayed: {why}"
            )));
        }
        Ok(())
    }
}

async fn queues(admin: &mut Admin, group: &str) -> io::Result<Vec<Queue>> {
    let topic = format!("{DLQ}{group}");
    match admin.route(&topic).await? {
        Some(route) => super::admin::queues_of(&topic, &route),
        None => Err(io::Error::other(format!("the group {group} has no dead letters"))),
    }
}

/// Some messages from an offset on, and where to go on.
async fn pull(
    admin: &mut Admin,
    group: &str,
    queue: &Queue,
    at: i64,
) -> io::Result<(Vec<Record>, i64)> {
    let header = PullHeader {
        group,
        topic: &queue.topic,
        queue: queue.queue,
        queue_offset: at,
        max_messages: PAGE,
        sys_flag: pull_flag::SUBSCRIPTION,
        commit_offset: -1,
        suspend_timeout: 0,
        subscription: Some("*"),
        sub_version: 0,
        expression_type: Some("TAG"),
        max_bytes: None,
        lock_epoch: None,
        reset_epoch: None,
    };
    let answer = admin.ask(queue.addr, request::PULL_MESSAGE, header.fields()).await?;
    let answer = match answer.code {
        code::PULL_NOT_FOUND | code::PULL_RETRY_IMMEDIATELY | code::PULL_OFFSET_MOVED => answer,
        _ => succeeded(answer)?,
    };
    let next = parsed(PullReply::parse(&answer.fields))?.next_offset;
    let records = Record::parse_all(&answer.body).map_err(io::Error::other)?;
    Ok((records, next))
}
