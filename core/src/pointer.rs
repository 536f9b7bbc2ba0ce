//! Messages that become visible later, or again: half messages, delayed and
//! retried ones, dead letters. The body is written once; what makes it appear
//! in a queue is a pointer to its record that says what differs (T12, L24).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::Corrupt,
    ids::{Name, Position},
    message::{
        BadRecord, Edit, MAGIC_V1, MAGIC_V2, MAX_LONG_TOPIC, MAX_PROPERTIES, MAX_TOPIC, Peek,
        Properties, property, sys_flag, tag_hash,
    },
};

/// Leads every encoded pointer behind its length, where a record has its own.
const MAGIC: u32 = 0x5350_4F31;
const LEAD: usize = 8;

/// Why a record in the log is not visible yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Its transaction is undecided.
    Half {
        /// The half-queue offset that END_TRANSACTION has to echo.
        number: u64,
        /// Whose members may decide.
        producer_group: Name,
        /// CHECK_IMMUNITY_TIME_IN_SECONDS in milliseconds, if it was given.
        immunity: Option<u64>,
    },
    /// It is due at this time, in milliseconds on the broker's wall clock.
    Until { due_wall: i64 },
}

/// A held record as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where the record lies, and its length.
    pub at: Position,
    pub size: u32,
    /// Milliseconds on the broker's clock: ages count from here (T11).
    pub store_wall: i64,
    pub hold: Hold,
}

/// What is over once a pointer is applied: visible and settled in one entry, so
/// that no crash can come between (T2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settles {
    #[default]
    Nothing,
    /// The half message whose record lies here is committed.
    Half(Position),
    /// The timer of this time for the record, or the deferral, at this place.
    Timer { due_wall: i64, at: Position },
    /// The lease of this number on the message at this offset.
    Lease { number: u64, offset: u64 },
    /// The delivery to the group of the message at this offset: it was sent
    /// back.
    Delivery { group: Name, topic: Name, queue: u32, offset: u64 },
    /// The group's dead letter at this offset: it was replayed.
    DeadLetter { group: Name, offset: u64 },
}

/// How a stored record shall appear: where, and what differs from its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appearance {
    /// The record, never another pointer, and its length.
    pub origin: Position,
    pub size: u32,
    pub topic: Name,
    pub queue: u32,
    /// The tag's hash, for the queue's entry.
    pub tag: i64,
    pub patch: Patch,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// A half message no more, but a committed one.
    pub committed: bool,
    pub reconsume_times: Option<i32>,
    /// Set to a value, or removed. Later ones win.
    pub properties: Vec<(String, Option<String>)>,
}

/// An appearance that has its place in a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    pub shows: Appearance,
    pub queue_offset: u64,
    /// Milliseconds on the broker's clock when it became visible.
    pub store_wall: i64,
    pub settles: Settles,
}

impl Held {
    /// The held record of an entry of that kind, which starts at `at`.
    pub fn of_parts(at: Position, parts: &[(Position, Bytes)]) -> Result<Held, Corrupt> {
        let [(position, record), (_, hold)] = parts else {
            return Err(corrupt(at, format!("a held record has 2 parts, not {}", parts.len())));
        };
        let store_wall = Peek(record).store_wall();
        Ok(Held {
            at: *position,
            size: record.len() as u32,
            store_wall: store_wall
                .ok_or_else(|| corrupt(*position, "a record cut short".into()))?,
            hold: Hold::decode(hold, *position)?,
        })
    }
}

impl Hold {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let bytes = postcard::to_allocvec(self).expect("holds have no unencodable parts");
        out.extend_from_slice(&bytes);
    }

    /// The queue offset that the answer to its send says: nobody knows the real
    /// one yet.
    pub fn answered_offset(&self) -> u64 {
        match self {
            Hold::Half { number, .. } => *number,
            Hold::Until { .. } => 0,
        }
    }

    /// `at` is where it lies, for the error.
    pub fn decode(bytes: &[u8], at: Position) -> Result<Hold, Corrupt> {
        postcard::from_bytes(bytes).map_err(|error| corrupt(at, format!("not a hold: {error}")))
    }
}

