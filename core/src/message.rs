//! A message as bytes: the layout that RocketMQ stores and that travels in pull
//! answers, so that a stored record is served as it lies (fact sheet, section 6).

mod peek;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

pub(crate) use peek::Edit;
pub use peek::{Peek, set_position};

use crate::ids::Position;

/// Record layout with a topic of at most 127 bytes, and with a longer one.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
pub const MAGIC_V2: u32 = 0xDAA3_20AB;

/// RocketMQ's limits, in bytes.
pub const MAX_BODY: usize = 4 << 20;
pub const MAX_PROPERTIES: usize = i16::MAX as usize;
pub const MAX_TOPIC: usize = 127;
pub const MAX_LONG_TOPIC: usize = 255;
pub const MAX_GROUP: usize = 120;

/// Bits of `sys_flag`.
pub mod sys_flag {
    pub const COMPRESSED: i32 = 0x1;
    /// Whether and how the body is compressed.
    pub const ENCODING: i32 = 0x701;
    pub const TRANSACTION_MASK: i32 = 0xC;
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    pub const BORN_HOST_V6: i32 = 0x10;
    pub const STORE_HOST_V6: i32 = 0x20;
}

/// The topic of what a group is to get again, and of what it gave up.
pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";

/// Names of message properties.
pub mod property {
    pub const KEYS: &str = "KEYS";
    pub const TAGS: &str = "TAGS";
    pub const WAIT: &str = "WAIT";
    pub const DELAY: &str = "DELAY";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    pub const PGROUP: &str = "PGROUP";
    pub const CHECK_IMMUNITY_TIME: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const TRANSACTION_ID: &str = "__transactionId__";
    pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
    pub const POP_CK: &str = "POP_CK";
    pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
}

/// Everything a record says; what a broker fills in before it appends, and what
/// a client gets when it parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<T = String, B = Bytes> {
    pub topic: T,
    pub queue: u32,
    pub queue_offset: u64,
    pub position: Position,
    /// The user's own 32 bits.
    pub flag: i32,
    pub sys_flag: i32,
    /// Milliseconds since the epoch on the producer's clock: never decide by it (T11).
    pub born_wall: i64,
    pub born_host: SocketAddr,
    /// Milliseconds since the epoch on the broker's clock.
    pub store_wall: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_position: i64,
    /// `key 0x01 value 0x02` repeated; see [`Properties`].
    pub properties: B,
    pub body: B,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord(pub &'static str);

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a message record: {}", self.0)
    }
}

impl std::error::Error for BadRecord {}

impl<T: AsRef<str>, B: AsRef<[u8]>> Record<T, B> {
    /// The number of bytes that [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        let topic = self.topic.as_ref().len();
        let topic_prefix = if topic > MAX_TOPIC { 2 } else { 1 };
        let hosts = host_len(&self.born_host) + host_len(&self.store_host);
        68 + hosts
            + 4
            + self.body.as_ref().len()
            + topic_prefix
            + topic
            + 2
            + self.properties.as_ref().len()
    }

    /// Appends the record. The body's checksum is computed here.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (topic, body) = (self.topic.as_ref().as_bytes(), self.body.as_ref());
        let properties = self.properties.as_ref();
        assert!(body.len() <= MAX_BODY && properties.len() <= MAX_PROPERTIES);
        assert!(topic.len() <= MAX_LONG_TOPIC);
        let start = out.len();
        let len = self.encoded_len();
        out.reserve(len);
        let mut sys_flag = self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
        if self.born_host.is_ipv6() {
            sys_flag |= sys_flag::BORN_HOST_V6;
        }
        if self.store_host.is_ipv6() {
            sys_flag |= sys_flag::STORE_HOST_V6;
        }
        let magic = if topic.len() > MAX_TOPIC { MAGIC_V2 } else { MAGIC_V1 };
        out.extend_from_slice(&(len as u32).to_be_bytes());
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&body_checksum(body).to_be_bytes());
        out.extend_from_slice(&self.queue.to_be_bytes());
        out.extend_from_slice(&self.flag.to_be_bytes());
        out.extend_from_slice(&self.queue_offset.to_be_bytes());
        out.extend_from_slice(&self.position.0.to_be_bytes());
        out.extend_from_slice(&sys_flag.to_be_bytes());
        out.extend_from_slice(&self.born_wall.to_be_bytes());
        put_host(out, &self.born_host);
        out.extend_from_slice(&self.store_wall.to_be_bytes());
        put_host(out, &self.store_host);
        out.extend_from_slice(&self.reconsume_times.to_be_bytes());
        out.extend_from_slice(&self.prepared_position.to_be_bytes());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        match magic {
            MAGIC_V1 => out.push(topic.len() as u8),
            _ => out.extend_from_slice(&(topic.len() as u16).to_be_bytes()),
        }
        out.extend_from_slice(topic);
        out.extend_from_slice(&(properties.len() as u16).to_be_bytes());
        out.extend_from_slice(properties);
        debug_assert_eq!(out.len() - start, len);
    }
}

