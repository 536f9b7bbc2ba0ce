//! Once the chaos is over, everything pending resolves within the settle time.

use super::{Facts, Oracle, Verdict, Violation, debts::Standing};
use crate::history::{Event, EventKind, GroupId, LaneId, MessageId, Names, OpId, ShardId, Stop};

#[derive(Debug, Default)]
pub struct Liveness;

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
        let (EventKind::SendOk { op: id, .. }
        | EventKind::SendRefused { op: id, .. }
        | EventKind::SendUnknown { op: id, .. }) = &event.kind
        else {
            return Ok(());
        };
        let (Some(op), Some((ended, _))) = (facts.op(*id), facts.chaos_ended) else {
            return Ok(());
        };
        let after_micros = event.at - op.begun_at.max(ended);
        if after_micros <= facts.context.settle {
            return Ok(());
        }
        let breach = Breach::AnsweredLate { op: *id, message: op.message, after_micros };
        Err(Violation::new(breach, facts, [op.begun]))
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
