//! How commands reach a running Stormglass, or any RocketMQ.

use std::{error::Error, time::Duration};

use clap::Args;
use stormglass::{Client, SendError};

#[derive(Clone, Debug, Args)]
pub struct Server {
    /// Name server.
    #[arg(short, long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT")]
    pub name_server: String,
    /// Milliseconds to wait for an answer.
    #[arg(long, default_value_t = 3000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub timeout: u64,
}

impl Server {
    pub async fn connect(&self, group: &str) -> Result<Client, Box<dyn Error>> {
        let timeout = Duration::from_millis(self.timeout);
        let client = Client::builder()
            .name_server(&self.name_server)
            .group(group)
            .send_timeout(timeout)
            .config(|config| config.request_timeout = timeout)
            .build();
        Ok(client.await?)
    }

    /// Says what a person can do about a failure.
    pub fn explain(&self, error: impl Into<CommandError>) -> Box<dyn Error> {
        let error = error.into();
        let hint = match error.unreachable {
            true => format!(" (is a name server running at {}?)", self.name_server),
            false => String::new(),
        };
        format!("{}{hint}", error.text).into()
    }
}

/// A client's error and whether nobody answered.
pub struct CommandError {
    text: String,
    unreachable: bool,
}

impl From<stormglass::ClientError> for CommandError {
    fn from(error: stormglass::ClientError) -> CommandError {
        let unreachable = matches!(error, stormglass::ClientError::Unavailable { .. });
        CommandError { text: error.to_string(), unreachable }
    }
}

impl From<SendError> for CommandError {
    fn from(error: SendError) -> CommandError {
        CommandError { text: error.to_string(), unreachable: false }
    }
}
