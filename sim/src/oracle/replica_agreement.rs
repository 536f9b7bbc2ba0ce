//! Replicas of a set agree: what is committed is the same on each, byte for
//! byte, and stays so; a term has one leader; and at rest everybody has all of
//! it.
//!
//! Only async flush may take back what was committed, when replicas that had
//! acknowledged it lost power; or the loss of a majority of the disks.

use std::collections::BTreeMap;

use super::{EventIndex, Facts, NotAllowed, Oracle, Verdict, Violation, replicas::Stored};
use crate::history::{Event, EventKind, LaneId, Names, Role, Stop};

/// How long after the newest commit a replica may not know of it.
const NEWS_MICROS: u64 = 5_000_000;

#[derive(Debug, Default)]
pub struct ReplicaAgreement {
    leaders: BTreeMap<(LaneId, u64), (LaneId, EventIndex)>,
    terms: BTreeMap<LaneId, Said>,
    /// Of each set, by the number of the entry.
    committed: BTreeMap<LaneId, BTreeMap<u64, Entry>>,
}

/// What a replica said last of its term.
#[derive(Clone, Copy, Debug)]
struct Said {
    term: u64,
    /// The highest one in which it led: that one is durable.
    led: u64,
    event: EventIndex,
}

/// The first to commit an entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    end: u64,
    digest: u64,
    by: LaneId,
    at: u64,
    event: EventIndex,
}

