//! Once the chaos is over, everything pending resolves within the settle time;
//! and where nothing was wrong for a while, a reader that waits for the next
//! message has it soon after it was stored.

use std::collections::BTreeMap;

use super::{
    Facts, Oracle, Verdict, Violation,
    debts::Standing,
    facts::{Answer, Place},
};
use crate::history::{
    DeliveryId, Event, EventKind, GroupId, LaneId, MemberId, MessageId, Names, OpId, ShardId, Stop,
};

/// How long it must have been calm when a message is sent: by then links that
/// broke without a word are known to be broken.
const CALM_MICROS: u64 = 20_000_000;
/// A waiting reader has the message by then. Far below the time for which an
/// empty pull is held: that one must be woken, not run out.
const SOON_MICROS: u64 = 5_000_000;

#[derive(Debug, Default)]
pub struct Liveness {
    /// When a delivery was acknowledged, the latest of each member and shard.
    acked: BTreeMap<(MemberId, ShardId), u64>,
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
    /// The member had nothing to do in this shard, and got it much later.
    DeliveredLate {
        member: MemberId,
        message: MessageId,
        shard: ShardId,
        offset: u64,
        after_micros: u64,
    },
    /// The group is alive, and this still waits for it.
    StillWaiting {
        group: GroupId,
        message: MessageId,
        shard: ShardId,
        offset: u64,
    },
    NeverAtRest,
}

impl Oracle for Liveness {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::SendOk { op, .. }
            | EventKind::SendRefused { op, .. }
            | EventKind::SendUnknown { op, .. } => answered(*op, event.at, facts),
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
        let down = |lane: &LaneId| {
            let node = facts.node(*lane);
            !node.up && node.down_by != Some(Stop::Graceful)
        };
        if let Some(node) = facts.nodes().map(|(lane, _)| lane).find(down) {
            let stopped = facts.node(node).stopped;
            return Err(Violation::new(Breach::NodeDown { node }, facts, stopped));
        }
        if facts.quiesced.is_some() {
            return Ok(());
        }
        if let Some(debt) = facts.debts().find(|debt| debt.standing != Standing::Skipped) {
            let (group, message) = (debt.reader.group, debt.message);
            let (shard, offset) = (debt.place.shard, debt.place.offset);
            let breach = Breach::StillWaiting { group, message, shard, offset };
            return Err(Violation::new(breach, facts, [debt.place.event]));
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

impl Liveness {
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
        if after_micros <= SOON_MICROS
            || !facts.calm_for(facts.now - message.begun_at + CALM_MICROS)
        {
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
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::AnsweredLate { op, message, after_micros } => {
                let (op, millis) = (op.number(), after_micros / 1000);
                format!("send #{op} of {message} took {millis} ms, with no fault in its way")
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
            Breach::NodeDown { node } => {
                format!("{} is still down at the end", names.of_lane(*node))
            }
            Breach::StillWaiting { group, message, shard, offset } => {
                let group = names.of_group(*group);
                let slot = names.text_of_slot(*shard, *offset);
                format!("the settle time is over, and {message} at {slot} still waits for {group}")
            }
            Breach::NeverAtRest => {
                "the settle time is over, and the run has not come to rest".to_owned()
            }
        }
    }
}
