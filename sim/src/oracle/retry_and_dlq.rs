//! What is sent back comes again: after its back-off, counted right, and no more
//! often than agreed. Then, and only then, it is a dead letter, once, unaltered,
//! and not something that somebody has acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    EventIndex, Facts, Oracle, Verdict, Violation,
    facts::Message,
    readers::{Delivery, Reader, ReaderId},
};
use crate::history::{Event, EventKind, GroupId, MessageId, Names, ShardId, TopicId};

#[derive(Debug, Default)]
pub struct RetryAndDlq {
    /// When an attempt was sent back first, and when it may come again.
    sent_back: BTreeMap<(ReaderId, MessageId, u32), SentBack>,
    /// Places in dead-letter topics.
    dead: BTreeMap<(GroupId, MessageId), BTreeSet<(ShardId, u64)>>,
}

#[derive(Clone, Copy, Debug)]
struct SentBack {
    event: EventIndex,
    at: u64,
    delay: u64,
    /// When the broker said that it had it.
    answered_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    TooManyAttempts {
        group: GroupId,
        message: MessageId,
        attempt: u32,
        most: u32,
    },
    Miscounted {
        group: GroupId,
        message: MessageId,
        attempt: u32,
        expected: u32,
    },
    TooSoon {
        group: GroupId,
        message: MessageId,
        attempt: u32,
        by_micros: u64,
    },
    TooLate {
        group: GroupId,
        message: MessageId,
        attempt: u32,
        by_micros: u64,
    },
    /// A dead letter before its last attempt had failed.
    Premature {
        group: GroupId,
        message: MessageId,
    },
    TwoDeadLetters {
        group: GroupId,
        message: MessageId,
        copies: u32,
    },
    AckedAndDead {
        group: GroupId,
        message: MessageId,
    },
    /// A dead letter with other bytes, or from another topic, than was sent.
    Altered {
        group: GroupId,
        message: Option<MessageId>,
        shard: ShardId,
        offset: u64,
    },
}

impl Oracle for RetryAndDlq {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::SendBackBegun { delivery, .. } => {
                if let Some((key, delivery)) =
                    facts.delivery(*delivery).and_then(|d| keyed(d, facts))
                {
                    let back_off =
                        || facts.rules(facts.group_of(delivery.member)).back_off(delivery.attempt);
                    let delay = delivery.again_after.unwrap_or_else(back_off);
                    let sent =
                        SentBack { event: facts.index, at: event.at, delay, answered_at: None };
                    let known = self.sent_back.entry(key).or_insert(sent);
                    known.delay = known.delay.min(delay);
                }
                Ok(())
            }
            EventKind::SendBackAnswered { delivery, answered } if answered.is_ok() => {
                let key = facts.delivery(*delivery).and_then(|d| keyed(d, facts));
                if let Some(known) = key.and_then(|(key, _)| self.sent_back.get_mut(&key)) {
                    known.answered_at.get_or_insert(event.at);
                }
                Ok(())
            }
            EventKind::Delivered { .. } => self.delivered(event, facts),
            EventKind::DeadLetter { .. } => self.dead_letter(event, facts),
            _ => Ok(()),
        }
    }
}

impl RetryAndDlq {
    fn delivered(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered {
            member,
            shard,
            queue_offset,
            message: Some(id),
            attempt,
            origin,
            ..
        } = &event.kind
        else {
            return Ok(());
        };
        let (attempt, shard) = (*attempt, *shard);
        let Some(reader) = facts.member(*member).reader else { return Ok(()) };
        let known = facts.reader(reader);
        let group = known.group;
        let most = known.max_attempts;
        if attempt > most {
            let breach = Breach::TooManyAttempts { group, message: *id, attempt, most };
            return Err(Violation::new(breach, facts, []));
        }
        let is_new = known.progress(shard).and_then(|p| p.seen(*queue_offset)).is_none();
        if origin.is_none() || !is_new || known.pops {
            return Ok(());
        }
        let sent = self.sent_back.get(&(reader, *id, attempt.saturating_sub(1))).copied();
        if let Some(expected) = expected_attempt(known, *id, facts).filter(|e| *e != attempt) {
            let breach = Breach::Miscounted { group, message: *id, attempt, expected };
            return Err(Violation::new(breach, facts, sent.map(|sent| sent.event)));
        }
        let Some(sent) = sent else { return Ok(()) };
        let broker = facts.shard(shard).broker;
        let answered = sent.answered_at.unwrap_or(facts.now);
        let (least, most) = facts.shown(broker, sent.at, answered);
        let delay = sent.delay as i64;
        if facts.is_early(broker, least + delay, sent.at) {
            let by_micros = (least + delay - facts.shown(broker, facts.now, facts.now).1) as u64;
            let breach = Breach::TooSoon { group, message: *id, attempt, by_micros };
            return Err(Violation::new(breach, facts, [sent.event]));
        }
        let late = facts.late_by(broker, most + delay, *member, shard);
        let late =
            late.filter(|late| sent.answered_at.is_some() && *late > facts.context.delay_slack);
        let Some(by_micros) = late else { return Ok(()) };
        let breach = Breach::TooLate { group, message: *id, attempt, by_micros };
        Err(Violation::new(breach, facts, [sent.event]))
    }

