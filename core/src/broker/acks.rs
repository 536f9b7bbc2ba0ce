//! 200051, 200151, 200053: a popped message is done, or wanted again at another
//! time; and what becomes of one of which nobody says anything.

use super::{
    Broker,
    command::Command,
    config::limit,
    dead_letters,
    leases::{Change, Ending, Terms},
    pop::retry_topic,
    propose::Answer,
    retry::fitting,
    state::RETRY_PREFIX,
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Name, Shard},
    pointer::{Appearance, Settles},
    runtime::Disk,
    time::Now,
    wire::{
        Frame,
        body::BatchAck,
        code,
        header::{AckHeader, ChangeInvisibleHeader, ChangeInvisibleReply, ReceiptHandle},
    },
};

/// The lease that a receipt names: the number of the shared queue, and the
/// offset.
type Named = (u64, u64);

impl<D: Disk> Broker<D> {
    pub(super) fn ack_message(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = AckHeader::parse(&frame.fields)?;
        let handle = parse_handle(header.handle)?;
        let offset = not_negative("offset", header.offset)?;
        let shard = popped_from(header.group, header.topic, handle.retry, handle.queue);
        let named = self.lease(header.group, &shard, offset, handle.pop_wall, Ending::Ack);
        let named = named.ok_or_else(gone)?;
        self.propose_acks(vec![named], Answer::ok(conn, frame.reply_to()))
    }

    /// Acks of several answers at once. Leases that are over are passed over, as
    /// the rest is done all the same; if none is left, this is told.
    pub(super) fn ack_batch(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let batch = BatchAck::parse(&frame.body)?;
        let mut acks = Vec::new();
        for run in &batch.acks {
            if acks.len() > limit::ACKS_AT_ONCE || run.bits.len() > limit::ACKS_AT_ONCE / 8 {
                let why = format!("names more than {} messages", limit::ACKS_AT_ONCE);
                return Err(Rejected::bad_field("acks", why));
            }
            let retry = run.retry.parse().unwrap_or(0);
            let shard = popped_from(&run.group, &run.topic, retry, run.queue);
            acks.extend(run.offsets().filter_map(|offset| {
                self.lease(&run.group, &shard, offset, run.pop_wall, Ending::Ack)
            }));
        }
        if acks.is_empty() {
            return Err(gone());
        }
        self.propose_acks(acks, Answer::ok(conn, frame.reply_to()))
    }

    fn propose_acks(&mut self, acks: Vec<Named>, answer: Answer) -> Result<(), Rejected> {
        let change = Command::Lease(Change::Acked(acks.clone()));
        if let Err(error) = self.propose_command(change, answer) {
            return Err(self.refused_or_failed(error));
        }
        for (number, offset) in acks {
            self.state.leases.ends(number, offset, Ending::Ack);
        }
        Ok(())
    }

    /// The lease runs anew from now on, under a receipt of its own.
    pub(super) fn change_invisible(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = ChangeInvisibleHeader::parse(&frame.fields)?;
        let handle = parse_handle(header.handle)?;
        let offset = not_negative("offset", header.offset)?;
        let invisible = not_negative("invisibleTime", header.invisible_time)?;
        if invisible > limit::INVISIBLE.as_millis() as u64 {
            let why = format!("is at most {} milliseconds", limit::INVISIBLE.as_millis());
            return Err(Rejected::bad_field("invisibleTime", why));
        }
        let shard = popped_from(header.group, header.topic, handle.retry, handle.queue);
        let named = self.lease(header.group, &shard, offset, handle.pop_wall, Ending::Renewal);
        let (number, offset) = named.ok_or_else(gone)?;
        let terms = Terms {
            // Another receipt than before, whatever the clock says.
            pop_wall: now.wall.max(handle.pop_wall.saturating_add(1)),
            invisible,
            in_order: false,
            attempt: None,
        };
        let reply = ChangeInvisibleReply {
            pop_wall: terms.pop_wall,
            invisible_time: header.invisible_time,
            revive_queue: handle.revive_queue,
        };
        let answer = Answer::with(conn, frame.reply_to(), reply.fields());
        let change = Command::Lease(Change::Renewed { number, offset, terms });
        if let Err(error) = self.propose_command(change, answer) {
            return Err(self.refused_or_failed(error));
        }
        self.state.leases.ends(number, offset, Ending::Renewal);
        Ok(())
    }

    fn lease(
        &self,
        group: &str,
        shard: &Shard,
        offset: u64,
        pop_wall: i64,
        for_what: Ending,
    ) -> Option<Named> {
        let number = self.state.leases.number(group, shard)?;
        self.state.leases.queue(number).lease(offset, pop_wall, for_what)?;
        Some((number, offset))
    }

    /// A committed change of leases: those that begin run from now on, never
    /// less than promised.
    pub(super) fn leases_changed(&mut self, now: Now, change: &Change) {
        match change {
            Change::Popped { taken, .. } => {
                for taken in taken {
                    let offsets = taken.messages.iter().map(|(offset, _)| *offset);
                    self.state.leases.begin(now.mono, taken.number, offsets);
                }
            }
            Change::Renewed { number, offset, .. } => {
                self.state.leases.begin(now.mono, *number, [*offset].into_iter());
            }
            Change::Opened { .. } | Change::Acked(_) => {}
        }
    }

