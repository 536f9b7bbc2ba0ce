//! What an idempotent producer writes on each message, as a property that plain
//! clients ignore: who it is, and which of its messages to that shard this is.
//!
//! The broker stores messages of one producer, epoch and shard in the order of
//! their numbers, each once: a repetition is answered with the receipt of the
//! first copy (D1), a message that came too early is refused (R3).

use std::fmt;

/// The property's name.
pub const PROPERTY: &str = "__PRODUCER_SEQUENCE";
/// The longest producer id, in bytes.
pub const MAX_PRODUCER: usize = 120;

/// The place of a message among those of its producer to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Without spaces.
    pub producer: &'a str,
    /// Grows with each life of the producer, and whenever it starts again at 0;
    /// lower ones are fenced from then on.
    pub epoch: u64,
    /// From 0, without gaps within a producer, epoch and shard.
    pub sequence: u64,
}

impl<'a> Stamp<'a> {
    /// Reads `producer epoch sequence`; none if a word is missing or unusable.
    pub fn parse(text: &'a str) -> Option<Stamp<'a>> {
        let mut words = text.split(' ');
        let [producer, epoch, sequence] = std::array::from_fn(|_| words.next());
        let producer = producer.filter(|id| !id.is_empty() && id.len() <= MAX_PRODUCER)?;
        if words.next().is_some() {
            return None;
        }
        Some(Stamp { producer, epoch: epoch?.parse().ok()?, sequence: sequence?.parse().ok()? })
    }
}

impl fmt::Display for Stamp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.producer, self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_was_written() {
        let stamp = Stamp { producer: "10.0.0.1@7", epoch: 3, sequence: u64::MAX };
        assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
        for bad in ["", "p", "p 1", " 1 2", "p 1 2 3", "p -1 2", "p 1 x"] {
            assert_eq!(Stamp::parse(bad), None, "{bad:?}");
        }
    }
}
