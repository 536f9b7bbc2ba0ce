//! What really happened in a run, counted under the names that scenarios use
//! in `[expect]`: faults by kind, what clients saw, marks inside machines.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{EventKind, History, LaneId, Mode};

/// Counts by name; what never happened is absent.
pub fn coverage(history: &History) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut broadcasting = BTreeSet::new();
    let mut stored: BTreeMap<LaneId, Vec<u64>> = BTreeMap::new();
    for event in &history.events {
        let (name, count) = match &event.kind {
            EventKind::SendOk { shard, position, .. } => {
                if let Some(position) = position {
                    let broker = history.names.of_shard(*shard).broker;
                    stored.entry(broker).or_default().push(*position);
                }
                ("send-ok", 1)
            }
            EventKind::SendRefused { .. } => ("send-refused", 1),
            EventKind::SendUnknown { .. } => ("send-unknown", 1),
            EventKind::MemberStarted(started) => {
                if started.mode == Mode::Broadcasting {
                    broadcasting.insert(started.member);
                }
                continue;
            }
            EventKind::Delivered { member, message: Some(message), .. } => {
                let group = history.names.of_member(*member).group;
                // Every broadcast member is owed its own copy.
                let reader = broadcasting.contains(member).then_some(*member);
                let again = !seen.insert((group, reader, *message));
                *counts.entry("redelivery").or_default() += u64::from(again);
                ("delivery", 1)
            }
            EventKind::Delivered { .. } => ("delivery", 1),
            EventKind::Acked { .. } => ("ack", 1),
            EventKind::Nacked { .. } => ("nack", 1),
            EventKind::Assigned { .. } => ("rebalance", 1),
            EventKind::Expired { from, to, .. } => ("expiry", to.saturating_sub(*from)),
            EventKind::Fault(fault) => (fault.kind.name(), 1),
            EventKind::NodeStarted { .. } if is_broker(history, event.lane) => ("broker-start", 1),
            EventKind::Recovered { log_end } => {
                let lost = stored.entry(event.lane).or_default();
                let before = lost.len();
                lost.retain(|position| position < log_end);
                *counts.entry("licensed-loss").or_default() += (before - lost.len()) as u64;
                ("recovery", 1)
            }
            EventKind::Mark { mark } => (mark.name(), 1),
            _ => continue,
        };
        *counts.entry(name).or_default() += count;
    }
    counts.retain(|_, count| *count > 0);
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn is_broker(history: &History, lane: LaneId) -> bool {
    history.names.of_lane(lane).starts_with("broker-")
}

/// What `[expect]` asks for and the run did not show, as sentences.
pub fn missing(
    at_least: &BTreeMap<String, u64>,
    coverage: &BTreeMap<String, u64>,
) -> Vec<(String, String)> {
    at_least
        .iter()
        .map(|(name, wanted)| (name, *wanted, coverage.get(name).copied().unwrap_or(0)))
        .filter(|(_, wanted, found)| found < wanted)
        .map(|(name, wanted, found)| (name.clone(), format!("{found}, expected at least {wanted}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Recorder, Stored};

    #[test]
    fn what_recovery_cut_and_what_came_twice_is_counted() {
        let recorder = Recorder::new(|| 0);
        let (broker, shard, member) = recorder.name(|names| {
            let (broker, client) = (names.lane("broker-1"), names.lane("consumer-billing-1"));
            let (topic, group) = (names.topic("orders"), names.group("billing"));
            (broker, names.shard(topic, broker, 0), names.member(group, client))
        });
        let messages = [recorder.next_message(), recorder.next_message()];
        for (offset, _) in messages.iter().enumerate() {
            let stored = EventKind::SendOk {
                op: recorder.next_op(),
                shard,
                queue_offset: offset as u64,
                position: Some(offset as u64 * 100),
                status: Stored::AsPromised,
                tries: 1,
            };
            recorder.push(broker, stored);
        }
        for message in [messages[0], messages[0], messages[1]] {
            let delivered = EventKind::Delivered {
                delivery: recorder.next_delivery(),
                member,
                shard,
                queue_offset: 0,
                position: 0,
                message: Some(message),
                body_hash: 0,
                key: None,
                tag: None,
            };
            recorder.push(broker, delivered);
        }
        recorder.push(broker, EventKind::NodeStarted { life: 2 });
        recorder.push(broker, EventKind::Recovered { log_end: 100 });
        recorder.push(broker, EventKind::Recovered { log_end: 100 });

        let counts = coverage(&recorder.take());
        let expected = [
            ("broker-start", 1),
            ("delivery", 3),
            ("licensed-loss", 1),
            ("recovery", 2),
            ("redelivery", 1),
            ("send-ok", 2),
        ];
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(counts, expected);

        let at_least = BTreeMap::from([("delivery".to_owned(), 3), ("kill".to_owned(), 1)]);
        let found = missing(&at_least, &counts);
        assert_eq!(found, [("kill".to_owned(), "0, expected at least 1".to_owned())]);
    }
}
