//! `stormglass consume`: a member of a group that prints what it gets.

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde_json::json;
use stormglass::{Client, ConsumerConfig, Popped, Received, StartAt};

use super::{
    admin::{Admin, Server},
    duration,
    output::Format,
};

/// Messages asked for at once with --pop, and how long for the first.
const POPPED_AT_ONCE: u32 = 32;
const HOLD: Duration = Duration::from_secs(10);

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
    /// One message of a queue at a time, in order.
    #[arg(long)]
    orderly: bool,
    /// Every member gets every message; offsets are not kept.
    #[arg(long, conflicts_with = "orderly")]
    broadcast: bool,
    /// Take messages under leases, from queues shared message by message.
    #[arg(long, conflicts_with_all = ["orderly", "broadcast"])]
    pop: bool,
    /// With --pop: how long a lease is.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    lease: Duration,
    /// Print messages and refuse them, so that they come again.
    #[arg(long, conflicts_with = "dead_letter")]
    nack: bool,
    /// When a refused message comes again; without it, when the group's back-off
    /// says so.
    #[arg(long, value_name = "TIME", requires = "nack", value_parser = duration::parse)]
    nack_delay: Option<Duration>,
    /// Print messages and give them to the group's dead letters.
    #[arg(long, conflicts_with = "pop")]
    dead_letter: bool,
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
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let consuming = async {
            match self.pop {
                true => self.pop(&client).await,
                false => self.push(&client).await,
            }
        };
        tokio::select! {
            consumed = consuming => consumed?,
            signal = &mut interrupted => signal?,
        }
        client.close().await;
        Ok(())
    }

    async fn push(&self, client: &Client) -> Result<(), Box<dyn Error>> {
        let start_at = match self.from {
            From::First => StartAt::First,
            From::Last => StartAt::Last,
        };
        let mut config =
            ConsumerConfig::new(&self.group).topic(&self.topic, &self.tag).start_at(start_at);
        if self.orderly {
            config = config.orderly();
        }
        if self.broadcast {
            config = config.broadcasting();
        }
        let mut consumer = client.subscribe(config).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(delivery) = consumer.next().await else { break };
            if !self.print(&delivery)? {
                // Whoever read our output has seen enough; this one not.
                break;
            }
            match (self.nack, self.nack_delay) {
                _ if self.dead_letter => delivery.dead_letter(),
                (false, _) => delivery.ack(),
                (true, None) => delivery.retry(),
                (true, Some(delay)) => delivery.nack(delay),
            }
            left -= 1;
        }
        consumer.close().await;
        Ok(())
    }

    async fn pop(&self, client: &Client) -> Result<(), Box<dyn Error>> {
        let mut consumer = client.pop_consumer(&self.group, &self.topic, &self.tag);
        if self.from == From::Last {
            consumer = consumer.from_last();
        }
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let most = left.min(u64::from(POPPED_AT_ONCE)) as u32;
            for Popped { message, mut lease } in consumer.receive(most, self.lease, HOLD).await? {
                if !self.print(&message)? {
                    return Ok(());
                }
                match (self.nack, self.nack_delay) {
                    (false, _) => consumer.ack(&lease).await?,
                    // It comes again when its lease ends.
                    (true, None) => {}
                    (true, Some(delay)) => consumer.change_invisible(&mut lease, delay).await?,
                }
                left -= 1;
            }
        }
        Ok(())
    }

    /// False if nobody reads the output any more.
    fn print(&self, message: &Received) -> io::Result<bool> {
        match self.write(message) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&self, delivery: &Received) -> io::Result<()> {
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
