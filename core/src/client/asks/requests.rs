//! Whom each ask is for, what it requests, and what its answer says.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;

use crate::{
    client::{
        Answer, Ask, ClientError, Half, MessageQueue, Pulled, QueueAsk, context::Context, pop,
    },
    error::Rejected,
    ids::Name,
    message::{Properties, Record, property},
    wire::{
        Fields, Frame,
        body::{
            ClusterInfo, ClusterStatus, ConsumerIds, HalfList, OrderList, TagFilter, TopicRoute,
            perm,
        },
        code,
        header::{
            CreateTopicHeader, GroupHeader, ListHalvesHeader, OffsetReply, PullHeader, PullReply,
            QueryOffsetHeader, QueueHeader, RecallHeader, ResetOffsetHeader, ResumeCheckHeader,
            SearchOffsetHeader, TopicHeader, TransferLeaderHeader, UpdateOffsetHeader, pull_flag,
        },
        request,
    },
};

/// Parked halves that one answer lists.
const HALVES_AT_ONCE: u32 = 1000;

/// Who answers an ask. Topics are where to find brokers.
pub enum Whom<'a> {
    NameServer,
    /// Each broker of the cluster, one after the other.
    EveryoneIn(&'a str),
    EveryoneOf(&'a str),
    AnyOf(&'a str),
    /// The broker of this name.
    Master(&'a str, &'a str),
    /// The broker that has the half, or where it was.
    MasterNear(&'a Half),
    /// The route itself is the answer.
    NobodyOf(&'a str),
}

pub fn whom(ask: &Ask) -> Whom<'_> {
    match ask {
        Ask::Route { .. } | Ask::Cluster => Whom::NameServer,
        Ask::CreateTopic { cluster, .. } | Ask::ConfigureGroup { cluster, .. } => {
            Whom::EveryoneIn(cluster)
        }
        Ask::ResetOffset { topic, .. } => Whom::EveryoneOf(topic),
        Ask::Queues { topic } => Whom::NobodyOf(topic),
        Ask::GroupMembers { topic, .. } => Whom::AnyOf(topic),
        Ask::Pop(pop) => Whom::AnyOf(&pop.topic),
        Ask::Queue { queue, .. } => Whom::Master(&queue.topic, &queue.broker),
        Ask::Ack { lease } | Ask::ChangeInvisible { lease, .. } => {
            Whom::Master(&lease.topic, &lease.broker_name)
        }
        Ask::ParkedHalves { topic, broker }
        | Ask::ResumeChecks { topic, broker, .. }
        | Ask::TransferLeader { topic, broker }
        | Ask::SetStatus { topic, broker }
        | Ask::ChangeMembers { topic, broker, .. } => Whom::Master(topic, broker),
        Ask::Recall { handle } => Whom::Master(&handle.topic, &handle.broker),
        Ask::EndTransaction { half, .. } => Whom::MasterNear(half),
    }
}

pub fn request_of(cx: &Context, ask: &Ask, order: Option<&OrderList>) -> (i32, Fields, Bytes) {
    let (code, fields) = match ask {
        Ask::Route { topic } | Ask::Queues { topic } => {
            (request::GET_ROUTEINFO_BY_TOPIC, TopicHeader { topic }.fields())
        }
        Ask::Cluster => (request::GET_BROKER_CLUSTER_INFO, Fields::default()),
        Ask::CreateTopic { topic, queues, .. } => {
            (request::UPDATE_AND_CREATE_TOPIC, create_topic(topic, *queues, order))
        }
        Ask::ConfigureGroup { group, .. } => {
            let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
            return (code, Fields::default(), group.to_bytes());
        }
        Ask::ResetOffset { group, topic, wall } => {
            let header = ResetOffsetHeader {
                topic,
                group,
                timestamp: *wall,
                force: true,
                queue: None,
                offset: None,
            };
            (request::INVOKE_BROKER_TO_RESET_OFFSET, header.fields())
        }
        Ask::ParkedHalves { .. } => {
            let header = ListHalvesHeader {
                producer_group: None,
                parked: Some(true),
                after: None,
                limit: HALVES_AT_ONCE,
            };
            (request::LIST_HALVES, header.fields())
        }
        Ask::ResumeChecks { topic, message_id, .. } => {
            let header = ResumeCheckHeader { topic: Some(topic), message_id };
            (request::RESUME_CHECK_HALF_MESSAGE, header.fields())
        }
        Ask::TransferLeader { .. } => {
            (request::TRANSFER_LEADER, TransferLeaderHeader { to: None }.fields())
        }
        Ask::SetStatus { .. } => (request::CLUSTER_STATUS, Fields::default()),
        Ask::ChangeMembers { change, .. } => {
            return (request::CHANGE_MEMBERS, Fields::default(), change.to_bytes());
        }
        Ask::GroupMembers { group, .. } => {
            (request::GET_CONSUMER_LIST_BY_GROUP, GroupHeader { group }.fields())
        }
        Ask::Queue { queue, what } => queue_request(queue, what),
        Ask::Pop(pop) => (request::POP_MESSAGE, pop.fields(cx.now.wall)),
        Ask::Ack { lease } => (request::ACK_MESSAGE, lease.ack_fields()),
        Ask::ChangeInvisible { lease, invisible } => {
            (request::CHANGE_MESSAGE_INVISIBLE_TIME, lease.change_fields(*invisible))
        }
        Ask::Recall { handle } => {
            let header = RecallHeader {
                producer_group: Some(&cx.config.producer_group),
                topic: &handle.topic,
                recall_handle: &handle.encode(),
            };
            (request::RECALL_MESSAGE, header.fields())
        }
        Ask::EndTransaction { half, resolution } => {
            (request::END_TRANSACTION, half.fields(*resolution))
        }
    };
    (code, fields, Bytes::new())
}

fn create_topic(topic: &str, queues: u32, order: Option<&OrderList>) -> Fields {
    let header = CreateTopicHeader {
        topic,
        read_queues: queues,
        write_queues: queues,
        perm: perm::READ | perm::WRITE,
        topic_sys_flag: Some(0),
        order: Some(order.is_some()),
        order_queues: order.map(|list| list.queues.as_str()),
        order_version: order.map(|list| list.version),
    };
    // RocketMQ's brokers insist on two fields that ours do not need.
    let mut fields = Fields::builder();
    header.fields().iter().for_each(|(key, value)| {
        fields.put(key, value);
    });
    fields.put("defaultTopic", "TBW102").put("topicFilterType", "SINGLE_TAG").finish()
}

fn queue_request(queue: &MessageQueue, what: &QueueAsk) -> (i32, Fields) {
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
        Ask::SetStatus { .. } => {
            ClusterStatus::parse(&frame.body).map(Answer::Set).map_err(unusable)
        }
        Ask::GroupMembers { .. } => ConsumerIds::parse(&frame.body)
            .map(|members| Answer::Members(members.ids))
            .map_err(unusable),
        Ask::ParkedHalves { .. } => {
            HalfList::parse(&frame.body).map(|list| Answer::Halves(list.halves)).map_err(unusable)
        }
        Ask::Queue { what: QueueAsk::Commit { .. }, .. } => Ok(Answer::Done),
        Ask::Queue { what, .. } => {
            let offset = OffsetReply::parse(&frame.fields).map_err(unusable)?.offset;
            match what {
                QueueAsk::Committed { .. } => Ok(Answer::Committed(Some(offset))),
                _ => Ok(Answer::Offset(offset)),
            }
        }
        Ask::Queues { .. }
        | Ask::CreateTopic { .. }
        | Ask::ConfigureGroup { .. }
        | Ask::ResetOffset { .. }
        | Ask::ResumeChecks { .. }
        | Ask::TransferLeader { .. }
        | Ask::ChangeMembers { .. }
        | Ask::EndTransaction { .. }
        | Ask::Recall { .. }
        | Ask::Ack { .. }
        | Ask::Pop(_) => Ok(Answer::Done),
        Ask::ChangeInvisible { lease, .. } => {
            pop::changed(lease, &frame).map(Answer::Lease).map_err(unusable)
        }
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

/// The leaders of a cluster's brokers; none where nobody leads now.
pub fn brokers_of(
    body: &[u8],
    cluster: &str,
) -> Result<BTreeMap<Name, Option<SocketAddr>>, Rejected> {
    let info = ClusterInfo::parse(body)?;
    let missing = |what: String| Rejected::new(code::SYSTEM_ERROR, what);
    let names = info
        .clusters
        .get(cluster)
        .ok_or_else(|| missing(format!("there is no cluster {cluster:.60?}")))?;
    let leader = |name: &String| info.brokers.get(name)?.addrs.get(&0)?.parse().ok();
    let leaders = names.iter().map(|name| (name.as_str().into(), leader(name)));
    let leaders: BTreeMap<Name, Option<SocketAddr>> = leaders.collect();
    match leaders.is_empty() {
        true => Err(missing(format!("no broker of cluster {cluster:.60?} is there"))),
        false => Ok(leaders),
    }
}
