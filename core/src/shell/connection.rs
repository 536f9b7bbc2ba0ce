//! One connection: frames in, packets out, both bounded. What a slow peer does
//! not take stops what is read from it, so that it costs bounded memory.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
};

use crate::{
    runtime::Runtime,
    wire::{
        Frame, FrameError,
        frame::{self, Packet},
    },
};

/// Bytes read at once: few on a quiet connection, more while it fills what it is
/// given. Each queued batch of frames is at most the larger and one frame more.
const READ_CHUNK: std::ops::RangeInclusive<usize> = 4 << 10..=256 << 10;
/// Beyond this many bytes waiting for the peer, nothing more is read from it.
const PAUSE_READING: usize = 4 << 20;
/// Beyond this many bytes waiting for the peer, it is given up.
const GIVE_UP: usize = 64 << 20;
/// How long connecting may take.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Slices handed to one vectored write; Linux takes at most 1024.
const MAX_SLICES: usize = 256;

/// Why a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The peer closed it, between two frames.
    ByPeer,
    /// We closed it.
    ByUs,
    /// The peer does not speak the protocol.
    Protocol(FrameError),
    Io(io::Error),
    /// The peer took too little for too long.
    TooSlow,
    /// The loop that handles the frames is gone.
    NoReceiver,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::ByPeer => f.write_str("closed by the peer"),
            Ended::ByUs => f.write_str("closed by this side"),
            Ended::Protocol(error) => error.fmt(f),
            Ended::Io(error) => error.fmt(f),
            Ended::TooSlow => f.write_str("the peer does not take what it asked for"),
            Ended::NoReceiver => f.write_str("this side is shutting down"),
        }
    }
}

/// What waits to be written to one connection. Clones are the same outbox.
#[derive(Clone, Default)]
pub struct Outbox(Rc<RefCell<Waiting>>);

#[derive(Default)]
struct Waiting {
    packets: VecDeque<Packet>,
    bytes: usize,
    closed: bool,
    too_slow: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Queues a packet; on a closed connection it is dropped.
    pub fn send(&self, packet: Packet) {
        let mut waiting = self.0.borrow_mut();
        if waiting.closed {
            return;
        }
        waiting.bytes += packet.size();
        waiting.packets.push_back(packet);
        if waiting.bytes > GIVE_UP {
            waiting.too_slow = true;
            waiting.close();
        }
        waiting.wake_writer();
    }

    /// Bytes that wait for the peer.
    pub fn queued(&self) -> usize {
        self.0.borrow().bytes
    }

    /// Ends both directions; what is still queued is not written.
    pub fn close(&self) {
        self.0.borrow_mut().close();
    }

