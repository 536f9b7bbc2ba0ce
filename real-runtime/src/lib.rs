//! Stormglass: a durable message broker with RocketMQ's wire protocol, on real
//! sockets and disks, and the client for it.
//!
//! The client is the one that the simulation testbed drives. It speaks RocketMQ
//! remoting, so it works with RocketMQ's own brokers as well. It runs on a
//! thread of its own; its handles are cheap to clone and may be used from any
//! thread and any executor.
//!
//! ```no_run
//! use std::time::Duration;
//! use stormglass::{Client, ConsumerConfig, Message, SendError, StartAt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().name_server("127.0.0.1:9876").group("shop").build().await?;
//!
//! let paid = Message::new("orders", "paid: 17").tag("paid").sharding_key("customer-4");
//! match client.send(paid).await {
//!     Ok(receipt) => println!("{} at {}", receipt.shard, receipt.queue_offset),
//!     // Not stored, and never will be.
//!     Err(SendError::Refused(why)) => eprintln!("{why}"),
//!     // Stored or not: sending again may store it twice.
//!     Err(error) => eprintln!("{error}; worth a repetition: {}", error.is_retryable()),
//! }
//!
//! let config = ConsumerConfig::new("billing").topic("orders", "paid || cancelled");
//! let mut consumer = client.subscribe(config.start_at(StartAt::First)).await?;
//! while let Some(message) = consumer.next().await {
//!     match std::str::from_utf8(message.body()) {
//!         Ok(text) => {
//!             println!("{text}");
//!             message.ack();
//!         }
//!         // Again in 10 s. `retry()` leaves it to the group's back-off, and
//!         // `dead_letter()` gives it up.
//!         Err(_) => message.nack(Duration::from_secs(10)),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Messages can be delayed, and taken back before they are due:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use stormglass::{Client, Message};
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let reminder = Message::new("reminders", "17 is not paid").deliver_after(Duration::from_secs(86_400));
//! let receipt = client.send(reminder).await?;
//! if let Some(handle) = receipt.recall_handle {
//!     client.recall(&handle).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Any number of workers can share a queue, message by message, each under a
//! lease:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use stormglass::Client;
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let worker = client.pop_consumer("thumbnails", "uploads", "*");
//! loop {
//!     let lease = Duration::from_secs(60);
//!     for popped in worker.receive(8, lease, Duration::from_secs(15)).await? {
//!         println!("attempt {} at {:?}", popped.message.attempts, popped.message.body());
//!         // Without this it comes again, to some worker, after a minute.
//!         worker.ack(&popped.lease).await?;
//!     }
//! }
//! # }
//! ```
//!
//! A transaction makes a message visible only if something else has happened:
//!
//! ```no_run
//! use stormglass::{Check, Client, Half, Message, Resolution, TransactionListener};
//!
//! /// The shop's own database.
//! struct Orders;
//!
//! # impl Orders {
//! #     async fn pay(&self, _order: &str) -> bool { true }
//! #     async fn is_paid(&self, _order: &str) -> Option<bool> { None }
//! # }
//! impl TransactionListener for Orders {
//!     async fn execute(&self, message: &Message, _half: &Half) -> Resolution {
//!         match self.pay(&message.keys[0]).await {
//!             true => Resolution::Commit,
//!             false => Resolution::Rollback,
//!         }
//!     }
//!
//!     /// Asked when nobody said what became of it: the process died, say.
//!     async fn check(&self, check: &Check) -> Resolution {
//!         let Some(order) = check.message.keys().next() else { return Resolution::Rollback };
//!         match self.is_paid(order).await {
//!             Some(true) => Resolution::Commit,
//!             Some(false) => Resolution::Rollback,
//!             // Its payment is under way: ask again.
//!             None => Resolution::Unknown,
//!         }
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().group("shop").build().await?;
//! let producer = client.transaction_producer(["orders"], Orders).await?;
//! let outcome = producer.send(Message::new("orders", "paid: 17").key("17")).await?;
//! println!("{:?}, and the broker knows: {}", outcome.resolution, outcome.told.is_ok());
//! # Ok(())
//! # }
//! ```

mod client;
pub mod disk;
pub mod on_tokio;
mod transactions;

pub use client::{BuildError, Client, ClientBuilder};
pub use stormglass_core::{
    client::{
        Answer, Ask, ClientError, ConsumeMode, ConsumerConfig, Delay, Half, Lease, Message,
        MessageQueue, Popped, Pulled, QueueAsk, Received, SendError, SendOptions, SendReceipt,
        SendStatus, StartAt,
    },
    error::Rejected,
    ids::Shard,
    message::Record,
    shell::client::{Check, Checks, Consumer, Delivery, PopConsumer, PullConsumer, Transactions},
    wire::{body::MessageModel, header::Resolution},
};
pub use transactions::{TransactionListener, TransactionOutcome, TransactionProducer};
