//! Messages as bytes.
//!
//! ```text
//! frame    len u32 | crc u32 | body      len counts the body; its high bit asks for a sign of life
//! body     tag u8 | from u64 | to u64 | term u64 | fields of the tag
//! entry    term u64 | index u64 | start u64 | kind u8 | parts u24 | (len u32 | bytes)…
//! ```
//!
//! All numbers are little-endian. The checksum starts from the session's number
//! and the frame's, so that a frame that is lost, repeated or from elsewhere is
//! as wrong as a damaged one.

use bytes::{Buf, Bytes, BytesMut};

use super::{Body, Echo, Mark, Message, Offer, PeerError, Piece, Replicated};
use crate::{
    ids::{LogIndex, NodeId, Position, Term},
    log::{Base, Kind},
    time::Time,
};

pub const VERSION: u16 = 3;

/// The longest body. An entry that does not fit cannot be replicated.
pub const MAX_BODY: usize = 16 << 20;
/// Entries that one message carries, at most.
pub const MAX_ENTRIES: usize = 4096;
const FRAME_HEAD: usize = 8;
const ENTRY_HEAD: usize = 28;
const NEEDS_SYNC: u8 = 0x80;
const ASKS: u32 = 1 << 31;

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub message: Message,
    /// The sender wants to see that it is read.
    pub asks: bool,
}

/// One direction of an established connection: numbers and checks its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    key: u32,
    frames: u64,
}

impl Session {
    pub(super) fn new(key: u32) -> Session {
        Session { key, frames: 0 }
    }

    fn checksum(&self, word: u32, parts: &[&[u8]]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.key);
        hasher.update(&self.frames.to_le_bytes());
        hasher.update(&word.to_le_bytes());
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    }

    /// Appends the frame's bytes to `out`; the parts of entries are handed over
    /// without a copy. With `asks` the other side is to show that it reads.
    pub fn encode(&mut self, message: &Message, asks: bool, out: &mut Vec<Bytes>) {
        let mut pieces = Pieces::default();
        encode_body(message, &mut pieces);
        let body = pieces.finish();
        let len: usize = body.iter().map(Bytes::len).sum();
        let slices: Vec<&[u8]> = body.iter().map(|piece| &piece[..]).collect();
        let word = len as u32 | if asks { ASKS } else { 0 };
        let crc = self.checksum(word, &slices);
        self.frames += 1;
        let head = [word.to_le_bytes(), crc.to_le_bytes()].concat();
        out.push(head.into());
        out.extend(body);
    }

    /// Takes the next message off `buffer`, if it is there as a whole.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Arrived>, PeerError> {
        let Some(head) = buffer.first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let (len, asks) = ((word & !ASKS) as usize, word & ASKS != 0);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > MAX_BODY {
            return Err(PeerError::TooLarge { bytes: len, limit: MAX_BODY });
        }
        if buffer.len() < FRAME_HEAD + len {
            return Ok(None);
        }
        buffer.advance(FRAME_HEAD);
        let body = buffer.split_to(len).freeze();
        if self.checksum(word, &[&body]) != crc {
            return Err(PeerError::Damaged);
        }
        self.frames += 1;
        let mut reader = Reader(body);
        let message = decode_body(&mut reader)?;
        match reader.0.is_empty() {
            true => Ok(Some(Arrived { message, asks })),
            false => Err(PeerError::Malformed("length")),
        }
    }
}

/// The bytes that an entry takes in a frame.
pub fn encoded_len(entry: &Replicated) -> usize {
    ENTRY_HEAD + entry.parts.iter().map(|part| 4 + part.len()).sum::<usize>()
}

/// Small fields gathered in one buffer, between parts that are not copied.
#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    /// Shorter parts are cheaper to copy than to hand over.
    const COPIED: usize = 512;

    fn u8(&mut self, value: u8) {
        self.open.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.open.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.open.extend_from_slice(&value.to_le_bytes());
    }

    fn mark(&mut self, mark: Mark) {
        self.u64(mark.term.0);
        self.u64(mark.index.0);
    }

    fn echo(&mut self, echo: Echo) {
        self.u64(echo.sent.0);
        self.u64(echo.life);
        self.u8(u8::from(echo.is_trusted) | u8::from(echo.wants_snapshot) << 1);
    }

    fn base(&mut self, base: Base) {
        self.u64(base.position.0);
        self.u64(base.index.0);
        self.u64(base.term.0);
    }

    fn entries(&mut self, entries: &[Replicated]) {
        self.u32(entries.len() as u32);
        entries.iter().for_each(|entry| encode_entry(entry, self));
    }

    fn part(&mut self, part: &Bytes) {
        self.u32(part.len() as u32);
        if part.len() < Self::COPIED {
            return self.open.extend_from_slice(part);
        }
        self.done.push(std::mem::take(&mut self.open).into());
        self.done.push(part.clone());
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.into());
        }
        self.done
    }
}

