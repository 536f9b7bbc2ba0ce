//! Sends that their producer numbers: each is stored once and in order, however
//! often and in whatever order it arrives (D1, R3).
//!
//! What is remembered is a fold of the records' stamps (`crate::sequence`), for
//! the producers that sent last, so that every replica and every later life
//! remembers the same. A producer that was forgotten starts a new epoch.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Broker, config::limit, propose::Answer, send::SendAnswer, state::QueueKey};
use crate::{
    error::{Corrupt, Rejected},
    ids::{ConnId, Position},
    message::Peek,
    runtime::Disk,
    sequence::{self, Stamp},
    wire::{Frame, code, header::SendHeader},
};

/// Whose messages to which queue.
type Key = (u64, QueueKey);

/// What the answer to a send said, or would have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The number of the first message.
    sequence: u64,
    /// Its queue offset, as it was answered.
    pub offset: u64,
    pub positions: Vec<Position>,
}

impl Receipt {
    pub fn new(stamp: Stamp, offset: u64, positions: Vec<Position>) -> Receipt {
        Receipt { sequence: stamp.sequence, offset, positions }
    }
}

/// The messages of one producer to one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    epoch: u32,
    /// The number of the next message.
    next: u64,
    /// Of the last requests, the oldest first.
    recent: VecDeque<Receipt>,
    /// Counts all uses: the least recent is forgotten first.
    used: u64,
}

/// What is remembered of numbered sends that are committed.
#[derive(Default)]
pub struct Sequences {
    series: BTreeMap<Key, Series>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
}

impl Sequences {
    pub fn apply(&mut self, to: QueueKey, stamp: Stamp, receipt: Receipt) {
        self.uses += 1;
        let key = (stamp.producer, to);
        let series = self.series.entry(key).or_default();
        self.by_use.remove(&series.used);
        if stamp.epoch > series.epoch {
            *series = Series { epoch: stamp.epoch, ..Series::default() };
        }
        series.used = self.uses;
        self.by_use.insert(self.uses, key);
        series.next = stamp.sequence + receipt.positions.len() as u64;
        series.recent.push_back(receipt);
        let messages =
            |series: &Series| series.recent.iter().map(|r| r.positions.len()).sum::<usize>();
        while series.recent.len() > limit::RECEIPTS
            || (series.recent.len() > 1 && messages(series) > limit::RECEIPTS)
        {
            series.recent.pop_front();
        }
        if self.series.len() > limit::SERIES
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.series.remove(&oldest);
        }
    }

    pub fn snapshot(&self) -> SequencesSnapshot {
        let saved = self
            .series
            .iter()
            .map(|((producer, to), series)| (*producer, (to.topic, to.queue), series.clone()));
        SequencesSnapshot { series: saved.collect(), uses: self.uses }
    }

    pub fn restore(saved: SequencesSnapshot) -> Sequences {
        let mut sequences = Sequences { uses: saved.uses, ..Sequences::default() };
        for (producer, (topic, queue), series) in saved.series {
            let key = (producer, QueueKey { topic, queue });
            sequences.by_use.insert(series.used, key);
            sequences.series.insert(key, series);
        }
        sequences
    }
}

#[derive(Serialize, Deserialize)]
pub struct SequencesSnapshot {
    series: Vec<(u64, (u32, u32), Series)>,
    uses: u64,
}

/// The stamp of an entry, which its first record carries.
pub fn stamp_of(record: &[u8], at: Position) -> Result<Option<Stamp>, Corrupt> {
    let properties = Peek(record).properties();
    let Some(text) = properties.and_then(|all| all.get(sequence::PROPERTY)) else {
        return Ok(None);
    };
    let what = "a record with an unusable stamp".to_owned();
    let corrupt = || Corrupt { file: "log".into(), position: Some(at), what };
    Stamp::parse(text).map(Some).ok_or_else(corrupt)
}

/// Numbered sends that are not applied yet.
#[derive(Default)]
pub(super) struct Sequencing {
    /// Of the send that is being drafted, and whether its record has it.
    drafted: Option<(QueueKey, Stamp, bool)>,
    /// In log order; each with the end of its entry.
    proposed: VecDeque<(Position, QueueKey, Stamp, Receipt)>,
    /// The epoch and next number of series with proposals, and how many.
    ahead: BTreeMap<Key, (u32, u64, usize)>,
    /// Answers to repetitions of what is not committed yet.
    repeats: VecDeque<(Position, Answer)>,
}

