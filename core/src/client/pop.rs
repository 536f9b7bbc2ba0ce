//! POP: messages of shared queues, each under a lease that ends by an
//! acknowledgement or by itself.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Answer, ClientError, Received, context::Context};
use crate::{
    error::Rejected,
    ids::Name,
    message::{RETRY_PREFIX, Record},
    wire::{
        Fields, Frame,
        body::TagFilter,
        code,
        header::{
            AckHeader, ChangeInvisibleHeader, ChangeInvisibleReply, PopHeader, PopReply,
            ReceiptHandle,
        },
        request,
    },
};

/// A request for messages, of any queue of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pop {
    pub group: String,
    pub topic: String,
    /// `*`, or tags joined by `||`.
    pub expression: String,
    /// 1 to 32.
    pub max: u32,
    /// How long they are this consumer's alone; then they come again.
    pub invisible: Duration,
    /// How long the broker may wait for the first one.
    pub hold: Duration,
    /// Whether a group that was never here starts at the first message, or at
    /// the end.
    pub from_first: bool,
}

impl Pop {
    pub(super) fn fields(&self, wall: i64) -> Fields {
        let header = PopHeader {
            group: &self.group,
            topic: &self.topic,
            queue: -1,
            max_messages: i32::try_from(self.max).unwrap_or(i32::MAX),
            invisible_time: self.invisible.as_millis() as i64,
            poll_time: self.hold.as_millis() as i64,
            born_wall: wall,
            init_mode: if self.from_first { 0 } else { 1 },
            expression_type: Some("TAG"),
            expression: Some(&self.expression),
            order: Some(false),
            attempt_id: None,
        };
        header.fields()
    }
}

/// A message and the lease that it is under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Popped {
    pub message: Received,
    pub lease: Lease,
}

/// One consumer's time with one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub group: Name,
    /// Of the pop, also if the message comes from the group's retries.
    pub topic: Name,
    pub broker_name: Name,
    pub queue: u32,
    pub offset: i64,
    /// When it ends: milliseconds since the epoch on the broker's clock.
    pub until: i64,
    /// RocketMQ's receipt handle.
    pub handle: String,
}

impl Lease {
    pub(super) fn ack_fields(&self) -> Fields {
        let header = AckHeader {
            group: &self.group,
            topic: &self.topic,
            queue: self.queue as i32,
            handle: &self.handle,
            offset: self.offset,
        };
        header.fields()
    }

    pub(super) fn change_fields(&self, invisible: Duration) -> Fields {
        let header = ChangeInvisibleHeader {
            group: &self.group,
            topic: &self.topic,
            queue: self.queue as i32,
            handle: &self.handle,
            offset: self.offset,
            invisible_time: invisible.as_millis() as i64,
        };
        header.fields()
    }
}

/// The lease as it goes on after a change.
pub(super) fn changed(lease: &Lease, frame: &Frame) -> Result<Lease, Rejected> {
    let reply = ChangeInvisibleReply::parse(&frame.fields)?;
    let handle = ReceiptHandle::parse(&lease.handle)
        .ok_or_else(|| Rejected::bad_field("extraInfo", "is no receipt handle"))?;
    let handle = ReceiptHandle {
        pop_wall: reply.pop_wall,
        invisible_time: reply.invisible_time,
        revive_queue: reply.revive_queue,
        ..handle
    };
    let until = reply.pop_wall.saturating_add(reply.invisible_time);
    Ok(Lease { until, handle: handle.to_string(), ..lease.clone() })
}

/// The messages of an answer. What only looks like a wanted tag is done with.
pub(super) fn read_popped(
    cx: &mut Context,
    pop: &Pop,
    (broker, addr): (&Name, SocketAddr),
    frame: Frame,
) -> Result<Answer, ClientError> {
    match frame.code {
        code::SUCCESS => {}
        code::POLLING_TIMEOUT | code::POLLING_FULL | code::PULL_NOT_FOUND | code::NO_MESSAGE => {
            return Ok(Answer::Popped(Vec::new()));
        }
        _ => return Err(ClientError::Refused(Rejected::new(frame.code, frame.remark))),
    }
    let all = parse(pop, broker, &frame).map_err(ClientError::Refused)?;
    let filter = TagFilter::parse(&pop.expression, None).map_err(ClientError::Refused)?;
    let (wanted, others): (Vec<Popped>, Vec<Popped>) =
        all.into_iter().partition(|popped| filter.matches_tag(popped.message.tag()));
    for Popped { lease, .. } in others {
        cx.call_one_way(addr, request::ACK_MESSAGE, lease.ack_fields(), Bytes::new());
    }
    Ok(Answer::Popped(wanted))
}

fn parse(pop: &Pop, broker_name: &Name, frame: &Frame) -> Result<Vec<Popped>, Rejected> {
    let reply = PopReply::parse(&frame.fields)?;
    let mut starts = BTreeMap::new();
    for part in reply.start_offsets.unwrap_or_default().split(';') {
        let mut numbers = part.split(' ').map(|number| number.parse::<i64>().ok());
        if let [Some(retry), Some(queue), Some(start)] =
            std::array::from_fn(|_| numbers.next().flatten())
        {
            starts.insert((retry, queue), start);
        }
    }
    let records = Record::parse_all(&frame.body)
        .map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))?;
    let popped = records.into_iter().map(|record| {
        let (queue, offset) = (record.queue, record.queue_offset as i64);
        let retry = u8::from(record.topic.starts_with(RETRY_PREFIX));
        let start = starts.get(&(i64::from(retry), i64::from(queue))).copied();
        let handle = ReceiptHandle {
            start_offset: start.unwrap_or(offset),
            pop_wall: reply.pop_wall,
            invisible_time: reply.invisible_time,
            revive_queue: reply.revive_queue,
            retry,
            broker_name,
            queue,
            offset,
        };
        let lease = Lease {
            group: pop.group.as_str().into(),
            topic: pop.topic.as_str().into(),
            broker_name: broker_name.clone(),
            queue,
            offset,
            until: reply.pop_wall.saturating_add(reply.invisible_time),
            handle: handle.to_string(),
        };
        Popped { message: Received::new(Arc::new(record), broker_name.clone(), 0), lease }
    });
    Ok(popped.collect())
}
