//! How two replicas prove to each other that they belong to the same group.
//!
//! ```text
//! dialler  → listener   hello      magic, version, group, from, to, segment length, nonce
//! listener → dialler    challenge  nonce, HMAC(secret, "listener", hello, nonce)
//! dialler  → listener   proof      HMAC(secret, "dialler", hello, nonce)
//! ```
//!
//! HMAC-SHA-256. Both nonces are random, so that an answer that was overheard
//! proves nothing later. The secret itself never travels. What follows is not
//! encrypted: replicas talk over a network that their operator trusts not to
//! forge.

use bytes::{Buf, BytesMut};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{
    PeerError,
    codec::{Session, VERSION},
};
use crate::ids::NodeId;

const MAGIC: &[u8; 4] = b"SGP\n";
const NONCE: usize = 32;
const PROOF: usize = 32;
const HELLO: usize = 4 + 2 + 32 + 8 + 8 + 8 + NONCE;

/// What all replicas of a group must agree on.
#[derive(Clone)]
pub struct Membership {
    /// The group's name, and with it the cluster's.
    pub group: String,
    /// Shared by all replicas; at least 16 bytes of it should be random.
    pub secret: Vec<u8>,
    /// Length of the log's segments: positions depend on it.
    pub segment_bytes: u64,
}

/// A nonce from four numbers of the runtime's entropy.
pub fn nonce(mut entropy: impl FnMut() -> u64) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce.chunks_exact_mut(8).for_each(|room| room.copy_from_slice(&entropy().to_le_bytes()));
    nonce
}

/// The side that dials, and sends messages once the handshake is over.
pub struct Dialler {
    membership: Membership,
    hello: [u8; HELLO],
}

impl Dialler {
    /// Returns what to send first.
    pub fn new(
        membership: Membership,
        from: NodeId,
        to: NodeId,
        nonce: [u8; NONCE],
    ) -> (Dialler, Vec<u8>) {
        let mut hello = [0; HELLO];
        let group = group_digest(&membership);
        let fields: [&[u8]; 7] = [
            MAGIC,
            &VERSION.to_le_bytes(),
            &group,
            &from.0.to_le_bytes(),
            &to.0.to_le_bytes(),
            &membership.segment_bytes.to_le_bytes(),
            &nonce,
        ];
        hello.copy_from_slice(&fields.concat());
        (Dialler { membership, hello }, hello.to_vec())
    }

    /// Takes the listener's challenge, once it is there as a whole: returns the
    /// last bytes of the handshake and the session for what is sent after them.
    pub fn challenged(
        &self,
        buffer: &mut BytesMut,
    ) -> Result<Option<(Vec<u8>, Session)>, PeerError> {
        if buffer.len() < NONCE + PROOF {
            return Ok(None);
        }
        let challenge = buffer.split_to(NONCE + PROOF);
        let (nonce, proof) = challenge.split_at(NONCE);
        let secret = &self.membership.secret;
        verify(secret, b"listener", &self.hello, nonce, proof)?;
        let answer = prove(secret, b"dialler", &self.hello, nonce);
        Ok(Some((answer.to_vec(), session(secret, &self.hello, nonce))))
    }
}

/// The side that was dialled, and receives messages.
pub struct Listener {
    membership: Membership,
    id: NodeId,
    nonce: [u8; NONCE],
    hello: Option<[u8; HELLO]>,
}

/// What a listener wants next.
pub enum Heard {
    /// More bytes.
    Nothing,
    /// That these are sent.
    Hello(Vec<u8>),
    /// The peer is who it says; its messages are read with this session.
    Member(NodeId, Session),
}

impl Listener {
    pub fn new(membership: Membership, id: NodeId, nonce: [u8; NONCE]) -> Listener {
        Listener { membership, id, nonce, hello: None }
    }

    /// Takes what the dialler sent. After an error the connection is closed.
    pub fn hear(&mut self, buffer: &mut BytesMut) -> Result<Heard, PeerError> {
        let Some(hello) = &self.hello else { return self.hear_hello(buffer) };
        if buffer.len() < PROOF {
            return Ok(Heard::Nothing);
        }
        let proof = buffer.split_to(PROOF);
        let secret = &self.membership.secret;
        verify(secret, b"dialler", hello, &self.nonce, &proof)?;
        let from = NodeId(u64_at(hello, 38));
        Ok(Heard::Member(from, session(secret, hello, &self.nonce)))
    }

    fn hear_hello(&mut self, buffer: &mut BytesMut) -> Result<Heard, PeerError> {
        let known = buffer.len().min(MAGIC.len());
        if buffer[..known] != MAGIC[..known] {
            return Err(PeerError::Foreign);
        }
        let Some(hello) = buffer.first_chunk::<HELLO>().copied() else {
            return Ok(Heard::Nothing);
        };
        buffer.advance(HELLO);
        let version = u16::from_le_bytes([hello[4], hello[5]]);
        if version != VERSION {
            return Err(PeerError::Version(version));
        }
        if hello[6..38] != group_digest(&self.membership) {
            return Err(PeerError::Mismatch("group"));
        }
        if u64_at(&hello, 46) != self.id.0 {
            return Err(PeerError::Mismatch("idea of who this replica is"));
        }
        if u64_at(&hello, 54) != self.membership.segment_bytes {
            return Err(PeerError::Mismatch("segment length"));
        }
        self.hello = Some(hello);
        let proof = prove(&self.membership.secret, b"listener", &hello, &self.nonce);
        Ok(Heard::Hello([&self.nonce[..], &proof].concat()))
    }
}

fn keyed(secret: &[u8], role: &[u8], hello: &[u8], nonce: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    [role, hello, nonce].iter().for_each(|part| mac.update(part));
    mac
}

fn prove(secret: &[u8], role: &[u8], hello: &[u8], nonce: &[u8]) -> [u8; PROOF] {
    keyed(secret, role, hello, nonce).finalize().into_bytes().into()
}

fn verify(
    secret: &[u8],
    role: &[u8],
    hello: &[u8],
    nonce: &[u8],
    proof: &[u8],
) -> Result<(), PeerError> {
    // Compares in constant time.
    keyed(secret, role, hello, nonce).verify_slice(proof).map_err(|_| PeerError::NotAMember)
}

fn session(secret: &[u8], hello: &[u8], nonce: &[u8]) -> Session {
    let bytes = prove(secret, b"session", hello, nonce);
    Session::new(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The group's name, at a fixed length.
fn group_digest(membership: &Membership) -> [u8; 32] {
    prove(b"group", membership.group.as_bytes(), &[], &[])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A session as both ends of an established connection have it.
#[cfg(test)]
pub(crate) fn test_session() -> Session {
    Session::new(7)
}