impl<D: Disk> Broker<D> {
    /// Judges a send by its number, if it has one; true if it is a repetition,
    /// which is answered like the first copy, once that is committed.
    pub(super) fn is_repeated(
        &mut self,
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        to: QueueKey,
    ) -> Result<bool, Rejected> {
        self.sequencing.drafted = None;
        let (Some(producer), Some(sequence)) = (header.producer_id, header.sequence) else {
            return Ok(false);
        };
        if header.queue < 0 {
            return Err(Rejected::bad_field("queueId", "must be chosen by who numbers messages"));
        }
        let stamp = Stamp { producer, epoch: header.producer_epoch.unwrap_or(0), sequence };
        let known = self.state.sequences.series.get(&(producer, to));
        let ahead = self.sequencing.ahead.get(&(producer, to));
        let (epoch, next) = ahead
            .map(|(epoch, next, _)| (*epoch, *next))
            .or(known.map(|series| (series.epoch, series.next)))
            .unwrap_or((stamp.epoch, 0));
        if stamp.epoch < epoch {
            let remark = format!("the producer {producer} is in epoch {epoch} by now");
            return Err(Rejected::new(code::FENCED, remark));
        }
        let next = if stamp.epoch > epoch { 0 } else { next };
        if sequence == next {
            self.sequencing.drafted = Some((to, stamp, false));
            return Ok(false);
        }
        if sequence > next {
            let remark = format!("message {sequence} came before message {next}");
            return Err(Rejected::new(code::OUT_OF_SEQUENCE, remark));
        }
        self.answer_repeated(conn, frame, header, to, stamp)?;
        Ok(true)
    }

    fn answer_repeated(
        &mut self,
        conn: ConnId,
        frame: &Frame,
        header: &SendHeader<'_>,
        to: QueueKey,
        stamp: Stamp,
    ) -> Result<(), Rejected> {
        let is_it = |of: &Stamp| (of.producer, of.epoch) == (stamp.producer, stamp.epoch);
        let proposed = self.sequencing.proposed.iter().find(|(_, queue, of, receipt)| {
            *queue == to && is_it(of) && receipt.sequence == stamp.sequence
        });
        let answer =
            |receipt: &Receipt| SendAnswer::repeated(conn, frame, header, to.queue, receipt);
        if let Some((end, _, _, receipt)) = proposed {
            if self.sequencing.repeats.len() >= limit::AWAITING {
                return Err(Rejected::new(code::SYSTEM_BUSY, "[OVERLOAD] too many repetitions"));
            }
            let waits = (*end, answer(receipt));
            self.sequencing.repeats.push_back(waits);
            self.counters.repeated += 1;
            return Ok(());
        }
        let series = self.state.sequences.series.get(&(stamp.producer, to));
        let recent = series.into_iter().flat_map(|series| &series.recent);
        let Some(receipt) = recent.rev().find(|receipt| receipt.sequence == stamp.sequence) else {
            let remark = format!("message {} is too old to know where it is", stamp.sequence);
            return Err(Rejected::new(code::OUT_OF_SEQUENCE, remark));
        };
        let answer = answer(receipt);
        self.answer(answer);
        self.counters.repeated += 1;
        Ok(())
    }

    /// The stamp of the send that is being drafted, for its first record.
    pub(super) fn take_stamp(&mut self) -> Option<Stamp> {
        let (_, stamp, is_written) = self.sequencing.drafted.as_mut()?;
        (!std::mem::replace(is_written, true)).then_some(*stamp)
    }

    /// What was drafted is appended, and commits with what ends at `end`.
    pub(super) fn numbered(&mut self, end: Position, offset: u64, positions: Vec<Position>) {
        let Some((to, stamp, _)) = self.sequencing.drafted.take() else { return };
        let next = stamp.sequence + positions.len() as u64;
        let ahead = self.sequencing.ahead.entry((stamp.producer, to)).or_default();
        *ahead = (stamp.epoch, next, ahead.2 + 1);
        let receipt = Receipt::new(stamp, offset, positions);
        self.sequencing.proposed.push_back((end, to, stamp, receipt));
    }

    pub(super) fn has_number(&self) -> bool {
        self.sequencing.drafted.is_some()
    }

    /// Everything before this position is applied.
    pub(super) fn numbered_to(&mut self, applied: Position) {
        while self.sequencing.proposed.front().is_some_and(|(end, ..)| *end <= applied) {
            let Some((_, to, stamp, receipt)) = self.sequencing.proposed.pop_front() else { break };
            self.state.sequences.apply(to, stamp, receipt);
            let key = (stamp.producer, to);
            if let Some(ahead) = self.sequencing.ahead.get_mut(&key) {
                ahead.2 -= 1;
                if ahead.2 == 0 {
                    self.sequencing.ahead.remove(&key);
                }
            }
        }
        while self.sequencing.repeats.front().is_some_and(|(end, _)| *end <= applied) {
            let Some((_, answer)) = self.sequencing.repeats.pop_front() else { break };
            self.answer(answer);
        }
    }
}
