//! Where the load goes: the topic's queues and the brokers that hold them.

use std::io;

use crate::cli::admin::{Admin, Queue};

use super::Common;

/// The topic's queues; the topic is created if it does not exist.
pub async fn find(common: &Common) -> io::Result<Vec<Queue>> {
    let mut admin = Admin::connect(&common.server).await?;
    if admin.route(&common.topic).await?.is_none() {
        admin.create_topic(&common.topic, common.queues, false).await?;
    }
    let queues = admin.queues(&common.topic).await?;
    if queues.is_empty() {
        return Err(io::Error::other(format!("{} has no queues that can be used", common.topic)));
    }
    Ok(queues)
}
