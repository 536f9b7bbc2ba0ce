//! Transactions: a message that becomes visible only if something else has
//! happened, which its producer knows and is asked for.

use std::ops::Deref;

use tokio::sync::mpsc;

use super::handle::{Client, Feed, WeakClient};
use crate::{
    client::{
        self, Ask, ClientError, Command, Done, Half, MAX_CHECKS, Message, SendError, SendOptions,
    },
    wire::header::Resolution,
};

impl Client {
    /// Begins to take part in the transactions of this client's producer group.
    /// Brokers of these topics ask here what became of one that nobody has
    /// decided, also of those that another member began: an earlier life of
    /// this process, say. Later calls replace the earlier ones.
    pub async fn transactions<T: Into<String>>(
        &self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<(Transactions, Checks), ClientError> {
        let (sender, checks) = mpsc::channel(MAX_CHECKS);
        let topics = topics.into_iter().map(Into::into).collect();
        let command = Command::OpenTransactions { topics };
        match self.call(command, Some(Feed::Checks(sender))).await {
            Ok(Done::Answered(Ok(_))) => {
                let client = self.clone();
                Ok((Transactions { client }, Checks { client: self.downgrade(), checks }))
            }
            _ => Err(ClientError::Closed),
        }
    }
}

impl Client {
    /// Says what becomes of a half; see [`Transactions::end`].
    pub async fn end_transaction(
        &self,
        half: &Half,
        resolution: Resolution,
    ) -> Result<(), ClientError> {
        self.ask(Ask::EndTransaction { half: half.clone(), resolution }).await.map(drop)
    }
}

/// Begins and ends transactions.
#[derive(Clone)]
pub struct Transactions {
    client: Client,
}

impl Transactions {
    /// Sends a message that nobody sees yet. If this fails, what the message
    /// reports must not be done: whether the half is there or not, its broker
    /// will ask, and the answer will be to roll back.
    pub async fn begin(&self, message: Message) -> Result<Half, SendError> {
        self.begin_with(message, SendOptions::default()).await
    }

    pub async fn begin_with(
        &self,
        message: Message,
        options: SendOptions,
    ) -> Result<Half, SendError> {
        self.client.send_half(message, options).await
    }

    /// Commits: the message is delivered. Rolls back: it never is. The first
    /// decision that reaches the broker stands and may be repeated; a contrary
    /// one is refused. When nobody answers the broker will ask.
    pub async fn end(&self, half: &Half, resolution: Resolution) -> Result<(), ClientError> {
        self.client.end_transaction(half, resolution).await
    }
}

/// What brokers ask. It ends when the client is closed or its last other
/// handle is gone.
pub struct Checks {
    client: WeakClient,
    checks: mpsc::Receiver<client::Check>,
}

impl Checks {
    /// The next check; none at the end.
    pub async fn next(&mut self) -> Option<Check> {
        let check = self.checks.recv().await?;
        Some(Check { client: self.client.upgrade()?, check })
    }
}

/// A broker asks what became of a transaction. Without an answer it will ask
/// again, this producer or another one.
#[derive(Clone)]
pub struct Check {
    client: Client,
    check: client::Check,
}

impl Check {
    pub async fn answer(&self, resolution: Resolution) -> Result<(), ClientError> {
        self.client.end_transaction(&self.half, resolution).await
    }
}

impl Deref for Check {
    type Target = client::Check;

    fn deref(&self) -> &client::Check {
        &self.check
    }
}
