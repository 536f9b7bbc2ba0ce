//! Events as sentences, for traces and failure reports.

use std::fmt;

use super::{
    Access, Answered, Decision, Event, EventKind, From, Held, LaneId, LockEnd, MemberId, MessageId,
    Mode, Names, OffsetSource, Pace, ShardId, Stop, Stored, Told, Unanswered,
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
                held,
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
                f.write_str(if *one_way { ", one way" } else { "" })?;
                match held {
                    None => Ok(()),
                    Some(Held::Half) => f.write_str(", as a half"),
                    Some(Held::For(us)) => write!(f, ", not before {} have passed", Secs(*us)),
                    Some(Held::Until(us)) => write!(f, ", not before {}", Secs(*us)),
                }
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
            EventKind::SendHeld { op, shard, position, status, tries } => {
                write!(f, "send #{} held for ", op.number())?;
                self.shard(f, *shard)?;
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
            EventKind::ProducerJoined { group } => {
                write!(f, "answers for {}", self.names.of_group(*group))
            }
            EventKind::Decided { message, decision } => {
                let ended = match decision {
                    Decision::Commit => "commits",
                    Decision::Rollback => "rolls back",
                };
                write!(f, "{ended} {message} in its own database")
            }
            EventKind::EndBegun { end, message, told, check, lost } => {
                let told = match told {
                    Told::Commit => "commit",
                    Told::Rollback => "roll back",
                    Told::Unknown => "not known yet",
                };
                write!(f, "end #{}: {told} {message}", end.number())?;
                if let Some(check) = check {
                    write!(f, ", in answer to check {}", check.number())?;
                }
                f.write_str(if *lost { ", and never sends it" } else { "" })
            }
            EventKind::EndAnswered { end, answered } => {
                write!(f, "end #{} {answered}", end.number())
            }
            EventKind::CheckReceived { check, message, position } => {
                write!(f, "check {}: what became of ", check.number())?;
                one(f, *message)?;
                match position {
                    Some(position) => write!(f, " (log {position})?"),
                    None => f.write_str("?"),
                }
            }
            EventKind::RecallBegun { message } => write!(f, "takes {message} back"),
            EventKind::RecallAnswered { message, answered } => {
                write!(f, "recall of {message} {answered}")
            }
            EventKind::MemberStarted(started) => {
                self.member(f, started.member)?;
                write!(f, " starts (#{}", started.incarnation)?;
                f.write_str(match started.mode {
                    Mode::Clustering => ", clustering",
                    Mode::Broadcasting => ", broadcasting",
                })?;
                f.write_str(match started.access {
                    Access::Push => "",
                    Access::Pull => ", pulling",
                    Access::Pop => ", leasing",
                })?;
                f.write_str(if started.orderly { ", orderly" } else { ", concurrent" })?;
                if let Some(attempts) = started.max_attempts {
                    write!(f, ", {attempts} attempts")?;
                }
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
                delivery,
                member,
                shard,
                queue_offset,
                message,
                tag,
                attempt,
                lease_until,
                ..
            } => {
                self.member_does(f, *member, "gets ")?;
                one(f, *message)?;
                if let Some(tag) = tag {
                    write!(f, " (tag {})", self.names.of_tag(*tag))?;
                }
                f.write_str(" from ")?;
                self.slot(f, *shard, *queue_offset)?;
                write!(f, ", delivery {}", delivery.number())?;
                if *attempt > 1 {
                    write!(f, ", attempt {attempt}")?;
                }
                match lease_until {
                    Some(until) => write!(f, ", leased until {}", Secs(*until)),
                    None => Ok(()),
                }
            }
            EventKind::Acked { delivery } => write!(f, "acks delivery {}", delivery.number()),
            EventKind::AckAnswered { delivery, answered } => {
                write!(f, "ack of delivery {} {answered}", delivery.number())
            }
            EventKind::Nacked { delivery, again_after } => {
                write!(f, "wants delivery {} again ", delivery.number())?;
                match again_after {
                    Some(us) => write!(f, "after {}", Secs(*us)),
                    None => f.write_str("later"),
                }
            }
            EventKind::Forgotten { delivery } => {
                write!(f, "forgets delivery {}", delivery.number())
            }
            EventKind::TimedOut { delivery } => {
                write!(f, "gives up waiting for the handler of delivery {}", delivery.number())
            }
            EventKind::SendBackBegun { delivery, .. } => {
                write!(f, "sends delivery {} back", delivery.number())
            }
            EventKind::SendBackAnswered { delivery, answered } => {
                write!(f, "send-back of delivery {} {answered}", delivery.number())
            }
            EventKind::LeaseAsked { delivery, for_us } => {
                let lease = Secs(*for_us);
                write!(f, "wants delivery {} invisible for {lease} more", delivery.number())
            }
            EventKind::LeaseAnswered { delivery, answered, until } => {
                write!(f, "new lease of delivery {} {answered}", delivery.number())?;
                match until {
                    Some(until) => write!(f, ", until {}", Secs(*until)),
                    None => Ok(()),
                }
            }
            EventKind::Locked { member, shard, epoch } => {
                self.member_does(f, *member, "has the lock of ")?;
                self.shard(f, *shard)?;
                match epoch {
                    Some(epoch) => write!(f, ", epoch {epoch}"),
                    None => Ok(()),
                }
            }
            EventKind::Unlocked { member, shard, why } => {
                let does = match why {
                    LockEnd::Released => "gives back the lock of ",
                    LockEnd::Refused => "is refused the lock of ",
                    LockEnd::Expired => "could not renew the lock of ",
                };
                self.member_does(f, *member, does)?;
                self.shard(f, *shard)
            }
            EventKind::DeadLetter { group, shard, queue_offset, message, attempts, .. } => {
                write!(f, "dead letter of {}: ", self.names.of_group(*group))?;
                one(f, *message)?;
                f.write_str(" at ")?;
                self.slot(f, *shard, *queue_offset)?;
                write!(f, ", after {attempts} attempts")
            }
            EventKind::ResetBegun { group, topic, to } => {
                let (group, topic) = (self.names.of_group(*group), self.names.of_topic(*topic));
                write!(f, "resets {group} in {topic} to {}", Secs(*to))
            }
            EventKind::ResetAnswered { group, topic, answered } => {
                let (group, topic) = (self.names.of_group(*group), self.names.of_topic(*topic));
                write!(f, "reset of {group} in {topic} {answered}")
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
                Stop::Deposed => "has no leader that serves",
            }),
            EventKind::ClockIs { ahead_us, drift_ppm } => {
                write!(f, "has a clock {} ms ahead that gains {drift_ppm} ppm", ahead_us / 1000)
            }
            EventKind::ChaosEnded => f.write_str("-- chaos ends --"),
            EventKind::Quiesced => f.write_str("-- quiet --"),
            EventKind::Recovered { log_end } => write!(f, "has recovered its log up to {log_end}"),
            EventKind::Durable { position } => write!(f, "is durable up to {position}"),
            EventKind::Formed { replicas, spares } => {
                f.write_str("is replicated by")?;
                self.lanes(f, replicas)?;
                f.write_str(if spares.is_empty() { "" } else { ", spares are" })?;
                self.lanes(f, spares)
            }
            EventKind::Members { voters, before } => {
                f.write_str("is decided by")?;
                self.lanes(f, voters)?;
                let Some(before) = before else { return Ok(()) };
                f.write_str(", and as before by")?;
                self.lanes(f, before)
            }
            EventKind::Role { term, role } => write!(f, "is a {} in term {term}", role.name()),
            EventKind::Committed { index, end, digest } => {
                write!(f, "has committed entry {index}, to {end} (digest {digest:016x})")
            }
            EventKind::GroupOffset { group, shard, offset, end } => {
                write!(f, "has {} at ", self.names.of_group(*group))?;
                self.slot(f, *shard, *offset)?;
                write!(f, " of {end}")
            }
            EventKind::LockHolder { group, shard, holder, epoch } => {
                write!(f, "has the lock of {} on ", self.names.of_group(*group))?;
                self.shard(f, *shard)?;
                match holder {
                    Some(holder) => {
                        write!(f, " with {}, epoch {epoch}", self.names.of_lane(*holder))
                    }
                    None => f.write_str(" free"),
                }
            }
            EventKind::HalfParked { position, message } => {
                f.write_str("gives up checking ")?;
                one(f, *message)?;
                write!(f, " (log {position})")
            }
            EventKind::HalfResumed { position, message } => {
                f.write_str("checks again ")?;
                one(f, *message)?;
                write!(f, " (log {position})")
            }
            EventKind::GroupLost { group, shard, messages } => {
                write!(f, "counts {messages} messages of ")?;
                self.shard(f, *shard)?;
                write!(f, " that {} lost to retention", self.names.of_group(*group))
            }
            EventKind::Mark { mark } => write!(f, "mark {}", mark.name()),
            EventKind::Memory { bytes } => write!(f, "holds {bytes} bytes of messages"),
        }
    }

    fn lanes(&self, f: &mut fmt::Formatter<'_>, lanes: &[LaneId]) -> fmt::Result {
        lanes.iter().try_for_each(|lane| write!(f, " {}", self.names.of_lane(*lane)))
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

fn one(f: &mut fmt::Formatter<'_>, message: Option<MessageId>) -> fmt::Result {
    match message {
        Some(message) => write!(f, "{message}"),
        None => f.write_str("a body nobody wrote"),
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answered::Ok => f.write_str("is taken"),
            Answered::Conflict => f.write_str("comes too late: another decision stands"),
            Answered::Refused { code } => write!(f, "is refused with code {code}"),
            Answered::Unknown => f.write_str("has no answer"),
        }
    }
}

/// Microseconds, as people read them.
struct Secs(u64);

impl fmt::Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
