//! `stormglass consume`: a member of a group that prints what it gets.

use std::{
    error::Error,
    io::{self, Write},
};

use clap::{Args, ValueEnum};
use serde_json::json;
use stormglass::{Client, ConsumerConfig, Delivery, StartAt};

use super::{
    admin::{Admin, Server},
    output::Format,
};

#[derive(Debug, Args)]
pub struct Consume {
    #[arg(short, long)]
    topic: String,
    /// Consumer group; its members share the messages.
    #[arg(short, long, default_value = "stormglass-cli")]
    group: String,
    /// Only messages with one of these tags, joined by `||`.
    #[arg(long, default_value = "*")]
    tag: String,
    /// Leave after so many messages; without it, when interrupted.
    #[arg(short, long)]
    count: Option<u64>,
    /// Where a group starts that has never been here.
    #[arg(long, value_enum, default_value_t)]
    from: From,
    /// JSON prints one object for each message, otherwise its body is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum From {
    #[default]
    First,
    Last,
}

impl Consume {
    pub async fn run(self) -> Result<(), Box<dyn Error>> {
        // A wrong address is told at once; later a client waits for its servers.
        Admin::connect(&self.server).await?.route(&self.topic).await?;
        let client = Client::builder()
            .name_server(&self.server.name_server)
            .config(|config| config.request_timeout = self.server.timeout())
            .build()
            .await?;
        let start_at = match self.from {
            From::First => StartAt::First,
            From::Last => StartAt::Last,
        };
        let config =
            ConsumerConfig::new(&self.group).topic(&self.topic, &self.tag).start_at(start_at);
        let mut consumer = client.subscribe(config).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while left > 0 {
            let next = tokio::select! {
                next = consumer.next() => next,
                signal = &mut interrupted => {
                    signal?;
                    break;
                }
            };
            let Some(delivery) = next else { break };
            match self.print(&delivery) {
                Ok(()) => delivery.ack(),
                // Whoever read our output has seen enough; this one not.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error.into()),
            }
            left -= 1;
        }
        consumer.close().await;
        client.close().await;
        Ok(())
    }

    fn print(&self, delivery: &Delivery) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.output {
            Format::Table => {
                out.write_all(delivery.body())?;
                out.write_all(b"\n")?;
            }
            Format::Json => {
                let message = json!({
                    "topic": &*delivery.topic,
                    "queue": delivery.shard.queue,
                    "offset": delivery.queue_offset(),
                    "id": delivery.message_id(),
                    "tag": delivery.tag(),
                    "keys": delivery.keys().collect::<Vec<_>>(),
                    "attempts": delivery.attempts,
                    "body": String::from_utf8_lossy(delivery.body()),
                });
                writeln!(out, "{message}")?;
            }
        }
        out.flush()
    }
}
