//! Once the chaos is over, everything pending resolves within the settle time;
//! and where nothing was wrong for a while, sends succeed, and a reader that
//! waits for the next message has it soon after it was stored.

use std::collections::BTreeMap;

use super::{
    Facts, Oracle, Verdict, Violation,
    debts::{Debt, Standing},
    facts::Place,
    readers::Answer,
};
use crate::history::{
    DeliveryId, Event, EventKind, GroupId, LaneId, MemberId, MessageId, Names, OpId, ShardId,
};

/// How long it must have been calm before waiting counts: by then links that
/// broke without a word are known to be broken, and members shared out anew.
const CALM_MICROS: u64 = 20_000_000;
/// A waiting reader has the message by then. Far below the time for which an
/// empty pull is held: that one must be woken, not run out.
const SOON_MICROS: u64 = 5_000_000;
/// Every group that does not work on something else has it by then.
const LATE_MICROS: u64 = 15_000_000;

#[derive(Debug, Default)]
pub struct Liveness {
    /// When a delivery was acknowledged, the latest of each member and shard.
    acked: BTreeMap<(MemberId, ShardId), u64>,
    /// Replica sets in which nobody serves, and since when.
    unserved: BTreeMap<LaneId, u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    AnsweredLate {
        op: OpId,
        message: MessageId,
        after_micros: u64,
    },
    NeverAnswered {
        op: OpId,
        message: MessageId,
    },
    NodeDown {
        node: LaneId,
    },
    /// A majority of the replicas lives and is connected, and none of them serves.
    NoLeader {
        set: LaneId,
        for_micros: u64,
    },
    /// The member had nothing to do in this shard, and got it much later.
    DeliveredLate {
        member: MemberId,
        message: MessageId,
        shard: ShardId,
        offset: u64,
        after_micros: u64,
    },
    /// All was well, and still it was refused, or never answered.
    FailedInCalm {
        op: OpId,
        message: MessageId,
    },
    /// All was well, and still a first request had no answer.
    RepeatedInCalm {
        op: OpId,
        message: MessageId,
        tries: u8,
    },
    /// The group is alive, and this still waits for it.
    StillWaiting {
        group: GroupId,
        message: MessageId,
        slot: Option<(ShardId, u64)>,
    },
    /// Stored as a half, and its producers live, who know how it ended.
    Undecided {
        message: MessageId,
    },
    NeverAtRest,
}

impl Oracle for Liveness {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        self.look_for_a_leader(facts)?;
        match &event.kind {
            EventKind::Formed { .. } => {
                self.unserved.entry(event.lane).or_insert(event.at);
                Ok(())
            }
            EventKind::NodeStopped { .. } if facts.set(event.lane).is_some() => {
                self.unserved.insert(event.lane, event.at);
                Ok(())
            }
            // A set's life begins when somebody serves. Of real processes nobody
            // sees what they recovered.
            EventKind::NodeStarted { .. } | EventKind::Recovered { .. } => {
                self.unserved.remove(&event.lane);
                Ok(())
            }
            EventKind::SendOk { op, tries, .. } => {
                repeated(*op, *tries, facts)?;
                answered(*op, event.at, facts)
            }
            EventKind::SendRefused { op, .. } | EventKind::SendUnknown { op, .. } => {
                failed(*op, facts)?;
                answered(*op, event.at, facts)
            }
            // The calm ends here.
            EventKind::Fault(_) | EventKind::ChaosEnded => overdue(facts),
            EventKind::Acked { delivery } => {
                if let Some(acked) = facts.delivery(*delivery) {
                    self.acked.insert((acked.member, acked.shard), event.at);
                }
                Ok(())
            }
            EventKind::Delivered { member, message: Some(id), shard, queue_offset, .. } => {
                self.delivered(*member, *id, (*shard, *queue_offset), facts)
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        if !facts.context.recovers {
            return Ok(());
        }
        if let Some((op, open)) = facts.all_ops().find(|(_, op)| !op.answered) {
            let breach = Breach::NeverAnswered { op, message: open.message };
            return Err(Violation::new(breach, facts, [open.begun]));
        }
        if let Some(node) = facts.absent() {
            let stopped = facts.node(node).stopped;
            return Err(Violation::new(Breach::NodeDown { node }, facts, stopped));
        }
        if facts.quiesced.is_some() {
            return Ok(());
        }
        if let Some(debt) = facts.debts().find(|debt| debt.standing != Standing::Skipped) {
            return Err(Violation::new(Breach::waiting(&debt), facts, [debt.promised]));
        }
        let mut undecided = facts.all_messages().filter(|(_, known)| facts.is_undecided(known));
        if let Some((message, known)) = undecided.next() {
            return Err(Violation::new(Breach::Undecided { message }, facts, [known.begun]));
        }
        // What was skipped is lost, not late, and other promises say so.
        if facts.is_pending() {
            return Ok(());
        }
        Err(Violation::new(Breach::NeverAtRest, facts, facts.chaos_ended.map(|(_, event)| event)))
    }
}

fn answered(id: OpId, at: u64, facts: &Facts) -> Verdict {
    let (Some(op), Some((ended, _))) = (facts.op(id), facts.chaos_ended) else {
        return Ok(());
    };
    let after_micros = at - op.begun_at.max(ended);
    if after_micros <= facts.context.settle {
        return Ok(());
    }
    let breach = Breach::AnsweredLate { op: id, message: op.message, after_micros };
    Err(Violation::new(breach, facts, [op.begun]))
}

fn failed(id: OpId, facts: &Facts) -> Verdict {
    let Some(op) = facts.op(id) else { return Ok(()) };
    if !facts.calm_for(facts.now - op.begun_at + CALM_MICROS) {
        return Ok(());
    }
    let breach = Breach::FailedInCalm { op: id, message: op.message };
    Err(Violation::new(breach, facts, [op.begun]))
}

fn repeated(id: OpId, tries: u8, facts: &Facts) -> Verdict {
    let Some(op) = facts.op(id).filter(|_| tries > 1) else { return Ok(()) };
    if !facts.calm_for(facts.now - op.begun_at + CALM_MICROS) {
        return Ok(());
    }
    let breach = Breach::RepeatedInCalm { op: id, message: op.message, tries };
    Err(Violation::new(breach, facts, [op.begun]))
}

/// After a long calm, looks for what a group with nothing in hand never got.
fn overdue(facts: &Facts) -> Verdict {
    if !facts.calm_for(CALM_MICROS + LATE_MICROS) {
        return Ok(());
    }
    let calm_since = facts.disturbed.0 + CALM_MICROS;
    let is_overdue = |debt: &Debt<'_>| {
        let sent = facts.message(debt.message).map_or(0, |message| message.begun_at);
        debt.standing == Standing::Ahead
            && sent >= calm_since
            && debt.place.is_some_and(|place| facts.now - place.at > LATE_MICROS)
            && facts.is_idle(debt.reader)
    };
    let Some(debt) = facts.debts().find(is_overdue) else { return Ok(()) };
    Err(Violation::new(Breach::waiting(&debt), facts, [debt.promised]))
}

