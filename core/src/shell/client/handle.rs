//! What an application holds of a client: channels to the loop that runs it.
//! All of it may be sent to other threads.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    client::{
        Answer, Ask, Change, Check, ClientError, Command, ConsumerConfig, ConsumerId, DeliveryId,
        Done, Half, Message, MessageQueue, QueueAsk, Received, SendError, SendOptions, SendReceipt,
        Verdict,
    },
    error::Rejected,
    wire::{
        RecallHandle,
        body::{ClusterInfo, TopicRoute},
        code,
    },
};

pub(super) struct Request {
    pub command: Command,
    /// Of a `Subscribe` or an `OpenTransactions`.
    pub feed: Option<Feed>,
    pub reply: oneshot::Sender<Done>,
}

/// Where a consumer's deliveries and changes go, or the checks.
pub(super) enum Feed {
    Consumer { deliveries: mpsc::Sender<Delivery>, changes: mpsc::Sender<Change> },
    Checks(mpsc::Sender<Check>),
}

/// Changes that nobody has read yet; further ones are not told.
const UNREAD_CHANGES: usize = 1024;

pub(super) enum Settlement {
    /// The application has it: only now its consume timeout begins (D4).
    Taken(DeliveryId),
    Settled {
        delivery: DeliveryId,
        verdict: Verdict,
    },
    /// The consumer was dropped without being closed.
    Abandoned(ConsumerId),
}

/// A client. Clones are the same client; it closes when the last one and its
/// consumers are gone, or by [`close`](Client::close).
#[derive(Clone)]
pub struct Client {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) settlements: mpsc::UnboundedSender<Settlement>,
    pub(super) unresolved: Arc<Semaphore>,
}

impl Client {
    /// Sends a message and waits for its outcome. With a sharding key it goes
    /// to the key's shard, otherwise the queues take turns.
    pub async fn send(&self, message: Message) -> Result<SendReceipt, SendError> {
        self.send_with(message, SendOptions::default()).await
    }

    pub async fn send_with(
        &self,
        message: Message,
        options: SendOptions,
    ) -> Result<SendReceipt, SendError> {
        self.send_all(vec![message], options).await
    }

    /// Sends messages of one topic as one: all are stored in one shard, next to
    /// each other, or none is.
    pub async fn send_batch(&self, messages: Vec<Message>) -> Result<SendReceipt, SendError> {
        self.send_all(messages, SendOptions::default()).await
    }

    pub async fn send_batch_with(
        &self,
        messages: Vec<Message>,
        options: SendOptions,
    ) -> Result<SendReceipt, SendError> {
        self.send_all(messages, options).await
    }

    /// Hands a message to the link without asking for an answer: `Ok` says
    /// nothing about whether it was stored.
    pub async fn send_one_way(&self, message: Message) -> Result<(), SendError> {
        let Ok(_permit) = self.unresolved.acquire().await else { return Err(not_sent()) };
        let options = SendOptions::default();
        match self.call(Command::SendOneWay { message, options }, None).await {
            Ok(Done::HandedOver(result)) => result,
            _ => Err(not_sent()),
        }
    }

    async fn send_all(
        &self,
        messages: Vec<Message>,
        options: SendOptions,
    ) -> Result<SendReceipt, SendError> {
        let Ok(_permit) = self.unresolved.acquire().await else { return Err(not_sent()) };
        match self.call(Command::Send { messages, options }, None).await {
            Ok(Done::Sent(result)) => result,
            Ok(_) => Err(not_sent()),
            Err(CallError::NotTaken) => Err(not_sent()),
            Err(CallError::NoAnswer) => Err(stopped()),
        }
    }

    /// Sends a message that nobody sees before its transaction is committed. For
    /// those who take no checks: others use [`transactions`](Client::transactions).
    pub async fn send_half(
        &self,
        message: Message,
        options: SendOptions,
    ) -> Result<Half, SendError> {
        let Ok(_permit) = self.unresolved.acquire().await else { return Err(not_sent()) };
        match self.call(Command::SendHalf { message, options }, None).await {
            Ok(Done::HalfSent(result)) => result,
            Err(CallError::NoAnswer) => Err(stopped()),
            _ => Err(not_sent()),
        }
    }

    /// Takes a delayed message back, by the handle in its receipt. Refused if
    /// it is no longer delayed.
    pub async fn recall(&self, handle: &str) -> Result<(), ClientError> {
        let Some(handle) = RecallHandle::decode(handle) else {
            let why = format!("{handle:.60?} is no recall handle");
            return Err(ClientError::Refused(Rejected::new(code::INVALID_PARAMETER, why)));
        };
        self.ask(Ask::Recall { handle }).await.map(drop)
    }

