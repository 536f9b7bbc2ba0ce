//! At least once: a run that has come to rest owes nobody a message, and no
//! group goes past one.
//!
//! Owed is what was answered OK, and what was answered by nobody but seen by
//! somebody: once an unknown outcome is decided, it stays so. A message among
//! the group's dead letters is not lost, nor one that expired and was counted.

use super::{
    Facts, Oracle, Verdict, Violation,
    debts::{Debt, Standing},
};
use crate::history::{Event, GroupId, MessageId, Mode, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoLoss;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    NeverDelivered {
        group: GroupId,
        message: MessageId,
        shard: ShardId,
        offset: u64,
        acked: bool,
    },
    NeverAcked {
        group: GroupId,
        message: MessageId,
        shard: ShardId,
        offset: u64,
    },
    /// Committed, or due, and nobody ever saw it.
    NeverVisible {
        group: GroupId,
        message: MessageId,
    },
    /// Retention took messages that the group had not had, and the broker did not
    /// count them (L13).
    ExpiredUncounted {
        group: GroupId,
        shard: ShardId,
        lost: u64,
        counted: u64,
    },
}

impl Oracle for NoLoss {
    fn event(&mut self, _event: &Event, _facts: &Facts) -> Verdict {
        Ok(())
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        // A run that has not come to rest may only be slow: liveness says so.
        let is_lost = |debt: &Debt<'_>| {
            debt.reader.mode == Mode::Clustering
                && (facts.quiesced.is_some() || debt.standing == Standing::Skipped)
        };
        let Some(debt) = facts.debts().find(is_lost).filter(|_| facts.context.recovers) else {
            return Ok(());
        };
        let (group, message) = (debt.reader.group, debt.message);
        let sent = facts.message(message);
        let breach = match debt.place.map(|place| (place.shard, place.offset)) {
            None => Breach::NeverVisible { group, message },
            Some((shard, offset)) if debt.standing == Standing::Unanswered => {
                Breach::NeverAcked { group, message, shard, offset }
            }
            Some((shard, offset)) => {
                let acked = sent.is_some_and(|sent| sent.ok.is_some());
                Breach::NeverDelivered { group, message, shard, offset, acked }
            }
        };
        let begun = sent.map(|sent| sent.begun);
        Err(Violation::new(breach, facts, begun.into_iter().chain([debt.promised])))
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::NeverDelivered { group, message, shard, offset, acked } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                let known = if *acked { "was answered OK" } else { "was seen by another group" };
                format!("{message} {known} at {slot}, and the group {group} never got it")
            }
            Breach::NeverVisible { group, message } => {
                let group = names.of_group(*group);
                format!("{message} was committed, or due, and {group} never got it")
            }
            Breach::ExpiredUncounted { group, shard, lost, counted } => {
                let (group, shard) = (names.of_group(*group), names.text_of_shard(*shard));
                format!(
                    "retention took {lost} messages from {shard} that {group} had not had, and \
                     {counted} are counted"
                )
            }
            Breach::NeverAcked { group, message, shard, offset } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} at {slot} was delivered to {group} and never acknowledged")
            }
        }
    }
}
