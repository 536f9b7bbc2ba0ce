//! 39: asking what became of a transaction.

use super::checks::{Last, Note};
use crate::{
    broker::{
        Broker, Output, Phase,
        command::Command,
        halves::{Change, Half, Positions},
        propose::Answer,
    },
    error::StoreError,
    ids::{ConnId, Name, Position},
    message::{Peek, offset_message_id, property},
    runtime::Disk,
    time::Now,
    wire::{
        Frame, code,
        header::{CheckReceipt, CheckTransactionHeader},
        request,
    },
};

/// What came of looking at a half that is due.
enum Looked {
    /// It was asked about, or put off.
    Done,
    /// No member of its group is connected.
    Alone,
}

impl<D: Disk> Broker<D> {
    /// Makes the schedule for what the log holds, at the start of serving.
    pub(in crate::broker) fn schedule_checks(&mut self, now: Now) {
        let open: Vec<Position> = self.state.halves.open().map(|(at, _)| at).collect();
        open.into_iter().for_each(|at| self.schedule_check(now, at));
    }

    pub(super) fn schedule_check(&mut self, now: Now, at: Position) {
        let Some(half) = self.state.halves.get(at).filter(|half| !half.parked) else { return };
        let wait = self.config.check_back.remaining(half, now.wall);
        self.transactions.checks.schedule(&half.producer_group, at, now.mono + wait);
    }

    /// Asks about what is due, as far as this moment's share goes.
    pub(in crate::broker) fn check_back(&mut self, now: Now) -> Result<(), StoreError> {
        if self.phase != Phase::Serving {
            return Ok(());
        }
        self.note_checks(now)?;
        let per_second = self.config.check_back.per_second;
        while let Some((group, at)) = self.transactions.checks.next(now.mono, per_second) {
            let Some(half) = self.state.halves.get(at).cloned() else {
                self.transactions.checks.forget(&group, at);
                continue;
            };
            if let Looked::Alone = self.look_at(now, &group, at, &half) {
                self.counters.unreachable_groups += 1;
                self.transactions.checks.sleep(&group);
            }
        }
        Ok(())
    }

    fn look_at(&mut self, now: Now, group: &Name, at: Position, half: &Half) -> Looked {
        let checks = &mut self.transactions.checks;
        let config = &self.config.check_back;
        let last = checks.last(at);
        let received = half.checks.saturating_add(checks.uncounted(at));
        if let Last::Received(sent) = last {
            let due = sent + config.wait(half, received);
            if due > now.mono {
                checks.postpone(group, at, now.mono, due);
                return Looked::Done;
            }
        }
        if received >= config.at_most {
            checks.exhaust(group, at);
            return Looked::Done;
        }
        let conns = self.members.producers(group);
        if conns.is_empty() {
            return Looked::Alone;
        }
        let avoid = match last {
            Last::Lost(conn) => Some(conn),
            Last::None | Last::Received(_) => None,
        };
        let Some(conn) = checks.pick(group, &conns, avoid) else {
            checks.snooze(group, now.mono);
            return Looked::Done;
        };
        let again = now.mono + config.every;
        match self.check(conn, at, half) {
            Ok(bytes) => self.transactions.checks.sent(at, conn, now.mono, bytes),
            Err(error) => {
                // It does not keep the others from being checked (T8).
                self.counters.corrupt_reads += 1;
                tracing::error!(%error, "a half message cannot be read");
            }
        }
        self.transactions.checks.postpone(group, at, now.mono, again);
        Looked::Done
    }

    /// Sends a check; returns its length.
    fn check(&mut self, conn: ConnId, at: Position, half: &Half) -> Result<usize, String> {
        let stored = self.stored(at).map_err(|error| error.to_string())?;
        let stored = stored.ok_or_else(|| format!("nothing is stored at {at}"))?;
        let unique = stored.property(property::UNIQ_KEY);
        let fields = CheckTransactionHeader {
            topic: Peek(&stored.record).topic(),
            half_offset: half.number as i64,
            position: at.0 as i64,
            message_id: unique,
            transaction_id: unique,
            offset_message_id: Some(&offset_message_id(self.config.host, at)),
            broker_name: Some(&self.config.name),
            acknowledge: Some(true),
        }
        .fields();
        let opaque = self.members.next_opaque();
        let frame = Frame::request(request::CHECK_TRANSACTION_STATE, opaque, fields, stored.record);
        let packet = frame.one_way().encode();
        let bytes = packet.size();
        self.outputs.push_back(Output::Send { conn, packet });
        self.counters.checks_sent += 1;
        Ok(bytes)
    }

    /// A response frame: perhaps the receipt of a check.
    pub(in crate::broker) fn check_received(&mut self, conn: ConnId, frame: &Frame) {
        let Ok(receipt) = CheckReceipt::parse(&frame.fields) else { return };
        let Ok(at) = u64::try_from(receipt.position).map(Position) else { return };
        match frame.code {
            code::SUCCESS => self.count_check(at, Some(conn)),
            _ => self.transactions.checks.refuse(at, conn),
        }
    }

    /// A member of the group answered a check of its half, perhaps another one
    /// than was asked.
    pub(super) fn check_answered(&mut self, at: Position) {
        self.count_check(at, None);
    }

    fn count_check(&mut self, at: Position, over: Option<ConnId>) {
        let Some(half) = self.state.halves.get(at) else { return };
        let checks = &mut self.transactions.checks;
        if let Some(sent) = checks.receive(at, over) {
            let received = half.checks.saturating_add(checks.uncounted(at));
            let due = sent + self.config.check_back.wait(half, received);
            checks.schedule(&half.producer_group, at, due);
        }
    }

    /// Writes received checks down, many at a time: a restart knows them (T12).
    fn note_checks(&mut self, now: Now) -> Result<(), StoreError> {
        while let Some(note) = self.transactions.checks.note(now.mono) {
            let change = match &note {
                Note::Received(halves) => Change::Checked {
                    halves: Positions::new(halves.iter().copied()),
                    wall: now.wall,
                },
                Note::Exhausted(halves) => Change::Parked(Positions::new(halves.iter().copied())),
            };
            match self.propose_command(Command::Transaction(change), Answer::Nothing) {
                Ok(_) => self.transactions.checks.noted(note),
                Err(StoreError::Full) => {
                    self.transactions.checks.note_failed(now.mono);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Before the state takes the change.
    pub(in crate::broker) fn transaction_changes(&mut self, change: &Change) {
        match change {
            Change::RolledBack(at) => self.half_settled(*at, super::Fate::RolledBack),
            Change::Checked { halves, .. } => self.transactions.checks.counted(halves.iter()),
            Change::Parked(_) | Change::Resumed { .. } => {}
        }
    }

    /// After the state took the change.
    pub(in crate::broker) fn transaction_changed(&mut self, now: Now, change: &Change) {
        if let Change::Resumed { half: at, .. } = change
            && let Some(half) = self.state.halves.get(*at)
        {
            self.transactions.checks.schedule(&half.producer_group, *at, now.mono);
        }
    }

    pub(in crate::broker) fn heard(&mut self, now: Now, conn: ConnId) {
        self.transactions.checks.heard(conn, now.mono);
    }

    /// Producer groups whose members this connection speaks for.
    pub(in crate::broker) fn producers_came<'a>(
        &mut self,
        groups: impl IntoIterator<Item = &'a String>,
    ) {
        for group in groups {
            self.transactions.checks.wake(group);
        }
    }
}
