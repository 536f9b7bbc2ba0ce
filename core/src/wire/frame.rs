//! The outer shape of everything on a connection: length, header, body
//! (fact sheet, section 1).

mod binary;
mod json;

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{LANGUAGE_RUST, VERSION};

/// The largest frame, as in RocketMQ's decoder.
pub const MAX_FRAME: usize = 16 << 20;
/// The largest first frame of a connection: an honest stranger opens with at
/// most one send of the largest message.
pub const MAX_FIRST_FRAME: usize = (4 << 20) + MAX_HEADER;
/// The largest header. The largest properties (32 767 bytes) escaped as JSON
/// take six times their size.
pub const MAX_HEADER: usize = 256 << 10;

const RESPONSE: i32 = 1;
const ONE_WAY: i32 = 2;

/// How a header is written. An answer uses the encoding of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Binary,
}

/// The header's `extFields`, kept in their binary form whatever the header's
/// encoding was: `u16` key length, key, `u32` value length, value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Bytes);

impl Fields {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let key = take_text(&mut rest, 2)?;
            let value = take_text(&mut rest, 4)?;
            Some((key, value))
        })
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(k, v)| (k == key).then_some(v))
    }

    /// These and others, of other names.
    pub fn with(&self, others: &Fields) -> Fields {
        Fields([&self.0[..], &others.0[..]].concat().into())
    }

    pub fn builder() -> FieldsBuilder {
        FieldsBuilder(BytesMut::with_capacity(256))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The text behind a length prefix of `width` bytes. The bytes were checked
/// when the fields were built, so damage here ends the iteration only.
fn take_text<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a str> {
    let (prefix, after) = rest.split_at_checked(width)?;
    let len = prefix.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let (text, after) = after.split_at_checked(len)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

/// Collects fields in the order in which they will be written.
#[derive(Default)]
pub struct FieldsBuilder(BytesMut);

impl FieldsBuilder {
    /// Keys are short constants of the protocol; values may be anything that
    /// displays.
    pub fn put(&mut self, key: &str, value: impl fmt::Display) -> &mut Self {
        let key_len = u16::try_from(key.len()).expect("protocol keys are short");
        self.0.put_u16(key_len);
        self.0.put_slice(key.as_bytes());
        let at = self.0.len();
        self.0.put_u32(0);
        fmt::Write::write_fmt(&mut self.0, format_args!("{value}")).expect("memory takes any text");
        let len = (self.0.len() - at - 4) as u32;
        self.0[at..at + 4].copy_from_slice(&len.to_be_bytes());
        self
    }

    pub fn finish(&mut self) -> Fields {
        Fields(self.0.split().freeze())
    }
}

/// One request or response.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub code: i32,
    pub language: u8,
    pub version: i32,
    /// Correlates a response with its request, within one direction of one
    /// connection.
    pub opaque: i32,
    pub flag: i32,
    pub remark: String,
    pub fields: Fields,
    pub body: Bytes,
    pub encoding: Encoding,
}

impl Frame {
    pub fn request(code: i32, opaque: i32, fields: Fields, body: Bytes) -> Frame {
        Frame {
            code,
            language: LANGUAGE_RUST,
            version: VERSION,
            opaque,
            flag: 0,
            remark: String::new(),
            fields,
            body,
            encoding: Encoding::Json,
        }
    }

    pub fn one_way(mut self) -> Frame {
        self.flag |= ONE_WAY;
        self
    }

    pub fn encoding(mut self, encoding: Encoding) -> Frame {
        self.encoding = encoding;
        self
    }

    pub fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// Whether the sender wants no answer. Decided by the flag and never by the
    /// code: 15 and 37 come both ways.
    pub fn is_one_way(&self) -> bool {
        self.flag & ONE_WAY != 0
    }

    /// What an answer needs to know of its request.
    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo { opaque: self.opaque, encoding: self.encoding, one_way: self.is_one_way() }
    }

    /// The bytes of the whole frame, its body appended without a copy.
    pub fn encode(&self) -> Packet {
        encode_head(self, self.body.len(), |head| Packet {
            head,
            body: if self.body.is_empty() { Vec::new() } else { vec![self.body.clone()] },
        })
    }
}