impl Liveness {
    fn look_for_a_leader(&self, facts: &Facts) -> Verdict {
        let for_micros = |since: u64| facts.now - since.max(facts.disturbed.0);
        let is_overdue = |(set, since): &(&LaneId, &u64)| {
            for_micros(**since) > facts.context.fail_over && facts.has_quorum(**set)
        };
        let Some((set, since)) = self.unserved.iter().find(is_overdue) else { return Ok(()) };
        let breach = Breach::NoLeader { set: *set, for_micros: for_micros(*since) };
        Err(Violation::new(breach, facts, [facts.disturbed.1]))
    }

    fn delivered(
        &self,
        member: MemberId,
        id: MessageId,
        (shard, offset): (ShardId, u64),
        facts: &Facts,
    ) -> Verdict {
        let Some(message) = facts.message(id) else { return Ok(()) };
        let Some(Place { at: stored, event: ok, .. }) =
            message.ok.filter(|ok| (ok.shard, ok.offset) == (shard, offset))
        else {
            return Ok(());
        };
        let after_micros = facts.now - stored;
        let calm_since = stored.max(facts.disturbed.0 + CALM_MICROS);
        if !facts.calm_for(CALM_MICROS) || facts.now.saturating_sub(calm_since) <= SOON_MICROS {
            return Ok(());
        }
        // It waits if all that it got from the shard was done when this was sent.
        let known = facts.member(member);
        let last = known.reading(shard).and_then(|reading| reading.last);
        let is_done = |last: DeliveryId| {
            facts.delivery(last).is_some_and(|last| last.answer == Answer::Acked)
                && self.acked.get(&(member, shard)).is_some_and(|at| *at < message.begun_at)
        };
        if known.paced.is_some() || !last.is_some_and(is_done) {
            return Ok(());
        }
        let breach = Breach::DeliveredLate { member, message: id, shard, offset, after_micros };
        Err(Violation::new(breach, facts, [message.begun, ok]))
    }
}

impl Breach {
    fn waiting(debt: &Debt<'_>) -> Breach {
        let slot = debt.place.map(|place| (place.shard, place.offset));
        Breach::StillWaiting { group: debt.reader.group, message: debt.message, slot }
    }

    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::AnsweredLate { op, message, after_micros } => {
                let (op, millis) = (op.number(), after_micros / 1000);
                format!("send #{op} of {message} took {millis} ms, with no fault in its way")
            }
            Breach::FailedInCalm { op, message } => {
                format!("send #{} of {message} failed, with no fault in its way", op.number())
            }
            Breach::RepeatedInCalm { op, message, tries } => {
                let op = op.number();
                format!("send #{op} of {message} took {tries} requests, with no fault in its way")
            }
            Breach::NeverAnswered { op, message } => {
                format!("send #{} of {message} was never answered", op.number())
            }
            Breach::DeliveredLate { member, message, shard, offset, after_micros } => {
                let group = names.of_group(names.of_member(*member).group);
                let slot = names.text_of_slot(*shard, *offset);
                let millis = after_micros / 1000;
                format!(
                    "{message} reached a waiting member of {group} {millis} ms after it was \
                     stored at {slot}, with no fault in its way"
                )
            }
            Breach::NoLeader { set, for_micros } => format!(
                "a majority of {} lives and is connected, and nobody serves for {} ms",
                names.of_lane(*set),
                for_micros / 1000
            ),
            Breach::NodeDown { node } => {
                format!("{} is still down at the end", names.of_lane(*node))
            }
            Breach::StillWaiting { group, message, slot } => {
                let group = names.of_group(*group);
                let slot = slot.map_or("what is held".to_owned(), |(shard, offset)| {
                    names.text_of_slot(shard, offset)
                });
                format!("{message} at {slot} still waits for {group}, which has had all the time")
            }
            Breach::Undecided { message } => {
                format!("{message} is still a half, though its producers live")
            }
            Breach::NeverAtRest => {
                "the settle time is over, and the run has not come to rest".to_owned()
            }
        }
    }
}
