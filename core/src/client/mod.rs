//! The client as a value: commands, frames and the time go in; packets,
//! outcomes and deliveries come out.

mod api;
mod asks;
mod config;
mod consumer;
mod context;
mod leaders;
mod machine;
mod message;
mod outgoing;
mod pop;
mod producer;
mod progress;
mod rebalance;
mod routes;
mod selection;
mod series;
#[cfg(test)]
mod tests;
mod transactions;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

pub use api::{
    Answer, Ask, Change, ClientError, MessageQueue, OffsetSource, Pulled, QueueAsk, Received,
    SendError, SendOptions, SendReceipt, SendStatus,
};
pub use config::{ClientConfig, ConsumeMode, ConsumerConfig, StartAt};
pub use consumer::{SendBack, Unlocked};
pub use machine::ClientCore;
pub use message::{Delay, Message};
pub use pop::{Lease, Pop, Popped};
pub use transactions::{Check, Half, MAX_CHECKS};

use crate::wire::{Frame, frame::Packet};

/// Chosen by the owner, each greater than the ones before; names the command in
/// its outcome.
pub type Ticket = u64;

/// A consumer within its client; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsumerId(pub u64);

/// A delivery within its client; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryId {
    pub consumer: ConsumerId,
    pub number: u64,
}

/// What the owner wants. Each command but `Close` gets exactly one
/// [`Output::Complete`].
#[derive(Clone, Debug)]
pub enum Command {
    /// One message, or several as a batch: of one topic, and stored together
    /// in one shard. Answered with [`Done::Sent`].
    Send { messages: Vec<Message>, options: SendOptions },
    /// No answer is asked for; [`Done::HandedOver`].
    SendOneWay { message: Message, options: SendOptions },
    /// A message that its broker keeps unseen until a producer of this
    /// client's group decides ([`Ask::EndTransaction`]). [`Done::HalfSent`]
    SendHalf { message: Message, options: SendOptions },
    /// From now on brokers of these topics may ask what became of a transaction
    /// of this client's producer group: [`Output::Check`]. [`Done::Answered`]
    OpenTransactions { topics: Vec<String> },
    /// [`Done::Subscribed`]
    Subscribe(Box<ConsumerConfig>),
    /// The queues that this member owns now, sorted: [`Done::Assignment`].
    Assignment(ConsumerId),
    /// Up to where each owned queue is processed: [`Done::Offsets`].
    Offsets(ConsumerId),
    /// Stores the offsets of what is processed and leaves the group:
    /// [`Done::Closed`].
    CloseConsumer(ConsumerId),
    /// [`Done::Answered`]
    Ask(Ask),
    /// Closes all consumers and leaves; [`Done::Closed`]. Sends that have no
    /// outcome yet end at once.
    Close,
}

/// What happened to the client.
#[derive(Clone, Debug)]
pub enum Input {
    Command {
        ticket: Ticket,
        command: Command,
    },
    /// The application has it in hand now: the consume timeout begins.
    Taken {
        delivery: DeliveryId,
    },
    Settle {
        delivery: DeliveryId,
        verdict: Verdict,
    },
    Frame {
        addr: SocketAddr,
        frame: Frame,
    },
    LinkUp {
        addr: SocketAddr,
    },
    LinkDown {
        addr: SocketAddr,
        why: String,
    },
    /// The deadline passed, or nothing special.
    Tick,
}

/// What the application says of a delivery. In broadcasting, what a concurrent
/// member did not process is dropped (L16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ack,
    /// Not processed: deliver it again after this long. In an orderly group
    /// nothing overtakes it.
    Nack(Duration),
    /// Not processed: deliver it again when the group's back-off says so; in an
    /// orderly group after the configured redelivery delay.
    Retry,
    /// It never will be processed: to the group's dead letters.
    DeadLetter,
}

/// What the client wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Over the link to this address, which is dialled if it is not up.
    Send {
        addr: SocketAddr,
        packet: Packet,
    },
    /// Drop the link and everything queued on it; no `LinkDown` follows.
    Close {
        addr: SocketAddr,
    },
    Complete {
        ticket: Ticket,
        done: Done,
    },
    Deliver {
        delivery: DeliveryId,
        message: Received,
    },
    /// To be answered by [`Ask::EndTransaction`], now or later, or not at all:
    /// then the broker will ask again.
    Check(Box<Check>),
    /// What the consumer owns, or where it reads, has changed.
    Changed {
        consumer: ConsumerId,
        change: Change,
    },
    /// The consumer has left its group; no delivery follows.
    Left {
        consumer: ConsumerId,
    },
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    Sent(Result<SendReceipt, SendError>),
    HandedOver(Result<(), SendError>),
    HalfSent(Result<Half, SendError>),
    Subscribed(Result<ConsumerId, ClientError>),
    Assignment(Vec<MessageQueue>),
    Offsets(BTreeMap<MessageQueue, i64>),
    Answered(Result<Answer, ClientError>),
    Closed,
}
