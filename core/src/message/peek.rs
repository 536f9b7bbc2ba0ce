//! Single fields of an encoded record, for those who have verified its bytes.

use std::ops::Range;

use super::{MAGIC_V1, Properties, sys_flag};
use crate::ids::Position;

const AT_MAGIC: usize = 4;
const AT_QUEUE: usize = 12;
const AT_QUEUE_OFFSET: usize = 20;
const AT_POSITION: usize = 28;
const AT_SYS_FLAG: usize = 36;
const AT_STORE_WALL_V4: usize = 56;
const AT_RECONSUME_TIMES_V4: usize = 72;
const AT_PREPARED_V4: usize = 76;
const AT_BODY_LEN_V4: usize = 84;
/// How much longer an IPv6 host is.
const V6_MORE: usize = 12;

/// Reads single fields without reading the rest.
#[derive(Clone, Copy)]
pub struct Peek<'a>(pub &'a [u8]);

impl<'a> Peek<'a> {
    pub fn queue(self) -> Option<u32> {
        self.field(AT_QUEUE).map(u32::from_be_bytes)
    }

    pub fn queue_offset(self) -> Option<u64> {
        self.field(AT_QUEUE_OFFSET).map(u64::from_be_bytes)
    }

    pub fn position(self) -> Option<Position> {
        self.field(AT_POSITION).map(|bytes| Position(u64::from_be_bytes(bytes)))
    }

    pub fn sys_flag(self) -> Option<i32> {
        self.field(AT_SYS_FLAG).map(i32::from_be_bytes)
    }

    /// Milliseconds since the epoch on the broker's clock.
    pub fn store_wall(self) -> Option<i64> {
        let at = AT_STORE_WALL_V4 + self.born_host_more()?;
        self.field(at).map(i64::from_be_bytes)
    }

    pub fn reconsume_times(self) -> Option<i32> {
        let at = AT_RECONSUME_TIMES_V4 + self.hosts_more()?;
        self.field(at).map(i32::from_be_bytes)
    }

    /// Where the body lies in the record.
    pub fn body_range(self) -> Option<Range<usize>> {
        let at = AT_BODY_LEN_V4 + self.hosts_more()?;
        let len = self.field(at).map(u32::from_be_bytes)? as usize;
        let start = at + 4;
        let end = start.checked_add(len)?;
        (end <= self.0.len()).then_some(start..end)
    }

    /// The topic, without reading the body.
    pub fn topic(self) -> Option<&'a str> {
        std::str::from_utf8(self.0.get(self.topic_range()?)?).ok()
    }

    pub fn properties(self) -> Option<Properties<'a>> {
        Some(Properties(self.0.get(self.topic_range()?.end + 2..)?))
    }

    fn topic_range(self) -> Option<Range<usize>> {
        let at = self.body_range()?.end;
        let (start, len) = if u32::from_be_bytes(self.field(AT_MAGIC)?) == MAGIC_V1 {
            (at + 1, usize::from(*self.0.get(at)?))
        } else {
            (at + 2, usize::from(u16::from_be_bytes(self.field(at)?)))
        };
        Some(start..start + len)
    }

    fn born_host_more(self) -> Option<usize> {
        let flag = self.sys_flag()?;
        Some(if flag & sys_flag::BORN_HOST_V6 != 0 { V6_MORE } else { 0 })
    }

    fn hosts_more(self) -> Option<usize> {
        let flag = self.sys_flag()?;
        let store = if flag & sys_flag::STORE_HOST_V6 != 0 { V6_MORE } else { 0 };
        Some(self.born_host_more()? + store)
    }

    fn field<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }
}

/// Changes single fields of a record's bytes before its body.
pub(crate) struct Edit<'a> {
    head: &'a mut [u8],
    born_host_more: usize,
    hosts_more: usize,
}

impl<'a> Edit<'a> {
    /// None if `head` is not the whole of what comes before a body.
    pub fn new(head: &'a mut [u8]) -> Option<Edit<'a>> {
        let peek = Peek(head);
        let (born_host_more, hosts_more) = (peek.born_host_more()?, peek.hosts_more()?);
        let is_whole = head.len() == AT_BODY_LEN_V4 + 4 + hosts_more;
        is_whole.then_some(Edit { head, born_host_more, hosts_more })
    }

    pub fn length(&mut self, bytes: u32, magic: u32) {
        self.put(0, bytes.to_be_bytes());
        self.put(AT_MAGIC, magic.to_be_bytes());
    }

    pub fn place(&mut self, queue: u32, queue_offset: u64, position: Position) {
        self.put(AT_QUEUE, queue.to_be_bytes());
        self.put(AT_QUEUE_OFFSET, queue_offset.to_be_bytes());
        self.put(AT_POSITION, position.0.to_be_bytes());
    }

    pub fn store_wall(&mut self, wall: i64) {
        self.put(AT_STORE_WALL_V4 + self.born_host_more, wall.to_be_bytes());
    }

    pub fn reconsume_times(&mut self, times: i32) {
        self.put(AT_RECONSUME_TIMES_V4 + self.hosts_more, times.to_be_bytes());
    }

    /// Sets the transaction's state (bits of `sys_flag`) and the half message.
    pub fn transaction(&mut self, state: i32, half: Position) {
        let flag = Peek(self.head).sys_flag().unwrap_or_default();
        let flag = flag & !sys_flag::TRANSACTION_MASK | state;
        self.put(AT_SYS_FLAG, flag.to_be_bytes());
        self.put(AT_PREPARED_V4 + self.hosts_more, half.0.to_be_bytes());
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.head[at..at + N].copy_from_slice(&bytes);
    }
}

/// Writes the record's final place into its bytes, just before it is
/// checksummed and appended.
pub fn set_position(record: &mut [u8], position: Position) {
    record[AT_POSITION..AT_POSITION + 8].copy_from_slice(&position.0.to_be_bytes());
}