    /// Messages whose leases ended by themselves come again, each from the
    /// group's retry topic, or go to the dead letters; those that were handed
    /// out in order wait where they are for who asks next.
    pub(super) fn revive_due(&mut self, now: Now) -> Result<(), StoreError> {
        let mut revived = Vec::new();
        let mut lost = Vec::new();
        while revived.len() + lost.len() < limit::REVIVED_AT_ONCE
            && let Some((number, offset, lease)) = self.state.leases.take_due(now.mono)
        {
            let queue = self.state.leases.queue(number);
            let (group, shard) = (queue.group.clone(), queue.shard.clone());
            let most = self.state.group(&group).map_or(0, |group| group.retry_max);
            let is_exhausted = i64::from(lease.attempts) >= i64::from(most.max(0));
            if lease.in_order && !is_exhausted {
                continue;
            }
            match self.comes_again(&group, &shard, offset, lease.in_order) {
                Ok(Next::Appears(shows)) => {
                    revived.push((shows, Settles::Lease { number, offset }));
                }
                Ok(Next::Later) => {
                    self.state.leases.ends_later(number, offset, now.mono + limit::REVIVE_AGAIN);
                }
                Ok(Next::Lost) => lost.push((number, offset)),
                // Its record or its queue cannot be used now: not to be lost
                // for that (L25).
                Err(error) => {
                    tracing::warn!(%error, %shard, offset, "a message cannot come again yet");
                    self.state.leases.ends_later(number, offset, now.mono + limit::REVIVE_AGAIN);
                }
            }
        }
        if !lost.is_empty() {
            tracing::warn!(count = lost.len(), "leased messages expired with the log");
            self.counters.leases_lost += lost.len() as u64;
            self.propose_ends(now, lost)?;
        }
        if revived.is_empty() {
            return Ok(());
        }
        let ends: Vec<Named> = revived
            .iter()
            .filter_map(|(_, settles)| match settles {
                Settles::Lease { number, offset } => Some((*number, *offset)),
                _ => None,
            })
            .collect();
        self.counters.revived += ends.len() as u64;
        let proposed = self.propose_pointers(now, revived, Answer::Nothing);
        self.ending(now, ends, Ending::Revival, proposed)
    }

    pub(super) fn propose_ends(&mut self, now: Now, ends: Vec<Named>) -> Result<(), StoreError> {
        let change = Command::Lease(Change::Acked(ends.clone()));
        let proposed = self.propose_command(change, Answer::Nothing).map(|_| ());
        self.ending(now, ends, Ending::Ack, proposed)
    }

    /// These leases end with what was proposed; without room for it, later.
    fn ending(
        &mut self,
        now: Now,
        ends: Vec<Named>,
        how: Ending,
        proposed: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let leases = &mut self.state.leases;
        match proposed {
            Ok(()) => {
                ends.into_iter().for_each(|(number, offset)| leases.ends(number, offset, how))
            }
            Err(StoreError::Full | StoreError::TooLarge { .. }) => {
                let again = now.mono + limit::REVIVE_AGAIN;
                ends.into_iter().for_each(|(number, offset)| {
                    leases.ends_later(number, offset, again);
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How a message whose lease ended appears next.
    fn comes_again(
        &mut self,
        group: &Name,
        shard: &Shard,
        offset: u64,
        in_order: bool,
    ) -> Result<Next, StoreError> {
        let Some(key) = self.state.find_queue(&shard.topic, shard.queue) else {
            return Ok(Next::Lost);
        };
        let Some(entry) = self.entry(key, offset)? else { return Ok(Next::Lost) };
        let Some(stored) = self.stored(entry.position)? else { return Ok(Next::Lost) };
        let Some(mut shows) = stored.appearance() else { return Ok(Next::Lost) };
        let most = self.state.group(group).map_or(0, |group| group.retry_max);
        let is_dead = in_order || stored.reconsume_times() >= most;
        let mut bare = shows.clone();
        bare.queue = 0;
        bare.patch.reconsume_times = Some(stored.reconsume_times().saturating_add(1));
        let shows = if is_dead {
            bare.topic = dead_letters::topic_of(group).name;
            self.dead_letter(group, &stored, shows)
        } else {
            self.sent_again(&stored, &mut shows);
            if !shard.topic.starts_with(RETRY_PREFIX) {
                shows.topic = retry_topic(group, &shard.topic);
            }
            shows.queue = 0;
            bare.topic = shows.topic.clone();
            fitting(&stored, shows)
        };
        // One that has no room for what retries add comes again without that.
        let shows = shows.unwrap_or(bare);
        let is_there = self.state.find_queue(&shows.topic, 0).is_some();
        Ok(if is_there { Next::Appears(shows) } else { Next::Later })
    }
}

/// What becomes of a message whose lease ended.
enum Next {
    Appears(Appearance),
    /// Its queue is being made.
    Later,
    /// Retention took it.
    Lost,
}

/// The queue that a message was popped from: clients name the topic itself, or
/// the retry topic when that is meant.
fn popped_from(group: &str, topic: &str, retry: u8, queue: u32) -> Shard {
    let is_named = retry == 0 || topic.starts_with(RETRY_PREFIX);
    let topic = if is_named { topic.into() } else { retry_topic(group, topic) };
    Shard { topic, queue }
}

fn parse_handle(text: &str) -> Result<ReceiptHandle<'_>, Rejected> {
    ReceiptHandle::parse(text).ok_or_else(|| Rejected::bad_field("extraInfo", "is no receipt"))
}

fn not_negative(field: &str, number: i64) -> Result<u64, Rejected> {
    u64::try_from(number).map_err(|_| Rejected::bad_field(field, "is below zero"))
}

fn gone() -> Rejected {
    Rejected::new(code::NO_MESSAGE, "the lease is over: done, or handed out again")
}
