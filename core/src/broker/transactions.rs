//! Transactions: a half message is stored and not seen until a member of its
//! producer group decides (37). Whoever says nothing is asked (`check_back`),
//! and what nobody can answer waits for an operator (`inspect`).

mod check_back;
mod checks;
mod inspect;

use std::collections::BTreeMap;

pub use self::checks::CheckBack;
use self::checks::Checks;
use super::{
    Broker,
    command::Command,
    delay,
    halves::{Change, Fate},
    propose::Answer,
    send::SendAnswer,
    state::QueueKey,
    timers::{self, Deferred},
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Name, Position},
    log::Kind,
    message::{MAX_GROUP, Peek, Properties, property, sys_flag},
    pointer::{Held, Hold, Settles},
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::BatchRecord,
        code,
        frame::ReplyTo,
        header::{EndTransactionHeader, Resolution, SendHeader},
    },
};

/// Undecided halves, all groups together: 180 MB of memory.
const MAX_OPEN: usize = 1_000_000;
/// Requests that wait for one half's decision to be durable.
const MAX_WAITING: usize = 64;

/// What the broker knows of transactions beyond what the log says.
#[derive(Default)]
pub(super) struct Transactions {
    checks: Checks,
    /// Decisions on their way through the log, and who waits for them. The
    /// first one counts, also while it is not applied yet (T4).
    deciding: BTreeMap<Position, Vec<Waiting>>,
    /// Of the next half to be proposed.
    next_number: u64,
}

/// Who decided so, and is answered once the first decision is applied.
struct Waiting {
    conn: ConnId,
    reply_to: ReplyTo,
    wanted: Fate,
}

/// A half message as far as a client that names one may know.
enum Standing {
    Open,
    Settled(Fate),
}

impl Transactions {
    pub fn deadline(&self) -> Option<Time> {
        self.checks.deadline()
    }

    pub fn unreachable(&self) -> impl Iterator<Item = &Name> {
        self.checks.asleep()
    }

    pub fn closed(&mut self, conn: ConnId) {
        self.checks.closed(conn);
    }
}

/// Whether a send is one half of a transaction.
pub(super) fn is_half(header: &SendHeader<'_>, properties: Properties<'_>) -> bool {
    header.sys_flag & sys_flag::TRANSACTION_MASK == sys_flag::TRANSACTION_PREPARED
        || properties.get(property::TRAN_MSG) == Some("true")
}

