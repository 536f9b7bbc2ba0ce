//! 10, 310, 320: a message, or a batch of them, becomes records of one entry.

use super::{
    Broker,
    apply::Needed,
    command::{Command, TopicConfig},
    config::limit,
    dead_letters::{self, DLQ_PREFIX},
    delay,
    propose::Answer,
    sequences::Receipt,
    state::{DEFAULT_TOPIC, Dispatch, QueueKey, RETRY_PREFIX},
    transactions::is_half,
};
use crate::{
    error::Rejected,
    ids::{ConnId, Name, Position},
    log::Kind,
    message::{
        MAX_BODY, MAX_LONG_TOPIC, MAX_PROPERTIES, MAX_TOPIC, Properties, Record, offset_message_id,
        property, sys_flag, tag_hash,
    },
    pointer::Hold,
    queue::QueueEntry,
    runtime::Disk,
    sequence::Stamp,
    time::Now,
    wire::{
        Frame, RecallHandle,
        body::{BatchRecord, BatchRecords, perm},
        code,
        frame::ReplyTo,
        header::{SendHeader, SendReply},
        request,
    },
};

/// What the answer to a send will say once its messages are committed.
pub(super) struct SendAnswer {
    conn: ConnId,
    reply_to: ReplyTo,
    queue: u32,
    first_offset: u64,
    positions: Positions,
    transaction_id: Option<String>,
    /// Of a delayed message: its topic, and when it is due.
    recall: Option<(Name, i64)>,
}

/// One position without an allocation, or those of a batch.
enum Positions {
    One(Position),
    Many(Vec<Position>),
}

/// Topics that only the broker writes to.
const RESERVED: [&str; 7] = [
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    DEFAULT_TOPIC,
];

impl<D: Disk> Broker<D> {
    pub(super) fn send_message(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let mut header = SendHeader::parse(&frame.fields)?;
        // C++ clients send batches under the code of a single message.
        let batch = frame.code == request::SEND_BATCH_MESSAGE || header.batch == Some(true);
        check_topic_name(header.topic)?;
        let exhausted = self.exhausted(now, &header, frame.version)?;
        if let Some(exhausted) = &exhausted {
            header.topic = &exhausted.topic;
            header.queue = 0;
            header.properties = Some(&exhausted.properties);
            header.reconsume_times = Some(exhausted.reconsume_times);
        }
        if header.sys_flag & sys_flag::TRANSACTION_MASK == sys_flag::TRANSACTION_ROLLBACK {
            let remark = "sysFlag says that the message is rolled back";
            return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
        }
        if self.replica.undurable() > limit::UNDURABLE {
            return Err(Rejected::new(
                code::SYSTEM_BUSY,
                "[OVERLOAD] too many bytes wait for the disk",
            ));
        }
        if self.retention.is_full {
            let remark = "the log is as long as it may be, and not all groups have read it";
            return Err(Rejected::new(code::SERVICE_NOT_AVAILABLE, remark));
        }
        let Some((number, topic)) = self.state.topic(header.topic) else {
            let create = self.implied_topic(&header)?;
            let needed = Needed::Topic(create.name.clone());
            return self.await_creation(conn, frame, needed, Command::Topic(create));
        };
        let config = &topic.config;
        if config.perm & perm::WRITE == 0 {
            let remark = format!("the topic {} is not writable", header.topic);
            return Err(Rejected::new(code::NO_PERMISSION, remark));
        }
        let queue = match u32::try_from(header.queue) {
            Err(_) => self.rng.below(u64::from(config.write_queues)) as u32,
            Ok(queue) if queue < config.write_queues => queue,
            Ok(queue) => {
                return Err(Rejected::new(
                    code::SYSTEM_ERROR,
                    format!(
                        "queueId {queue} is illegal: {} has {} queues",
                        header.topic, config.write_queues
                    ),
                ));
            }
        };
        let to = QueueKey { topic: number, queue };
        if self.is_repeated(conn, &frame, &header, to)? {
            return Ok(());
        }
        let outer = Properties(header.properties.unwrap_or_default().as_bytes());
        if is_half(&header, outer) {
            if batch {
                let remark = "a transaction has one message, not a batch";
                return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
            }
            return self.send_half(now, conn, &frame, &header, to);
        }
        if batch {
            let count = self.draft_batch(now, conn, &header, &frame, to)?;
            return self.append_drafted(conn, &frame, &header, to, count);
        }
        let asked = inspect(outer)?;
        let message = BatchRecord { flag: header.flag, body: &frame.body, properties: outer.0 };
        if asked.is_delayed
            && let Some(due_wall) = delay::due(outer, now.wall)?
        {
            return self.send_delayed(now, conn, &frame, &header, to, message, due_wall);
        }
        self.draft.clear(Kind::Messages);
        self.draft_message(now, conn, &header, to, 0, asked.tag, message)?;
        self.append_drafted(conn, &frame, &header, to, 1)
    }

