//! `stormglass produce`: one message from the command line, or one from each
//! line of standard input.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    thread,
};

use clap::Args;
use serde_json::json;
use stormglass::{Client, Message, SendError, SendOptions, SendReceipt};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    admin::{Admin, Server},
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
    /// Producer group.
    #[arg(short, long, default_value = "stormglass-cli")]
    group: String,
    /// JSON prints one object for each message.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

type Sent = (u64, Result<SendReceipt, SendError>);

impl Produce {
    pub async fn run(self) -> Result<(), Box<dyn Error>> {
        // A wrong address is told at once; later a client waits for its servers.
        Admin::connect(&self.server).await?.route(&self.topic).await?;
        let client = Client::builder()
            .name_server(&self.server.name_server)
            .group(&self.group)
            .send_timeout(self.server.timeout())
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
            sending.spawn(async move { (line, client.send_with(message, options).await) });
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
        message
    }

    fn finish(
        &self,
        done: Option<Result<Sent, tokio::task::JoinError>>,
    ) -> Result<(), Box<dyn Error>> {
        let Some((line, sent)) = done.transpose()? else { return Ok(()) };
        let receipt = sent.map_err(|error| format!("message {line}: {error}"))?;
        let text = match self.output {
            Format::Table => {
                format!("{} {} {}", receipt.shard, receipt.queue_offset, receipt.message_id)
            }
            Format::Json => json!({
                "topic": &*receipt.shard.topic,
                "queue": receipt.shard.queue,
                "offset": receipt.queue_offset,
                "id": receipt.message_id,
            })
            .to_string(),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
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
