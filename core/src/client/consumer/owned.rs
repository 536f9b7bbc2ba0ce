//! A queue that the member owns, or is about to.

use super::{Consumer, locks::Lock, reader::Reader};
use crate::{
    client::{MessageQueue, OffsetSource, context::Context, progress::Progress},
    time::Time,
    wire::body::{MessageModel, ResetOffsets},
};

pub struct Owned {
    pub queue: MessageQueue,
    pub(super) stage: Stage,
    /// A call of the present stage is under way.
    pub(super) busy: bool,
    pub(super) not_before: Time,
    pub(super) failures: u32,
    pub(super) pulled_at: Time,
    pub(super) reader: Reader,
    /// Once it is known where to start.
    pub progress: Option<Progress>,
    /// What the broker has.
    pub(super) committed: Option<i64>,
    /// Or would answer: it gives some offsets that nobody stored, and does not
    /// say so.
    pub(super) is_implied: bool,
    pub(super) committing: bool,
    /// How often the group was reset here, as its broker said: what comes from
    /// before another reset is refused (O4).
    pub(super) reset_epoch: Option<u64>,
    pub(super) was_reset: bool,
    /// Of an orderly group's queue.
    pub(super) lock: Option<Lock>,
    /// It is to be handed over once the message in hand is done, or then.
    pub(super) drain_until: Option<Time>,
}

/// What has to be known next. No stage is left by a failure: an offset that
/// could not be asked for is asked for again, never guessed (O3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// That no other member of the orderly group has it.
    Lock,
    /// The offset that the group stored.
    Stored,
    /// There is none: whether the group is new to the topic.
    History,
    /// The offset at which to start instead.
    Start {
        first: bool,
    },
    /// That it is stored: from now on the group has a place in this queue.
    Anchor(i64, OffsetSource),
    Pulling,
    /// It is handed over: that its offset is stored, then that it is unlocked.
    LastCommit(i64),
    Unlock,
}

impl Owned {
    pub(super) fn new(queue: MessageQueue, stage: Stage) -> Owned {
        Owned {
            queue,
            stage,
            busy: false,
            not_before: Time::ZERO,
            failures: 0,
            pulled_at: Time::ZERO,
            reader: Reader::default(),
            progress: None,
            committed: None,
            is_implied: false,
            committing: false,
            reset_epoch: None,
            was_reset: false,
            lock: None,
            drain_until: None,
        }
    }

    pub(super) fn is_released(&self) -> bool {
        matches!(self.stage, Stage::LastCommit(_) | Stage::Unlock)
    }

    /// The processed offset, if the broker does not have it yet.
    pub fn uncommitted(&self) -> Option<i64> {
        let processed = self.progress.as_ref()?.processed();
        (self.committed != Some(processed)).then_some(processed)
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.failures = 0;
        self.not_before = Time::ZERO;
    }
}

/// Beginning anew.
impl Consumer {
    /// The broker does not have the offset any more, or not yet. What was
    /// pulled before is void; the queue goes on where the broker says.
    pub(super) fn restart_at(&mut self, cx: &mut Context, number: u64, offset: i64) {
        let source = OffsetSource::Corrected;
        let number = self.replace(number, Stage::Anchor(offset, source));
        if self.config.model == MessageModel::Broadcasting {
            return self.start_pulling(cx, number, offset, source);
        }
        // Not at once: a broker that is unsure of its own end may say this again.
        self.try_again(cx, number);
    }

    /// The group was set to other offsets: what was pulled before is void.
    pub fn on_reset(&mut self, cx: &mut Context, reset: &ResetOffsets) {
        for entry in &reset.offsets {
            let queue = MessageQueue {
                topic: entry.queue.topic.as_str().into(),
                broker: entry.queue.broker_name.as_str().into(),
                queue: entry.queue.queue,
            };
            let Some(number) = self.by_queue.get(&queue).copied() else { continue };
            let is_reading = self.queues.get(&number).is_some_and(|owned| {
                owned.stage == Stage::Pulling
                    && (entry.reset_epoch.is_none() || owned.reset_epoch < entry.reset_epoch)
            });
            if is_reading {
                let number = self.replace(number, Stage::Stored);
                if let Some(owned) = self.queues.get_mut(&number) {
                    owned.was_reset = true;
                }
                self.step(cx, number);
            }
        }
    }

    /// The same queue under a new number, so that earlier deliveries and
    /// answers are stale. The lock stays.
    pub(super) fn replace(&mut self, number: u64, stage: Stage) -> u64 {
        let Some(old) = self.queues.remove(&number) else { return number };
        self.ready.remove(&number);
        self.next_number += 1;
        self.by_queue.insert(old.queue.clone(), self.next_number);
        let mut owned = Owned::new(old.queue, stage);
        (owned.failures, owned.lock) = (old.failures, old.lock);
        self.queues.insert(self.next_number, owned);
        self.next_number
    }
}