impl Patch {
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.put(key, Some(value.into()));
    }

    pub fn remove(&mut self, key: &str) {
        self.put(key, None);
    }

    fn put(&mut self, key: &str, value: Option<String>) {
        self.properties.retain(|(known, _)| known != key);
        self.properties.push((key.to_owned(), value));
    }

    /// What a property is under this patch, given what the record says.
    pub fn property<'a>(&'a self, record: Properties<'a>, key: &str) -> Option<&'a str> {
        match self.properties.iter().rev().find(|(known, _)| known == key) {
            Some((_, value)) => value.as_deref(),
            None => record.get(key),
        }
    }

    /// The record's properties with this patch applied, in their encoded form.
    pub fn properties(&self, record: Properties<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(record.0.len() + 64);
        let is_patched = |key: &str| self.properties.iter().any(|(known, _)| known == key);
        for (key, value) in record.iter().filter(|(key, _)| !is_patched(key)) {
            Properties::put(&mut out, key, value);
        }
        for (key, value) in &self.properties {
            if let Some(value) = value {
                Properties::put(&mut out, key, value);
            }
        }
        out
    }
}

impl Appearance {
    /// The record as it is, in the queue that it names.
    pub fn of_record(origin: Position, record: &[u8]) -> Result<Appearance, BadRecord> {
        let peek = Peek(record);
        let (Some(topic), Some(queue), Some(properties)) =
            (peek.topic(), peek.queue(), peek.properties())
        else {
            return Err(BadRecord("it is cut short"));
        };
        Ok(Appearance {
            origin,
            size: record.len() as u32,
            topic: topic.into(),
            queue,
            tag: properties.get(property::TAGS).map_or(0, tag_hash),
            patch: Patch::default(),
        })
    }
}

impl Pointer {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let body = postcard::to_allocvec(self).expect("pointers have no unencodable parts");
        out.extend_from_slice(&((LEAD + body.len()) as u32).to_be_bytes());
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&body);
    }

    /// Whether the bytes of a part are a pointer rather than a record or a
    /// command.
    pub fn is_one(bytes: &[u8]) -> bool {
        starts_with(bytes, MAGIC)
    }

    /// `at` is where it lies, for the error.
    pub fn decode(bytes: &[u8], at: Position) -> Result<Pointer, Corrupt> {
        if !Pointer::is_one(bytes) {
            return Err(corrupt(at, "no pointer here".into()));
        }
        postcard::from_bytes(&bytes[LEAD..])
            .map_err(|error| corrupt(at, format!("not a pointer: {error}")))
    }

    /// The record as a consumer gets it: head, body, tail, the body a slice of
    /// `record`. `at` is where the pointer lies: the place that a send-back
    /// names, so that it is known which appearance it means.
    pub fn present(&self, at: Position, record: &Bytes) -> Result<[Bytes; 3], BadRecord> {
        const CUT: BadRecord = BadRecord("it is cut short");
        let peek = Peek(record);
        let body = peek.body_range().ok_or(CUT)?;
        let properties = self.shows.patch.properties(peek.properties().ok_or(CUT)?);
        if properties.len() > MAX_PROPERTIES || self.shows.topic.len() > MAX_LONG_TOPIC {
            return Err(BadRecord("its properties or its topic grew beyond what a record holds"));
        }
        let topic = self.shows.topic.as_bytes();
        let mut tail = Vec::with_capacity(4 + topic.len() + properties.len());
        let magic = if topic.len() > MAX_TOPIC {
            tail.extend_from_slice(&(topic.len() as u16).to_be_bytes());
            MAGIC_V2
        } else {
            tail.push(topic.len() as u8);
            MAGIC_V1
        };
        tail.extend_from_slice(topic);
        tail.extend_from_slice(&(properties.len() as u16).to_be_bytes());
        tail.extend_from_slice(&properties);

        let mut head = record[..body.start].to_vec();
        let mut edit = Edit::new(&mut head).ok_or(CUT)?;
        edit.length((body.end + tail.len()) as u32, magic);
        edit.place(self.shows.queue, self.queue_offset, at);
        edit.store_wall(self.store_wall);
        if self.shows.patch.committed {
            edit.transaction(sys_flag::TRANSACTION_COMMIT, self.shows.origin);
        }
        if let Some(times) = self.shows.patch.reconsume_times {
            edit.reconsume_times(times);
        }
        Ok([head.into(), record.slice(body), tail.into()])
    }
}

