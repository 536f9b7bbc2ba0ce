//! When somebody could have had what was due: not while anything was wrong, and
//! not while it was busy.

use super::{Facts, readers::Answer};
use crate::history::{LaneId, MemberId, ShardId};

/// How long it must have been calm before being late counts.
pub const CALM_MICROS: u64 = 20_000_000;

impl Facts {
    /// How late this is for a member that waits, if it was due at this time of
    /// the broker's clock; nothing if something excuses it.
    pub fn late_by(
        &self,
        broker: LaneId,
        due: i64,
        member: MemberId,
        shard: ShardId,
    ) -> Option<u64> {
        if !self.calm_for(CALM_MICROS) {
            return None;
        }
        let due = self.when_shown(broker, due);
        let could = due.max(self.disturbed.0 + CALM_MICROS);
        self.waits_since(member, shard, could).then(|| self.now.saturating_sub(could))
    }

    /// Whether the member has read the shard since before then, and had nothing
    /// of it in hand.
    fn waits_since(&self, member: MemberId, shard: ShardId, time: u64) -> bool {
        let known = self.member(member);
        if known.paced.is_some() {
            return false;
        }
        let Some(reading) = known.reading(shard) else { return false };
        let last = reading.last.and_then(|last| self.delivery(last));
        last.is_some_and(|last| last.at < time && last.answer != Answer::Open)
    }

    /// Whether this was shown too early: before the broker's clock can have
    /// shown `due`, since this event's time.
    pub fn is_early(&self, broker: LaneId, due: i64, since: u64) -> bool {
        let (_, most) = self.shown(broker, since, self.now);
        most + CLOCK_TICK < due
    }
}

/// Clocks of brokers show whole milliseconds, and so do those of clients.
pub(super) const CLOCK_TICK: i64 = 2_000;
