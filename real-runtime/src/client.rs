//! core's client on a thread of its own.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    ops::Deref,
    thread,
    time::Duration,
};

use stormglass_core::{client::ClientConfig, shell::client as shell};
use tokio::sync::oneshot;

use crate::on_tokio::on_new_thread;

/// A producer, and the way to consumers. Clones are the same client, which
/// closes when the last clone and the last consumer are gone.
///
/// What it does is documented at [`stormglass_core::shell::client::Client`].
#[derive(Clone)]
pub struct Client(shell::Client);

impl Client {
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }
}

impl Deref for Client {
    type Target = shell::Client;

    fn deref(&self) -> &shell::Client {
        &self.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// What a client is told before it starts. Everything has a default.
#[derive(Clone, Debug)]
#[must_use = "a client starts with build()"]
pub struct ClientBuilder {
    name_servers: Vec<String>,
    config: ClientConfig,
}

impl Default for ClientBuilder {
    fn default() -> ClientBuilder {
        ClientBuilder { name_servers: Vec::new(), config: ClientConfig::new(Vec::new()) }
    }
}

impl ClientBuilder {
    /// A name server as `host:port`; give several by calling this again. The
    /// default is 127.0.0.1:9876.
    pub fn name_server(mut self, addr: impl Into<String>) -> ClientBuilder {
        self.name_servers.push(addr.into());
        self
    }

    /// The producer group; the default is `DEFAULT_PRODUCER`. Consumers name
    /// theirs when they subscribe.
    pub fn group(mut self, group: impl Into<String>) -> ClientBuilder {
        self.config.producer_group = group.into();
        self
    }

    /// For a send with all its retries; the default is 3 s.
    pub fn send_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.config.send_timeout = timeout;
        self
    }

    /// Tries after the first, within the send timeout; the default is 2.
    pub fn send_retries(mut self, retries: u32) -> ClientBuilder {
        self.config.send_retries = retries;
        self
    }

    /// Numbers sends, so that Stormglass stores each of them once and in order,
    /// however often it is repeated. See
    /// [`ClientConfig::idempotent`](stormglass_core::client::ClientConfig::idempotent).
    pub fn idempotent(mut self) -> ClientBuilder {
        self.config.idempotent = true;
        self
    }

    /// Sends without an outcome; one more waits for its turn. The default is
    /// 4096.
    pub fn max_unresolved_sends(mut self, sends: usize) -> ClientBuilder {
        self.config.max_unresolved_sends = sends.max(1);
        self
    }

    /// Everything else; its `name_servers` are added to those given by name.
    pub fn config(mut self, change: impl FnOnce(&mut ClientConfig)) -> ClientBuilder {
        change(&mut self.config);
        self
    }

    /// Resolves the name servers and starts the client. It does not wait for a
    /// server to answer: requests do, each within its own time.
    pub async fn build(self) -> Result<Client, BuildError> {
        let mut config = self.config;
        let mut names = self.name_servers;
        if names.is_empty() && config.name_servers.is_empty() {
            names.push("127.0.0.1:9876".to_owned());
        }
        for name in names {
            config.name_servers.extend(resolve(name).await?);
        }
        let started = on_new_thread("stormglass-client", |rt| shell::start(rt, config));
        started.map(Client).map_err(BuildError::Thread)
    }
}

async fn resolve(name: String) -> Result<Vec<SocketAddr>, BuildError> {
    if let Ok(addr) = name.parse() {
        return Ok(vec![addr]);
    }
    // Blocks for seconds at worst, so not on the caller's executor.
    let (found, resolved) = oneshot::channel();
    let asked = name.clone();
    thread::Builder::new()
        .name("stormglass-resolve".to_owned())
        .spawn(move || found.send(asked.to_socket_addrs().map(Vec::from_iter)))
        .map_err(BuildError::Thread)?;
    let found = resolved.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()));
    match found {
        Ok(addrs) if !addrs.is_empty() => Ok(addrs),
        Ok(_) => Err(BuildError::NameServer { name, error: io::ErrorKind::NotFound.into() }),
        Err(error) => Err(BuildError::NameServer { name, error }),
    }
}

/// Why a client could not start.
#[derive(Debug)]
pub enum BuildError {
    /// A name server's name is not `host:port` or does not resolve now.
    NameServer { name: String, error: io::Error },
    /// The operating system gives no thread.
    Thread(io::Error),
}

impl BuildError {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            BuildError::NameServer { error, .. } => error.kind() != io::ErrorKind::InvalidInput,
            BuildError::Thread(_) => true,
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::NameServer { name, error } => write!(f, "name server {name:?}: {error}"),
            BuildError::Thread(error) => write!(f, "no thread for the client: {error}"),
        }
    }
}

impl std::error::Error for BuildError {}
