//! A leased message belongs to one consumer until the lease ends by the broker's
//! clock; then it comes again, and soon; once its acknowledgement was answered
//! OK, never (L19).

use std::collections::BTreeMap;

use super::{EventIndex, Facts, Oracle, Verdict, Violation, lateness::CLOCK_TICK};
use crate::history::{
    DeliveryId, Event, EventKind, GroupId, LaneId, MessageId, Names, ShardId, Stop,
};

/// How long it must have been calm before being late counts.
const CALM_MICROS: u64 = 20_000_000;

#[derive(Debug, Default)]
pub struct Lease {
    granted: BTreeMap<(GroupId, MessageId), Vec<Granted>>,
    /// Of each delivery that may still be answered.
    places: BTreeMap<DeliveryId, (GroupId, MessageId)>,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    delivery: DeliveryId,
    event: EventIndex,
    since: u64,
    broker: LaneId,
    /// When it ends at the earliest and at the latest, by the broker's clock.
    ends: (i64, i64),
    /// The answer to its acknowledgement.
    acked: Option<EventIndex>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    Early { group: GroupId, message: MessageId, shard: ShardId, offset: u64, by_micros: u64 },
    Late { group: GroupId, message: MessageId, by_micros: u64 },
    AckedRevived { group: GroupId, message: MessageId, shard: ShardId, offset: u64 },
}

impl Oracle for Lease {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        match &event.kind {
            EventKind::Delivered {
                delivery,
                member,
                message: Some(message),
                shard,
                queue_offset,
                lease_until: Some(until),
                ..
            } => {
                let key = (facts.group_of(*member), *message);
                let verdict = self.judge(key, (*shard, *queue_offset), facts);
                let until = i64::try_from(*until).unwrap_or(i64::MAX);
                let granted = Granted {
                    delivery: *delivery,
                    event: facts.index,
                    since: event.at,
                    broker: facts.shard(*shard).broker,
                    ends: (until, until),
                    acked: None,
                };
                self.granted.entry(key).or_default().push(granted);
                self.places.insert(*delivery, key);
                verdict
            }
            EventKind::AckAnswered { delivery, answered } if answered.is_ok() => {
                if let Some(granted) = self.granted(*delivery) {
                    granted.acked = Some(facts.index);
                }
                Ok(())
            }
            // It may have been served, or not.
            EventKind::LeaseAsked { delivery, for_us } => {
                if let Some(granted) = self.granted(*delivery) {
                    let (least, most) = facts.shown(granted.broker, facts.now, facts.now);
                    let (least, most) = (least + *for_us as i64, most + *for_us as i64);
                    granted.ends = (granted.ends.0.min(least), granted.ends.1.max(most));
                }
                Ok(())
            }
            EventKind::LeaseAnswered { delivery, answered, until: Some(until) }
                if answered.is_ok() =>
            {
                if let Some(granted) = self.granted(*delivery) {
                    let until = i64::try_from(*until).unwrap_or(i64::MAX);
                    granted.ends = (until, until);
                }
                Ok(())
            }
            // What was answered may be lost with the end of the log.
            EventKind::NodeStopped { why: Stop::PowerLost } if !facts.context.sync_flush => {
                self.granted.values_mut().for_each(|all| {
                    all.retain(|granted| granted.broker != facts.set_of(event.lane));
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Lease {
    fn granted(&mut self, delivery: DeliveryId) -> Option<&mut Granted> {
        let key = self.places.get(&delivery)?;
        self.granted.get_mut(key)?.iter_mut().find(|granted| granted.delivery == delivery)
    }

    /// There may be as many leases at a time as there are copies.
    fn judge(
        &mut self,
        key: (GroupId, MessageId),
        (shard, offset): (ShardId, u64),
        facts: &Facts,
    ) -> Verdict {
        let Some(granted) = self.granted.get_mut(&key) else { return Ok(()) };
        let (group, message) = key;
        let copies = facts.message(message).map_or(1, |message| message.most_copies()) as usize;
        // Leases run on the broker's monotonic clock, and clients are told what its
        // wall clock would show if it were left alone.
        let has_ended = |granted: &Granted| {
            let granted_at = granted.since.saturating_sub(ON_ITS_WAY_MICROS);
            facts.would_show(granted.broker, granted_at) + CLOCK_TICK >= granted.ends.0
        };
        let ended =
            granted.iter().filter(|g| g.acked.is_none() && has_ended(g)).max_by_key(|g| g.ends);
        let ended = ended.copied();
        granted.retain(|granted| granted.acked.is_some() || !has_ended(granted));
        if granted.len() < copies.max(1) {
            return match ended.filter(|_| copies <= 1) {
                Some(ended) => late(ended, key, facts),
                None => Ok(()),
            };
        }
        let acked = granted.iter().find_map(|granted| granted.acked);
        let breach = match acked {
            Some(_) => Breach::AckedRevived { group, message, shard, offset },
            None => {
                let (_, shown) = facts.shown(granted[0].broker, facts.now, facts.now);
                let by_micros = (granted[0].ends.0 - shown).max(0) as u64;
                Breach::Early { group, message, shard, offset, by_micros }
            }
        };
        Err(Violation::new(breach, facts, [Some(granted[0].event), acked].into_iter().flatten()))
    }
}

/// A message may have been leased so long before it is seen: a client waits as
/// long for an answer on its way.
const ON_ITS_WAY_MICROS: u64 = 5_000_000;

fn late(ended: Granted, (group, message): (GroupId, MessageId), facts: &Facts) -> Verdict {
    let is_busy = facts
        .clustering(group)
        .is_none_or(|reader| facts.living(reader).any(|member| member.paced.is_some()));
    if is_busy || !facts.calm_for(CALM_MICROS) {
        return Ok(());
    }
    let due = facts.when_shown(ended.broker, ended.ends.1);
    let by_micros = facts.now.saturating_sub(due.max(facts.disturbed.0 + CALM_MICROS));
    if by_micros <= facts.context.lease_slack {
        return Ok(());
    }
    Err(Violation::new(Breach::Late { group, message, by_micros }, facts, [ended.event]))
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Early { group, message, shard, offset, by_micros } => {
                let (group, slot) = (names.of_group(*group), names.text_of_slot(*shard, *offset));
                let millis = by_micros / 1000;
                format!(
                    "{group} got {message} from {slot} {millis} ms before another member's lease \
                     of it ends"
                )
            }
            Breach::Late { group, message, by_micros } => {
                let (group, millis) = (names.of_group(*group), by_micros / 1000);
                format!("{group} got {message} {millis} ms after its last lease had ended")
            }
            Breach::AckedRevived { group, message, shard, offset } => {
                let (group, slot) = (names.of_group(*group), names.text_of_slot(*shard, *offset));
                format!("{group} got {message} from {slot} after its acknowledgement was taken")
            }
        }
    }
}
