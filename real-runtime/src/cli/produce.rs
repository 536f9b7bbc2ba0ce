//! `stormglass produce`: one message from the command line, or one from each
//! line of standard input.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use stormglass::{Client, Delay, Half, Message, Resolution, SendOptions, SendReceipt};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    admin::{Admin, Server},
    duration,
    output::Format,
};

/// Lines sent and not answered; lines read and not sent.
const IN_FLIGHT: usize = 256;

#[derive(Debug, Args)]
pub struct Produce {
    #[arg(short, long)]
    topic: String,
    /// The message; without it, each line of standard input is one.
    #[arg(short, long)]
    message: Option<String>,
    /// What consumers can filter by.
    #[arg(long)]
    tag: Option<String>,
    /// What people can search by; may be given several times.
    #[arg(short, long)]
    key: Vec<String>,
    /// All messages go to the one queue that this key chooses, in order.
    #[arg(long, value_name = "KEY")]
    sharding_key: Option<String>,
    /// Consumers see it after this time: 500ms, 30s, 5m, 2h, 3d.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    delay: Option<Duration>,
    /// Consumers see it at this time: milliseconds since 1970 in UTC.
    #[arg(long, value_name = "MS", conflicts_with = "delay")]
    deliver_at: Option<i64>,
    /// Send each message as a transaction's, unseen, and then say this of it.
    /// What is left unknown can be settled with `stormglass txn`.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    transaction: Option<Outcome>,
    /// Number the messages, so that none is stored twice.
    #[arg(long)]
    idempotent: bool,
    /// Producer group.
    #[arg(short, long, default_value = "stormglass-cli")]
    group: String,
    /// JSON prints one object for each message.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Outcome {
    Commit,
    Rollback,
    Unknown,
}

/// What became of one line.
type Sent = (u64, Result<Stored, Box<dyn Error + Send + Sync>>);

enum Stored {
    Message(SendReceipt),
    Half(Half),
}

impl Produce {
    pub async fn run(self) -> Result<(), Box<dyn Error>> {
        // A wrong address is told at once; later a client waits for its servers.
        Admin::connect(&self.server).await?.route(&self.topic).await?;
        let client = Client::builder()
            .name_server(&self.server.name_server)
            .group(&self.group)
            .send_timeout(self.server.timeout())
            .config(|config| config.idempotent = self.idempotent)
            .build()
            .await?;
        let mut bodies = match self.message.clone() {
            Some(message) => {
                let (sender, bodies) = mpsc::channel(1);
                sender.send(Ok(message)).await?;
                bodies
            }
            None => read_lines()?,
        };
        let mut sending: JoinSet<Sent> = JoinSet::new();
        let mut line = 0;
        while let Some(body) = bodies.recv().await {
            line += 1;
            if sending.len() == IN_FLIGHT {
                self.finish(sending.join_next().await)?;
            }
            let (client, message) = (client.clone(), self.message(body?));
            let options =
                SendOptions { ordered: self.sharding_key.is_some(), ..SendOptions::default() };
            let transaction = self.transaction;
            sending
                .spawn(async move { (line, send(&client, message, options, transaction).await) });
            // What is finished meanwhile is told now, not at the end of the input.
            while let Some(done) = sending.try_join_next() {
                self.finish(Some(done))?;
            }
        }
        while let Some(done) = sending.join_next().await {
            self.finish(Some(done))?;
        }
        client.close().await;
        Ok(())
    }

    fn message(&self, body: String) -> Message {
        let mut message = Message::new(&self.topic, body);
        message.tag = self.tag.clone();
        message.keys = self.key.clone();
        message.sharding_key = self.sharding_key.clone();
        message.delay = self.delay.map(Delay::After).or(self.deliver_at.map(Delay::At));
        message
    }

    fn finish(
        &self,
        done: Option<Result<Sent, tokio::task::JoinError>>,
    ) -> Result<(), Box<dyn Error>> {
        let Some((line, sent)) = done.transpose()? else { return Ok(()) };
        let stored = sent.map_err(|error| format!("message {line}: {error}"))?;
        let text = match self.output {
            Format::Table => stored.as_line(),
            Format::Json => stored.as_json().to_string(),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

async fn send(
    client: &Client,
    message: Message,
    options: SendOptions,
    transaction: Option<Outcome>,
) -> Result<Stored, Box<dyn Error + Send + Sync>> {
    let Some(outcome) = transaction else {
        return Ok(Stored::Message(client.send_with(message, options).await?));
    };
    let half = client.send_half(message, options).await?;
    let resolution = match outcome {
        Outcome::Commit => Resolution::Commit,
        Outcome::Rollback => Resolution::Rollback,
        Outcome::Unknown => return Ok(Stored::Half(half)),
    };
    client.end_transaction(&half, resolution).await?;
    Ok(Stored::Half(half))
}

impl Stored {
    fn as_line(&self) -> String {
        match self {
            Stored::Message(SendReceipt {
                shard, message_id, recall_handle: Some(handle), ..
            }) => {
                format!("{shard} delayed {message_id} {handle}")
            }
            Stored::Message(receipt) => {
                format!("{} {} {}", receipt.shard, receipt.queue_offset, receipt.message_id)
            }
            Stored::Half(half) => {
                format!("{} half {} {}", half.shard, half.message_id, half.offset_message_id)
            }
        }
    }

    fn as_json(&self) -> Value {
        match self {
            Stored::Message(receipt) => json!({
                "topic": &*receipt.shard.topic,
                "queue": receipt.shard.queue,
                // A delayed message gets its offset when it is due.
                "offset": receipt.recall_handle.is_none().then_some(receipt.queue_offset),
                "id": receipt.message_id,
                "recall": receipt.recall_handle,
            }),
            Stored::Half(half) => json!({
                "topic": &*half.shard.topic,
                "queue": half.shard.queue,
                "offset": null,
                "id": half.message_id,
                "half": half.offset_message_id,
            }),
        }
    }
}

/// Standard input blocks, so a thread of its own reads it.
fn read_lines() -> io::Result<mpsc::Receiver<io::Result<String>>> {
    let (lines, bodies) = mpsc::channel(IN_FLIGHT);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(bodies)
}