/// Whether a part is a message record.
pub fn is_record(bytes: &[u8]) -> bool {
    starts_with(bytes, MAGIC_V1) || starts_with(bytes, MAGIC_V2)
}

fn starts_with(bytes: &[u8], magic: u32) -> bool {
    let lead: Option<&[u8; LEAD]> = bytes.first_chunk();
    lead.is_some_and(|lead| {
        lead[..4] == (bytes.len() as u32).to_be_bytes() && lead[4..] == magic.to_be_bytes()
    })
}

fn corrupt(at: Position, what: String) -> Corrupt {
    Corrupt { file: "log".into(), position: Some(at), what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Record;

    proptest! {
        /// What a consumer parses from a pointer's slices is the record with
        /// exactly the differences that the pointer names.
        #[test]
        fn a_presented_record_differs_as_told(
            topic in "[a-z]{1,255}",
            shown in "[A-Z%]{1,255}",
            body in prop::collection::vec(any::<u8>(), 0..100),
            times in prop::option::of(0..100i32),
            committed: bool,
            v6: bool,
            keep in "[a-z]{0,9}",
        ) {
            let host = if v6 { "[::1]:7" } else { "1.2.3.4:5" }.parse().unwrap();
            let mut properties = Vec::new();
            Properties::put(&mut properties, "keep", &keep);
            Properties::put(&mut properties, "DELAY", "3");
            let record = Record {
                topic: topic.as_str(), queue: 1, queue_offset: 2, position: Position(3), flag: 4,
                sys_flag: sys_flag::TRANSACTION_PREPARED, born_wall: 5, born_host: host,
                store_wall: 6, store_host: "9.9.9.9:9".parse().unwrap(), reconsume_times: 7,
                prepared_position: 0, properties: &properties[..], body: &body[..],
            };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let bytes = Bytes::from(bytes);
            let mut shows = Appearance::of_record(Position(3), &bytes).unwrap();
            prop_assert_eq!((&*shows.topic, shows.queue), (topic.as_str(), 1));
            shows.topic = shown.as_str().into();
            shows.queue = 8;
            shows.patch = Patch { committed, reconsume_times: times, properties: Vec::new() };
            shows.patch.remove("DELAY");
            shows.patch.set("new", "value");
            let settles = Settles::Half(Position(3));
            let pointer = Pointer { shows, queue_offset: 9, store_wall: 10, settles };
            let mut encoded = Vec::new();
            pointer.encode(&mut encoded);
            prop_assert!(Pointer::is_one(&encoded) && !is_record(&encoded) && is_record(&bytes));
            let decoded = Pointer::decode(&encoded, Position(0)).unwrap();
            let slices = decoded.present(Position(11), &bytes).unwrap();
            let got = Bytes::from(slices.concat());
            let (parsed, len) = Record::parse(&got).unwrap();
            prop_assert_eq!(len, got.len());
            let expected = Record {
                topic: shown, queue: 8, queue_offset: 9, position: Position(11), store_wall: 10,
                sys_flag: parsed.sys_flag, reconsume_times: times.unwrap_or(7),
                prepared_position: if committed { 3 } else { 0 },
                properties: parsed.properties.clone(), body: body.clone().into(),
                flag: 4, born_wall: 5, born_host: host, store_host: record.store_host,
            };
            prop_assert_eq!(&parsed, &expected);
            let state = if committed { sys_flag::TRANSACTION_COMMIT } else { record.sys_flag };
            prop_assert_eq!(parsed.sys_flag & sys_flag::TRANSACTION_MASK, state);
            let got = Properties(&parsed.properties);
            prop_assert_eq!(got.get("keep"), Some(keep.as_str()));
            prop_assert_eq!((got.get("DELAY"), got.get("new")), (None, Some("value")));
        }
    }
}
