//! At least once: a run that has come to rest owes nobody a message, and no
//! group goes past one.
//!
//! Owed is what was answered OK, and what was answered by nobody but seen by
//! somebody: once an unknown outcome is decided, it stays so.

use super::{
    Facts, Oracle, Verdict, Violation,
    debts::{Debt, Standing},
};
use crate::history::{Event, GroupId, MessageId, Mode, Names, ShardId};

#[derive(Debug, Default)]
pub struct NoLoss;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    NeverDelivered { group: GroupId, message: MessageId, shard: ShardId, offset: u64, acked: bool },
    NeverAcked { group: GroupId, message: MessageId, shard: ShardId, offset: u64 },
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
        let (shard, offset) = (debt.place.shard, debt.place.offset);
        let sent = facts.message(message);
        let breach = match debt.standing {
            Standing::Unanswered => Breach::NeverAcked { group, message, shard, offset },
            Standing::Ahead | Standing::Skipped => {
                let acked = sent.is_some_and(|sent| sent.ok.is_some());
                Breach::NeverDelivered { group, message, shard, offset, acked }
            }
        };
        Err(Violation::new(
            breach,
            facts,
            sent.map(|s| s.begun).into_iter().chain([debt.place.event]),
        ))
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
            Breach::NeverAcked { group, message, shard, offset } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} at {slot} was delivered to {group} and never acknowledged")
            }
        }
    }
}
