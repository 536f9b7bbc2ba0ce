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
//!         Err(_) => message.nack(Duration::from_secs(10)),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod client;
pub mod disk;
pub mod on_tokio;

pub use client::{BuildError, Client, ClientBuilder};
pub use stormglass_core::{
    client::{
        Answer, Ask, ClientError, ConsumeMode, ConsumerConfig, Message, MessageQueue, Pulled,
        QueueAsk, Received, SendError, SendOptions, SendReceipt, SendStatus, StartAt,
    },
    error::Rejected,
    ids::Shard,
    message::Record,
    shell::client::{Consumer, Delivery, PullConsumer},
    wire::body::MessageModel,
};
