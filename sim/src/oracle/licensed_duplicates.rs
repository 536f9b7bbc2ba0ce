//! Every extra copy has a cause. Within one stretch of reading, only a nack
//! brings a message back; a new stretch (a rebalance, a crash, a reset) brings
//! it back once more, if it begins at or before it; the retry topic, as often as
//! it was sent back; and a message fills no more slots than requests were made
//! of it (D6), or one if they carried its sequence number (D1).

use super::{
    Facts, Oracle, Verdict, Violation,
    readers::{Answer, SentBack},
    retry_and_dlq::came_once,
};
use crate::history::{Event, EventKind, GroupId, MessageId, Names, ShardId};

#[derive(Debug, Default)]
pub struct LicensedDuplicates;

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// The same member got it again without having asked for it.
    Again { group: GroupId, shard: ShardId, offset: u64, delivery: u32, answered: bool },
    /// It came again from before where the member reads.
    BeforeStart { group: GroupId, shard: ShardId, offset: u64, start: u64 },
    /// More deliveries than stretches of reading and nacks.
    TooOften { group: GroupId, shard: ShardId, offset: u64, deliveries: u32, causes: u32 },
    /// Stored more often than it was sent.
    TooManyCopies { message: MessageId, copies: u32, tries: u32 },
    /// Its requests carried a sequence number, and still it is stored twice (D1).
    Repeated { message: MessageId, copies: u32 },
    /// It came by way of the retry topic more often than it was sent back.
    NotSentBack { group: GroupId, message: MessageId, copies: u32, send_backs: u32 },
}

impl Oracle for LicensedDuplicates {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        let EventKind::Delivered { member: id, shard, queue_offset, message, origin, .. } =
            &event.kind
        else {
            return Ok(());
        };
        let (shard, offset) = (*shard, *queue_offset);
        // How often a leased message comes is another promise.
        let Some(reader) = facts.reader_of(*id).filter(|reader| !reader.pops) else {
            return Ok(());
        };
        let seen = reader.progress(shard).and_then(|progress| progress.seen(offset));
        if let (Some(message), Some(_), None) = (*message, origin, seen) {
            let retries = reader.retries(message);
            // A broker takes a delivery back once, however often it is asked; unless
            // the group has passed it meanwhile, because somebody else was done.
            let once = facts.message(message).is_some_and(|sent| came_once(reader, message, sent));
            let send_backs = match once {
                true => retries.send_backs.min(retries.sent_back + retries.resends),
                false => retries.send_backs,
            };
            let copies = retries.slots + 1;
            // Power loss under async flush may take back that a retry was due.
            let may_repeat = !facts.context.sync_flush
                && facts.power_losses(facts.shard(shard).broker).next().is_some();
            if copies > send_backs && !may_repeat {
                let group = reader.group;
                let breach = Breach::NotSentBack { group, message, copies, send_backs };
                return Err(Violation::new(breach, facts, []));
            }
        }
        let (Some(progress), Some(seen)) = (reader.progress(shard), seen) else { return Ok(()) };
        let Some(last) = seen.last.and_then(|last| facts.delivery(last)) else { return Ok(()) };
        let member = facts.member(*id);
        let reading = member.reading(shard);

        let since = reading.map_or(member.begun, |reading| reading.since);
        let readings = progress.readings + u32::from(reading.is_none());
        let (deliveries, causes) = (seen.deliveries + 1, readings + seen.nacks);
        let in_this_reading = last.member == *id && last.event > since;
        let group = reader.group;
        let again = last.answer != Answer::Nacked || last.sent_back == SentBack::Ok;
        let breach = if in_this_reading && again {
            let delivery = seen.last.map_or(0, |last| last.number());
            let answered = last.answer == Answer::Acked;
            Breach::Again { group, shard, offset, delivery, answered }
        } else if let Some(start) = reading.and_then(|r| r.start).filter(|start| offset < *start) {
            Breach::BeforeStart { group, shard, offset, start }
        } else if deliveries > causes {
            Breach::TooOften { group, shard, offset, deliveries, causes }
        } else {
            return Ok(());
        };
        Err(Violation::new(breach, facts, [last.event]))
    }

    fn finish(&mut self, facts: &Facts) -> Verdict {
        // How often a transaction is committed is another promise.
        let mut plain = facts.all_messages().filter(|(_, m)| m.open == 0 && m.half.is_none());
        let Some((message, sent)) = plain.find(|(_, m)| m.copies > m.most_copies()) else {
            return Ok(());
        };
        let (copies, tries) = (sent.copies, sent.tries);
        let breach = match sent.idempotent {
            true => Breach::Repeated { message, copies },
            false => Breach::TooManyCopies { message, copies, tries },
        };
        Err(Violation::new(breach, facts, [sent.begun]))
    }
}

impl Breach {
    pub fn tell(&self, names: &Names) -> String {
        match self {
            Breach::Again { group, shard, offset, delivery, answered } => {
                let slot = names.text_of_slot(*shard, *offset);
                let group = names.of_group(*group);
                let before = if *answered { "it had acked" } else { "it still worked on" };
                format!(
                    "a member of {group} got {slot} again, which {before} as delivery {delivery}, \
                     without a nack, a rebalance or a restart in between"
                )
            }
            Breach::BeforeStart { group, shard, offset, start } => {
                let slot = names.text_of_slot(*shard, *offset);
                let group = names.of_group(*group);
                format!("a member of {group} got {slot} again, though it reads from {start}")
            }
            Breach::TooOften { group, shard, offset, deliveries, causes } => {
                let slot = names.text_of_slot(*shard, *offset);
                let group = names.of_group(*group);
                format!("{slot} was delivered {deliveries} times to {group}, with {causes} causes")
            }
            Breach::Repeated { message, copies } => {
                format!("{message} is stored {copies} times, under one sequence number")
            }
            Breach::NotSentBack { group, message, copies, send_backs } => {
                let group = names.of_group(*group);
                format!(
                    "{group} got {copies} retries of {message}, which it sent back {send_backs} times"
                )
            }
            Breach::TooManyCopies { message, copies, tries } => {
                format!("{message} is stored {copies} times; {tries} requests were made of it")
            }
        }
    }
}
