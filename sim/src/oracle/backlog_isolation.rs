//! A stalled or slow group is its own problem: other groups keep the latency
//! they had before, and nobody hoards messages in memory.

use super::{
    EventIndex, Facts, Oracle, Verdict, Violation,
    readers::{Reader, ReaderId},
};
use crate::history::{Event, EventKind, GroupId, LaneId, Names};

/// Below this many deliveries a median says little.
const ENOUGH: u32 = 50;
/// Medians below this are taken for this: one late tick is no harm done.
const FLOOR_MICROS: u64 = 5_000;
/// How long it must have been calm for a latency to count.
const CALM_MICROS: u64 = 2_000_000;

#[derive(Debug, Default)]
pub struct BacklogIsolation {
    /// By reader: latencies before anybody stalled, and beside a stalled group.
    before: Vec<Latencies>,
    beside: Vec<Latencies>,
    stalled: Option<EventIndex>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Medians, in microseconds.
    Slowed {
        group: GroupId,
        before: u64,
        beside: u64,
        factor: f64,
    },
    Hoarding {
        lane: LaneId,
        bytes: u64,
        limit: u64,
    },
}

impl Oracle for BacklogIsolation {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::MemberPaced { .. } => {
                self.stalled.get_or_insert(facts.index);
                Ok(())
            }
            EventKind::Memory { bytes } if *bytes > facts.context.memory_limit => {
                let (lane, bytes, limit) = (event.lane, *bytes, facts.context.memory_limit);
                Err(Violation::new(Breach::Hoarding { lane, bytes, limit }, facts, []))
            }
            // What was held, or is tried again, is late on purpose.
            EventKind::Delivered { member, message: Some(id), origin: None, .. } => {
                let Some(reader) = facts.member(*member).reader else { return Ok(()) };
                let Some(message) = facts.message(*id).filter(|message| message.held.is_none())
                else {
                    return Ok(());
                };
                let is_first = !facts.reader(reader).delivered.contains(id.index());
                if is_first && facts.calm_for(CALM_MICROS) {
                    self.note(reader, event.at - message.begun_at, facts);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        for (reader, beside) in self.beside.iter().enumerate() {
            let Some(before) = self.before.get(reader) else { continue };
            let (Some(before), Some(beside)) = (before.median(), beside.median()) else { continue };
            let factor = facts.context.isolation_factor;
            if beside as f64 > before.max(FLOOR_MICROS) as f64 * factor {
                let group = facts.readers[reader].group;
                let breach = Breach::Slowed { group, before, beside, factor };
                return Err(Violation::new(breach, facts, self.stalled));
            }
        }
        Ok(())
    }
}

impl BacklogIsolation {
    fn note(&mut self, reader: ReaderId, micros: u64, facts: &Facts) {
        let own = facts.reader(reader);
        let is_paced = |r: &Reader| facts.living(r).any(|member| member.is_paced());
        if is_paced(own) {
            return;
        }
        let beside = facts.readers.iter().any(|r| r.group != own.group && is_paced(r));
        let side = match (beside, self.stalled) {
            (true, _) => &mut self.beside,
            (false, None) => &mut self.before,
            // Afterwards the backlog is worked off: neither the one nor the other.
            (false, Some(_)) => return,
        };
        if side.len() <= reader.index() {
            side.resize_with(reader.index() + 1, Latencies::default);
        }
        side[reader.index()].add(micros);
    }
}

/// A histogram with eight buckets per power of two.
#[derive(Debug, Default)]
struct Latencies {
    buckets: Vec<u32>,
    count: u32,
}

impl Latencies {
    fn add(&mut self, micros: u64) {
        let bucket = Latencies::bucket(micros);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    fn median(&self) -> Option<u64> {
        let mut left = self.count / 2;
        let found = self.buckets.iter().position(|count| {
            let here = left < *count;
            left = left.saturating_sub(*count);
            here
        });
        found.filter(|_| self.count >= ENOUGH).map(Latencies::floor)
    }

    fn bucket(micros: u64) -> usize {
        let power = micros.max(8).ilog2();
        ((power - 3) * 8) as usize + (micros.max(8) >> (power - 3)) as usize - 8
    }

    fn floor(bucket: usize) -> u64 {
        ((bucket % 8 + 8) as u64) << (bucket / 8)
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Slowed { group, before, beside, factor } => {
                let group = names.of_group(*group);
                let (before, beside) = (*before as f64 / 1000.0, *beside as f64 / 1000.0);
                format!(
                    "{group} got its messages after {before:.1} ms, and after {beside:.1} ms while \
                     another group was slow: more than {factor} times"
                )
            }
            Breach::Hoarding { lane, bytes, limit } => {
                let lane = names.of_lane(*lane);
                format!("{lane} holds {bytes} bytes of messages; the limit is {limit}")
            }
        }
    }
}
