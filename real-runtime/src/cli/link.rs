//! A connection that costs the load generator as little as possible: requests
//! are copies of ready-made frames with a few bytes changed, and of answers only
//! what is needed is looked at.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use stormglass_core::wire::{
    Encoding, Fields, Frame,
    frame::{self, MAX_FRAME},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Where a binary header holds the code and the opaque, counted from the start
/// of the frame.
const AT_CODE: usize = 8;
const AT_OPAQUE: usize = 13;
const READ_CHUNK: usize = 256 << 10;

/// A frame ready to be sent again and again.
pub struct Template {
    bytes: Vec<u8>,
    /// Where in the frame the body starts.
    body_at: usize,
}

impl Template {
    pub fn new(code: i32, fields: Fields, body: Vec<u8>) -> Template {
        let body_len = body.len();
        let frame = Frame::request(code, 0, fields, body.into()).encoding(Encoding::Binary);
        let bytes = frame.encode().to_bytes().to_vec();
        Template { body_at: bytes.len() - body_len, bytes }
    }
}

/// An answer; its body is a slice of what was read.
pub struct Answer {
    pub code: i32,
    pub opaque: i32,
    frame: Bytes,
}

impl Answer {
    /// The whole frame, for those who need more than the code.
    pub fn decode(self) -> io::Result<Frame> {
        let decoded = frame::decode(&mut BytesMut::from(self.frame), MAX_FRAME);
        match decoded.map_err(io::Error::other)? {
            Some(frame) => Ok(frame),
            None => Err(io::Error::other("an answer is cut short")),
        }
    }
}

pub struct Link {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
}

impl Link {
    pub async fn connect(addr: SocketAddr) -> io::Result<Link> {
        let stream = TcpStream::connect(addr).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect to {addr}: {error}"))
        })?;
        stream.set_nodelay(true)?;
        Ok(Link { stream, input: BytesMut::new(), output: BytesMut::new() })
    }

    /// Queues a request. `stamps` are positions in the body and what they get.
    pub fn push(&mut self, template: &Template, opaque: i32, stamps: &[(usize, u64)]) {
        let start = self.output.len();
        self.output.extend_from_slice(&template.bytes);
        let frame = &mut self.output[start..];
        frame[AT_OPAQUE..AT_OPAQUE + 4].copy_from_slice(&opaque.to_be_bytes());
        for (at, value) in stamps {
            let at = template.body_at + at;
            frame[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
    }

    pub fn push_frame(&mut self, frame: &Frame) {
        let packet = frame.encode();
        self.output.extend_from_slice(&packet.head);
        packet.body.iter().for_each(|part| self.output.extend_from_slice(part));
    }

    /// Writes what is queued and reads what has come. Ready once something came.
    pub fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output)? {
                Poll::Ready(written) => self.output.advance(written),
                Poll::Pending => break,
            }
        }
        self.input.reserve(READ_CHUNK);
        let mut buf = ReadBuf::uninit(self.input.spare_capacity_mut());
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        let read = buf.filled().len();
        if read == 0 {
            let why = "the broker closed the connection";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        let end = self.input.len() + read;
        // SAFETY: `poll_read` says that it filled this many bytes behind the
        // ones that were there.
        unsafe { self.input.set_len(end) };
        Poll::Ready(Ok(()))
    }

    /// The next whole answer that was read. Requests of the broker are dropped.
    pub fn next_answer(&mut self) -> io::Result<Option<Answer>> {
        loop {
            let Some(length) = self.input.first_chunk() else { return Ok(None) };
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_FRAME {
                return Err(io::Error::other(format!("an answer of {length} bytes")));
            }
            if self.input.len() < 4 + length {
                return Ok(None);
            }
            let frame = self.input.split_to(4 + length).freeze();
            if let Some(answer) = peek(frame)? {
                return Ok(Some(answer));
            }
        }
    }

    /// One request and its answer, with nothing else going on.
    pub async fn ask(&mut self, request: &Frame) -> io::Result<Frame> {
        self.push_frame(request);
        loop {
            std::future::poll_fn(|cx| self.poll_exchange(cx)).await?;
            while let Some(answer) = self.next_answer()? {
                if answer.opaque == request.opaque {
                    return answer.decode();
                }
            }
        }
    }
}

fn peek(frame: Bytes) -> io::Result<Option<Answer>> {
    if frame.len() >= AT_OPAQUE + 8 && frame[4] == 1 {
        let word = |at: usize| i32::from_be_bytes(std::array::from_fn(|n| frame[at + n]));
        let code = i32::from(i16::from_be_bytes([frame[AT_CODE], frame[AT_CODE + 1]]));
        let (opaque, flag) = (word(AT_OPAQUE), word(AT_OPAQUE + 4));
        return Ok((flag & 1 == 1).then_some(Answer { code, opaque, frame }));
    }
    // A broker that answers in JSON whatever it was asked in.
    let answer = Answer { code: 0, opaque: 0, frame: frame.clone() }.decode()?;
    let (code, opaque) = (answer.code, answer.opaque);
    Ok(answer.is_response().then_some(Answer { code, opaque, frame }))
}