    /// Joins a group. Messages come from [`Consumer::next`].
    pub async fn subscribe(&self, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        // Never full: the value hands out at most this many unsettled deliveries.
        let (sender, deliveries) = mpsc::channel(config.max_outstanding.max(1));
        let (changes_in, changes) = mpsc::channel(UNREAD_CHANGES);
        let feed = Feed::Consumer { deliveries: sender, changes: changes_in };
        match self.call(Command::Subscribe(Box::new(config)), Some(feed)).await {
            Ok(Done::Subscribed(id)) => {
                let changes = Some(Changes(changes));
                Ok(Consumer { client: self.clone(), id: id?, deliveries, changes, open: true })
            }
            _ => Err(ClientError::Closed),
        }
    }

    /// Creates a topic, or changes its number of queues, on every broker of the
    /// cluster.
    pub async fn create_topic(
        &self,
        cluster: &str,
        topic: &str,
        queues: u32,
    ) -> Result<(), ClientError> {
        self.create(cluster, topic, queues, false).await
    }

    /// The same, and fixes the list of queues over which keys are spread: neither
    /// a broker that is away nor one that joins later moves a key to another
    /// queue. Calling it again fixes the list anew.
    pub async fn create_ordered_topic(
        &self,
        cluster: &str,
        topic: &str,
        queues: u32,
    ) -> Result<(), ClientError> {
        self.create(cluster, topic, queues, true).await
    }

    async fn create(
        &self,
        cluster: &str,
        topic: &str,
        queues: u32,
        order: bool,
    ) -> Result<(), ClientError> {
        let (cluster, topic) = (cluster.to_owned(), topic.to_owned());
        self.ask(Ask::CreateTopic { cluster, topic, queues, order }).await.map(drop)
    }

    pub async fn route(&self, topic: &str) -> Result<TopicRoute, ClientError> {
        match self.ask(Ask::Route { topic: topic.to_owned() }).await? {
            Answer::Route(route) => Ok(route),
            other => Err(unexpected(&other)),
        }
    }

    /// The readable queues of a topic, sorted.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        match self.ask(Ask::Queues { topic: topic.to_owned() }).await? {
            Answer::Queues(queues) => Ok(queues),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn cluster(&self) -> Result<ClusterInfo, ClientError> {
        match self.ask(Ask::Cluster).await? {
            Answer::Cluster(info) => Ok(info),
            other => Err(unexpected(&other)),
        }
    }

    /// The client ids of a group's members, as a broker of this topic knows them.
    pub async fn group_members(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Vec<String>, ClientError> {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        match self.ask(Ask::GroupMembers { group, topic }).await? {
            Answer::Members(ids) => Ok(ids),
            other => Err(unexpected(&other)),
        }
    }

    /// The offset of the first message still in the queue.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        self.offset(queue, QueueAsk::MinOffset).await
    }

