//! Delayed messages: what a message asks for, what happens when it is due, and
//! 370, which takes it back before.
//!
//! Due is a time on the broker's wall clock. What a step of that clock makes
//! due fires at once; what it puts off waits. Neither needs to be noticed by
//! anybody: the clock is looked at every second while anything waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Broker, Phase,
    command::Command,
    config::limit,
    propose::Answer,
    timers::{Change, Timer, Timers},
};
use crate::{
    error::{Corrupt, Rejected, StoreError},
    ids::{ConnId, Position},
    message::{Peek, Properties, offset_message_id, property},
    pointer::{self, Appearance, Patch, Settles},
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Frame, RecallHandle, code,
        header::{RecallHeader, RecallReply},
    },
};

/// RocketMQ's levels 1 to 18, in seconds.
const LEVELS: [i64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];

/// Properties by which a message asks for a delay.
const ASKS: [&str; 4] = [
    property::DELAY,
    property::TIMER_DELAY_SEC,
    property::TIMER_DELAY_MS,
    property::TIMER_DELIVER_MS,
];

/// How often the wall clock is looked at while anything waits: it may step.
const LOOK: Duration = Duration::from_secs(1);
/// How long what could not be read, or found no room, waits for its next try.
const RETRY: Duration = Duration::from_secs(10);

/// What a broker knows of its timers beside the durable index.
#[derive(Default)]
pub(super) struct Firing {
    /// Proposed to fire, or as lost, and not yet applied.
    in_flight: BTreeSet<Timer>,
    /// Proposed to be recalled, and not yet applied.
    recalling: BTreeSet<Timer>,
    /// What could not be read when it was due, and when that is tried again: a
    /// disk may recover. Nothing else waits for it (L25).
    unreadable: BTreeMap<Timer, Time>,
    /// There was no room for what is due; not before this again.
    no_room_until: Option<Time>,
    wake: Option<Time>,
}

impl Firing {
    pub fn deadline(&self) -> Option<Time> {
        self.wake
    }

    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// A recall is applied.
    pub fn recalled(&mut self, timer: Timer) {
        self.recalling.remove(&timer);
    }

    fn forget_what_is_over(&mut self, timers: &Timers) {
        self.in_flight.retain(|timer| timers.contains(*timer));
        self.unreadable.retain(|timer, _| timers.contains(*timer));
    }

    fn is_wanted(&self, timer: Timer, now: Time) -> bool {
        !self.in_flight.contains(&timer)
            && !self.recalling.contains(&timer)
            && self.unreadable.get(&timer).is_none_or(|again| *again <= now)
    }
}

/// The delay of a level in milliseconds; levels beyond the last are the last.
pub(super) fn of_level(level: i32) -> i64 {
    LEVELS[(level.max(1) as usize).min(LEVELS.len()) - 1] * 1_000
}

/// When a delay is over that starts now. The clock shows whole milliseconds:
/// without another one, what starts at the end of a millisecond would be early.
pub(super) fn over(delay: i64, now_wall: i64) -> i64 {
    if delay > 0 { now_wall + delay + 1 } else { now_wall }
}

/// Whether a property asks for a delay.
pub(super) fn is_asked_by(key: &str) -> bool {
    ASKS.contains(&key)
}

/// When a message with these properties is due, in milliseconds on the wall
/// clock; none if at once. A level comes before a time, as in RocketMQ.
pub(super) fn due(properties: Properties<'_>, now_wall: i64) -> Result<Option<i64>, Rejected> {
    let number = |key: &str| match properties.get(key) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| {
            Rejected::new(code::MESSAGE_ILLEGAL, format!("{key} is not a number: {text:?}"))
        }),
    };
    let level = number(property::DELAY)?.unwrap_or(0);
    if level > 0 {
        return Ok(Some(over(of_level(level.min(18) as i32), now_wall)));
    }
    let seconds = number(property::TIMER_DELAY_SEC)?.map(|seconds| seconds.saturating_mul(1_000));
    if let Some(delay) = seconds.or(number(property::TIMER_DELAY_MS)?) {
        check_delay(delay)?;
        return Ok((delay > 0).then(|| over(delay, now_wall)));
    }
    let Some(at) = number(property::TIMER_DELIVER_MS)? else { return Ok(None) };
    check_delay(at.saturating_sub(now_wall))?;
    Ok((at > now_wall).then_some(at))
}

/// Refuses a delay, in milliseconds, that is longer than what is promised.
pub(super) fn check_delay(delay: i64) -> Result<(), Rejected> {
    let longest = limit::DELAY.as_millis() as i64;
    if delay > longest {
        let remark = format!("a delay of {delay} ms is beyond {longest}");
        return Err(Rejected::new(code::MESSAGE_ILLEGAL, remark));
    }
    Ok(())
}

