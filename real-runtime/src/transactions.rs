//! Transactions for applications: what to do, and what to answer when a broker
//! asks whether it was done.

use std::{future::Future, sync::Arc};

use stormglass_core::{
    client::{ClientError, Half, Message, SendError},
    runtime::Runtime,
    shell::client::{Check, Transactions},
    wire::header::Resolution,
};

use crate::{Client, on_tokio::on_new_thread};

/// What an application does for its transactions.
pub trait TransactionListener: Send + Sync + 'static {
    /// Does what the message reports, in one local transaction with a note of
    /// the message's id or keys, by which a later [`check`] finds out.
    /// `Unknown`: the broker will ask.
    ///
    /// [`check`]: TransactionListener::check
    fn execute(&self, message: &Message, half: &Half) -> impl Future<Output = Resolution> + Send;

    /// What became of a transaction, perhaps of another member of the group or
    /// of an earlier life of this one. Roll back what is neither done nor under
    /// way; `Unknown`: the broker will ask again. Called on a thread of the
    /// library's, which it should not block for long.
    fn check(&self, check: &Check) -> impl Future<Output = Resolution> + Send;
}

/// [`Transactions`] with a listener.
pub struct TransactionProducer<L> {
    transactions: Transactions,
    listener: Arc<L>,
}

/// How far a transaction came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionOutcome {
    pub half: Half,
    /// What the listener said.
    pub resolution: Resolution,
    /// Whether the broker knows. When nobody answered it will ask; when it
    /// refused, a check was answered otherwise before.
    pub told: Result<(), ClientError>,
}

impl Client {
    /// Takes part in the transactions of this client's producer group (see
    /// [`ClientBuilder::group`](crate::ClientBuilder::group)). Brokers of these
    /// topics ask the listener what became of one that nobody has decided, also
    /// of those that another member began. One for each client; it ends with
    /// the client.
    pub async fn transaction_producer<L: TransactionListener>(
        &self,
        topics: impl IntoIterator<Item = impl Into<String>>,
        listener: L,
    ) -> Result<TransactionProducer<L>, ClientError> {
        let (transactions, mut checks) = self.transactions(topics).await?;
        let listener = Arc::new(listener);
        let answering = listener.clone();
        let started = on_new_thread("stormglass-checks", |rt| {
            rt.clone().spawn(async move {
                while let Some(check) = checks.next().await {
                    let listener = answering.clone();
                    rt.spawn(async move {
                        let resolution = listener.check(&check).await;
                        // Without an answer the broker will ask again.
                        let _ = check.answer(resolution).await;
                    });
                }
            });
        });
        match started {
            Ok(()) => Ok(TransactionProducer { transactions, listener }),
            Err(error) => {
                let why = format!("no thread for the checks: {error}");
                Err(ClientError::Unavailable { why })
            }
        }
    }
}

impl<L: TransactionListener> TransactionProducer<L> {
    /// Sends a message that nobody sees yet, has the listener do what it
    /// reports, and tells the broker. Nothing is done if the message cannot be
    /// sent.
    pub async fn send(&self, message: Message) -> Result<TransactionOutcome, SendError> {
        let half = self.transactions.begin(message.clone()).await?;
        let resolution = self.listener.execute(&message, &half).await;
        let told = self.transactions.end(&half, resolution).await;
        Ok(TransactionOutcome { half, resolution, told })
    }
}
