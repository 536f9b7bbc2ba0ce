//! Durability has a name, and the name says what a crash may take: under sync
//! flush nothing; under async flush, and only when power fails, the end of the
//! log, as far as it is younger than the flush interval (L1).

use super::{Facts, Oracle, Verdict, Violation, facts::Message};
use crate::history::{Event, EventKind, LaneId, MessageId, Names, ShardId, Stored};

#[derive(Debug, Default)]
pub struct DurabilityContract;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Sync flush, and OK came before the sync.
    OkBeforeDurable { message: MessageId, position: u64, durable: u64 },
    /// The broker had called this much durable.
    DurableLost { broker: LaneId, durable: u64, log_end: u64 },
    /// What was answered OK, or seen, is gone, and the mode does not allow it.
    Lost { message: MessageId, shard: ShardId, offset: u64, cause: NotAllowed },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    SyncFlush,
    ScenarioForbids,
    /// Only a process died.
    NoPowerLoss,
    /// It was older than the flush interval.
    TooOld,
}

impl Oracle for DurabilityContract {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::SendOk { op, shard, position: Some(position), status, .. }
            | EventKind::SendHeld { op, shard, position: Some(position), status, .. } => {
                let Some(durable) = facts.broker_of(*shard).durable else { return Ok(()) };
                let promised = facts.context.sync_flush && *status == Stored::AsPromised;
                let Some(op) = facts.op(*op) else { return Ok(()) };
                if !promised || *position < durable {
                    return Ok(());
                }
                let (message, position) = (op.message, *position);
                let breach = Breach::OkBeforeDurable { message, position, durable };
                Err(Violation::new(breach, facts, [op.begun]))
            }
            EventKind::Recovered { log_end } => recovered(event.lane, *log_end, facts),
            _ => Ok(()),
        }
    }
}

fn recovered(broker: LaneId, log_end: u64, facts: &Facts) -> Verdict {
    let node = facts.node(broker);
    let stopped = node.stopped.into_iter();
    if let Some(durable) = node.durable.filter(|durable| *durable > log_end) {
        let breach = Breach::DurableLost { broker, durable, log_end };
        return Err(Violation::new(breach, facts, stopped));
    }
    for (_, shard, offset) in facts.log_from(broker, log_end) {
        let slot = facts.slot(shard, offset).filter(|slot| slot.lost.is_none());
        let Some(id) = slot.and_then(|slot| slot.message) else { continue };
        let Some(message) = facts.message(id) else { continue };
        let proof = [message.ok, message.seen].into_iter().flatten();
        let Some(place) = proof.into_iter().find(|p| (p.shard, p.offset) == (shard, offset)) else {
            continue;
        };
        if let Some(cause) = not_allowed(broker, message, shard, place.at, facts) {
            let breach = Breach::Lost { message: id, shard, offset, cause };
            return Err(Violation::new(breach, facts, stopped.chain([place.event])));
        }
    }
    Ok(())
}

fn not_allowed(
    broker: LaneId,
    message: &Message,
    shard: ShardId,
    stored_by: u64,
    facts: &Facts,
) -> Option<NotAllowed> {
    let node = facts.node(broker);
    let power_lost = node
        .power_losses
        .last()
        .is_some_and(|(_, lost)| node.recovered.is_none_or(|recovered| recovered < *lost));
    if facts.context.sync_flush {
        Some(NotAllowed::SyncFlush)
    } else if !power_lost {
        Some(NotAllowed::NoPowerLoss)
    } else if facts.context.may_lose_nothing {
        Some(NotAllowed::ScenarioForbids)
    } else if !facts.was_at_risk(message, shard, stored_by) {
        Some(NotAllowed::TooOld)
    } else {
        None
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::OkBeforeDurable { message, position, durable } => format!(
                "{message} was answered OK under sync flush; it lies at log position {position}, \
                 durable is {durable}"
            ),
            Breach::DurableLost { broker, durable, log_end } => {
                let broker = names.of_lane(*broker);
                format!("{broker} called its log durable up to {durable} and recovered {log_end}")
            }
            Breach::Lost { message, shard, offset, cause } => {
                let slot = names.text_of_slot(*shard, *offset);
                let why = match cause {
                    NotAllowed::SyncFlush => "sync flush allows no loss",
                    NotAllowed::ScenarioForbids => "this scenario allows no loss",
                    NotAllowed::NoPowerLoss => "a killed process alone loses nothing",
                    NotAllowed::TooOld => "it was older than the flush interval",
                };
                format!("{message} at {slot} was stored and did not survive the crash: {why}")
            }
        }
    }
}
