//! Halves: messages that a broker keeps unseen until their producers have
//! decided, and the checks by which it asks for a decision.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Output, Received, SendError, SendReceipt, context::Context};
use crate::{
    error::Rejected,
    ids::{Name, Shard},
    message::{Properties, Record, offset_message_id, property},
    time::Time,
    wire::{
        Fields, Frame, code,
        header::{CheckReceipt, CheckTransactionHeader, EndTransactionHeader, Resolution},
    },
};

/// Checks that the application has not answered; further ones are refused, so
/// that their broker asks another producer.
pub const MAX_CHECKS: usize = 4096;
/// A check that is not answered by then may be handed out again.
const ANSWER_BY: Duration = Duration::from_secs(10);

/// A message that a broker keeps unseen until one of its producers decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// Where it will be visible.
    pub shard: Shard,
    pub broker_name: Name,
    /// Where it lies in the broker's log.
    pub position: i64,
    /// Its number among the broker's halves.
    pub half_offset: i64,
    /// The id that its producer gave (`UNIQ_KEY`), or else the broker's.
    pub message_id: String,
    /// The id that the broker gave: an operator names the half by it.
    pub offset_message_id: String,
    /// The producers that may decide.
    pub producer_group: Name,
    /// Known from a check.
    pub(super) from_check: bool,
    /// Where its broker was when we heard of it.
    pub(super) addr: SocketAddr,
}

impl Half {
    /// From the answer to its send.
    pub(super) fn sent(
        cx: &Context,
        addr: SocketAddr,
        receipt: SendReceipt,
    ) -> Result<Half, SendError> {
        // The position is the last eight bytes of the broker's id.
        let id = &receipt.offset_message_id;
        let digits = id.len().checked_sub(16).and_then(|at| id.get(at..));
        let position = digits.and_then(|digits| i64::from_str_radix(digits, 16).ok());
        let Some(position) = position else {
            let why = format!("the broker's id {id:.60?} tells no position");
            return Err(SendError::Unknown { why, tries: receipt.tries });
        };
        Ok(Half {
            addr,
            shard: receipt.shard,
            broker_name: receipt.broker_name,
            position,
            half_offset: receipt.queue_offset as i64,
            message_id: receipt.message_id,
            offset_message_id: receipt.offset_message_id,
            producer_group: cx.config.producer_group.as_str().into(),
            from_check: false,
        })
    }

    /// What 37 says of it.
    pub(super) fn fields(&self, resolution: Resolution) -> Fields {
        let header = EndTransactionHeader {
            producer_group: &self.producer_group,
            topic: Some(&self.shard.topic),
            half_offset: self.half_offset,
            position: self.position,
            resolution,
            from_check: Some(self.from_check),
            message_id: &self.message_id,
            transaction_id: Some(&self.message_id),
            broker_name: Some(&self.broker_name),
        };
        header.fields()
    }
}

/// A broker asks what became of a transaction. The answer is an
/// [`Ask::EndTransaction`](super::Ask::EndTransaction).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub half: Half,
    /// As it was sent, by this or another producer of the group.
    pub message: Received,
}

/// The checks that this client takes, once it does.
#[derive(Default)]
pub struct Checks {
    topics: Option<Vec<Name>>,
    /// Handed out: by whom, and when the answer is no longer waited for.
    unanswered: BTreeMap<(Name, i64), Time>,
}

impl Checks {
    /// From now on brokers of these topics are to ask this client.
    pub fn open(&mut self, cx: &mut Context, topics: Vec<Name>) {
        cx.keeps_links = true;
        self.topics = Some(topics);
        self.meet_brokers(cx);
    }

    pub fn is_open(&self) -> bool {
        self.topics.is_some()
    }

    pub fn concerns(&self, topic: &Name) -> bool {
        self.topics.iter().flatten().any(|mine| mine == topic)
    }

