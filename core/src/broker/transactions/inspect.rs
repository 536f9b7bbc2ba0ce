//! What operators may see and do: 20037 lists undecided halves, 20038 shows one,
//! 20039 settles it, and RocketMQ's 323 has it checked again.

use super::{Fate, Standing};
use crate::{
    broker::{Broker, command::Command, halves::Change, stored::Stored},
    error::Rejected,
    ids::{ConnId, Position},
    message::{Peek, Properties, offset_message_id, property},
    runtime::Disk,
    time::Now,
    wire::{
        Frame,
        body::{HalfInfo, HalfList, HalfState, ProducerGroup},
        code,
        header::{HalfHeader, ListHalvesHeader, Resolution, ResumeCheckHeader},
    },
};

/// Halves, and groups, of one list.
const MAX_LISTED: u32 = 1000;
/// Bytes of records that are read for one list.
const MAX_READ: usize = 16 << 20;

impl<D: Disk> Broker<D> {
    pub(in crate::broker) fn list_halves(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = ListHalvesHeader::parse(&frame.fields)?;
        if !(1..=MAX_LISTED).contains(&header.limit) {
            return Err(Rejected::bad_field("limit", format!("is not 1 to {MAX_LISTED}")));
        }
        let after = header.after.and_then(|after| u64::try_from(after).ok()).map(Position);
        let is_wanted = |group: &str, parked: bool| {
            header.producer_group.is_none_or(|wanted| wanted == group)
                && (header.parked != Some(true) || parked)
        };
        let halves = self.state.halves.open_after(after);
        let wanted = halves.filter(|(_, half)| is_wanted(&half.producer_group, half.parked));
        let mut places: Vec<Position> =
            wanted.map(|(at, _)| at).take(header.limit as usize + 1).collect();
        let mut has_more = places.len() > header.limit as usize;
        places.truncate(header.limit as usize);
        let mut list = self.transaction_totals();
        let mut read = 0;
        for at in places {
            if read > MAX_READ {
                has_more = true;
                break;
            }
            let stored = self.stored(at).ok().flatten();
            read += stored.as_ref().map_or(0, |stored| stored.record.len());
            list.halves.push(self.half_info(now, at, stored.as_ref()));
        }
        list.next = list.halves.last().map(|half| half.position).filter(|_| has_more);
        if after.is_none() {
            list.groups = self.producer_groups();
        }
        self.reply_body(conn, frame.reply_to(), list.to_bytes());
        Ok(())
    }

    fn transaction_totals(&self) -> HalfList {
        let totals = self.state.halves.totals();
        let parked = self.state.halves.groups().map(|(_, of_group)| u64::from(of_group.parked));
        HalfList {
            open: self.state.halves.len() as u64,
            parked: parked.sum(),
            committed: totals.committed,
            rolled_back: totals.rolled_back,
            expired: totals.expired,
            conflicts: self.counters.conflicts,
            ..HalfList::default()
        }
    }

    fn producer_groups(&self) -> Vec<ProducerGroup> {
        let groups = self.state.halves.groups().take(MAX_LISTED as usize);
        let info = groups.map(|(name, of_group)| ProducerGroup {
            group: name.to_string(),
            open: of_group.open,
            parked: of_group.parked,
            connections: self.members.producers(name).len() as u32,
            unreachable: self.transactions.checks.is_asleep(name),
        });
        info.collect()
    }

    /// A half whose record cannot be read is shown as far as it is known.
    fn half_info(&self, now: Now, at: Position, stored: Option<&Stored>) -> HalfInfo {
        let mut info = HalfInfo {
            message_id: offset_message_id(self.config.host, at),
            position: at.0,
            ..HalfInfo::default()
        };
        if let Some(stored) = stored {
            let peek = Peek(&stored.record);
            info.number = peek.queue_offset().unwrap_or_default();
            info.topic = peek.topic().unwrap_or_default().to_owned();
            info.queue = peek.queue().unwrap_or_default();
            info.unique_key = stored.property(property::UNIQ_KEY).map(str::to_owned);
            info.producer_group = stored.property(property::PGROUP).unwrap_or_default().to_owned();
            info.stored_at = peek.store_wall().unwrap_or_default();
            info.size = peek.body_range().map_or(0, |range| range.len() as u64);
        }
        if let Some(half) = self.state.halves.get(at) {
            info.number = half.number;
            info.producer_group = half.producer_group.to_string();
            info.checks = half.checks;
            info.state = if half.parked { HalfState::Parked } else { HalfState::Open };
            if !self.transactions.checks.is_asleep(&half.producer_group) {
                let due = self.transactions.checks.due(at);
                info.next_check_in = due.map(|due| due.since(now.mono).as_millis() as u64);
            }
        }
        info
    }

    pub(in crate::broker) fn show_half(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = HalfHeader::parse(&frame.fields)?;
        let at = self.named_half(header.message_id)?;
        let standing = self.standing(at, None)?;
        let stored = self.readable(at)?;
        let mut info = self.half_info(now, at, stored.as_ref());
        match standing {
            Standing::Open => {}
            Standing::Settled(Fate::Committed) => info.state = HalfState::Committed,
            Standing::Settled(Fate::RolledBack) => info.state = HalfState::RolledBack,
        }
        let properties = stored.as_ref().and_then(|stored| Peek(&stored.record).properties());
        let pairs = properties.into_iter().flat_map(Properties::iter);
        info.properties = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        self.reply_body(conn, frame.reply_to(), info.to_bytes());
        Ok(())
    }

    /// An operator knows what the producers do not say.
    pub(in crate::broker) fn settle_half(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = HalfHeader::parse(&frame.fields)?;
        let wanted = match header.resolution {
            Some(Resolution::Commit) => Fate::Committed,
            Some(Resolution::Rollback) => Fate::RolledBack,
            _ => return Err(Rejected::bad_field("commitOrRollback", "is neither 8 nor 12")),
        };
        let at = self.named_half(header.message_id)?;
        let standing = self.standing(at, None)?;
        self.decide(now, at, standing, wanted, conn, frame.reply_to())
    }

    pub(in crate::broker) fn resume_half(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = ResumeCheckHeader::parse(&frame.fields)?;
        let at = self.named_half(header.message_id)?;
        if let Standing::Settled(_) = self.standing(at, None)? {
            let remark = "the transaction is decided: there is nothing to check";
            return Err(Rejected::new(code::ILLEGAL_OPERATION, remark));
        }
        let change = Change::Resumed { half: at, wall: now.wall };
        self.propose_for(conn, frame.reply_to(), Command::Transaction(change))
    }

    fn named_half(&self, message_id: &str) -> Result<Position, Rejected> {
        let unknown = || Rejected::bad_field("msgId", "is not an offset message id of this broker");
        let at = message_id.len().checked_sub(16).and_then(|start| message_id.get(start..));
        let at = at.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or_else(unknown)?;
        let is_ours = offset_message_id(self.config.host, Position(at)) == message_id;
        is_ours.then_some(Position(at)).ok_or_else(unknown)
    }
}
