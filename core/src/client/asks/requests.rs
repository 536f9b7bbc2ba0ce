//! What each ask requests, and what its answer says.

use std::net::SocketAddr;

use crate::{
    client::{Answer, Ask, ClientError, MessageQueue, Pulled, QueueAsk},
    error::Rejected,
    message::{Properties, Record, property},
    wire::{
        Fields, Frame,
        body::{ClusterInfo, ConsumerIds, TagFilter, TopicRoute},
        code,
        header::{
            OffsetReply, PullHeader, PullReply, QueryOffsetHeader, QueueHeader, SearchOffsetHeader,
            UpdateOffsetHeader, pull_flag,
        },
        request,
    },
};

pub fn queue_request(queue: &MessageQueue, what: &QueueAsk) -> (i32, Fields) {
    let (topic, queue) = (&*queue.topic, queue.queue);
    match what {
        QueueAsk::MinOffset => (request::GET_MIN_OFFSET, QueueHeader { topic, queue }.fields()),
        QueueAsk::MaxOffset => (request::GET_MAX_OFFSET, QueueHeader { topic, queue }.fields()),
        QueueAsk::OffsetAt(timestamp) => {
            let header = SearchOffsetHeader { topic, queue, timestamp: *timestamp };
            (request::SEARCH_OFFSET_BY_TIMESTAMP, header.fields())
        }
        QueueAsk::Committed { group } => {
            let header =
                QueryOffsetHeader { group, topic, queue, set_zero_if_not_found: Some(false) };
            (request::QUERY_CONSUMER_OFFSET, header.fields())
        }
        QueueAsk::Commit { group, offset } => {
            let header = UpdateOffsetHeader {
                group,
                topic,
                queue,
                commit_offset: *offset,
                lock_epoch: None,
                reset_epoch: None,
            };
            (request::UPDATE_CONSUMER_OFFSET, header.fields())
        }
        QueueAsk::Pull { group, offset, max, expression, hold } => {
            let header = PullHeader {
                group,
                topic,
                queue,
                queue_offset: *offset,
                max_messages: i32::try_from(*max).unwrap_or(i32::MAX),
                sys_flag: pull_flag::SUSPEND | pull_flag::SUBSCRIPTION,
                commit_offset: -1,
                suspend_timeout: hold.as_millis() as i64,
                subscription: Some(expression),
                sub_version: 0,
                expression_type: Some("TAG"),
                max_bytes: None,
                lock_epoch: None,
                reset_epoch: None,
            };
            (request::PULL_MESSAGE, header.fields())
        }
    }
}

pub fn read_answer(ask: &Ask, frame: Frame) -> Result<Answer, ClientError> {
    let unusable = ClientError::Refused;
    match ask {
        Ask::Queue { what: QueueAsk::Committed { .. }, .. }
            if frame.code == code::QUERY_NOT_FOUND =>
        {
            Ok(Answer::Committed(None))
        }
        Ask::Queue { what: QueueAsk::Pull { expression, .. }, .. }
            if matches!(
                frame.code,
                code::PULL_NOT_FOUND | code::PULL_RETRY_IMMEDIATELY | code::PULL_OFFSET_MOVED
            ) || frame.code == code::SUCCESS =>
        {
            read_pulled(&frame, expression).map(Answer::Pulled).map_err(unusable)
        }
        _ if frame.code != code::SUCCESS => Err(refusal(frame)),
        Ask::Route { .. } => TopicRoute::parse(&frame.body).map(Answer::Route).map_err(unusable),
        Ask::Cluster => ClusterInfo::parse(&frame.body).map(Answer::Cluster).map_err(unusable),
        Ask::GroupMembers { .. } => ConsumerIds::parse(&frame.body)
            .map(|members| Answer::Members(members.ids))
            .map_err(unusable),
        Ask::Queue { what, .. } => {
            let offset = OffsetReply::parse(&frame.fields).map_err(unusable)?.offset;
            match what {
                QueueAsk::Committed { .. } => Ok(Answer::Committed(Some(offset))),
                _ => Ok(Answer::Offset(offset)),
            }
        }
        Ask::Queues { .. }
        | Ask::CreateTopic { .. }
        | Ask::EndTransaction { .. }
        | Ask::Recall { .. } => Ok(Answer::Done),
    }
}

fn read_pulled(frame: &Frame, expression: &str) -> Result<Pulled, Rejected> {
    let reply = PullReply::parse(&frame.fields)?;
    let filter = TagFilter::parse(expression, None)?;
    let mut records = if frame.code == code::SUCCESS {
        Record::parse_all(&frame.body)
            .map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))?
    } else {
        Vec::new()
    };
    records.retain(|record| filter.matches_tag(Properties(&record.properties).get(property::TAGS)));
    Ok(Pulled {
        records,
        next_offset: reply.next_offset,
        min_offset: reply.min_offset,
        max_offset: reply.max_offset,
        offset_moved: frame.code == code::PULL_OFFSET_MOVED,
    })
}

pub fn refusal(frame: Frame) -> ClientError {
    ClientError::Refused(Rejected::new(frame.code, frame.remark))
}

/// The masters of a cluster.
pub fn brokers_of(body: &[u8], cluster: &str) -> Result<Vec<SocketAddr>, Rejected> {
    let info = ClusterInfo::parse(body)?;
    let missing = |what: String| Rejected::new(code::SYSTEM_ERROR, what);
    let names = info
        .clusters
        .get(cluster)
        .ok_or_else(|| missing(format!("there is no cluster {cluster:.60?}")))?;
    let masters: Vec<SocketAddr> = names
        .iter()
        .filter_map(|name| info.brokers.get(name)?.addrs.get(&0)?.parse().ok())
        .collect();
    match masters.is_empty() {
        true => Err(missing(format!("no broker of cluster {cluster:.60?} is there"))),
        false => Ok(masters),
    }
}
