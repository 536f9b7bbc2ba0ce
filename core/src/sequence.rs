//! Which of its producer's messages a message is: what an idempotent producer
//! says with a send, and the broker writes on the record as a property that
//! clients ignore, so that replaying the log knows it again.
//!
//! Messages of one producer, epoch and shard are stored in the order of their
//! numbers, each once: a repetition is answered with the receipt of the first
//! copy (D1), a message that comes before its predecessor is refused (R3).

use std::{borrow::Cow, fmt};

use crate::message::Properties;

/// The property's name. Only the broker writes it.
pub const PROPERTY: &str = "__PRODUCER_SEQUENCE";

/// The place of a message among those of its producer to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub producer: u64,
    /// Grows whenever the producer starts again at 0; lower ones are fenced from
    /// then on.
    pub epoch: u32,
    /// From 0, without gaps within a producer, epoch and shard.
    pub sequence: u64,
}

impl Stamp {
    /// Reads `producer epoch sequence`; none if a word is missing or unusable.
    pub fn parse(text: &str) -> Option<Stamp> {
        let mut words = text.split(' ');
        let [producer, epoch, sequence, none] = std::array::from_fn(|_| words.next());
        if none.is_some() {
            return None;
        }
        let (producer, epoch) = (producer?.parse().ok()?, epoch?.parse().ok()?);
        Some(Stamp { producer, epoch, sequence: sequence?.parse().ok()? })
    }

    /// The properties to store: with this stamp and no other. A message that an
    /// application read somewhere and sends on may carry a strange one.
    pub fn on(stamp: Option<Stamp>, properties: &[u8]) -> Cow<'_, [u8]> {
        let mut pairs = properties.split(|byte| *byte == 2);
        let has_one = pairs.any(|pair| pair.starts_with(PROPERTY.as_bytes()));
        if stamp.is_none() && !has_one {
            return Cow::Borrowed(properties);
        }
        let mut out = Vec::with_capacity(properties.len() + 64);
        for (key, value) in Properties(properties).iter().filter(|(key, _)| *key != PROPERTY) {
            Properties::put(&mut out, key, value);
        }
        if let Some(stamp) = stamp {
            Properties::put(&mut out, PROPERTY, &stamp.to_string());
        }
        Cow::Owned(out)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.producer, self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_was_written() {
        let stamp = Stamp { producer: u64::MAX, epoch: 3, sequence: 7 };
        assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
        for bad in ["", "1", "1 2", "1 2 3 4", "1 -1 2", "1 2 x"] {
            assert_eq!(Stamp::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_strange_stamp_does_not_stay() {
        let stamp = |sequence| Stamp { producer: 1, epoch: 2, sequence };
        // As old clients write them, without a final separator.
        let stamped = Stamp::on(Some(stamp(3)), b"TAGS\x01a");
        assert_eq!(Properties(&stamped).get("TAGS"), Some("a"));
        let again = Stamp::on(Some(stamp(4)), &stamped);
        assert_eq!(Properties(&again).get(PROPERTY), Some("1 2 4"));
        assert_eq!(Properties(&Stamp::on(None, &stamped)).get(PROPERTY), None);
        assert!(matches!(Stamp::on(None, b"TAGS\x01a"), Cow::Borrowed(_)));
    }
}
