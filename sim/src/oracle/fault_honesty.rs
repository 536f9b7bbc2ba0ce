//! A broken disk is met with repair or refusal: never with wrong bytes, never
//! with an OK after a failed sync (L2), never with silence.

use super::{EventIndex, Facts, Oracle, Verdict, Violation, facts::Op};
use crate::history::{Event, EventKind, FaultKind, LaneId, MessageId, Names, ShardId, Unanswered};

/// How long everything but the full disk must have been well.
const CALM_MICROS: u64 = 10_000_000;

#[derive(Debug, Default)]
pub struct FaultHonesty;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    WrongBytes {
        shard: ShardId,
        offset: u64,
        message: Option<MessageId>,
    },
    OkAfterFailedSync {
        message: MessageId,
        shard: ShardId,
        offset: u64,
    },
    DurableAfterFailedSync {
        broker: LaneId,
        position: u64,
    },
    /// The disk was full, nothing else was wrong, and nobody said so.
    Silence {
        message: MessageId,
    },
}

impl Oracle for FaultHonesty {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Delivered { shard, queue_offset, message, body_hash, .. } => {
                let Some(damaged) = facts.damaged(*shard) else { return Ok(()) };
                let sent = message.and_then(|message| facts.message(message));
                let is_right = match message {
                    Some(_) => sent.is_none_or(|sent| sent.body_hash == *body_hash),
                    None => false,
                };
                let (shard, offset, message) = (*shard, *queue_offset, *message);
                let breach = Breach::WrongBytes { shard, offset, message };
                if is_right { Ok(()) } else { Err(Violation::new(breach, facts, [damaged])) }
            }
            EventKind::SendOk { op, shard, queue_offset, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                // An answer to an earlier request may have been on its way; and async
                // flush answers until it hears of the failure, which takes a sync's time.
                let heard = if facts.context.sync_flush { 0 } else { facts.context.flush_window };
                // Of a set only one replica is out; the others go on.
                let failed = facts.node(facts.shard(*shard).broker).sync_failed;
                let failed =
                    failed.filter(|(at, micros)| op.begun > *at && op.begun_at >= *micros + heard);
                let Some((failed, _)) = failed else { return Ok(()) };
                let (message, shard, offset) = (op.message, *shard, *queue_offset);
                let breach = Breach::OkAfterFailedSync { message, shard, offset };
                Err(Violation::new(breach, facts, [failed, op.begun]))
            }
            EventKind::Durable { position } => {
                // The probe looks once an instant: an earlier sync may have ended just then.
                let failed = facts.node(event.lane).sync_failed.filter(|(_, at)| *at < event.at);
                let Some((failed, _)) = failed else { return Ok(()) };
                let (broker, position) = (event.lane, *position);
                let breach = Breach::DurableAfterFailedSync { broker, position };
                Err(Violation::new(breach, facts, [failed]))
            }
            EventKind::SendUnknown { op, why: Unanswered::TimedOut, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                let shard = facts.message(op.message).and_then(|message| message.shard);
                let broker = shard.map(|s| facts.shard(s).broker).or_else(|| facts.only_broker());
                let full = broker.and_then(|broker| only_full(broker, op, facts));
                let Some(full) = full else { return Ok(()) };
                let breach = Breach::Silence { message: op.message };
                Err(Violation::new(breach, facts, [full, op.begun]))
            }
            _ => Ok(()),
        }
    }
}

/// The full disk of this broker, if it struck before the operation began, is
/// still full, and has been the only trouble for a while.
fn only_full(broker: LaneId, op: &Op, facts: &Facts) -> Option<EventIndex> {
    let [only] = facts.faults.as_slice() else { return None };
    let is_it = only.kind == FaultKind::DiskFull && only.lanes == [broker] && only.event < op.begun;
    let nothing_else = facts.disturbed.1 == only.event && facts.node(broker).up;
    let long_enough = op.begun_at.saturating_sub(only.before) >= CALM_MICROS;
    (is_it && nothing_else && long_enough).then_some(only.event)
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::WrongBytes { shard, offset, message } => {
                let slot = names.text_of_slot(*shard, *offset);
                let what = message.map_or("a message".to_owned(), |message| message.to_string());
                format!("the disk rotted, and {what} was delivered from {slot} with wrong bytes")
            }
            Breach::OkAfterFailedSync { message, shard, offset } => {
                let slot = names.text_of_slot(*shard, *offset);
                format!("{message} was sent after a sync had failed, and answered OK at {slot}")
            }
            Breach::DurableAfterFailedSync { broker, position } => {
                let broker = names.of_lane(*broker);
                format!("{broker} called its log durable up to {position} after a failed sync")
            }
            Breach::Silence { message } => {
                format!("the disk was full, and {message} was left unanswered, not refused")
            }
        }
    }
}