mod tag {
    pub const APPEND: u8 = 1;
    pub const APPENDED: u8 = 2;
    pub const REJECTED: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const ALIVE: u8 = 5;
    pub const CANVASS: u8 = 6;
    pub const VOTED: u8 = 7;
    pub const TAKE_OVER: u8 = 8;
    pub const OFFER: u8 = 9;
    pub const FETCH: u8 = 10;
    pub const LOG_PIECE: u8 = 11;
    pub const STATE_PIECE: u8 = 12;
    pub const TRUST: u8 = 13;
}

fn encode_body(message: &Message, out: &mut Pieces) {
    let tag = match message.body {
        Body::Append { .. } => tag::APPEND,
        Body::Appended { .. } => tag::APPENDED,
        Body::Rejected { .. } => tag::REJECTED,
        Body::Heartbeat { .. } => tag::HEARTBEAT,
        Body::Alive { .. } => tag::ALIVE,
        Body::Canvass { .. } => tag::CANVASS,
        Body::Voted { .. } => tag::VOTED,
        Body::TakeOver => tag::TAKE_OVER,
        Body::Offer { .. } => tag::OFFER,
        Body::Fetch { .. } => tag::FETCH,
        Body::LogPiece { .. } => tag::LOG_PIECE,
        Body::StatePiece { .. } => tag::STATE_PIECE,
        Body::Trust { .. } => tag::TRUST,
    };
    out.u8(tag);
    out.u64(message.from.0);
    out.u64(message.to.0);
    out.u64(message.term.0);
    match &message.body {
        Body::Append { previous, commit, sent, entries } => {
            out.mark(*previous);
            out.u64(commit.0);
            out.u64(sent.0);
            out.entries(entries);
        }
        Body::Appended { index, commit, echo } => {
            out.u64(index.0);
            out.u64(commit.0);
            out.echo(*echo);
        }
        Body::Rejected { index, hint, commit, echo } => {
            out.u64(index.0);
            out.mark(*hint);
            out.u64(commit.0);
            out.echo(*echo);
        }
        Body::Heartbeat { commit, sent } => {
            out.u64(commit.0);
            out.u64(sent.0);
        }
        Body::Alive { commit, echo } => {
            out.u64(commit.0);
            out.echo(*echo);
        }
        Body::Canvass { pre, transfer, last, commit } => {
            out.u8(u8::from(*pre) | u8::from(*transfer) << 1);
            out.mark(*last);
            out.mark(*commit);
        }
        Body::Voted { pre, granted, commit } => {
            out.u8(u8::from(*pre) | u8::from(*granted) << 1);
            out.mark(*commit);
        }
        Body::TakeOver => {}
        Body::Trust { life } => out.u64(*life),
        Body::Offer { offer, sent } => {
            out.base(offer.start);
            out.base(offer.base);
            out.u64(offer.state_bytes);
            out.u64(sent.0);
        }
        Body::Fetch { base, piece } => {
            out.u64(base.0);
            let (kind, at) = match piece {
                Piece::Log(position) => (0, position.0),
                Piece::State(offset) => (1, *offset),
            };
            out.u8(kind);
            out.u64(at);
        }
        Body::LogPiece { from, entries } => {
            out.u64(from.0);
            out.entries(entries);
        }
        Body::StatePiece { base, offset, bytes } => {
            out.u64(base.0);
            out.u64(*offset);
            out.part(bytes);
        }
    }
}