    /// The offset that the next message of the queue will get.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        self.offset(queue, QueueAsk::MaxOffset).await
    }

    /// The offset of the first message stored at or after this wall time, in
    /// milliseconds since the epoch.
    pub async fn offset_at(&self, queue: &MessageQueue, wall: i64) -> Result<i64, ClientError> {
        self.offset(queue, QueueAsk::OffsetAt(wall)).await
    }

    /// What a group has stored for a queue; none if it never did.
    pub async fn committed(
        &self,
        group: &str,
        queue: &MessageQueue,
    ) -> Result<Option<i64>, ClientError> {
        let what = QueueAsk::Committed { group: group.to_owned() };
        match self.ask(Ask::Queue { queue: queue.clone(), what }).await? {
            Answer::Committed(offset) => Ok(offset),
            other => Err(unexpected(&other)),
        }
    }

    async fn offset(&self, queue: &MessageQueue, what: QueueAsk) -> Result<i64, ClientError> {
        match self.ask(Ask::Queue { queue: queue.clone(), what }).await? {
            Answer::Offset(offset) => Ok(offset),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn ask(&self, ask: Ask) -> Result<Answer, ClientError> {
        match self.call(Command::Ask(ask), None).await {
            Ok(Done::Answered(result)) => result,
            _ => Err(ClientError::Closed),
        }
    }

    /// Closes the client for all its handles: consumers store their offsets and
    /// leave, sends without an outcome end. Returns when that is done.
    pub async fn close(&self) {
        let _ = self.call(Command::Close, None).await;
    }

    pub(super) async fn call(
        &self,
        command: Command,
        feed: Option<Feed>,
    ) -> Result<Done, CallError> {
        let (reply, done) = oneshot::channel();
        let request = Request { command, feed, reply };
        self.requests.send(request).await.map_err(|_| CallError::NotTaken)?;
        done.await.map_err(|_| CallError::NoAnswer)
    }
}

/// A handle that does not keep the client open.
pub(super) struct WeakClient {
    requests: mpsc::WeakSender<Request>,
    settlements: mpsc::UnboundedSender<Settlement>,
    unresolved: Arc<Semaphore>,
}

impl Client {
    pub(super) fn downgrade(&self) -> WeakClient {
        WeakClient {
            requests: self.requests.downgrade(),
            settlements: self.settlements.clone(),
            unresolved: self.unresolved.clone(),
        }
    }
}

impl WeakClient {
    pub fn upgrade(&self) -> Option<Client> {
        Some(Client {
            requests: self.requests.upgrade()?,
            settlements: self.settlements.clone(),
            unresolved: self.unresolved.clone(),
        })
    }
}

pub(super) enum CallError {
    NotTaken,
    NoAnswer,
}

fn not_sent() -> SendError {
    SendError::Refused(Rejected::new(code::SERVICE_NOT_AVAILABLE, "the client is closed"))
}

fn stopped() -> SendError {
    SendError::Unknown { why: "the client stopped".to_owned(), tries: u32::MAX }
}

pub(super) fn unexpected(answer: &Answer) -> ClientError {
    ClientError::Unavailable { why: format!("an answer to another question: {answer:.60?}") }
}

/// One member of a consumer group.
pub struct Consumer {
    client: Client,
    id: ConsumerId,
    deliveries: mpsc::Receiver<Delivery>,
    changes: Option<Changes>,
    open: bool,
}

/// What a member owns and where it reads, as it changes.
pub struct Changes(mpsc::Receiver<Change>);

impl Changes {
    /// The next change; none once the consumer is closed.
    pub async fn next(&mut self) -> Option<Change> {
        self.0.recv().await
    }
}

impl Consumer {
    /// The next message; none once the consumer or its client is closed. Not
    /// calling this costs bounded memory: pulling stops.
    pub async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.recv().await?;
        // Without a loop nothing is overdue any more.
        let _ = self.client.settlements.send(Settlement::Taken(delivery.id));
        Some(delivery)
    }

    /// Rebalancing, as it happens, for an application that wants to know. Given
    /// out once; when it is not read, changes beyond the first 1024 are not kept.
    pub fn changes(&mut self) -> Option<Changes> {
        self.changes.take()
    }

    /// The queues that this member owns now, sorted.
    pub async fn assignment(&self) -> Vec<MessageQueue> {
        match self.client.call(Command::Assignment(self.id), None).await {
            Ok(Done::Assignment(queues)) => queues,
            _ => Vec::new(),
        }
    }

    /// Up to where each owned queue is processed. A broadcasting member that
    /// wants to go on there later keeps this and starts with it as
    /// [`ConsumerConfig::local_offsets`].
    pub async fn offsets(&self) -> BTreeMap<MessageQueue, i64> {
        match self.client.call(Command::Offsets(self.id), None).await {
            Ok(Done::Offsets(offsets)) => offsets,
            _ => BTreeMap::new(),
        }
    }

    /// Stores the offsets of what was acknowledged and leaves the group.
    /// Deliveries not settled by now go to other members.
    pub async fn close(mut self) {
        self.open = false;
        let _ = self.client.call(Command::CloseConsumer(self.id), None).await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if self.open {
            let _ = self.client.settlements.send(Settlement::Abandoned(self.id));
        }
    }
}

/// A message to be processed and then settled by [`ack`](Delivery::ack) or one
/// of the other verdicts; dropped without any, it comes again. A verdict on a
/// queue that has moved to another member is ignored.
pub struct Delivery {
    pub(super) message: Received,
    pub(super) id: DeliveryId,
    pub(super) redelivery_delay: Duration,
    /// Taken by the verdict.
    pub(super) settlements: Option<mpsc::UnboundedSender<Settlement>>,
}

impl Delivery {
    /// Processed: its group never needs it again.
    pub fn ack(mut self) {
        self.settle(Verdict::Ack);
    }

    /// Not processed: deliver it again after `delay`, to this or another
    /// member. In an orderly group nothing overtakes it meanwhile.
    pub fn nack(mut self, delay: Duration) {
        self.settle(Verdict::Nack(delay));
    }

    /// Not processed: deliver it again, later with each attempt, as the group is
    /// configured (10 s, 30 s, 1 min … 2 h by default), and after the last one
    /// give it to the dead letters.
    pub fn retry(mut self) {
        self.settle(Verdict::Retry);
    }

    /// It will never be processed: give it to the group's dead letters.
    pub fn dead_letter(mut self) {
        self.settle(Verdict::DeadLetter);
    }

    fn settle(&mut self, verdict: Verdict) {
        if let Some(settlements) = self.settlements.take() {
            // Without a loop there is nobody left to tell, nor any need to.
            let _ = settlements.send(Settlement::Settled { delivery: self.id, verdict });
        }
    }
}

impl Deref for Delivery {
    type Target = Received;

    fn deref(&self) -> &Received {
        &self.message
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.settle(Verdict::Nack(self.redelivery_delay));
    }
}