/// What is delayed once must not be delayed again by what it asked for then
/// (R7).
pub(super) fn forget_delay(patch: &mut Patch, properties: Properties<'_>) {
    for (key, _) in properties.iter().filter(|(key, _)| is_asked_by(key)) {
        patch.remove(key);
    }
}

/// Why a timer that is due shows nothing.
enum Unfit {
    /// Its record, or the one it shows, is not in the log any more.
    Gone,
    Unreadable(StoreError),
}

impl From<StoreError> for Unfit {
    fn from(error: StoreError) -> Unfit {
        Unfit::Unreadable(error)
    }
}

impl<D: Disk> Broker<D> {
    /// Makes what is due visible: one entry of bounded size at a time, so that
    /// a million messages due at once share the log with everybody else.
    pub(super) fn fire_timers(&mut self, now: Now) -> Result<(), StoreError> {
        let (timers, firing) = (&mut self.state.timers, &mut self.firing);
        firing.forget_what_is_over(timers);
        let is_busy = !firing.in_flight.is_empty()
            || firing.no_room_until.is_some_and(|until| until > now.mono)
            || self.replica.undurable() > limit::UNDURABLE;
        if self.phase != Phase::Serving || is_busy {
            return Ok(());
        }
        let is_wanted = |timer| firing.is_wanted(timer, now.mono);
        let due = timers.due(now.wall, limit::FIRED_AT_ONCE, limit::TIMERS_SORTED, is_wanted);
        let mut shows = Vec::with_capacity(due.len());
        let mut room = limit::FIRED_BYTES.min(self.config.log.segment_bytes as usize / 4);
        for timer in due {
            if room == 0 {
                break;
            }
            match self.appearance(timer.at) {
                Ok((appearance, read)) => {
                    room = room.saturating_sub(read);
                    let settles = Settles::Timer { due_wall: timer.due_wall, at: timer.at };
                    shows.push((appearance, settles));
                    self.firing.unreadable.remove(&timer);
                    self.firing.in_flight.insert(timer);
                }
                Err(Unfit::Gone) => self.lose(now, timer)?,
                // Nobody repaired it for as long as anything may wait; and it
                // keeps the log from being shortened.
                Err(Unfit::Unreadable(_))
                    if now.wall - timer.due_wall > limit::DELAY.as_millis() as i64 =>
                {
                    self.lose(now, timer)?;
                }
                Err(Unfit::Unreadable(error)) => {
                    self.counters.corrupt_reads += 1;
                    tracing::error!(%error, at = %timer.at, "a due message cannot be read");
                    self.firing.unreadable.insert(timer, now.mono + RETRY);
                }
            }
        }
        if shows.is_empty() {
            return Ok(());
        }
        match self.propose_pointers(now, shows, Answer::Nothing) {
            Err(StoreError::Full | StoreError::TooLarge { .. }) => {
                self.firing.in_flight.clear();
                self.firing.no_room_until = Some(now.mono + RETRY);
                Ok(())
            }
            proposed => proposed,
        }
    }

    /// Decides when `fire_timers` is wanted next.
    pub(super) fn plan_timers(&mut self, now: Now) {
        self.firing.forget_what_is_over(&self.state.timers);
        let Firing { in_flight, no_room_until, unreadable, .. } = &self.firing;
        self.firing.wake = if !in_flight.is_empty() || self.phase != Phase::Serving {
            // What commits them calls again.
            None
        } else if no_room_until.is_some_and(|until| until > now.mono) {
            *no_room_until
        } else {
            let again = unreadable.values().copied().min();
            let next = self.state.timers.next_due(|timer| self.firing.is_wanted(timer, now.mono));
            let next = next.map(|due| {
                let ahead = Duration::from_millis(due.saturating_sub(now.wall).max(0) as u64);
                now.mono + ahead.min(LOOK)
            });
            [again, next].into_iter().flatten().min()
        };
    }

    /// What the record at `at` wanted to show, and how many bytes were read to
    /// know.
    fn appearance(&mut self, at: Position) -> Result<(Appearance, usize), Unfit> {
        let (log, disk) = self.replica.parts();
        if at < log.start() || at >= self.applied.position {
            return Err(Unfit::Gone);
        }
        let corrupt = |what: &str| {
            let (file, what) = ("log".to_owned(), what.to_owned());
            StoreError::Corrupt(Corrupt { file, position: Some(at), what })
        };
        let part = log.look_up(disk, at)?;
        let part = part.ok_or_else(|| corrupt("a delayed record is not intact"))?;
        let shows = if pointer::is_record(&part) {
            let mut shows = Appearance::of_record(at, &part)
                .map_err(|_| corrupt("a delayed record makes no sense"))?;
            let properties = Peek(&part).properties();
            forget_delay(&mut shows.patch, properties.unwrap_or(Properties(&[])));
            shows
        } else {
            let command = Command::decode(&part, at).map_err(StoreError::from)?;
            let Command::Timer(Change::Deferred(deferred)) = command else {
                return Err(corrupt("a timer for what defers nothing").into());
            };
            if deferred.shows.origin < log.start() {
                return Err(Unfit::Gone);
            }
            deferred.shows
        };
        if self.state.find_queue(&shows.topic, shows.queue).is_none() {
            return Err(corrupt("a delayed record for a queue that does not exist").into());
        }
        Ok((shows, part.len()))
    }

