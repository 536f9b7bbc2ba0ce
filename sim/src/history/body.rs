//! The bodies that workloads send: each says which message it is, so that a
//! consumer knows what it got without asking anybody, and each can tell
//! whether a single byte of it is wrong.

use std::fmt;

use super::MessageId;

const MAGIC: [u8; 4] = *b"SGm1";
/// Checksum, magic, message, sequence, length of the key.
const HEAD: usize = 4 + 4 + 8 + 8 + 2;

/// What a workload writes into a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    pub message: MessageId,
    /// The producer's own count, per key or per producer as the workload likes.
    pub seq: u64,
    pub key: &'a str,
}

/// Bytes that no workload wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// Not one of ours at all, or cut short.
    Foreign,
    /// One of ours, with wrong bytes in it.
    Damaged { claims: u32, holds: u32 },
}

impl fmt::Display for BadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadBody::Foreign => f.write_str("no workload wrote this body"),
            BadBody::Damaged { claims, holds } => {
                write!(f, "the body's checksum is {holds:08x}, it was written with {claims:08x}")
            }
        }
    }
}

impl std::error::Error for BadBody {}

impl<'a> Body<'a> {
    /// `size` is the length of the whole body in bytes; what the head and the
    /// key leave is filled with bytes drawn from the message's id.
    pub fn encode(&self, size: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(size.max(HEAD + self.key.len()));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&u64::from(self.message.number()).to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        let key_len = u16::try_from(self.key.len()).expect("keys are shorter than 64 KiB");
        out.extend_from_slice(&key_len.to_be_bytes());
        out.extend_from_slice(self.key.as_bytes());
        let mut filler = stormglass_core::rng::Rng::new(u64::from(self.message.number()));
        while out.len() < size {
            let left = size - out.len();
            out.extend_from_slice(&filler.next().to_le_bytes()[..left.min(8)]);
        }
        // The checksum comes first: a CRC over data followed by its own CRC is
        // the same for all bodies, and `body_hash` would be blind.
        let checksum = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Body<'a>, BadBody> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(BadBody::Foreign)?;
        if head[4..8] != MAGIC {
            return Err(BadBody::Foreign);
        }
        let claims = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let holds = crc32fast::hash(&bytes[4..]);
        if claims != holds {
            return Err(BadBody::Damaged { claims, holds });
        }
        let number =
            |at: usize| head[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let message = usize::try_from(number(8)).ok().and_then(|n| n.checked_sub(1));
        let message = message.filter(|n| *n < u32::MAX as usize).ok_or(BadBody::Foreign)?;
        let key_len = usize::from(u16::from_be_bytes([head[24], head[25]]));
        let key = rest.get(..key_len).and_then(|key| std::str::from_utf8(key).ok());
        Ok(Body {
            message: MessageId::at(message),
            seq: number(16),
            key: key.ok_or(BadBody::Foreign)?,
        })
    }
}

/// What histories keep of a body: enough to notice any other body.
pub fn body_hash(body: &[u8]) -> u32 {
    crc32fast::hash(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_who_it_is_and_notices_every_flipped_bit() {
        let body = Body { message: MessageId::at(16), seq: 3, key: "order-7" };
        let bytes = body.encode(64);
        assert_eq!(bytes.len(), 64);
        assert_eq!(Body::decode(&bytes), Ok(body));
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Body::decode(&rotten).is_err(), "bit {bit}");
            assert_ne!(body_hash(&rotten), body_hash(&bytes));
        }
        assert_eq!(Body::decode(&bytes[..20]), Err(BadBody::Foreign));
    }

    #[test]
    fn bodies_of_different_messages_have_different_hashes() {
        let hash = |n| body_hash(&Body { message: MessageId::at(n), seq: 0, key: "" }.encode(40));
        assert_ne!(hash(0), hash(1));
    }
}
