//! A half message is invisible until somebody commits it; the first decision
//! that the broker confirms stands; committed means visible in one place,
//! rolled back means never. What nobody told the broker never happens: the
//! producers' database is the truth behind what they tell.

use super::{
    EventIndex, Facts, Oracle, Verdict, Violation,
    facts::Message,
    held::{End, Half},
};
use crate::history::{Answered, Decision, Event, EventKind, MessageId, Names, ShardId, Told};

#[derive(Debug, Default)]
pub struct TransactionAtomicity;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Nobody had told the broker to commit.
    HalfVisible { message: MessageId, shard: ShardId, offset: u64 },
    /// The broker had confirmed the rollback.
    RolledBackVisible { message: MessageId, shard: ShardId, offset: u64 },
    /// It was seen, and then the broker confirmed a rollback.
    VisibleRolledBack { message: MessageId, shard: ShardId, offset: u64 },
    /// The broker confirmed a decision, and then the contrary one.
    BothConfirmed { message: MessageId, first: Decision },
    /// A conflict with a decision that nobody made.
    NoConflict { message: MessageId, told: Told },
    /// Each half is committed at most once (T2).
    CommittedTwice { message: MessageId, copies: u32, halves: u32 },
}

impl Oracle for TransactionAtomicity {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Delivered { message: Some(id), shard, queue_offset, .. } => {
                visible(*id, (*shard, *queue_offset), facts)
            }
            EventKind::EndAnswered { end, answered } => {
                let Some(end) = facts.end(*end) else { return Ok(()) };
                match answered {
                    Answered::Ok => confirmed(end, facts),
                    Answered::Conflict => conflict(end, facts),
                    Answered::Refused { .. } | Answered::Unknown => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        let mut halves = facts.all_messages().filter(|(_, m)| m.half.is_some() && m.open == 0);
        let Some((message, sent)) = halves.find(|(_, sent)| sent.copies > sent.most_copies())
        else {
            return Ok(());
        };
        let (copies, halves) = (sent.copies, sent.most_copies());
        let breach = Breach::CommittedTwice { message, copies, halves };
        let seen = sent.seen.map(|seen| seen.event);
        Err(Violation::new(breach, facts, [Some(sent.begun), seen].into_iter().flatten()))
    }
}

fn visible(id: MessageId, (shard, offset): (ShardId, u64), facts: &Facts) -> Verdict {
    let Some((message, half)) = half_of(id, facts) else { return Ok(()) };
    if half.told_commit.is_none() {
        let breach = Breach::HalfVisible { message: id, shard, offset };
        return Err(Violation::new(breach, facts, [message.begun]));
    }
    match rolled_back(message, facts) {
        Some(rolled_back) => {
            let breach = Breach::RolledBackVisible { message: id, shard, offset };
            Err(Violation::new(breach, facts, [rolled_back]))
        }
        None => Ok(()),
    }
}

fn confirmed(end: &End, facts: &Facts) -> Verdict {
    let Some((message, _)) = half_of(end.message, facts) else { return Ok(()) };
    let id = end.message;
    if let Some(first) =
        facts.decision(message).filter(|first| is_contrary(end.told, first.decision))
        && is_only_half(message)
    {
        let breach = Breach::BothConfirmed { message: id, first: first.decision };
        return Err(Violation::new(breach, facts, [end.begun, first.event]));
    }
    let seen = message.seen.filter(|_| end.told == Told::Rollback && is_only_half(message));
    let Some(seen) = seen.filter(|seen| is_there(message, seen.shard, seen.at, facts)) else {
        return Ok(());
    };
    let breach = Breach::VisibleRolledBack { message: id, shard: seen.shard, offset: seen.offset };
    Err(Violation::new(breach, facts, [end.begun, seen.event]))
}

/// There must have been somebody who told the broker otherwise.
fn conflict(end: &End, facts: &Facts) -> Verdict {
    let Some((_, half)) = half_of(end.message, facts) else { return Ok(()) };
    let contrary = match end.told {
        Told::Commit => half.told_rollback,
        Told::Rollback => half.told_commit,
        // It is decided, that is all.
        Told::Unknown => half.told,
    };
    if contrary.is_some() {
        return Ok(());
    }
    let breach = Breach::NoConflict { message: end.message, told: end.told };
    Err(Violation::new(breach, facts, [end.begun]))
}

fn half_of(message: MessageId, facts: &Facts) -> Option<(&Message, &Half)> {
    let message = facts.message(message)?;
    Some((message, message.half.as_deref()?))
}

fn is_contrary(told: Told, decision: Decision) -> bool {
    matches!(
        (told, decision),
        (Told::Commit, Decision::Rollback) | (Told::Rollback, Decision::Commit)
    )
}

/// A send that was tried again may have left several halves, each with an end
/// of its own.
fn is_only_half(message: &Message) -> bool {
    message.most_copies() <= 1
}

/// The event that confirmed its rollback, if it is the only half.
fn rolled_back(message: &Message, facts: &Facts) -> Option<EventIndex> {
    let ended = facts.decision(message).filter(|_| is_only_half(message))?;
    (ended.decision == Decision::Rollback).then_some(ended.event)
}

/// Whether power loss under async flush cannot have taken back what was seen.
fn is_there(message: &Message, shard: ShardId, seen_at: u64, facts: &Facts) -> bool {
    message.lost.is_none() && !facts.was_at_risk(message, shard, seen_at)
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let slot = |shard: &ShardId, offset: &u64| names.text_of_slot(*shard, *offset);
        match self {
            Breach::HalfVisible { message, shard, offset } => {
                let slot = slot(shard, offset);
                format!("{message} is half a transaction, nobody committed it, and it is at {slot}")
            }
            Breach::RolledBackVisible { message, shard, offset } => {
                let slot = slot(shard, offset);
                format!("{message} was rolled back, which the broker confirmed, and is at {slot}")
            }
            Breach::VisibleRolledBack { message, shard, offset } => {
                let slot = slot(shard, offset);
                format!("{message} was seen at {slot}, and then its rollback was confirmed")
            }
            Breach::BothConfirmed { message, first } => {
                let (first, second) = match first {
                    Decision::Commit => ("commit", "rollback"),
                    Decision::Rollback => ("rollback", "commit"),
                };
                format!("the {first} of {message} was confirmed, and then its {second}")
            }
            Breach::NoConflict { message, told } => {
                let told = match told {
                    Told::Commit => "commit",
                    Told::Rollback => "rollback",
                    Told::Unknown => "answer",
                };
                format!("the {told} of {message} was a conflict, says the broker: with nothing")
            }
            Breach::CommittedTwice { message, copies, halves } => {
                format!("{message} is visible {copies} times, of {halves} halves")
            }
        }
    }
}