impl Entry {
    fn stored(&self) -> Stored {
        let Entry { end, at, event, .. } = *self;
        Stored { begun_at: at, stored_by: at, event, position: Some(end - 1) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    TwoLeaders {
        term: u64,
        first: LaneId,
        second: LaneId,
    },
    /// A replica has forgotten a term, and with it perhaps a vote.
    TermForgotten {
        replica: LaneId,
        term: u64,
        before: u64,
    },
    /// Two replicas have committed different logs.
    Diverged {
        index: u64,
        first: LaneId,
        second: LaneId,
    },
    CommittedBackwards {
        replica: LaneId,
        index: u64,
        before: u64,
    },
    /// Under sync flush, and no majority had it on disk.
    CommittedEarly {
        replica: LaneId,
        end: u64,
        durable: u64,
    },
    /// A new leader's log is shorter than what was committed.
    CommittedLost {
        set: LaneId,
        index: u64,
        log_end: u64,
        cause: NotAllowed,
    },
    /// At rest, and it has not committed what the others have.
    Behind {
        replica: LaneId,
        index: u64,
        newest: u64,
    },
}

impl Oracle for ReplicaAgreement {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let lane = event.lane;
        match &event.kind {
            EventKind::Role { term, role } => self.role(lane, *term, *role, facts),
            EventKind::Committed { index, end, digest } => {
                let entry = Entry {
                    end: *end,
                    digest: *digest,
                    by: lane,
                    at: event.at,
                    event: facts.index,
                };
                self.committed(*index, entry, facts)
            }
            EventKind::Recovered { log_end } => self.takes_over(lane, *log_end, facts),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        if facts.quiesced.is_none() || !facts.context.recovers {
            return Ok(());
        }
        self.committed.keys().try_for_each(|set| self.at_rest(*set, facts))
    }
}

impl ReplicaAgreement {
    fn role(&mut self, lane: LaneId, term: u64, role: Role, facts: &Facts) -> Verdict {
        let set = facts.set_of(lane);
        if role == Role::Leader {
            let known = self.leaders.entry((set, term)).or_insert((lane, facts.index));
            if known.0 != lane {
                let breach = Breach::TwoLeaders { term, first: known.0, second: lane };
                return Err(Violation::new(breach, facts, [known.1]));
            }
        }
        let node = facts.node(lane);
        let led = if role == Role::Leader { term } else { 0 };
        let now = Said { term, led, event: facts.index };
        let Some(said) = self.terms.get_mut(&lane) else {
            self.terms.insert(lane, now);
            return Ok(());
        };
        // A term that was only heard of may be lost with the page cache.
        let kept = if node.down_by == Some(Stop::PowerLost) { said.led } else { said.term };
        let before = *said;
        *said = Said { led: before.led.max(led), ..now };
        if term >= kept || node.damaged.is_some() {
            return Ok(());
        }
        let breach = Breach::TermForgotten { replica: lane, term, before: kept };
        Err(Violation::new(breach, facts, [before.event]))
    }

    fn committed(&mut self, index: u64, entry: Entry, facts: &Facts) -> Verdict {
        let (replica, set) = (entry.by, facts.set_of(entry.by));
        if let Some((before, _)) = facts.node(replica).committed.filter(|(b, _)| *b > index) {
            let breach = Breach::CommittedBackwards { replica, index, before };
            return Err(Violation::new(breach, facts, facts.node(replica).started));
        }
        let durable = facts.set(set).and_then(|set| set.durable);
        if let Some(durable) = durable.filter(|d| facts.context.sync_flush && entry.end > *d) {
            let breach = Breach::CommittedEarly { replica, end: entry.end, durable };
            return Err(Violation::new(breach, facts, []));
        }
        let log = self.committed.entry(set).or_default();
        let Some(known) = log.get(&index).copied() else {
            log.insert(index, entry);
            return Ok(());
        };
        if (known.end, known.digest) == (entry.end, entry.digest) {
            return Ok(());
        }
        let led = facts.set(set).and_then(|set| set.led);
        let gone = match led.is_some_and(|(_, since)| known.event < since) {
            true => facts.may_have_gone(set, known.stored()),
            false => facts.may_be_gone(set, known.stored()),
        };
        if gone.is_ok() {
            log.split_off(&index);
            log.insert(index, entry);
            return Ok(());
        }
        let breach = Breach::Diverged { index, first: known.by, second: replica };
        Err(Violation::new(breach, facts, [known.event]))
    }

    /// A new leader serves: what its log lacked when it was elected is gone.
    fn takes_over(&mut self, lane: LaneId, log_end: u64, facts: &Facts) -> Verdict {
        let since = facts.set(lane).and_then(|set| set.led).map(|(_, since)| since);
        let (Some(log), Some(since)) = (self.committed.get_mut(&lane), since) else {
            return Ok(());
        };
        let is_gone = |entry: &Entry| entry.end > log_end && entry.event < since;
        let beyond: Vec<u64> = log
            .iter()
            .rev()
            .take_while(|(_, entry)| entry.end > log_end)
            .map(|(i, _)| *i)
            .collect();
        for index in beyond {
            let Some(entry) = log.get(&index).copied().filter(is_gone) else { continue };
            log.remove(&index);
            if let Err(cause) = facts.may_have_gone(lane, entry.stored()) {
                let breach = Breach::CommittedLost { set: lane, index, log_end, cause };
                return Err(Violation::new(breach, facts, [entry.event]));
            }
        }
        Ok(())
    }

    fn at_rest(&self, set: LaneId, facts: &Facts) -> Verdict {
        let newest = self.committed[&set].iter().next_back();
        let Some((newest, entry)) = newest.map(|(index, entry)| (*index, entry)) else {
            return Ok(());
        };
        for (replica, node) in facts.voters(set).filter(|(_, node)| node.up) {
            let index = node.committed.map_or(0, |(index, _)| index);
            if index < newest && facts.now - entry.at > NEWS_MICROS {
                let breach = Breach::Behind { replica, index, newest };
                return Err(Violation::new(breach, facts, [entry.event]));
            }
        }
        Ok(())
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        let name = |lane: &LaneId| names.of_lane(*lane);
        match self {
            Breach::TwoLeaders { term, first, second } => {
                format!("{} leads in term {term}, and so does {}", name(second), name(first))
            }
            Breach::TermForgotten { replica, term, before } => {
                format!("{} was in term {before} and is in term {term} now", name(replica))
            }
            Breach::Diverged { index, first, second } => format!(
                "up to entry {index} {} has committed another log than {}",
                name(second),
                name(first)
            ),
            Breach::CommittedBackwards { replica, index, before } => {
                format!("{} had committed entry {before} and says {index} now", name(replica))
            }
            Breach::CommittedEarly { replica, end, durable } => format!(
                "{} has committed its log to {end}; on a majority it is durable to {durable}",
                name(replica)
            ),
            Breach::CommittedLost { set, index, log_end, cause } => format!(
                "the new leader's log of {} ends at {log_end}, before the committed entry \
                 {index}: {}",
                name(set),
                cause.tell()
            ),
            Breach::Behind { replica, index, newest } => {
                format!("{} has committed entry {index} and never heard of {newest}", name(replica))
            }
        }
    }
}