impl Record {
    /// Reads the record at the front of `bytes` and returns it with its length.
    /// The body's checksum is verified.
    pub fn parse(bytes: &Bytes) -> Result<(Record, usize), BadRecord> {
        let mut at = Cursor { bytes, at: 0 };
        let len = at.u32()? as usize;
        if len > bytes.len() {
            return Err(BadRecord("longer than what is there"));
        }
        at.bytes = &bytes[..len];
        let magic = at.u32()?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(BadRecord("unknown magic"));
        }
        let checksum = at.u32()?;
        let queue = at.u32()?;
        let flag = at.u32()? as i32;
        let queue_offset = at.u64()?;
        let position = Position(at.u64()?);
        let sys_flag = at.u32()? as i32;
        let born_wall = at.u64()? as i64;
        let born_host = at.host(sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
        let store_wall = at.u64()? as i64;
        let store_host = at.host(sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
        let reconsume_times = at.u32()? as i32;
        let prepared_position = at.u64()? as i64;
        let body_len = at.u32()? as usize;
        let body = at.take(body_len)?;
        let topic_len =
            if magic == MAGIC_V1 { usize::from(at.take(1)?[0]) } else { usize::from(at.u16()?) };
        let topic = at.take(topic_len)?;
        let topic = std::str::from_utf8(topic).map_err(|_| BadRecord("the topic is not UTF-8"))?;
        let properties_len = usize::from(at.u16()?);
        let properties = at.take(properties_len)?;
        if at.at != len {
            return Err(BadRecord("its parts do not add up to its length"));
        }
        if body_checksum(body) != checksum {
            return Err(BadRecord("the body's checksum does not match"));
        }
        let record = Record {
            topic: topic.to_owned(),
            queue,
            queue_offset,
            position,
            flag,
            sys_flag,
            born_wall,
            born_host,
            store_wall,
            store_host,
            reconsume_times,
            prepared_position,
            properties: bytes.slice_ref(properties),
            body: bytes.slice_ref(body),
        };
        Ok((record, len))
    }

    /// All records of a pull answer's body.
    pub fn parse_all(bytes: &Bytes) -> Result<Vec<Record>, BadRecord> {
        let mut records = Vec::new();
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let (record, len) = Record::parse(&rest)?;
            records.push(record);
            rest = rest.slice(len..);
        }
        Ok(records)
    }
}

/// Message properties in their encoded form. Tolerates a missing final
/// separator, as old clients send it.
#[derive(Clone, Copy, Debug)]
pub struct Properties<'a>(pub &'a [u8]);