    /// Stores a message that is not to be seen before it is due.
    #[allow(clippy::too_many_arguments, reason = "a message has this many parts")]
    fn send_delayed(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        to: QueueKey,
        message: BatchRecord<'_>,
        due_wall: i64,
    ) -> Result<(), Rejected> {
        self.draft.clear(Kind::Held);
        // Its queue's offset is drawn when it becomes visible.
        let size = self.draft_record(now, conn, header, to, 0, message)?;
        let mut answer = SendAnswer::prepare(conn, frame, header, to.queue, 0);
        if let Answer::Send(answer) = &mut answer {
            answer.recall = Some((header.topic.into(), due_wall));
        }
        let proposed = self.propose_held(now, size, Hold::Until { due_wall }, answer);
        proposed.map_err(|error| self.refused_or_failed(error))
    }

    /// Drafts every message of a batch; a single bad one refuses the whole.
    fn draft_batch(
        &mut self,
        now: Now,
        conn: ConnId,
        header: &SendHeader<'_>,
        frame: &Frame,
        to: QueueKey,
    ) -> Result<u32, Rejected> {
        if header.topic.starts_with(RETRY_PREFIX) {
            return Err(Rejected::new(code::MESSAGE_ILLEGAL, "a batch cannot be a retry"));
        }
        self.draft.clear(Kind::Messages);
        let mut count = 0;
        let mut drafted = Ok(());
        for message in BatchRecords::new(&frame.body) {
            drafted = message.and_then(|message| {
                let properties = Properties(message.properties);
                let asked = inspect(properties)?;
                if asked.is_delayed && delay::due(properties, now.wall)?.is_some() {
                    return Err(Rejected::new(code::MESSAGE_ILLEGAL, "a batch cannot be delayed"));
                }
                self.draft_message(now, conn, header, to, count, asked.tag, message)
            });
            if drafted.is_err() {
                break;
            }
            count += 1;
        }
        if drafted.is_ok() && count == 0 {
            drafted = Err(Rejected::new(code::MESSAGE_ILLEGAL, "an empty batch"));
        }
        if let Err(rejected) = drafted {
            self.dispatches.truncate(self.dispatches.len() - count as usize);
            return Err(rejected);
        }
        Ok(count)
    }

    /// Adds one message to the draft, and the entry of its queue to the
    /// dispatches.
    #[allow(clippy::too_many_arguments, reason = "a message has this many parts")]
    fn draft_message(
        &mut self,
        now: Now,
        conn: ConnId,
        header: &SendHeader<'_>,
        to: QueueKey,
        nth: u32,
        tag: i64,
        message: BatchRecord<'_>,
    ) -> Result<(), Rejected> {
        let offset = self.state.queue(to).next + u64::from(nth);
        let size = self.draft_record(now, conn, header, to, offset, message)?;
        let entry = QueueEntry { position: Position(0), size, tag };
        self.dispatches.push_back(Dispatch { to, offset, entry, shown: None });
        Ok(())
    }

    /// Adds one record to the draft, and returns its size.
    pub(super) fn draft_record(
        &mut self,
        now: Now,
        conn: ConnId,
        header: &SendHeader<'_>,
        to: QueueKey,
        queue_offset: u64,
        message: BatchRecord<'_>,
    ) -> Result<u32, Rejected> {
        if message.body.len() > MAX_BODY {
            return Err(Rejected::new(
                code::MESSAGE_ILLEGAL,
                format!("a body of {} bytes is beyond {MAX_BODY}", message.body.len()),
            ));
        }
        let properties = Stamp::on(self.take_stamp(), message.properties);
        if properties.len() > MAX_PROPERTIES {
            return Err(Rejected::new(
                code::MESSAGE_ILLEGAL,
                format!("properties of {} bytes are beyond {MAX_PROPERTIES}", properties.len()),
            ));
        }
        let record = Record {
            topic: header.topic,
            queue: to.queue,
            queue_offset,
            position: Position(0),
            flag: message.flag,
            sys_flag: header.sys_flag,
            born_wall: header.born_wall,
            born_host: self.sessions.peer(conn).unwrap_or(self.config.host),
            store_wall: now.wall,
            store_host: self.config.host,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_position: 0,
            properties: &properties[..],
            body: message.body,
        };
        let size = record.encoded_len() as u32;
        self.draft.part(|out| record.encode(out));
        Ok(size)
    }

    fn append_drafted(
        &mut self,
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        to: QueueKey,
        count: u32,
    ) -> Result<(), Rejected> {
        let (_, disk) = self.replica.parts();
        let queue = self.state.queue_mut(to);
        let room = queue.index.room(disk, queue.next + u64::from(count));
        let first = self.dispatches.len() - count as usize;
        let first_offset = self.state.queue(to).next;
        let answer = SendAnswer::prepare(conn, frame, header, to.queue, first_offset);
        let proposed = room.and_then(|()| self.propose_messages(count, answer));
        match proposed {
            Ok(()) => {
                self.state.queue_mut(to).next += u64::from(count);
                Ok(())
            }
            Err(error) => {
                self.dispatches.truncate(first);
                Err(self.refused_or_failed(error))
            }
        }
    }

