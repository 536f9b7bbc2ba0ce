//! Consumers that ask for messages themselves: by offset, or under leases.

use std::time::Duration;

use super::handle::{Client, unexpected};
use crate::client::{Answer, Ask, ClientError, Lease, MessageQueue, Pop, Popped, Pulled, QueueAsk};

impl Client {
    /// For an application that keeps its own place in each queue, under a group
    /// whose offsets it may store and read. Joins nothing.
    pub fn pull_consumer(&self, group: impl Into<String>) -> PullConsumer {
        PullConsumer { client: self.clone(), group: group.into() }
    }

    /// For applications that share queues, message by message: any number of
    /// them may work for one group, whatever the number of queues. `expression`
    /// is `*`, or tags joined by `||`.
    pub fn pop_consumer(
        &self,
        group: impl Into<String>,
        topic: impl Into<String>,
        expression: impl Into<String>,
    ) -> PopConsumer {
        let pop = Pop {
            group: group.into(),
            topic: topic.into(),
            expression: expression.into(),
            max: 1,
            invisible: Duration::ZERO,
            hold: Duration::ZERO,
            from_first: true,
        };
        PopConsumer { client: self.clone(), pop }
    }
}

/// Reads queues at the application's own pace.
#[derive(Clone)]
pub struct PullConsumer {
    client: Client,
    group: String,
}

impl PullConsumer {
    /// Up to `max` messages from `offset` on, waiting up to `hold` for the
    /// first. `expression` is `*`, or tags joined by `||`.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        max: u32,
        expression: &str,
        hold: Duration,
    ) -> Result<Pulled, ClientError> {
        let (group, expression) = (self.group.clone(), expression.to_owned());
        let what = QueueAsk::Pull { group, offset, max, expression, hold };
        match self.client.ask(Ask::Queue { queue: queue.clone(), what }).await? {
            Answer::Pulled(pulled) => Ok(pulled),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        self.client.queues(topic).await
    }

    /// What the group has stored for a queue; none if it never did.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        self.client.committed(&self.group, queue).await
    }

    /// Stores where the group goes on.
    pub async fn commit(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        let what = QueueAsk::Commit { group: self.group.clone(), offset };
        self.client.ask(Ask::Queue { queue: queue.clone(), what }).await.map(drop)
    }
}

/// Takes messages under leases: what is not acknowledged before its lease ends
/// comes again, to any consumer of the group, and at last goes to the group's
/// dead letters.
#[derive(Clone)]
pub struct PopConsumer {
    client: Client,
    pop: Pop,
}

impl PopConsumer {
    /// A group that was never here begins with what is sent from now on, in
    /// place of the first message.
    pub fn from_last(mut self) -> PopConsumer {
        self.pop.from_first = false;
        self
    }

    /// Up to `max` messages (at most 32), waiting up to `hold` for the first.
    /// For `invisible` they are this consumer's alone.
    pub async fn receive(
        &self,
        max: u32,
        invisible: Duration,
        hold: Duration,
    ) -> Result<Vec<Popped>, ClientError> {
        let pop = Pop { max, invisible, hold, ..self.pop.clone() };
        match self.client.ask(Ask::Pop(pop)).await? {
            Answer::Popped(popped) => Ok(popped),
            other => Err(unexpected(&other)),
        }
    }

    /// The message is processed. Refused if its lease is over: then it comes
    /// again, or has done so.
    pub async fn ack(&self, lease: &Lease) -> Result<(), ClientError> {
        self.client.ask(Ask::Ack { lease: lease.clone() }).await.map(drop)
    }

    /// The lease ends so long from now: later than it would have, or sooner. At
    /// once, if it is zero.
    pub async fn change_invisible(
        &self,
        lease: &mut Lease,
        invisible: Duration,
    ) -> Result<(), ClientError> {
        let ask = Ask::ChangeInvisible { lease: lease.clone(), invisible };
        match self.client.ask(ask).await? {
            Answer::Lease(changed) => {
                *lease = changed;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }
}
