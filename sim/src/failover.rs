//! How long a replica set is without a leader, as its clients see it.

use std::collections::BTreeMap;

use crate::history::{EventKind, FaultId, FaultKind, History, LaneId, Role, ShardId};

/// A fault took a set's leader, and another replica took over. Times are
/// microseconds since the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailOver {
    pub set: LaneId,
    /// When the fault struck, since the run's start.
    pub at: u64,
    pub elected: u64,
    /// The new leader has applied its log.
    pub served: u64,
    /// The first send that it answered OK, if anybody sent anything.
    pub stored: Option<u64>,
    /// The first message of those that a consumer got.
    pub delivered: Option<u64>,
}

/// All fail-overs of a run, in order. One that was not over when the next fault
/// struck the new leader counts from its own fault.
pub fn fail_overs(history: &History) -> Vec<FailOver> {
    let mut sets: BTreeMap<LaneId, Set> = BTreeMap::new();
    let mut set_of: BTreeMap<LaneId, LaneId> = BTreeMap::new();
    let mut found = Vec::new();
    for event in &history.events {
        let (at, lane) = (event.at, event.lane);
        match &event.kind {
            EventKind::Formed { replicas, spares } => {
                set_of.extend(replicas.iter().chain(spares).map(|replica| (*replica, lane)));
                sets.entry(lane).or_default();
            }
            EventKind::Fault(fault)
                if matches!(fault.kind, FaultKind::Pause | FaultKind::Partition) =>
            {
                let struck = |set: &&mut Set| set.leader.is_some_and(|l| fault.lanes.contains(&l));
                sets.values_mut().filter(struck).for_each(|set| set.struck(at, Some(fault.fault)));
            }
            EventKind::FaultHealed { fault } => {
                sets.values_mut().for_each(|set| set.healed(*fault));
            }
            EventKind::NodeStopped { .. } => {
                let set = set_of.get(&lane).and_then(|set| sets.get_mut(set));
                if let Some(set) = set.filter(|set| set.leader == Some(lane)) {
                    set.struck(at, None);
                }
            }
            EventKind::Role { role: Role::Leader, .. } => {
                if let Some(set) = set_of.get(&lane).and_then(|set| sets.get_mut(set)) {
                    set.leader = Some(lane);
                    set.elected = Some(at);
                }
            }
            EventKind::Recovered { log_end } => {
                if let Some(set) = sets.get_mut(&lane) {
                    set.serves(lane, at, *log_end, &mut found);
                }
            }
            EventKind::SendOk { shard, position: Some(position), .. } => {
                note(history, *shard, *position, &mut sets, |index| {
                    let stored: &mut FailOver = &mut found[index];
                    stored.stored.get_or_insert(at - stored.at);
                });
            }
            EventKind::Delivered { shard, position, .. } => {
                note(history, *shard, *position, &mut sets, |index| {
                    let delivered: &mut FailOver = &mut found[index];
                    delivered.delivered.get_or_insert(at - delivered.at);
                });
            }
            _ => {}
        }
    }
    found
}

#[derive(Default)]
struct Set {
    leader: Option<LaneId>,
    /// When the leader was struck that nobody has replaced yet, and by what, if
    /// that ends by itself.
    struck: Option<(u64, Option<FaultId>)>,
    elected: Option<u64>,
    /// The fail-over by its place, and where the new leader's own log begins.
    newest: Option<(usize, u64)>,
}

impl Set {
    fn struck(&mut self, at: u64, by: Option<FaultId>) {
        self.elected = None;
        self.struck.get_or_insert((at, by)).1 = by;
    }

    /// What ends before anybody else is elected has taken nobody's lead.
    fn healed(&mut self, fault: FaultId) {
        if self.elected.is_none() && self.struck.is_some_and(|(_, by)| by == Some(fault)) {
            self.struck = None;
        }
    }

    fn serves(&mut self, set: LaneId, at: u64, log_end: u64, found: &mut Vec<FailOver>) {
        let (Some((fault, _)), Some(elected)) = (self.struck.take(), self.elected.take()) else {
            return;
        };
        self.newest = Some((found.len(), log_end));
        found.push(FailOver {
            set,
            at: fault,
            elected: elected - fault,
            served: at - fault,
            stored: None,
            delivered: None,
        });
    }
}

/// Something was seen at this place: if the newest leader of its set wrote it,
/// that is told to `tell`.
fn note(
    history: &History,
    shard: ShardId,
    position: u64,
    sets: &mut BTreeMap<LaneId, Set>,
    tell: impl FnOnce(usize),
) {
    let set = sets.get(&history.names.of_shard(shard).broker);
    if let Some((index, begin)) = set.and_then(|set| set.newest)
        && position >= begin
    {
        tell(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Fault, Stop};

    /// The set of `broker-1` to `broker-3`, in which the first leads; each event
    /// comes at its time in milliseconds.
    fn told(events: impl Fn(&[LaneId], ShardId) -> Vec<(u64, LaneId, EventKind)>) -> Vec<FailOver> {
        let mut history = History::default();
        let names = &mut history.names;
        let set = names.lane("set-1");
        let replicas = [1, 2, 3].map(|number| names.lane(&format!("broker-{number}")));
        let topic = names.topic("orders");
        let shard = names.shard(topic, set, 0);
        let begin = [
            (0, set, EventKind::Formed { replicas: replicas.into(), spares: [].into() }),
            (1, replicas[0], EventKind::Role { term: 1, role: Role::Leader }),
            (2, set, EventKind::Recovered { log_end: 0 }),
        ];
        for (at, lane, kind) in begin.into_iter().chain(events(&replicas, shard)) {
            history.events.push(Event { at: at * 1000, lane, kind });
        }
        fail_overs(&history)
    }

    fn elected(term: u64) -> EventKind {
        EventKind::Role { term, role: Role::Leader }
    }

    #[test]
    fn a_fail_over_lasts_until_clients_are_served() {
        let found = told(|replicas, shard| {
            let stored = |position| EventKind::SendOk {
                op: crate::history::OpId::at(0),
                shard,
                queue_offset: 0,
                position: Some(position),
                status: crate::history::Stored::AsPromised,
                tries: 1,
            };
            let set = LaneId::at(0);
            vec![
                (100, replicas[0], EventKind::NodeStopped { why: Stop::Killed }),
                // Answered by the old leader, and late.
                (101, replicas[0], stored(40)),
                (900, replicas[2], elected(2)),
                (950, set, EventKind::Recovered { log_end: 50 }),
                (980, replicas[0], stored(70)),
                (990, replicas[0], stored(80)),
            ]
        });
        let [one] = found[..] else { panic!("{found:?}") };
        let times = (one.at, one.elected, one.served, one.stored, one.delivered);
        assert_eq!(times, (100_000, 800_000, 850_000, Some(880_000), None));
    }

    #[test]
    fn a_pause_that_nobody_noticed_is_none() {
        let fault = FaultId::at(0);
        let found = told(|replicas, _| {
            let (kind, lanes) = (FaultKind::Pause, vec![replicas[0]]);
            let pause = Fault { fault, kind, lanes, side: 0, text: String::new() };
            vec![
                (100, replicas[0], EventKind::Fault(Box::new(pause))),
                (150, replicas[0], EventKind::FaultHealed { fault }),
                (9_000, replicas[0], EventKind::NodeStopped { why: Stop::PowerLost }),
                (9_700, replicas[1], elected(2)),
                (9_800, LaneId::at(0), EventKind::Recovered { log_end: 50 }),
            ]
        });
        assert_eq!(found.iter().map(|one| one.served).collect::<Vec<u64>>(), [800_000]);
    }
}