    fn dead_letter(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::DeadLetter {
            group, shard, queue_offset, message, body_hash, origin, ..
        } = &event.kind
        else {
            return Ok(());
        };
        let (group, slot) = (*group, (*shard, *queue_offset));
        let sent = message.and_then(|id| Some((id, facts.message(id)?)));
        let Some((id, sent)) = sent.filter(|(_, sent)| is_same(sent, *body_hash, *origin)) else {
            if facts.damaged(*shard).is_some() {
                return Ok(());
            }
            let breach =
                Breach::Altered { group, message: *message, shard: slot.0, offset: slot.1 };
            return Err(Violation::new(breach, facts, []));
        };
        let copies = self.dead.entry((group, id)).or_default();
        if !copies.insert(slot) {
            return Ok(());
        }
        let copies = copies.len() as u32;
        let Some(reader) = facts.clustering(group) else { return Ok(()) };
        let retries = reader.retries(id);
        let by_lease = u32::from(reader.pops && tried_enough(reader, id, sent, facts));
        let causes = retries.exhausted.max(by_lease * sent.most_copies());
        let breach = if causes == 0 {
            Breach::Premature { group, message: id }
        } else if copies > causes {
            Breach::TwoDeadLetters { group, message: id, copies }
        } else if reader.acked.contains(id.index()) && came_once(reader, id, sent) {
            Breach::AckedAndDead { group, message: id }
        } else {
            return Ok(());
        };
        Err(Violation::new(breach, facts, [sent.begun]))
    }
}

fn keyed<'a>(
    delivery: &'a Delivery,
    facts: &Facts,
) -> Option<((ReaderId, MessageId, u32), &'a Delivery)> {
    let reader = facts.member(delivery.member).reader?;
    Some(((reader, delivery.message?, delivery.attempt), delivery))
}

/// The attempt that a new place in the retry topic must be, if each before it
/// came once and was sent back once.
fn expected_attempt(reader: &Reader, id: MessageId, facts: &Facts) -> Option<u32> {
    let retries = reader.retries(id);
    // Power loss under async flush may take back that a retry was due.
    let is_kept = facts.context.sync_flush || facts.nodes().all(|(_, n)| n.power_losses.is_empty());
    let clean = is_kept
        && came_once(reader, id, facts.message(id)?)
        && retries.send_backs == retries.slots + 1
        && retries.sent_back == retries.send_backs;
    clean.then_some(retries.slots + 2)
}

/// Whether no attempt of it was delivered twice: then its answers are one story.
pub(super) fn came_once(reader: &Reader, id: MessageId, message: &Message) -> bool {
    let retries = reader.retries(id);
    let first = message.seen.and_then(|seen| {
        let progress = reader.progress(seen.shard)?;
        let deliveries = progress.seen(seen.offset)?.deliveries;
        // An orderly member tries again by itself.
        Some(deliveries == 1 || (reader.orderly && progress.readings == 1))
    });
    first == Some(true)
        && !retries.timed_out
        && retries.deliveries == retries.slots
        && message.most_copies() <= 1
}

/// Whether the broker itself may have seen the last lease of the message end. A
/// lease is on record before its answer leaves, and an attempt even if that is
/// lost (L19).
fn tried_enough(reader: &Reader, id: MessageId, sent: &Message, facts: &Facts) -> bool {
    let retries = reader.retries(id);
    let first = sent.seen.map_or(sent.begun, |seen| seen.event);
    let unseen = facts.lost_answers_since(first.max(retries.last));
    let seen = retries.highest.max(u32::from(reader.delivered.contains(id.index())));
    seen.saturating_add(unseen) >= reader.max_attempts
}

fn is_same(sent: &Message, body_hash: u32, origin: Option<TopicId>) -> bool {
    sent.body_hash == body_hash && origin.is_none_or(|origin| origin == sent.topic)
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::TooManyAttempts { group, message, attempt, most } => {
                let group = names.of_group(*group);
                format!("{group} got {message} for the {attempt}th time; {most} were agreed")
            }
            Breach::Miscounted { group, message, attempt, expected } => {
                let group = names.of_group(*group);
                format!("{group} got {message} as attempt {attempt}; it was attempt {expected}")
            }
            Breach::TooSoon { group, message, attempt, by_micros } => {
                let (group, millis) = (names.of_group(*group), by_micros / 1000);
                format!("attempt {attempt} of {message} came to {group} {millis} ms too soon")
            }
            Breach::TooLate { group, message, attempt, by_micros } => {
                let (group, millis) = (names.of_group(*group), by_micros / 1000);
                format!(
                    "attempt {attempt} of {message} came to {group} {millis} ms late, with no \
                     fault in its way"
                )
            }
            Breach::Premature { group, message } => {
                let group = names.of_group(*group);
                format!("{message} is a dead letter of {group}, which had not tried often enough")
            }
            Breach::TwoDeadLetters { group, message, copies } => {
                let group = names.of_group(*group);
                format!("{message} is {copies} times among the dead letters of {group}")
            }
            Breach::AckedAndDead { group, message } => {
                let group = names.of_group(*group);
                format!("{group} acknowledged {message}, and it is a dead letter")
            }
            Breach::Altered { group, message, shard, offset } => {
                let (group, slot) = (names.of_group(*group), names.text_of_slot(*shard, *offset));
                let what = message.map_or("it".to_owned(), |message| message.to_string());
                format!("the dead letter of {group} at {slot} is not what was sent as {what}")
            }
        }
    }
}