    /// A broker asks only producers that it knows: those that have a link to it.
    pub fn meet_brokers(&mut self, cx: &mut Context) {
        for topic in self.topics.iter().flatten() {
            let Some(route) = cx.route(topic, false) else { continue };
            for broker in route.masters() {
                cx.introduce(broker);
            }
        }
    }

    /// A broker asks. It hears at once whether the check arrived, if it wants
    /// to: others do not count (T5).
    pub fn on_check(&mut self, cx: &mut Context, addr: SocketAddr, frame: &Frame) {
        let header = CheckTransactionHeader::parse(&frame.fields);
        let receipt = match &header {
            Ok(check) if check.acknowledge == Some(true) => {
                let CheckTransactionHeader { half_offset, position, .. } = *check;
                Some(CheckReceipt { half_offset, position }.fields())
            }
            _ if frame.is_one_way() => None,
            _ => Some(Fields::default()),
        };
        let check = header.and_then(|header| self.take(cx, addr, &header, &frame.body));
        let (code, remark) = match &check {
            Ok(_) => (code::SUCCESS, ""),
            Err(refusal) => (refusal.code, &*refusal.remark),
        };
        if let Some(fields) = receipt {
            let packet = frame.reply_to().answer(code, remark, fields, Vec::new());
            cx.outputs.push_back(Output::Send { addr, packet });
        }
        if let Ok(check) = check {
            cx.outputs.push_back(Output::Check(Box::new(check)));
        }
    }

    /// A check to hand out; refused if one of its half is handed out already.
    fn take(
        &mut self,
        cx: &Context,
        addr: SocketAddr,
        header: &CheckTransactionHeader,
        body: &Bytes,
    ) -> Result<Check, Rejected> {
        if !self.is_open() {
            let why = "nobody here answers checks";
            return Err(Rejected::new(code::REQUEST_CODE_NOT_SUPPORTED, why));
        }
        let check = parse(cx, addr, header, body)?;
        let now = cx.now.mono;
        self.unanswered.retain(|_, until| *until > now);
        let half = (check.half.broker_name.clone(), check.half.position);
        if self.unanswered.contains_key(&half) {
            // Counted, it would be one of those that nobody was asked (T5).
            let why = "the application has not answered the last one";
            return Err(Rejected::new(code::SYSTEM_BUSY, why));
        }
        if self.unanswered.len() >= MAX_CHECKS {
            return Err(Rejected::new(code::SYSTEM_BUSY, "too many unanswered checks"));
        }
        self.unanswered.insert(half, now + ANSWER_BY);
        Ok(check)
    }

    pub fn on_answer(&mut self, half: &Half) {
        self.unanswered.remove(&(half.broker_name.clone(), half.position));
    }
}

fn parse(
    cx: &Context,
    addr: SocketAddr,
    header: &CheckTransactionHeader,
    body: &Bytes,
) -> Result<Check, Rejected> {
    let (record, _) = Record::parse(body)
        .map_err(|error| Rejected::new(code::SYSTEM_ERROR, error.to_string()))?;
    let ours = &*cx.config.producer_group;
    let group = Properties(&record.properties).get(property::PGROUP).unwrap_or(ours);
    if group != ours {
        let why = format!("this is a producer of {ours}, not of {group:.60}");
        return Err(Rejected::new(code::INVALID_PARAMETER, why));
    }
    let group = Name::from(group);
    let broker_name = header.broker_name.map_or_else(|| cx.routes.name_of(addr), Name::from);
    let message = Received::new(Arc::new(record), broker_name.clone(), 0);
    let half = Half {
        shard: message.shard.clone(),
        broker_name,
        position: header.position,
        half_offset: header.half_offset,
        message_id: message.message_id(),
        offset_message_id: match header.offset_message_id {
            Some(id) => id.to_owned(),
            None => offset_message_id(message.record.store_host, message.record.position),
        },
        producer_group: group,
        from_check: true,
        addr,
    };
    Ok(Check { half, message })
}