fn encode_entry(entry: &Replicated, out: &mut Pieces) {
    out.u64(entry.term.0);
    out.u64(entry.index.0);
    out.u64(entry.start.0);
    let kind = entry.kind.code() | if entry.needs_sync { NEEDS_SYNC } else { 0 };
    out.u32(u32::from(kind) | (entry.parts.len() as u32) << 8);
    entry.parts.iter().for_each(|part| out.part(part));
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Result<Bytes, PeerError> {
        if self.0.len() < len {
            return Err(PeerError::Malformed("length"));
        }
        Ok(self.0.split_to(len))
    }

    fn u8(&mut self) -> Result<u8, PeerError> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, PeerError> {
        Ok(self.take(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, PeerError> {
        Ok(self.take(8)?.get_u64_le())
    }

    fn index(&mut self) -> Result<LogIndex, PeerError> {
        Ok(LogIndex(self.u64()?))
    }

    fn time(&mut self) -> Result<Time, PeerError> {
        Ok(Time(self.u64()?))
    }

    fn mark(&mut self) -> Result<Mark, PeerError> {
        Ok(Mark { term: Term(self.u64()?), index: self.index()? })
    }

    fn echo(&mut self) -> Result<Echo, PeerError> {
        let (sent, life, flags) = (self.time()?, self.u64()?, self.u8()?);
        Ok(Echo { sent, life, is_trusted: flags & 1 != 0, wants_snapshot: flags & 2 != 0 })
    }

    fn base(&mut self) -> Result<Base, PeerError> {
        let position = Position(self.u64()?);
        Ok(Base { position, index: self.index()?, term: Term(self.u64()?) })
    }

    fn part(&mut self) -> Result<Bytes, PeerError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// Entries in their order; behind `last`, if that is known.
    fn entries(&mut self, mut last: Option<Mark>) -> Result<Vec<Replicated>, PeerError> {
        let count = self.u32()? as usize;
        if count > MAX_ENTRIES {
            return Err(PeerError::Malformed("number of entries"));
        }
        let mut entries = Vec::with_capacity(count.min(self.0.len() / ENTRY_HEAD));
        for _ in 0..count {
            let entry = decode_entry(self)?;
            let follows = |last: Mark| {
                last.index.0.checked_add(1) == Some(entry.index.0) && entry.term >= last.term
            };
            if !last.is_none_or(follows) {
                return Err(PeerError::Malformed("order of entries"));
            }
            last = Some(Mark { term: entry.term, index: entry.index });
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn decode_body(from: &mut Reader) -> Result<Message, PeerError> {
    let tag = from.u8()?;
    let sender = NodeId(from.u64()?);
    let to = NodeId(from.u64()?);
    let term = Term(from.u64()?);
    let body = match tag {
        tag::APPEND => {
            let (previous, commit, sent) = (from.mark()?, from.index()?, from.time()?);
            let entries = from.entries(Some(previous))?;
            Body::Append { previous, commit, sent, entries }
        }
        tag::APPENDED => {
            Body::Appended { index: from.index()?, commit: from.index()?, echo: from.echo()? }
        }
        tag::REJECTED => Body::Rejected {
            index: from.index()?,
            hint: from.mark()?,
            commit: from.index()?,
            echo: from.echo()?,
        },
        tag::HEARTBEAT => Body::Heartbeat { commit: from.index()?, sent: from.time()? },
        tag::ALIVE => Body::Alive { commit: from.index()?, echo: from.echo()? },
        tag::CANVASS => {
            let flags = from.u8()?;
            let (pre, transfer) = (flags & 1 != 0, flags & 2 != 0);
            Body::Canvass { pre, transfer, last: from.mark()?, commit: from.mark()? }
        }
        tag::VOTED => {
            let flags = from.u8()?;
            Body::Voted { pre: flags & 1 != 0, granted: flags & 2 != 0, commit: from.mark()? }
        }
        tag::TAKE_OVER => Body::TakeOver,
        tag::TRUST => Body::Trust { life: from.u64()? },
        tag::OFFER => {
            let (start, base, state_bytes) = (from.base()?, from.base()?, from.u64()?);
            let offer = Offer { start, base, state_bytes };
            Body::Offer { offer, sent: from.time()? }
        }
        tag::FETCH => {
            let (base, kind, at) = (from.index()?, from.u8()?, from.u64()?);
            let piece = match kind {
                0 => Piece::Log(Position(at)),
                1 => Piece::State(at),
                _ => return Err(PeerError::Malformed("kind of piece")),
            };
            Body::Fetch { base, piece }
        }
        tag::LOG_PIECE => {
            Body::LogPiece { from: Position(from.u64()?), entries: from.entries(None)? }
        }
        tag::STATE_PIECE => {
            Body::StatePiece { base: from.index()?, offset: from.u64()?, bytes: from.part()? }
        }
        _ => return Err(PeerError::Malformed("kind of message")),
    };
    Ok(Message { from: sender, to, term, body })
}

fn decode_entry(from: &mut Reader) -> Result<Replicated, PeerError> {
    let (term, index) = (Term(from.u64()?), from.index()?);
    let start = Position(from.u64()?);
    let word = from.u32()?;
    let kind = Kind::from_code(word as u8 & !NEEDS_SYNC);
    let kind = kind.ok_or(PeerError::Malformed("kind of entry"))?;
    let count = (word >> 8) as usize;
    // Every part takes four bytes at least.
    let mut parts = Vec::with_capacity(count.min(from.0.len() / 4));
    for _ in 0..count {
        parts.push(from.part()?);
    }
    let needs_sync = word as u8 & NEEDS_SYNC != 0;
    Ok(Replicated { term, index, start, kind, needs_sync, parts })
}
