//! Digests that are the same in every process.

use std::hash::Hasher;

/// Fowler, Noll, Vo, over the values as they are.
pub struct Fnv(u64);

impl Fnv {
    /// Goes on from an earlier digest.
    pub fn after(digest: u64) -> Fnv {
        Fnv(digest)
    }
}

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
