//! How a send ended, in the words of what was asked for.

use std::net::SocketAddr;

use super::{Kind, Send};
use crate::{
    client::{Done, Half, MessageQueue, SendError, SendReceipt, SendStatus, context::Context},
    error::Rejected,
    ids::Shard,
    wire::{Fields, header::SendReply},
};

pub(super) fn outcome(
    cx: &Context,
    kind: Kind,
    addr: Option<SocketAddr>,
    result: Result<SendReceipt, SendError>,
) -> Done {
    match (kind, addr, result) {
        (Kind::Message, _, result) => Done::Sent(result),
        (Kind::OneWay, _, result) => Done::HandedOver(result.map(drop)),
        (Kind::Half, Some(addr), Ok(receipt)) => Done::HalfSent(Half::sent(cx, addr, receipt)),
        (Kind::Half, _, result) => Done::HalfSent(Err(result.expect_err("sent to no address"))),
    }
}

pub(super) fn receipt(
    send: &Send,
    queue: &MessageQueue,
    status: SendStatus,
    fields: &Fields,
) -> Result<SendReceipt, Rejected> {
    let reply = SendReply::parse(fields)?;
    let queue_offset = u64::try_from(reply.queue_offset)
        .map_err(|_| Rejected::bad_field("queueOffset", "is negative"))?;
    Ok(SendReceipt {
        shard: Shard { topic: send.topic.clone(), queue: reply.queue },
        broker_name: queue.broker.clone(),
        queue_offset,
        message_id: send.outgoing.message_id.clone(),
        offset_message_id: reply.message_id.to_owned(),
        status,
        recall_handle: reply.recall_handle.map(str::to_owned),
        tries: send.tries,
    })
}
