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
    queues(&mut admin, &common.topic).await
}

/// The same of a cluster that has just begun: its name server does not know yet
/// which topics there are (N2).
pub async fn create(common: &Common) -> io::Result<Vec<Queue>> {
    let mut admin = Admin::connect(&common.server).await?;
    admin.create_topic(&common.topic, common.queues, false).await?;
    queues(&mut admin, &common.topic).await
}

async fn queues(admin: &mut Admin, topic: &str) -> io::Result<Vec<Queue>> {
    let queues = admin.queues(topic).await?;
    if queues.is_empty() {
        return Err(io::Error::other(format!("{topic} has no queues that can be used")));
    }
    Ok(queues)
}