/// Where an answer goes within its connection, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub opaque: i32,
    pub encoding: Encoding,
    pub one_way: bool,
}

impl ReplyTo {
    /// An answer with a body made of slices that are sent as they lie.
    pub fn answer(&self, code: i32, remark: &str, fields: Fields, body: Vec<Bytes>) -> Packet {
        let frame = Frame {
            code,
            language: LANGUAGE_RUST,
            version: VERSION,
            opaque: self.opaque,
            flag: RESPONSE,
            remark: remark.to_owned(),
            fields,
            body: Bytes::new(),
            encoding: self.encoding,
        };
        let len = body.iter().map(Bytes::len).sum();
        encode_head(&frame, len, |head| Packet { head, body })
    }
}

/// An encoded frame, ready for a vectored write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub head: Bytes,
    pub body: Vec<Bytes>,
}

impl Packet {
    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        self.head.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    /// One contiguous copy, for tests and transcripts.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.size());
        bytes.put_slice(&self.head);
        self.body.iter().for_each(|part| bytes.put_slice(part));
        bytes.freeze()
    }
}

/// Why a connection's bytes are not frames. The connection is closed: nothing
/// after such bytes can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The peer speaks another protocol, named here.
    Foreign(&'static str),
    /// The announced length is beyond the limit, both in bytes.
    TooLong { length: usize, limit: usize },
    /// The header does not fit its frame or its limit.
    HeaderLength { header: usize, frame: usize },
    /// The first header byte names no encoding.
    UnknownEncoding(u8),
    /// The header is not what its encoding says.
    Header(String),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Foreign(name) => {
                write!(f, "the peer speaks {name}, not RocketMQ remoting without TLS")
            }
            FrameError::TooLong { length, limit } => {
                write!(f, "a frame of {length} bytes is beyond the limit of {limit}")
            }
            FrameError::HeaderLength { header, frame } => {
                write!(f, "a header of {header} bytes does not fit a frame of {frame}")
            }
            FrameError::UnknownEncoding(byte) => write!(f, "unknown header encoding {byte}"),
            FrameError::Header(why) => write!(f, "bad header: {why}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes the next whole frame off the front of `buffer`, or nothing if it has
/// not all arrived. Lengths are checked before anything is allocated for them.
/// `limit` is the largest frame, in bytes without the length word.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(first) = buffer.get(..8) else { return Ok(None) };
    let length = u32::from_be_bytes([first[0], first[1], first[2], first[3]]) as usize;
    let encoding = first[4];
    let header = u32::from_be_bytes([0, first[5], first[6], first[7]]) as usize;
    if let Some(name) = foreign(first) {
        return Err(FrameError::Foreign(name));
    }
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    if length < 4 || header > length - 4 || header > MAX_HEADER {
        return Err(FrameError::HeaderLength { header, frame: length });
    }
    let encoding = match encoding {
        0 => Encoding::Json,
        1 => Encoding::Binary,
        other => return Err(FrameError::UnknownEncoding(other)),
    };
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(8);
    let header_bytes = buffer.split_to(header).freeze();
    let body = buffer.split_to(length - 4 - header).freeze();
    let mut frame = match encoding {
        Encoding::Json => json::decode(&header_bytes),
        Encoding::Binary => binary::decode(&header_bytes),
    }
    .map_err(FrameError::Header)?;
    frame.body = body;
    Ok(Some(frame))
}

/// Names the protocol whose first bytes these are, if it is a known other one.
fn foreign(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x16, 0x03, ..] => Some("TLS"),
        [b'P', b'R', b'I', b' ', ..] => Some("HTTP/2"),
        [b'G', b'E', b'T', b' ', ..]
        | [b'P', b'O', b'S', b'T', ..]
        | [b'P', b'U', b'T', b' ', ..]
        | [b'H', b'E', b'A', b'D', ..]
        | [b'H', b'T', b'T', b'P', ..] => Some("HTTP"),
        [b'A', b'M', b'Q', b'P', ..] => Some("AMQP"),
        [b'P', b'R', b'O', b'X', ..] => Some("the PROXY protocol"),
        _ => None,
    }
}