    pub fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    /// Ready once reading may go on, or the connection is closed.
    fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut waiting = self.0.borrow_mut();
        // Kept even when ready: closing must wake a reader that waits for bytes.
        waiting.reader = Some(cx.waker().clone());
        if waiting.closed {
            let why = if waiting.too_slow { Ended::TooSlow } else { Ended::ByUs };
            return Poll::Ready(Err(why));
        }
        if waiting.bytes > PAUSE_READING { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Waiting {
    fn close(&mut self) {
        self.closed = true;
        self.packets.clear();
        self.bytes = 0;
        self.wake_writer();
        self.wake_reader();
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Connects, within five seconds.
pub async fn dial<R: Runtime>(runtime: &R, addr: SocketAddr) -> io::Result<(R::Reader, R::Writer)> {
    let mut dialling = std::pin::pin!(runtime.dial(addr));
    let mut timer = std::pin::pin!(runtime.sleep_until(runtime.now().mono + DIAL_WITHIN));
    poll_fn(|cx| match dialling.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
    })
    .await
}

/// Reads frames until the connection ends, and hands them on in batches made by
/// `wrap`. Waits while the receiver is behind or the peer takes no answers.
pub async fn read_frames<E>(
    mut reader: impl AsyncRead + Unpin,
    outbox: &Outbox,
    events: &mpsc::Sender<E>,
    wrap: impl Fn(Vec<Frame>) -> E,
) -> Ended {
    let mut buffer = BytesMut::new();
    let mut limit = frame::MAX_FIRST_FRAME;
    let mut chunk = *READ_CHUNK.start();
    loop {
        let mut frames = Vec::new();
        loop {
            match frame::decode(&mut buffer, limit) {
                Ok(Some(frame)) => {
                    limit = frame::MAX_FRAME;
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return Ended::Protocol(error),
            }
        }
        if !frames.is_empty() && events.send(wrap(frames)).await.is_err() {
            return Ended::NoReceiver;
        }
        buffer.reserve(chunk);
        let read = {
            let mut reading = std::pin::pin!(reader.read_buf(&mut buffer));
            poll_fn(|cx| {
                std::task::ready!(outbox.poll_may_read(cx))?;
                reading.as_mut().poll(cx).map(|done| done.map_err(Ended::Io))
            })
            .await
        };
        match read {
            Ok(0) => return Ended::ByPeer,
            Ok(read) if read >= chunk => chunk = (chunk * 4).min(*READ_CHUNK.end()),
            Ok(read) if read < chunk / 8 => chunk = (chunk / 2).max(*READ_CHUNK.start()),
            Ok(_) => {}
            Err(ended) => return ended,
        }
    }
}

/// Writes what the outbox holds, in order, until the connection ends.
pub async fn write_packets(mut writer: impl AsyncWrite + Unpin, outbox: &Outbox) -> Ended {
    let mut parts: VecDeque<Bytes> = VecDeque::new();
    loop {
        let taken = poll_fn(|cx| {
            let mut waiting = outbox.0.borrow_mut();
            if waiting.closed {
                return Poll::Ready(None);
            }
            if waiting.packets.is_empty() {
                waiting.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let mut size = 0;
            while parts.len() < MAX_SLICES {
                let Some(packet) = waiting.packets.pop_front() else { break };
                size += packet.size();
                parts.push_back(packet.head);
                parts.extend(packet.body);
            }
            Poll::Ready(Some(size))
        })
        .await;
        let Some(size) = taken else { return Ended::ByUs };
        if let Err(error) = write_all(&mut writer, &mut parts).await {
            outbox.close();
            return Ended::Io(error);
        }
        let mut waiting = outbox.0.borrow_mut();
        waiting.bytes = waiting.bytes.saturating_sub(size);
        if waiting.bytes <= PAUSE_READING {
            waiting.wake_reader();
        }
    }
}

async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    parts: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    while !parts.is_empty() {
        let mut written = poll_fn(|cx| {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = parts.len().min(MAX_SLICES);
            for (slice, part) in slices.iter_mut().zip(parts.iter()) {
                *slice = IoSlice::new(part);
            }
            Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..count])
        })
        .await?;
        if written == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(part) = parts.front_mut() {
            if part.len() > written {
                part.advance(written);
                break;
            }
            written -= part.len();
            parts.pop_front();
        }
    }
    poll_fn(|cx| Pin::new(&mut *writer).poll_flush(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fields;

    fn packet(body: usize) -> Packet {
        Frame::request(1, 0, Fields::default(), vec![7; body].into()).encode()
    }

    /// Polls a future a few times, which is all that in-memory pipes need.
    fn poll_some<F: Future>(future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        (0..50).find_map(|_| match future.as_mut().poll(&mut cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    }

    #[test]
    fn frames_arrive_whole_and_in_order() {
        let (near, far) = tokio::io::duplex(1000);
        let (outbox, (events, mut frames)) = (Outbox::new(), mpsc::channel(8));
        for body in [0, 10, 5_000, 3] {
            outbox.send(packet(body));
        }
        let write = write_packets(near, &outbox);
        let silent = Outbox::new();
        let read = read_frames(far, &silent, &events, |frames| frames);
        let (mut write, mut read) = (std::pin::pin!(write), std::pin::pin!(read));
        let mut cx = Context::from_waker(Waker::noop());
        let mut sizes = Vec::new();
        for _ in 0..50 {
            let _ = write.as_mut().poll(&mut cx);
            let _ = read.as_mut().poll(&mut cx);
            while let Ok(batch) = frames.try_recv() {
                sizes.extend(batch.iter().map(|frame: &Frame| frame.body.len()));
            }
        }
        assert_eq!(sizes, [0, 10, 5_000, 3]);
        assert_eq!(outbox.queued(), 0);
    }

    #[test]
    fn a_peer_that_takes_nothing_is_not_read_from() {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (outbox, (events, mut frames)) = (Outbox::new(), mpsc::channel(8));
        outbox.send(packet(PAUSE_READING + 1));
        let (_, writer) = tokio::io::split(near);
        let request = Outbox::new();
        request.send(packet(1));
        assert!(poll_some(write_packets(writer, &request)).is_none());
        assert!(poll_some(read_frames(far, &outbox, &events, |frames| frames)).is_none());
        assert!(frames.try_recv().is_err());
    }

    #[test]
    fn a_peer_that_is_far_behind_is_given_up() {
        let (_near, far) = tokio::io::duplex(64);
        let (outbox, (events, _frames)) = (Outbox::new(), mpsc::channel::<Vec<Frame>>(8));
        for _ in 0..20 {
            outbox.send(packet(4 << 20));
        }
        let ended = poll_some(read_frames(far, &outbox, &events, |frames| frames));
        assert!(matches!(ended, Some(Ended::TooSlow)));
        assert_eq!(outbox.queued(), 0);
    }
}