    /// Ends a timer that has nothing to show, for all to see.
    fn lose(&mut self, now: Now, timer: Timer) -> Result<(), StoreError> {
        tracing::error!(at = %timer.at, "a delayed message is not in the log any more");
        match self.propose_command(Command::Timer(Change::Lost(timer)), Answer::Nothing) {
            Ok(_) => {
                self.firing.in_flight.insert(timer);
                Ok(())
            }
            Err(StoreError::Full | StoreError::TooLarge { .. }) => {
                self.firing.unreadable.insert(timer, now.mono + RETRY);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// 370: takes a delayed message back, unless it is on its way.
    pub(super) fn recall_message(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = RecallHeader::parse(&frame.fields)?;
        let refuse = |why: &str| Rejected::new(code::ILLEGAL_OPERATION, why);
        let handle = RecallHandle::decode(header.recall_handle)
            .ok_or_else(|| refuse("recall failed, the handle makes no sense"))?;
        if handle.topic != header.topic || handle.broker != self.config.name {
            return Err(refuse("recall failed, the handle is of another topic or broker"));
        }
        let at = self.position_in(&handle.message_id);
        let at = at.ok_or_else(|| refuse("recall failed, the handle is not of this broker"))?;
        let timer = Timer { due_wall: handle.due_wall, at };
        let stored = self.stored(at).map_err(|error| refuse(&error.to_string()))?;
        let is_its = |topic: &str| topic == header.topic;
        let stored = stored.filter(|stored| {
            stored.pointer.is_none() && Peek(&stored.record).topic().is_some_and(is_its)
        });
        let stored = stored.filter(|_| {
            self.firing.is_wanted(timer, Time::MAX) && self.state.timers.contains(timer)
        });
        let Some(stored) = stored else {
            return Err(refuse("recall failed, the message is delivered or recalled already"));
        };
        let id = stored.property(property::UNIQ_KEY).unwrap_or(&handle.message_id);
        let fields = RecallReply { message_id: id }.fields();
        let answer = Answer::with(conn, frame.reply_to(), fields);
        match self.propose_command(Command::Timer(Change::Recalled(timer)), answer) {
            Ok(_) => {
                self.firing.recalling.insert(timer);
                Ok(())
            }
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    /// The place that an offset message id of this broker names.
    fn position_in(&self, message_id: &str) -> Option<Position> {
        let at = message_id.len().checked_sub(16)?;
        let position = Position(u64::from_str_radix(message_id.get(at..)?, 16).ok()?);
        (offset_message_id(self.config.host, position) == message_id).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn asked(pairs: &[(&str, &str)]) -> Result<Option<i64>, i32> {
        let mut bytes = Vec::new();
        pairs.iter().for_each(|(key, value)| Properties::put(&mut bytes, key, value));
        due(Properties(&bytes), NOW)
            .map(|due| due.map(|due| due - NOW))
            .map_err(|rejected| rejected.code)
    }

    #[test]
    fn levels_and_times_are_read_as_rocketmq_reads_them() {
        const DAY: i64 = 86_400_000;
        let later = (NOW + 5).to_string();
        for (pairs, expected) in [
            (&[("DELAY", "1")][..], Ok(Some(1_001))),
            (&[("DELAY", "18")], Ok(Some(7_200_001))),
            (&[("DELAY", "99")], Ok(Some(7_200_001))),
            (&[("DELAY", "0")], Ok(None)),
            (&[("DELAY", "-1")], Ok(None)),
            (&[("DELAY", "soon")], Err(code::MESSAGE_ILLEGAL)),
            (&[("TIMER_DELAY_SEC", "7")], Ok(Some(7_001))),
            (&[("TIMER_DELAY_MS", "7")], Ok(Some(8))),
            (&[("TIMER_DELAY_MS", "7.5")], Err(code::MESSAGE_ILLEGAL)),
            (&[("TIMER_DELIVER_MS", later.as_str())], Ok(Some(5))),
            (&[("TIMER_DELIVER_MS", "12")], Ok(None)),
            (&[("TIMER_DELAY_SEC", "259200")], Ok(Some(3 * DAY + 1))),
            (&[("TIMER_DELAY_MS", "259200001")], Err(code::MESSAGE_ILLEGAL)),
            (&[("TIMER_DELIVER_MS", "9223372036854775807")], Err(code::MESSAGE_ILLEGAL)),
            (&[("TIMER_DELAY_MS", "7"), ("DELAY", "2")], Ok(Some(5_001))),
            (&[("TAGS", "a")], Ok(None)),
        ] {
            assert_eq!(asked(pairs), expected, "{pairs:?}");
        }
    }
}
