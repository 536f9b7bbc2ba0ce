//! Where everybody writes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::*;

/// Where everybody writes the run's history. Clones write to the same one.
#[derive(Clone)]
pub struct Recorder {
    now: Arc<dyn Fn() -> u64 + Send + Sync>,
    tape: Arc<Mutex<Tape>>,
}

#[derive(Default)]
struct Tape {
    history: History,
    messages: usize,
    ops: usize,
    batches: usize,
    deliveries: usize,
    ends: usize,
    checks: usize,
    faults: usize,
}

impl Recorder {
    /// `now` is the world's own time in microseconds since the run's start.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Recorder {
        Recorder { now: Arc::new(now), tape: Arc::default() }
    }

    /// Times never run backwards along the history: within a step of turmoil
    /// each machine has a time of its own, but what is told later was later.
    pub fn push(&self, lane: LaneId, kind: EventKind) {
        let mut tape = self.tape();
        let events = &mut tape.history.events;
        let at = (self.now)().max(events.last().map_or(0, |last| last.at));
        events.push(Event { at, lane, kind });
    }

    /// Interns names: `recorder.name(|names| names.topic("orders"))`.
    pub fn name<T>(&self, intern: impl FnOnce(&mut Names) -> T) -> T {
        intern(&mut self.tape().history.names)
    }

    pub fn next_message(&self) -> MessageId {
        MessageId::at(count(&mut self.tape().messages))
    }

    pub fn next_op(&self) -> OpId {
        OpId::at(count(&mut self.tape().ops))
    }

    pub fn next_batch(&self) -> BatchId {
        BatchId::at(count(&mut self.tape().batches))
    }

    pub fn next_delivery(&self) -> DeliveryId {
        DeliveryId::at(count(&mut self.tape().deliveries))
    }

    pub fn next_end(&self) -> EndId {
        EndId::at(count(&mut self.tape().ends))
    }

    pub fn next_check(&self) -> CheckId {
        CheckId::at(count(&mut self.tape().checks))
    }

    pub fn next_fault(&self) -> FaultId {
        FaultId::at(count(&mut self.tape().faults))
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.tape().history.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the history so far.
    pub fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.tape().history)
    }

    /// Takes the history out, leaving an empty one.
    pub fn take(&self) -> History {
        std::mem::take(&mut self.tape().history)
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        // A panic elsewhere leaves the events before it; they tell its story.
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &mut usize) -> usize {
    *counter += 1;
    *counter - 1
}
