//! What is stored and not visible yet: halves of transactions, until they are
//! decided, and delayed messages, until they are due.

use super::facts::{EventIndex, Facts, Message};
use crate::history::{Decision, Event, EventKind, GroupId, Held, LaneId, MessageId, ShardId, Told};

/// An answer that a message is stored and held.
#[derive(Clone, Copy, Debug)]
pub struct StoredHeld {
    pub event: EventIndex,
    pub at: u64,
    pub shard: ShardId,
    pub position: Option<u64>,
}

/// What is known of a transaction.
#[derive(Debug, Default)]
pub struct Half {
    /// Whose members may be asked about it.
    pub group: Option<GroupId>,
    /// The producers' own database.
    pub decided: Option<Decision>,
    /// The first time that somebody told the broker so.
    pub told_commit: Option<EventIndex>,
    pub told_rollback: Option<EventIndex>,
    /// The last time that somebody told it either.
    pub told: Option<EventIndex>,
    /// The first decision that the broker confirmed.
    pub ended: Option<Ended>,
    /// Checks that reached a producer, since the start or the last resumption.
    pub checks: u32,
    pub checked: Option<(EventIndex, u64)>,
    pub parked: Option<EventIndex>,
}

#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub decision: Decision,
    pub event: EventIndex,
    pub at: u64,
}

/// One END_TRANSACTION.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub message: MessageId,
    pub told: Told,
    pub begun: EventIndex,
}

#[derive(Clone, Copy, Debug)]
pub struct Recall {
    pub begun: EventIndex,
    /// The broker said that the message is taken back.
    pub done: Option<EventIndex>,
    pub refused: bool,
}

/// A member of a producer group.
#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub group: GroupId,
    pub alive: bool,
}

impl Facts {
    /// Whether a member of the group lives that can be asked.
    pub fn has_producer(&self, group: GroupId) -> bool {
        self.producers.values().any(|producer| producer.group == group && producer.alive)
    }

    /// What the broker has decided on, as far as power loss cannot have undone it.
    pub fn decision(&self, message: &Message) -> Option<Ended> {
        let half = message.half.as_deref()?;
        let shard = message.stored_held.map(|stored| stored.shard);
        half.ended
            .filter(|ended| shard.is_none_or(|shard| !self.was_at_risk(message, shard, ended.at)))
    }

    /// When a held message becomes due: the earliest and the latest, by the
    /// broker's clock. Nothing if that is not a matter of time.
    pub fn due(&self, message: &Message) -> Option<(i64, i64)> {
        let (held, stored) = (message.held?, message.stored_held);
        let shard = stored.map(|stored| stored.shard).or(message.seen.map(|seen| seen.shard))?;
        let broker = self.shard(shard).broker;
        let stored_by = stored.map_or(self.now, |stored| stored.at);
        match held {
            Held::Half => None,
            Held::For(micros) => {
                let (least, most) = self.shown(broker, message.begun_at, stored_by);
                let micros = i64::try_from(micros).unwrap_or(i64::MAX);
                Some((least.saturating_add(micros), most.saturating_add(micros)))
            }
            // What is due before it is stored is due at once.
            Held::Until(at) => {
                let at = i64::try_from(at).unwrap_or(i64::MAX);
                Some((at, at.max(self.shown(broker, message.begun_at, stored_by).1)))
            }
        }
    }

    /// Folds in what was said of held messages.
    pub(super) fn absorb_held(&mut self, event: &Event) {
        let index = self.index;
        match &event.kind {
            EventKind::ProducerJoined { group } => {
                self.producers.insert(event.lane, Producer { group: *group, alive: true });
            }
            EventKind::Decided { message, decision } => {
                if let Some(half) = self.half_mut(*message) {
                    half.decided.get_or_insert(*decision);
                }
            }
            EventKind::EndBegun { end, message, told, lost, .. } => {
                let known = End { message: *message, told: *told, begun: index };
                *super::facts::grown(&mut self.ends, end.index()) = Some(known);
                let Some(half) = self.half_mut(*message).filter(|_| !lost) else { return };
                let first = match told {
                    Told::Commit => &mut half.told_commit,
                    Told::Rollback => &mut half.told_rollback,
                    Told::Unknown => return,
                };
                first.get_or_insert(index);
                half.told = Some(index);
            }
            EventKind::EndAnswered { end, answered } if answered.is_ok() => {
                let Some(End { message, told, .. }) = self.end(*end).copied() else { return };
                let decision = match told {
                    Told::Commit => Decision::Commit,
                    Told::Rollback => Decision::Rollback,
                    Told::Unknown => return,
                };
                let ended = Ended { decision, event: index, at: event.at };
                if let Some(half) = self.half_mut(message) {
                    // Said again, it is confirmed again: power loss may have
                    // taken back what was confirmed before.
                    let stands = half.ended.is_none_or(|first| first.decision == decision);
                    if stands {
                        half.ended = Some(ended);
                    }
                }
            }
            EventKind::CheckReceived { message: Some(message), .. } => {
                if let Some(half) = self.half_mut(*message) {
                    half.checks += 1;
                    half.checked = Some((index, event.at));
                }
            }
            EventKind::HalfParked { message: Some(message), .. } => {
                if let Some(half) = self.half_mut(*message) {
                    half.parked = Some(index);
                }
            }
            EventKind::HalfResumed { message: Some(message), .. } => {
                if let Some(half) = self.half_mut(*message) {
                    (half.parked, half.checks, half.checked) = (None, 0, None);
                }
            }
            EventKind::RecallBegun { message } => {
                if let Some(message) = self.message_mut(*message) {
                    message.recall = Some(Recall { begun: index, done: None, refused: false });
                }
            }
            EventKind::RecallAnswered { message, answered } => {
                let recall = self.message_mut(*message).and_then(|known| known.recall.as_mut());
                if let Some(recall) = recall {
                    recall.done = answered.is_ok().then_some(index);
                    recall.refused = answered.is_refused();
                }
            }
            _ => {}
        }
    }

    fn half_mut(&mut self, message: MessageId) -> Option<&mut Half> {
        self.message_mut(message)?.half.as_deref_mut()
    }

    /// The group whose members may be asked about what this lane sends.
    pub(super) fn producer_group(&self, lane: LaneId) -> Option<GroupId> {
        self.producers.get(&lane).map(|producer| producer.group)
    }
}
