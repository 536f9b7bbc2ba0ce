//! An undecided transaction is asked about: soon enough, of somebody who can
//! know, not after it is decided, and not for ever. Only checks that reached a
//! producer count, and one that was given up on is parked once, where an
//! operator finds it (T5, T7).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, Facts, Oracle, Verdict, Violation, facts::Message, held::Half, lateness::CLOCK_TICK,
};
use crate::history::{Event, EventKind, LaneId, MessageId, Names};

/// How long all must have been well: by then connections that broke without a
/// word are known to be broken, and producers are known to the broker again.
const CALM_MICROS: u64 = 20_000_000;
/// With more halves than this, checks come in bounded bursts (T12).
const AT_ONCE: usize = 100;
/// What is on its way may still arrive for so long.
const ECHO_MICROS: u64 = 2_000_000;
/// A client that has a check in hand does not take another one about the same
/// half, unless its listener is silent for so long.
const IN_HAND_MICROS: u64 = 10_000_000;

#[derive(Debug, Default)]
pub struct CheckBack {
    /// By when each undecided half must have been asked about, and since when.
    due: BTreeSet<(u64, MessageId)>,
    awaited: BTreeMap<MessageId, Awaited>,
    /// How often it was asked about while all was well, and since when.
    in_calm: BTreeMap<MessageId, (u64, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Awaited {
    by: u64,
    /// What came before, or just then, does not count.
    since: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// All was well and its producers lived, and none was asked.
    NotAsked {
        message: MessageId,
        for_micros: u64,
    },
    /// It had been asked about often enough, and was neither given up nor asked
    /// about once more.
    NotParked {
        message: MessageId,
        checks: u32,
        for_micros: u64,
    },
    /// It was too young, or had asked for time (T7), by the broker's clock (T11).
    AskedTooEarly {
        message: MessageId,
        by_micros: u64,
    },
    /// Asked more often than agreed.
    AskedTooOften {
        message: MessageId,
        checks: u32,
        most: u32,
    },
    /// It had been decided, and the broker had said so.
    AskedAfterDecision {
        message: MessageId,
        after_micros: u64,
    },
    /// Somebody was asked who belongs to another group, or about no half.
    WrongProducer {
        message: MessageId,
        lane: LaneId,
    },
    /// Nobody had been asked often enough.
    ParkedTooEarly {
        message: MessageId,
        checks: u32,
        most: u32,
    },
    ParkedTwice {
        message: MessageId,
    },
    ParkedAfterDecision {
        message: MessageId,
    },
}

impl Oracle for CheckBack {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        self.look_for_the_forgotten(facts)?;
        match &event.kind {
            EventKind::SendHeld { op, .. } => {
                let Some(op) = facts.op(*op) else { return Ok(()) };
                if let Some((_, half)) = half_of(op.message, facts) {
                    let due = event.at + age_at_check(half, facts);
                    self.expect(op.message, due, event.at, facts);
                }
                Ok(())
            }
            EventKind::CheckReceived { message: Some(id), .. } => {
                self.asked(*id, event.lane, facts)
            }
            EventKind::HalfParked { message: Some(id), .. } => parked(*id, facts),
            EventKind::HalfResumed { message: Some(id), .. } => {
                self.in_calm.remove(id);
                self.expect(*id, event.at, event.at, facts);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        self.look_for_the_forgotten(facts)
    }
}

impl CheckBack {
    /// It must be asked about a round after it is due at the latest.
    fn expect(&mut self, message: MessageId, due: u64, since: u64, facts: &Facts) {
        let by = due + facts.context.check_every + ECHO_MICROS;
        if let Some(before) = self.awaited.insert(message, Awaited { by, since }) {
            self.due.remove(&(before.by, message));
        }
        self.due.insert((by, message));
    }

    fn look_for_the_forgotten(&mut self, facts: &Facts) -> Verdict {
        while let Some((by, id)) = self.due.first().copied().filter(|(by, _)| *by < facts.now) {
            self.due.pop_first();
            let Some(Awaited { since, .. }) = self.awaited.remove(&id) else { continue };
            let Some((message, half)) = half_of(id, facts) else { continue };
            let is_asked = half.checked.is_some_and(|(_, at)| at > since);
            let is_open = !is_asked && half.told.is_none() && half.parked.is_none();
            let is_gone = message.lost.is_some() || message.seen.is_some();
            if !is_open || is_gone {
                continue;
            }
            let (disturbed, _) = facts.disturbed;
            let well_since = by - facts.context.check_every - ECHO_MICROS;
            let can_be_asked = half.group.is_some_and(|group| facts.has_producer(group));
            let calm = facts.calm_for(facts.now.saturating_sub(well_since) + CALM_MICROS);
            if !can_be_asked || !calm || self.due.len() > AT_ONCE {
                // Look again once all has been well for long enough.
                let again = (disturbed + CALM_MICROS).max(facts.now);
                self.expect(id, again, since, facts);
                continue;
            }
            let (for_micros, checks) = (facts.now - since, half.checks);
            let breach = match checks < facts.context.max_checks {
                true => Breach::NotAsked { message: id, for_micros },
                false => Breach::NotParked { message: id, checks, for_micros },
            };
            let stored = message.stored_held.map(|stored| stored.event);
            let cites = [Some(message.begun), stored].into_iter().flatten();
            return Err(Violation::new(breach, facts, cites));
        }
        Ok(())
    }

    fn asked(&mut self, id: MessageId, lane: LaneId, facts: &Facts) -> Verdict {
        let half = half_of(id, facts);
        let group = facts.producers.get(&lane).map(|producer| producer.group);
        let Some((message, half)) = half.filter(|(_, half)| half.group == group) else {
            let sent = facts.message(id).map(|message| message.begun);
            return Err(Violation::new(Breach::WrongProducer { message: id, lane }, facts, sent));
        };
        if let Some(by_micros) = too_young(message, half, facts) {
            let breach = Breach::AskedTooEarly { message: id, by_micros };
            return Err(Violation::new(breach, facts, [message.begun]));
        }
        // Another check, or the end of them.
        let (checks, context) = (half.checks + 1, &facts.context);
        let due = facts.now + wait_after(checks, context) + IN_HAND_MICROS;
        self.expect(id, due, facts.now, facts);
        if let Some(ended) = facts.decision(message).filter(|_| message.most_copies() <= 1) {
            let after_micros = facts.now - ended.at;
            if after_micros > ECHO_MICROS && facts.calm_for(after_micros) {
                let breach = Breach::AskedAfterDecision { message: id, after_micros };
                return Err(Violation::new(breach, facts, [ended.event]));
            }
        }
        // A check whose receipt is lost does not count, and is repeated.
        let most = context.max_checks;
        let lost = facts.lost_answers_since(message.begun);
        let is_often = checks > most.saturating_add(lost) || self.count_in_calm(id, facts) > most;
        if !is_often || message.most_copies() > 1 {
            return Ok(());
        }
        let breach = Breach::AskedTooOften { message: id, checks, most };
        Err(Violation::new(breach, facts, half.checked.map(|(event, _)| event)))
    }

    /// Counts a check that nothing can have kept from being counted.
    fn count_in_calm(&mut self, id: MessageId, facts: &Facts) -> u32 {
        let (disturbed, _) = facts.disturbed;
        let (since, checks) = self.in_calm.entry(id).or_insert((disturbed, 0));
        if *since != disturbed {
            (*since, *checks) = (disturbed, 0);
        }
        *checks += u32::from(facts.calm_for(CALM_MICROS));
        *checks
    }
}

/// How old it must be to be asked about.
fn age_at_check(half: &Half, facts: &Facts) -> u64 {
    let immunity = half.group.map_or(0, |group| facts.rules(group).immunity);
    if immunity > 0 { immunity } else { facts.context.check_after }
}

/// How long after so many checks the next one comes at the latest.
fn wait_after(checks: u32, context: &Context) -> u64 {
    let doubled = 1u64.checked_shl(checks - 1).unwrap_or(u64::MAX);
    let longest = context.check_longest.max(context.check_every);
    context.check_every.saturating_mul(doubled).min(longest)
}

/// By how much it is too young, if it is.
fn too_young(message: &Message, half: &Half, facts: &Facts) -> Option<u64> {
    let stored_at = message.stored_held.map_or(facts.now, |stored| stored.at);
    let shard = message.shard.or(message.stored_held.map(|stored| stored.shard))?;
    let broker = facts.shard(shard).broker;
    let since = facts.shown(broker, message.begun_at, stored_at).0;
    let due = since + age_at_check(half, facts) as i64;
    // A leader looks at its wall clock once, and then waits by one that nobody sets.
    let at_most = facts.would_show(broker, message.begun_at);
    let waited = facts.passed(broker, message.begun_at) >= age_at_check(half, facts) as i64;
    let is_early = !waited && at_most + CLOCK_TICK < due;
    is_early.then(|| (due - at_most) as u64)
}

fn parked(id: MessageId, facts: &Facts) -> Verdict {
    let Some((message, half)) = half_of(id, facts) else { return Ok(()) };
    if message.most_copies() > 1 {
        return Ok(());
    }
    if let Some(before) = half.parked {
        return Err(Violation::new(Breach::ParkedTwice { message: id }, facts, [before]));
    }
    if let Some(ended) = facts.decision(message) {
        let breach = Breach::ParkedAfterDecision { message: id };
        return Err(Violation::new(breach, facts, [ended.event]));
    }
    let (checks, most) = (half.checks, facts.context.max_checks);
    if checks >= most {
        return Ok(());
    }
    let breach = Breach::ParkedTooEarly { message: id, checks, most };
    Err(Violation::new(breach, facts, [message.begun]))
}

fn half_of(message: MessageId, facts: &Facts) -> Option<(&Message, &Half)> {
    let message = facts.message(message)?;
    Some((message, message.half.as_deref()?))
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::NotAsked { message, for_micros } => {
                let secs = for_micros / 1_000_000;
                format!("{message} is undecided, and no producer was asked about it for {secs} s")
            }
            Breach::NotParked { message, checks, for_micros } => {
                let secs = for_micros / 1_000_000;
                format!("{message} was not given up on for {secs} s after {checks} checks")
            }
            Breach::AskedTooEarly { message, by_micros } => {
                format!("{message} was asked about {} ms too early", by_micros / 1000)
            }
            Breach::AskedTooOften { message, checks, most } => {
                format!("{message} was asked about {checks} times; {most} were agreed")
            }
            Breach::AskedAfterDecision { message, after_micros } => {
                let millis = after_micros / 1000;
                format!("{message} was asked about {millis} ms after its end was confirmed")
            }
            Breach::WrongProducer { message, lane } => {
                let lane = names.of_lane(*lane);
                format!("{lane} was asked about {message}, which is none of its group's halves")
            }
            Breach::ParkedTooEarly { message, checks, most } => {
                format!("{message} was given up on after {checks} checks; {most} were agreed")
            }
            Breach::ParkedTwice { message } => format!("{message} was given up on twice"),
            Breach::ParkedAfterDecision { message } => {
                format!("{message} was given up on after its end was confirmed")
            }
        }
    }
}
