//! A message on its way to the wire: checked, given an id, encoded.

use bytes::Bytes;

use super::{Delay, Message};
use crate::{
    error::Rejected,
    message::{self, Properties, hex, property, sys_flag},
    rng::Rng,
    wire::{
        body::{BatchRecord, put_batch_record},
        code,
    },
};

/// The payload of one send request.
#[derive(Debug)]
pub struct Outgoing {
    pub topic: String,
    pub body: Bytes,
    pub properties: String,
    pub flag: i32,
    pub is_batch: bool,
    /// Messages in it.
    pub count: u64,
    pub is_delayed: bool,
    pub sys_flag: i32,
    pub sharding_key: Option<String>,
    /// Of the first message.
    pub message_id: String,
}

impl Outgoing {
    /// One message, or several as a batch. Refuses what no broker would take.
    pub fn new(
        mut messages: Vec<Message>,
        ids: &mut MessageIds,
        wall: i64,
    ) -> Result<Outgoing, Rejected> {
        for message in &messages {
            check(message)?;
        }
        match messages.len() {
            0 => Err(illegal("a batch needs at least one message")),
            1 => {
                let message = messages.remove(0);
                let id = ids.next(wall);
                Ok(Outgoing {
                    properties: encode_properties(&message, &id)?,
                    topic: message.topic,
                    body: message.body,
                    flag: message.flag,
                    is_batch: false,
                    count: 1,
                    is_delayed: message.delay.is_some(),
                    sys_flag: 0,
                    sharding_key: message.sharding_key,
                    message_id: id,
                })
            }
            _ => Outgoing::batch(messages, ids, wall),
        }
    }

    /// A message that waits unseen for the word of its producers.
    pub fn half(
        message: Message,
        producer_group: &str,
        ids: &mut MessageIds,
        wall: i64,
    ) -> Result<Outgoing, Rejected> {
        let message =
            message.property(property::TRAN_MSG, "true").property(property::PGROUP, producer_group);
        let half = Outgoing::new(vec![message], ids, wall)?;
        Ok(Outgoing { sys_flag: sys_flag::TRANSACTION_PREPARED, ..half })
    }

    fn batch(
        messages: Vec<Message>,
        ids: &mut MessageIds,
        wall: i64,
    ) -> Result<Outgoing, Rejected> {
        let (topic, sharding_key) = (messages[0].topic.clone(), messages[0].sharding_key.clone());
        let mut body = Vec::new();
        let mut first_id = None;
        for message in &messages {
            if message.topic != topic || message.sharding_key != sharding_key {
                return Err(illegal("a batch goes to one topic, under one sharding key"));
            }
            if message.delay.is_some() {
                return Err(illegal("a batch cannot hold delayed messages"));
            }
            let id = ids.next(wall);
            let properties = encode_properties(message, &id)?;
            let properties = properties.as_bytes();
            put_batch_record(
                &mut body,
                BatchRecord { flag: message.flag, body: &message.body, properties },
            );
            first_id.get_or_insert(id);
        }
        if body.len() > message::MAX_BODY {
            return Err(illegal("a batch is longer than the longest message"));
        }
        Ok(Outgoing {
            topic,
            body: body.into(),
            properties: String::new(),
            flag: 0,
            is_batch: true,
            count: messages.len() as u64,
            is_delayed: false,
            sys_flag: 0,
            sharding_key,
            message_id: first_id.unwrap_or_default(),
        })
    }
}

fn illegal(why: impl Into<String>) -> Rejected {
    Rejected::new(code::MESSAGE_ILLEGAL, why)
}

fn check(message: &Message) -> Result<(), Rejected> {
    let topic = &message.topic;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'-' | b'_');
    if topic.is_empty() || topic.len() > message::MAX_TOPIC || !topic.bytes().all(allowed) {
        return Err(illegal("a topic has 1 to 127 of the characters a-z A-Z 0-9 % | - _"));
    }
    if message.body.len() > message::MAX_BODY {
        return Err(illegal(format!("the body is longer than {} bytes", message::MAX_BODY)));
    }
    Ok(())
}

fn encode_properties(message: &Message, id: &str) -> Result<String, Rejected> {
    let keys = message.keys.join(" ");
    let delay = message.delay.map(|delay| match delay {
        Delay::Level(level) => (property::DELAY, level.to_string()),
        Delay::After(delay) => (property::TIMER_DELAY_MS, delay.as_millis().to_string()),
        Delay::At(wall) => (property::TIMER_DELIVER_MS, wall.to_string()),
    });
    let mut known = vec![(property::UNIQ_KEY, id), (property::WAIT, "true")];
    known.extend(message.tag.as_deref().map(|tag| (property::TAGS, tag)));
    known.extend((!keys.is_empty()).then_some((property::KEYS, keys.as_str())));
    known.extend(message.sharding_key.as_deref().map(|key| (property::SHARDING_KEY, key)));
    known.extend(delay.as_ref().map(|(key, value)| (*key, value.as_str())));
    let own = message.properties.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let mut out = Vec::new();
    for (key, value) in known.into_iter().chain(own) {
        if key.is_empty() || key.bytes().chain(value.bytes()).any(|b| b == 1 || b == 2) {
            return Err(illegal(format!("the property {key:.60?} holds a separator or no name")));
        }
        Properties::put(&mut out, key, value);
    }
    if out.len() > message::MAX_PROPERTIES {
        return Err(illegal(format!("properties are longer than {}", message::MAX_PROPERTIES)));
    }
    Ok(String::from_utf8(out).expect("made of strings"))
}

/// Makes message ids in RocketMQ's layout: 10 bytes that tell clients apart,
/// 4 bytes of time, a counter of 2.
pub struct MessageIds {
    client: [u8; 10],
    last: u64,
}

impl MessageIds {
    pub fn new(rng: &mut Rng) -> MessageIds {
        let mut client = [0; 10];
        client[..8].copy_from_slice(&rng.next().to_be_bytes());
        client[8..].copy_from_slice(&rng.next().to_be_bytes()[..2]);
        MessageIds { client, last: 0 }
    }

    fn next(&mut self, wall: i64) -> String {
        // Never twice, even if the clock steps back or one millisecond sees
        // more messages than the counter counts.
        self.last = (self.last + 1).max((wall as u64) << 16);
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(&self.client);
        bytes[10..].copy_from_slice(&self.last.to_be_bytes()[2..]);
        hex(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_whatever_the_clock_does() {
        let mut ids = MessageIds::new(&mut Rng::new(1));
        let walls = [1_795_000_000_000, 1_795_000_000_000, 1_794_000_000_000, 0];
        let made: BTreeSet<String> = (0..100_000).map(|n| ids.next(walls[n % 4])).collect();
        assert_eq!(made.len(), 100_000);
        assert!(made.iter().all(|id| id.len() == 32));
    }

    #[test]
    fn what_no_broker_would_take_is_refused_here() {
        let mut ids = MessageIds::new(&mut Rng::new(1));
        for bad in [
            vec![],
            vec![Message::new("no spaces", "x")],
            vec![Message::new("", "x")],
            vec![Message::new("t", "x").property("a\u{1}b", "c")],
            vec![Message::new("t", "x").property("k", "v".repeat(40_000))],
            vec![Message::new("t", "x"), Message::new("u", "x")],
            vec![Message::new("t", vec![0; message::MAX_BODY + 1])],
        ] {
            assert_eq!(Outgoing::new(bad, &mut ids, 0).unwrap_err().code, code::MESSAGE_ILLEGAL);
        }
    }
}