impl<'a> Properties<'a> {
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split(|b| *b == 2).filter_map(|pair| {
            let at = pair.iter().position(|b| *b == 1)?;
            Some((
                std::str::from_utf8(&pair[..at]).ok()?,
                std::str::from_utf8(&pair[at + 1..]).ok()?,
            ))
        })
    }

    pub fn get(self, key: &str) -> Option<&'a str> {
        self.iter().find_map(|(k, v)| (k == key).then_some(v))
    }

    /// Appends one property. Keys and values must not hold the separators.
    pub fn put(out: &mut Vec<u8>, key: &str, value: &str) {
        debug_assert!(!key.bytes().chain(value.bytes()).any(|b| b == 1 || b == 2));
        out.extend_from_slice(key.as_bytes());
        out.push(1);
        out.extend_from_slice(value.as_bytes());
        out.push(2);
    }
}

/// What a consume-queue entry carries of a tag: Java's `String.hashCode`,
/// widened with its sign. Different tags can collide; the client filters again.
pub fn tag_hash(tag: &str) -> i64 {
    let hash =
        tag.encode_utf16().fold(0i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    i64::from(hash)
}

/// CRC-32 (IEEE) in 31 bits, as RocketMQ writes it.
pub fn body_checksum(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// The offset message id: where a record lies, as text that clients parse back.
pub fn offset_message_id(host: SocketAddr, position: Position) -> String {
    let mut bytes = Vec::with_capacity(28);
    put_host(&mut bytes, &host);
    bytes.extend_from_slice(&position.0.to_be_bytes());
    hex(&bytes)
}

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn host_len(host: &SocketAddr) -> usize {
    if host.is_ipv4() { 8 } else { 20 }
}

fn put_host(out: &mut Vec<u8>, host: &SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&u32::from(host.port()).to_be_bytes());
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BadRecord> {
        let end = self.at.checked_add(n).ok_or(BadRecord("a length overflows"))?;
        let taken = self.bytes.get(self.at..end).ok_or(BadRecord("cut short"))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u16(&mut self) -> Result<u16, BadRecord> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadRecord> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadRecord> {
        self.array().map(u64::from_be_bytes)
    }

    fn host(&mut self, v6: bool) -> Result<SocketAddr, BadRecord> {
        let ip = if v6 {
            IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))
        } else {
            IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))
        };
        Ok(SocketAddr::new(ip, self.u32()? as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tag_hash_is_javas() {
        assert_eq!(tag_hash("TagA"), 2_598_919);
        assert_eq!(tag_hash(""), 0);
        assert!(tag_hash("polygenelubricants") == i64::from(i32::MIN));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(
            topic in "[a-z]{1,200}", body in prop::collection::vec(any::<u8>(), 0..300),
            v6: bool, queue: u32, queue_offset: u64, flag: i32,
        ) {
            let host: SocketAddr =
                if v6 { "[::1]:10911" } else { "10.0.0.1:10911" }.parse().unwrap();
            let mut properties = Vec::new();
            Properties::put(&mut properties, "TAGS", "blue");
            let record = Record {
                topic, queue, queue_offset, position: Position(77), flag,
                sys_flag: if v6 { sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6 } else { 0 },
                born_wall: 5, born_host: host, store_wall: 6, store_host: host,
                reconsume_times: 1, prepared_position: 0,
                properties: properties.into(), body: body.into(),
            };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), record.encoded_len());
            let peek = Peek(&bytes);
            prop_assert_eq!(peek.topic(), Some(record.topic.as_str()));
            prop_assert_eq!(peek.queue(), Some(queue));
            prop_assert_eq!(peek.queue_offset(), Some(queue_offset));
            prop_assert_eq!(peek.position(), Some(Position(77)));
            prop_assert_eq!(peek.store_wall(), Some(6));
            prop_assert_eq!(peek.properties().unwrap().get("TAGS"), Some("blue"));
            let bytes = Bytes::from(bytes);
            let (parsed, len) = Record::parse(&bytes).unwrap();
            prop_assert_eq!(len, bytes.len());
            prop_assert_eq!(parsed, record);
        }

        #[test]
        fn hostile_bytes_are_refused_or_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse_all(&Bytes::from(bytes));
        }
    }
}