    /// The topic that a send to an unknown one creates, if that is allowed.
    fn implied_topic(&self, header: &SendHeader<'_>) -> Result<TopicConfig, Rejected> {
        let not_exist = |why: &str| {
            let remark = format!("the topic {} does not exist{why}", header.topic);
            Err(Rejected::new(code::TOPIC_NOT_EXIST, remark))
        };
        if header.topic.starts_with(RETRY_PREFIX) {
            return not_exist(": its group was never seen");
        }
        if let Some(group) = header.topic.strip_prefix(DLQ_PREFIX)
            && self.state.group(group).is_some()
        {
            return Ok(dead_letters::topic_of(group));
        }
        if !self.config.auto_create_topics {
            return not_exist(" and is not created by a send");
        }
        if self.state.counts().0 >= limit::TOPICS {
            return not_exist(", and there are too many to create another");
        }
        let queues = header.default_topic_queues.unwrap_or(self.config.default_queues);
        let queues = queues.clamp(1, self.config.default_queues.max(1));
        Ok(TopicConfig {
            name: header.topic.into(),
            read_queues: queues,
            write_queues: queues,
            perm: perm::READ | perm::WRITE,
            order: false,
            order_list: None,
        })
    }

    pub(super) fn answer_send(&mut self, answer: SendAnswer) {
        let host = self.config.host;
        let ids = match &answer.positions {
            Positions::One(position) => offset_message_id(host, *position),
            Positions::Many(positions) => {
                let ids: Vec<_> =
                    positions.iter().map(|position| offset_message_id(host, *position)).collect();
                ids.join(",")
            }
        };
        let recall_handle = answer.recall.map(|(topic, due_wall)| {
            let (topic, broker) = (topic.to_string(), self.config.name.clone());
            RecallHandle { topic, broker, due_wall, message_id: ids.clone() }.encode()
        });
        let fields = SendReply {
            message_id: &ids,
            queue: answer.queue,
            queue_offset: answer.first_offset as i64,
            transaction_id: answer.transaction_id.as_deref(),
            region: Some("DefaultRegion"),
            trace_on: Some(true),
            recall_handle: recall_handle.as_deref(),
        }
        .fields();
        self.reply_ok(answer.conn, answer.reply_to, fields);
    }
}

impl SendAnswer {
    /// `first_offset` is the queue offset of the first message.
    pub fn prepare(
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        queue: u32,
        first_offset: u64,
    ) -> Answer {
        if frame.is_one_way() {
            return Answer::Nothing;
        }
        let properties = Properties(header.properties.unwrap_or_default().as_bytes());
        Answer::Send(Box::new(SendAnswer {
            conn,
            reply_to: frame.reply_to(),
            queue,
            first_offset,
            positions: Positions::One(Position(0)),
            transaction_id: properties.get(property::UNIQ_KEY).map(str::to_owned),
            recall: None,
        }))
    }

    /// The answer to a repeated send: what the first copy's said.
    pub fn repeated(
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        queue: u32,
        receipt: &Receipt,
    ) -> Answer {
        let mut answer = SendAnswer::prepare(conn, frame, header, queue, receipt.offset);
        if let Answer::Send(answer) = &mut answer {
            answer.placed(receipt.positions.iter().copied());
        }
        answer
    }

    /// Fills in where the messages lie, which is known once they are appended.
    pub fn placed(&mut self, positions: impl ExactSizeIterator<Item = Position>) {
        let mut positions = positions;
        self.positions = if positions.len() == 1 {
            Positions::One(positions.next().unwrap_or_default())
        } else {
            Positions::Many(positions.collect())
        };
    }
}

/// What a message's properties say that a broker must know.
struct Asked {
    tag: i64,
    is_delayed: bool,
}

/// Refuses half a transaction: here it would be visible at once.
fn inspect(properties: Properties<'_>) -> Result<Asked, Rejected> {
    let mut asked = Asked { tag: 0, is_delayed: false };
    for (key, value) in properties.iter() {
        match key {
            property::TAGS => asked.tag = tag_hash(value),
            property::TRAN_MSG if value == "true" => {
                let remark = "a message of a batch cannot be half a transaction";
                return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
            }
            key => asked.is_delayed |= delay::is_asked_by(key),
        }
    }
    Ok(asked)
}

/// RocketMQ's rule for topics that a client may send to.
pub(super) fn check_topic_name(topic: &str) -> Result<(), Rejected> {
    let limit = if topic.starts_with('%') { MAX_LONG_TOPIC } else { MAX_TOPIC };
    let refuse = |why: String| Err(Rejected::new(code::MESSAGE_ILLEGAL, why));
    if topic.is_empty() || topic.len() > limit {
        return refuse(format!("a topic has 1 to {limit} characters, this one {}", topic.len()));
    }
    if !topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"%|_-".contains(&b)) {
        return refuse(format!("the topic {topic:?} has characters beyond [%|a-zA-Z0-9_-]"));
    }
    if RESERVED.contains(&topic) {
        return refuse(format!("the topic {topic} is reserved for the broker"));
    }
    Ok(())
}