impl<D: Disk> Broker<D> {
    /// Stores a half message for the queue that it will be seen in.
    pub(super) fn send_half(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        to: QueueKey,
    ) -> Result<(), Rejected> {
        if self.state.halves.len() >= MAX_OPEN {
            let remark = format!("[OVERLOAD] {MAX_OPEN} transactions are undecided");
            return Err(Rejected::new(code::SYSTEM_BUSY, remark));
        }
        let encoded = header.properties.unwrap_or_default().as_bytes();
        let properties = Properties(encoded);
        // Who may decide is who may be asked.
        let group = properties.get(property::PGROUP).unwrap_or(header.producer_group);
        if group.is_empty() || group.len() > MAX_GROUP {
            let remark = format!("PGROUP has 1 to {MAX_GROUP} characters, not {}", group.len());
            return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
        }
        // A delay starts with the commit; one that cannot be kept is refused now.
        delay::due(properties, now.wall)?;
        let seconds = properties.get(property::CHECK_IMMUNITY_TIME);
        let immunity = seconds.and_then(|text| text.trim().parse::<u64>().ok());
        let number = self.transactions.next_number.max(self.state.halves.next_number());
        let hold = Hold::Half {
            number,
            producer_group: group.into(),
            immunity: immunity.map(|seconds| seconds.saturating_mul(1000)),
        };
        let prepared = SendHeader {
            sys_flag: header.sys_flag & !sys_flag::TRANSACTION_MASK
                | sys_flag::TRANSACTION_PREPARED,
            ..header.clone()
        };
        self.draft.clear(Kind::Held);
        let message = BatchRecord { flag: header.flag, body: &frame.body, properties: encoded };
        let size = self.draft_record(now, conn, &prepared, to, number, message)?;
        let answer = SendAnswer::prepare(conn, frame, header, to.queue, number);
        match self.propose_held(now, size, hold, answer) {
            Ok(()) => {
                self.transactions.next_number = number + 1;
                Ok(())
            }
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    /// 37: what a producer says of its half message.
    pub(super) fn end_transaction(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = EndTransactionHeader::parse(&frame.fields)?;
        let at = u64::try_from(header.position).map(Position);
        let at = at.map_err(|_| Rejected::bad_field("commitLogOffset", "is below zero"))?;
        let standing = self.standing(at, Some((header.half_offset, header.producer_group)))?;
        if header.from_check == Some(true) {
            self.check_answered(at);
        }
        let wanted = match header.resolution {
            Resolution::Commit => Fate::Committed,
            Resolution::Rollback => Fate::RolledBack,
            Resolution::Unknown => {
                self.reply_ok(conn, frame.reply_to(), Fields::default());
                return Ok(());
            }
        };
        self.decide(now, at, standing, wanted, conn, frame.reply_to())
    }

    /// What became of the half message at a position that somebody outside
    /// named. A producer also has to name the half's number and its group.
    fn standing(
        &mut self,
        at: Position,
        claimed: Option<(i64, &str)>,
    ) -> Result<Standing, Rejected> {
        let refusal = |why: String| Rejected::new(code::SYSTEM_ERROR, why);
        let check = |number: u64, group: Option<&str>| match claimed {
            Some((claimed, _)) if u64::try_from(claimed) != Ok(number) => {
                Err(refusal(format!("the half message at {at} has another number than {claimed}")))
            }
            Some((_, claimed)) if group.is_some_and(|group| group != claimed) => {
                Err(refusal(format!("the half message at {at} is not one of the group {claimed}")))
            }
            _ => Ok(()),
        };
        if let Some(half) = self.state.halves.get(at) {
            check(half.number, Some(&half.producer_group))?;
            return Ok(Standing::Open);
        }
        let none = || refusal(format!("no half message lies at {at}: never, or not any more"));
        let stored = self.readable(at)?.ok_or_else(none)?;
        let peek = Peek(&stored.record);
        let flag = peek.sys_flag().unwrap_or_default();
        let is_half = flag & sys_flag::TRANSACTION_MASK == sys_flag::TRANSACTION_PREPARED;
        let (Some(number), true, None) = (peek.queue_offset(), is_half, &stored.pointer) else {
            return Err(none());
        };
        check(number, stored.property(property::PGROUP))?;
        match self.state.halves.fate(number) {
            Some(fate) => Ok(Standing::Settled(fate)),
            None => Err(refusal(format!("what became of the half message at {at} is forgotten"))),
        }
    }

    /// Settles a half message, or says what it was settled as before. Answered
    /// once the first decision is in the log to stay.
    fn decide(
        &mut self,
        now: Now,
        at: Position,
        standing: Standing,
        wanted: Fate,
        conn: ConnId,
        reply_to: ReplyTo,
    ) -> Result<(), Rejected> {
        let waiting = Waiting { conn, reply_to, wanted };
        if let Standing::Settled(fate) = standing {
            self.answer_decision(waiting, fate);
            return Ok(());
        }
        if let Some(others) = self.transactions.deciding.get_mut(&at) {
            if others.len() >= MAX_WAITING {
                let remark = "[OVERLOAD] too many decide about this transaction at once";
                return Err(Rejected::new(code::SYSTEM_BUSY, remark));
            }
            others.push(waiting);
            return Ok(());
        }
        match wanted {
            Fate::Committed => self.propose_commit(now, at)?,
            Fate::RolledBack => {
                let command = Command::Transaction(Change::RolledBack(at));
                if let Err(error) = self.propose_command(command, Answer::Nothing) {
                    return Err(self.refused_or_failed(error));
                }
            }
        }
        self.transactions.deciding.insert(at, vec![waiting]);
        Ok(())
    }

    /// One entry makes the message visible and settles its half: no crash can
    /// come between (T2).
    fn propose_commit(&mut self, now: Now, at: Position) -> Result<(), Rejected> {
        let lost = || Rejected::new(code::SYSTEM_ERROR, format!("no message can be read at {at}"));
        let stored = self.readable(at)?.ok_or_else(lost)?;
        let mut shows = stored.appearance().ok_or_else(lost)?;
        if self.state.find_queue(&shows.topic, shows.queue).is_none() {
            return Err(lost());
        }
        shows.patch.committed = true;
        // Who sends it again must not send a half.
        shows.patch.remove(property::TRAN_MSG);
        let properties = Peek(&stored.record).properties().ok_or_else(lost)?;
        let settles = Settles::Half(at);
        let proposed = match delay::due(properties, now.wall)? {
            None => self.propose_pointers(now, vec![(shows, settles)], Answer::Nothing),
            Some(due_wall) => {
                delay::forget_delay(&mut shows.patch, properties);
                let deferred = Deferred { due_wall, shows, settles };
                let command = Command::Timer(timers::Change::Deferred(deferred));
                self.propose_command(command, Answer::Nothing).map(drop)
            }
        };
        proposed.map_err(|error| self.refused_or_failed(error))
    }

    fn readable(&mut self, at: Position) -> Result<Option<super::stored::Stored>, Rejected> {
        self.stored(at).map_err(|error: StoreError| {
            self.counters.corrupt_reads += 1;
            tracing::error!(%error, "a half message cannot be read");
            Rejected::new(code::SYSTEM_ERROR, error.to_string())
        })
    }

    fn answer_decision(&mut self, waiting: Waiting, fate: Fate) {
        let Waiting { conn, reply_to, wanted } = waiting;
        if wanted == fate {
            return self.reply_ok(conn, reply_to, Fields::default());
        }
        self.counters.conflicts += 1;
        let remark = match fate {
            Fate::Committed => "the transaction was committed before and cannot be rolled back",
            Fate::RolledBack => "the transaction was rolled back before and cannot be committed",
        };
        self.refuse(conn, reply_to, Rejected::new(code::ILLEGAL_OPERATION, remark));
    }

    /// A half message is in the log to stay: it will be checked in time.
    pub(super) fn half_held(&mut self, now: Now, held: &Held) {
        if let Hold::Half { .. } = held.hold {
            self.schedule_check(now, held.at);
        }
    }

    /// Before `State::settle`, which forgets the half.
    pub(super) fn half_settled(&mut self, at: Position, fate: Fate) {
        if let Some(half) = self.state.halves.get(at) {
            self.transactions.checks.forget(&half.producer_group, at);
        }
        for waiting in self.transactions.deciding.remove(&at).unwrap_or_default() {
            self.answer_decision(waiting, fate);
        }
    }
}
