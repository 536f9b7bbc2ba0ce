//! Events as sentences, for traces and failure reports.

use std::fmt;

use super::{
    Event, EventKind, From, MemberId, Mode, Names, OffsetSource, Pace, ShardId, Stop, Stored,
    Unanswered,
};

/// An event that prints itself: time, lane, sentence; with `{:#}` the sentence alone.
pub struct Story<'a> {
    pub(super) names: &'a Names,
    pub(super) event: &'a Event,
}

impl fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return self.sentence(f);
        }
        let at = self.event.at;
        write!(f, "{:>4}.{:06}s  ", at / 1_000_000, at % 1_000_000)?;
        write!(f, "{:<12}  ", self.names.of_lane(self.event.lane))?;
        self.sentence(f)
    }
}

impl Story<'_> {
    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.event.kind {
            EventKind::SendBegun {
                op,
                message,
                topic,
                shard,
                key,
                tag,
                size,
                batch,
                one_way,
                ..
            } => {
                write!(f, "send #{} m{} of {size} bytes to ", op.number(), message.number())?;
                match shard {
                    Some(shard) => self.shard(f, *shard)?,
                    None => f.write_str(self.names.of_topic(*topic))?,
                }
                if let Some(key) = key {
                    write!(f, ", key {}", self.names.of_key(*key))?;
                }
                if let Some(tag) = tag {
                    write!(f, ", tag {}", self.names.of_tag(*tag))?;
                }
                if let Some(batch) = batch {
                    write!(f, ", in batch {}", batch.number())?;
                }
                f.write_str(if *one_way { ", one way" } else { "" })
            }
            EventKind::SendOk { op, shard, queue_offset, position, status, tries } => {
                write!(f, "send #{} stored at ", op.number())?;
                self.slot(f, *shard, *queue_offset)?;
                if let Some(position) = position {
                    write!(f, " (log {position})")?;
                }
                if *status == Stored::Weakly {
                    f.write_str(", without the promise")?;
                }
                tried(f, *tries)
            }
            EventKind::SendRefused { op, code, tries } => {
                write!(f, "send #{} refused with code {code}", op.number())?;
                tried(f, *tries)
            }
            EventKind::SendUnknown { op, why, tries } => {
                let why = match why {
                    Unanswered::TimedOut => "no answer in time",
                    Unanswered::ConnectionLost => "connection lost",
                    Unanswered::ProducerGone => "the producer died",
                };
                write!(f, "send #{} unknown: {why}", op.number())?;
                tried(f, *tries)
            }
            EventKind::MemberStarted(started) => {
                self.member(f, started.member)?;
                write!(f, " starts (#{}", started.incarnation)?;
                f.write_str(match started.mode {
                    Mode::Clustering => ", clustering",
                    Mode::Broadcasting => ", broadcasting",
                })?;
                f.write_str(if started.orderly { ", orderly" } else { ", concurrent" })?;
                f.write_str(match started.from {
                    From::First => ", from the first",
                    From::Last => ", from the last",
                })?;
                for subscription in &started.subscriptions {
                    write!(f, ", {}", self.names.of_topic(subscription.topic))?;
                    for (i, tag) in subscription.tags.iter().enumerate() {
                        write!(
                            f,
                            "{}{}",
                            if i == 0 { ":" } else { "||" },
                            self.names.of_tag(*tag)
                        )?;
                    }
                }
                f.write_str(")")
            }
            EventKind::MemberStopped { member } => self.member_does(f, *member, "stops"),
            EventKind::MemberCrashed { member } => self.member_does(f, *member, "crashes"),
            EventKind::MemberPaced { member, pace } => {
                let does = match pace {
                    Pace::Normal => "handles at its normal pace again",
                    Pace::Slow => "becomes slow",
                    Pace::Stalled => "stalls",
                };
                self.member_does(f, *member, does)
            }
            EventKind::Assigned { member, shards } => {
                self.member_does(f, *member, "owns")?;
                if shards.is_empty() {
                    f.write_str(" nothing")?;
                }
                shards.iter().try_for_each(|shard| {
                    f.write_str(" ")?;
                    self.shard(f, *shard)
                })
            }
            EventKind::OffsetRead { member, shard, offset, source } => {
                self.member_does(f, *member, "reads from ")?;
                self.slot(f, *shard, *offset)?;
                f.write_str(match source {
                    OffsetSource::Committed => " (committed)",
                    OffsetSource::First => " (the first)",
                    OffsetSource::Last => " (the last)",
                    OffsetSource::Corrected => " (corrected by the broker)",
                    OffsetSource::Reset => " (reset)",
                })
            }
            EventKind::Delivered {
                delivery, member, shard, queue_offset, message, tag, ..
            } => {
                self.member_does(f, *member, "gets ")?;
                match message {
                    Some(message) => write!(f, "m{}", message.number())?,
                    None => f.write_str("a body nobody wrote")?,
                }
                if let Some(tag) = tag {
                    write!(f, " (tag {})", self.names.of_tag(*tag))?;
                }
                f.write_str(" from ")?;
                self.slot(f, *shard, *queue_offset)?;
                write!(f, ", delivery {}", delivery.number())
            }
            EventKind::Acked { delivery } => write!(f, "acks delivery {}", delivery.number()),
            EventKind::Nacked { delivery } => {
                write!(f, "wants delivery {} again later", delivery.number())
            }
            EventKind::Forgotten { delivery } => {
                write!(f, "forgets delivery {}", delivery.number())
            }
            EventKind::TopicSized { topic, queues } => {
                write!(f, "has {queues} queues of {}", self.names.of_topic(*topic))
            }
            EventKind::Expired { shard, from, to } => {
                f.write_str("retention drops ")?;
                self.slot(f, *shard, *from)?;
                write!(f, "..{to}")
            }
            EventKind::Fault(fault) => {
                write!(f, "FAULT {} {}: {}", fault.fault.number(), fault.kind.name(), fault.text)
            }
            EventKind::FaultHealed { fault } => write!(f, "fault {} is over", fault.number()),
            EventKind::NodeStarted { life } => write!(f, "starts, life {life}"),
            EventKind::NodeStopped { why } => f.write_str(match why {
                Stop::Graceful => "stops",
                Stop::Killed => "is killed",
                Stop::PowerLost => "loses power",
                Stop::GaveUp => "gives up",
            }),
            EventKind::ChaosEnded => f.write_str("-- chaos ends --"),
            EventKind::Quiesced => f.write_str("-- quiet --"),
            EventKind::Recovered { log_end } => write!(f, "has recovered its log up to {log_end}"),
            EventKind::Durable { position } => write!(f, "is durable up to {position}"),
            EventKind::GroupOffset { group, shard, offset, end } => {
                write!(f, "has {} at ", self.names.of_group(*group))?;
                self.slot(f, *shard, *offset)?;
                write!(f, " of {end}")
            }
            EventKind::Mark { mark } => write!(f, "mark {}", mark.name()),
            EventKind::Memory { bytes } => write!(f, "holds {bytes} bytes of messages"),
        }
    }

    fn shard(&self, f: &mut fmt::Formatter<'_>, shard: ShardId) -> fmt::Result {
        f.write_str(&self.names.text_of_shard(shard))
    }

    fn slot(&self, f: &mut fmt::Formatter<'_>, shard: ShardId, offset: u64) -> fmt::Result {
        self.shard(f, shard)?;
        write!(f, "[{offset}]")
    }

    fn member(&self, f: &mut fmt::Formatter<'_>, member: MemberId) -> fmt::Result {
        let name = self.names.of_member(member);
        write!(f, "{} in {}", self.names.of_lane(name.client), self.names.of_group(name.group))
    }

    fn member_does(&self, f: &mut fmt::Formatter<'_>, member: MemberId, does: &str) -> fmt::Result {
        let name = self.names.of_member(member);
        write!(f, "{} {does}", self.names.of_group(name.group))
    }
}

fn tried(f: &mut fmt::Formatter<'_>, tries: u8) -> fmt::Result {
    if tries > 1 { write!(f, ", after {tries} tries") } else { Ok(()) }
}