fn encode_head<T>(frame: &Frame, body_len: usize, finish: impl FnOnce(Bytes) -> T) -> T {
    let mut head = BytesMut::with_capacity(64 + frame.fields.0.len() * 2 + frame.remark.len());
    head.put_u64(0);
    let kind = match frame.encoding {
        Encoding::Json => {
            json::encode(frame, &mut head);
            0u32
        }
        Encoding::Binary => {
            binary::encode(frame, &mut head);
            1u32
        }
    };
    let header = head.len() - 8;
    assert!(header < 1 << 24, "a header's length has 24 bits");
    head[0..4].copy_from_slice(&((4 + header + body_len) as u32).to_be_bytes());
    head[4..8].copy_from_slice(&(kind << 24 | header as u32).to_be_bytes());
    finish(head.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(header: &str) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32(4 + header.len() as u32);
        bytes.put_u32(header.len() as u32);
        bytes.put_slice(header.as_bytes());
        bytes
    }

    #[test]
    fn numbers_and_booleans_come_with_and_without_quotes() {
        let header = r#"{"code":"10","flag":0,"language":"CPP","opaque":7,"version":63,
            "extFields":{"queueId":3,"k":false,"m":"1","big":"1795000000000","none":null}}"#;
        let frame = decode(&mut bytes_of(header), MAX_FRAME).unwrap().unwrap();
        assert_eq!((frame.code, frame.language, frame.opaque), (10, 1, 7));
        let fields: Vec<_> = frame.fields.iter().collect();
        assert_eq!(
            fields,
            [("queueId", "3"), ("k", "false"), ("m", "1"), ("big", "1795000000000")]
        );
    }

    #[test]
    fn foreign_protocols_are_named() {
        for (bytes, name) in [
            (&b"GET / HTTP/1.1\r\n"[..], "HTTP"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
            (b"PRI * HTTP/2.0", "HTTP/2"),
        ] {
            let error = decode(&mut BytesMut::from(bytes), MAX_FRAME).unwrap_err();
            assert_eq!(error, FrameError::Foreign(name));
        }
    }

    #[test]
    fn lengths_are_refused_before_the_bytes_arrive() {
        let too_long = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 2];
        assert!(matches!(
            decode(&mut BytesMut::from(&too_long[..]), MAX_FRAME),
            Err(FrameError::TooLong { .. })
        ));
        let header_beyond_frame = [0, 0, 0, 8, 0, 0, 0, 5];
        assert!(matches!(
            decode(&mut BytesMut::from(&header_beyond_frame[..]), MAX_FRAME),
            Err(FrameError::HeaderLength { header: 5, frame: 8 })
        ));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            code in 0..30_000i32, opaque: i32, remark in ".{0,20}", key in "[a-zA-Z]{1,9}",
            value in ".{0,40}", body in prop::collection::vec(any::<u8>(), 0..64), binary: bool,
        ) {
            let fields = Fields::builder().put(&key, &value).put("n", -5).finish();
            let mut frame = Frame::request(code, opaque, fields, body.into());
            frame.remark = remark;
            frame.encoding = if binary { Encoding::Binary } else { Encoding::Json };
            let mut bytes = BytesMut::from(&frame.encode().to_bytes()[..]);
            for cut in 0..bytes.len() {
                let mut part = BytesMut::from(&bytes[..cut]);
                prop_assert_eq!(decode(&mut part, MAX_FRAME).unwrap(), None);
            }
            prop_assert_eq!(decode(&mut bytes, MAX_FRAME).unwrap(), Some(frame));
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&mut BytesMut::from(&bytes[..]), MAX_FRAME);
        }

        #[test]
        fn a_damaged_frame_never_panics(at in 0..200usize, to: u8, binary: bool) {
            let fields = Fields::builder().put("topic", "orders").put("queueId", 3).finish();
            let encoding = if binary { Encoding::Binary } else { Encoding::Json };
            let frame = Frame::request(10, 1, fields, Bytes::from_static(b"body")).encoding(encoding);
            let mut bytes = BytesMut::from(&frame.encode().to_bytes()[..]);
            if at < bytes.len() {
                bytes[at] = to;
            }
            if let Ok(Some(frame)) = decode(&mut bytes, MAX_FRAME) {
                frame.fields.iter().for_each(drop);
            }
        }
    }
}
