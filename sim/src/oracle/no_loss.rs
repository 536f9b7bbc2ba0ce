//! At least once: a run that has come to rest owes nobody a message, and no
//! group goes past one.
//!
//! Owed is what was answered OK, and what was answered by nobody but seen by
//! somebody: once an unknown outcome is decided, it stays so. A message among
//! the group's dead letters is not lost, nor one that expired and was counted.

use std::collections::BTreeMap;

use super::{
    Facts, Oracle, Verdict, Violation,
    debts::{Debt, Standing},
    readers::Reader,
};
use crate::history::{Event, EventKind, GroupId, MessageId, Mode, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoLoss {
    /// What retention took before the group had it, and what is counted of it.
    taken: BTreeMap<(GroupId, ShardId), Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    lost: u64,
    counted: u64,
    told: u64,
}

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
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Expired { shard, to, .. } => self.expired(*shard, *to, facts),
            EventKind::GroupLost { group, shard, messages } => {
                let taken = self.taken.entry((*group, *shard)).or_default();
                taken.counted += messages.checked_sub(taken.told).unwrap_or(*messages);
                taken.told = *messages;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        if let Some(((group, shard), taken)) =
            self.taken.iter().find(|(_, taken)| taken.counted < taken.lost)
        {
            let (group, shard) = (*group, *shard);
            let (lost, counted) = (taken.lost, taken.counted);
            let breach = Breach::ExpiredUncounted { group, shard, lost, counted };
            return Err(Violation::new(breach, facts, [facts.expired(shard).1]));
        }
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

impl NoLoss {
    fn expired(&mut self, shard: ShardId, to: u64, facts: &Facts) {
        let is_active = |reader: &&Reader| {
            reader.mode == Mode::Clustering && facts.living(reader).next().is_some()
        };
        for reader in facts.readers.iter().filter(is_active) {
            let committed = reader.progress(shard).and_then(|progress| progress.committed);
            let Some(committed) = committed else { continue };
            let gone = committed.max(facts.expired(shard).0)..to;
            let lost = gone.filter(|at| facts.unsettled(reader, shard, *at..at + 1).is_some());
            self.taken.entry((reader.group, shard)).or_default().lost += lost.count() as u64;
        }
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
