//! 17, and what name servers are told about topics.

use super::{
    Broker,
    command::{Command, TopicConfig},
    config::limit,
    send::check_topic_name,
    state::DEFAULT_TOPIC,
};
use crate::{
    error::Rejected,
    ids::ConnId,
    runtime::Disk,
    wire::{
        Frame,
        body::{self, OrderList, perm},
        code,
        header::CreateTopicHeader,
    },
};

/// Queues of the topic that unknown topics are created after, as in RocketMQ.
const DEFAULT_TOPIC_QUEUES: u32 = 8;

/// The longest queue list of an ordered topic, in bytes: some thousand brokers.
const MAX_ORDER_LIST: usize = 64 << 10;

fn order_list(header: &CreateTopicHeader<'_>) -> Result<Option<OrderList>, Rejected> {
    let (Some(queues), Some(version)) = (header.order_queues, header.order_version) else {
        return Ok(None);
    };
    let names_queues = |part: &str| {
        let (broker, count) = part.split_once(':')?;
        count.parse::<u32>().ok().filter(|_| !broker.is_empty())
    };
    if queues.len() > MAX_ORDER_LIST || queues.split(';').any(|part| names_queues(part).is_none()) {
        return Err(Rejected::bad_field("orderTopicConf", "is no list of broker:queues"));
    }
    Ok(Some(OrderList { version, queues: queues.to_owned() }))
}

impl<D: Disk> Broker<D> {
    /// Creates a topic or changes it. Answered once it is committed.
    pub(super) fn create_topic(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = CreateTopicHeader::parse(&frame.fields)?;
        check_topic_name(header.topic)?;
        for (field, queues) in
            [("readQueueNums", header.read_queues), ("writeQueueNums", header.write_queues)]
        {
            if queues > limit::QUEUES {
                let why = format!("is {queues}: at most {} queues", limit::QUEUES);
                return Err(Rejected::bad_field(field, why));
            }
        }
        if header.read_queues.max(header.write_queues) == 0 {
            return Err(Rejected::bad_field("writeQueueNums", "is 0 and so is readQueueNums"));
        }
        if self.state.counts().0 >= limit::TOPICS {
            return Err(Rejected::new(code::SYSTEM_ERROR, "there are too many topics"));
        }
        let config = TopicConfig {
            name: header.topic.into(),
            read_queues: header.read_queues,
            write_queues: header.write_queues,
            perm: header.perm,
            order: header.order.unwrap_or(false),
            order_list: order_list(&header)?,
        };
        self.propose_for(conn, frame.reply_to(), Command::Topic(config))
    }

    /// What this broker tells name servers.
    pub fn registration(&self) -> body::RegisterBody {
        let mut topics: Vec<body::TopicConfig> = self
            .state
            .topics()
            .map(|topic| body::TopicConfig {
                name: topic.config.name.to_string(),
                read_queues: topic.config.read_queues,
                write_queues: topic.config.write_queues,
                perm: topic.config.perm,
                order: topic.config.order,
                order_list: topic.config.order_list.clone(),
            })
            .collect();
        if self.config.auto_create_topics {
            topics.push(body::TopicConfig {
                name: DEFAULT_TOPIC.to_owned(),
                read_queues: DEFAULT_TOPIC_QUEUES,
                write_queues: DEFAULT_TOPIC_QUEUES,
                perm: perm::READ | perm::WRITE | perm::INHERIT,
                order: false,
                order_list: None,
            });
        }
        body::RegisterBody { topics }
    }
}
