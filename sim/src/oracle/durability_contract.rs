//! Durability has a name, and the name says what a crash may take. Of a broker
//! alone: under sync flush nothing; under async flush, and only when power fails,
//! the end of the log, as far as it is younger than the flush interval (L1). Of a
//! replica set: what a majority of destroyed disks had; under async flush also
//! what a replica that acknowledged it lost with its power, if no majority is
//! left that has it (L4).

use super::{Facts, NotAllowed, Oracle, Verdict, Violation, replicas};
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

impl Oracle for DurabilityContract {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::SendOk { op, shard, position: Some(position), status, .. }
            | EventKind::SendHeld { op, shard, position: Some(position), status, .. } => {
                let Some(durable) = facts.durable_of(*shard) else { return Ok(()) };
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

/// A broker has recovered its log, or a set has a new leader with its own.
fn recovered(broker: LaneId, log_end: u64, facts: &Facts) -> Verdict {
    let node = facts.node(broker);
    let stopped = facts.replicas(broker).filter_map(|(_, node)| node.stopped).max();
    // The others repair a replica whose disk is damaged; one alone must refuse.
    let is_repaired = node.set.is_some() && node.damaged.is_some();
    if let Some(durable) = node.durable.filter(|durable| *durable > log_end && !is_repaired) {
        let breach = Breach::DurableLost { broker, durable, log_end };
        return Err(Violation::new(breach, facts, stopped));
    }
    for (position, shard, offset) in facts.log_from(broker, log_end) {
        let slot = facts.slot(shard, offset).filter(|slot| slot.lost.is_none());
        let Some(id) = slot.and_then(|slot| slot.message) else { continue };
        let Some(message) = facts.message(id) else { continue };
        let proof = [message.ok, message.seen].into_iter().flatten();
        let Some(place) = proof.into_iter().find(|p| (p.shard, p.offset) == (shard, offset)) else {
            continue;
        };
        let stored = replicas::Stored {
            begun_at: message.begun_at,
            stored_by: place.at,
            event: place.event,
            position: Some(position),
        };
        if let Err(cause) = may_be_gone(broker, stored, facts) {
            let breach = Breach::Lost { message: id, shard, offset, cause };
            return Err(Violation::new(breach, facts, stopped.into_iter().chain([place.event])));
        }
    }
    Ok(())
}

fn may_be_gone(broker: LaneId, stored: replicas::Stored, facts: &Facts) -> Result<(), NotAllowed> {
    let node = facts.node(broker);
    // What it lost of earlier power failures, it lost at the recovery after them.
    let lost = node.power_losses.last().is_some_and(|l| node.recovered.is_none_or(|r| r < l.event));
    let is_alone = facts.set(broker).is_none();
    if is_alone && !lost && !facts.context.sync_flush {
        return Err(NotAllowed::NoPowerLoss);
    }
    facts.may_have_gone(broker, stored)
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
                let why = cause.tell();
                format!("{message} at {slot} was stored and did not survive the crash: {why}")
            }
        }
    }
}
