//! From proposed to visible: what the replica has committed is folded into the
//! state, answered, and from time to time written out as a snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Broker, Phase,
    command::Command,
    config::limit,
    halves::Fate,
    leases,
    propose::{Answer, Proposal, Proposed},
    sequences::{Receipt, stamp_of},
    state::{Dispatch, QueueKey},
    timers,
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Name, Position},
    log::{Base, Kind, Place},
    pointer::{Held, Pointer, Settles},
    runtime::Disk,
    time::Now,
    wire::{Frame, code},
};

/// What a waiting request needs before it can be handled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needed {
    Topic(Name),
    Group(Name),
}

/// Requests that wait for a topic or a group that their arrival created.
#[derive(Default)]
pub(super) struct Awaiting {
    requests: BTreeMap<Needed, Vec<(ConnId, Frame)>>,
    count: usize,
}

impl Awaiting {
    pub fn drop_connection(&mut self, conn: ConnId) {
        for requests in self.requests.values_mut() {
            requests.retain(|(waiting, _)| *waiting != conn);
        }
        self.count = self.requests.values().map(Vec::len).sum();
    }

    fn take(&mut self, needed: &Needed) -> Vec<(ConnId, Frame)> {
        let requests = self.requests.remove(needed).unwrap_or_default();
        self.count -= requests.len();
        requests
    }
}

impl<D: Disk> Broker<D> {
    /// Keeps a request until what it needs exists, and sees to its creation.
    pub(super) fn await_creation(
        &mut self,
        conn: ConnId,
        frame: Frame,
        needed: Needed,
        create: Command,
    ) -> Result<(), Rejected> {
        if self.awaiting.count >= limit::AWAITING {
            return Err(Rejected::new(code::SYSTEM_BUSY, "[OVERLOAD] too many new topics at once"));
        }
        if !self.awaiting.requests.contains_key(&needed)
            && let Err(error) = self.propose_command(create, Answer::Nothing)
        {
            return Err(self.refused_or_failed(error));
        }
        self.awaiting.count += 1;
        self.awaiting.requests.entry(needed).or_default().push((conn, frame));
        Ok(())
    }

    /// Folds everything that is committed into the state: first what earlier
    /// processes left in the log, then what this one proposed. Marks, which only
    /// this process's log can hold between two proposals, say nothing to fold.
    pub(super) fn apply_committed(&mut self, now: Now) -> Result<(), StoreError> {
        let committed = self.replica.committed();
        if self.phase == Phase::Recovering {
            while self.apply_logged(committed)? {}
            if self.replica.may_lead() {
                self.recovered(now)?;
            }
        }
        while self.proposed.front().is_some_and(|next| next.place.end <= committed) {
            let Some(proposed) = self.proposed.pop_front() else { break };
            self.apply_proposed(now, proposed)?;
        }
        Ok(())
    }

    fn apply_proposed(&mut self, now: Now, proposed: Proposed) -> Result<(), StoreError> {
        self.applied_to(proposed.place);
        let answer = match proposed.what {
            Proposal::Messages { count, answer } => {
                for _ in 0..count {
                    self.apply_next_dispatch()?;
                }
                answer
            }
            Proposal::Held { held, answer } => {
                self.state.apply_held(&held);
                self.half_held(now, &held);
                answer
            }
            Proposal::Pointers { settles, answer } => {
                for settles in settles {
                    self.apply_next_dispatch()?;
                    self.settles(&settles);
                    self.state.settle(&settles);
                }
                answer
            }
            Proposal::Members { answer } => answer,
            Proposal::Command { command, at, answer } => {
                self.apply_command(now, &command, at);
                answer
            }
        };
        self.answer(answer);
        self.numbered_to(self.applied.position);
        Ok(())
    }

    /// Tells who waits for it, before the state forgets it.
    fn settles(&mut self, settles: &Settles) {
        if let Settles::Half(at) = settles {
            self.half_settled(*at, Fate::Committed);
        }
    }

    fn apply_next_dispatch(&mut self) -> Result<(), StoreError> {
        let dispatch = self.dispatches.pop_front().expect("one for each message");
        self.apply_dispatch(dispatch)
    }

    /// Applies the next entry that an earlier process left in the log; false if
    /// there is none before `committed`.
    fn apply_logged(&mut self, committed: Position) -> Result<bool, StoreError> {
        if self.applied.position >= committed {
            return Ok(false);
        }
        let Some(entry) = self.replica.entry_at(self.applied.position)? else { return Ok(false) };
        if entry.place.end > committed {
            return Ok(false);
        }
        match entry.kind {
            Kind::Messages => {
                let mut first = None;
                for (position, bytes) in &entry.parts {
                    let dispatch = self.state.dispatch(bytes, *position)?;
                    first.get_or_insert((dispatch.to, dispatch.offset));
                    self.apply_dispatch(dispatch)?;
                }
                if let Some((to, offset)) = first {
                    self.replay_number(to, offset, &entry.parts)?;
                }
            }
            Kind::Held => {
                let held = Held::of_parts(entry.place.start, &entry.parts)?;
                self.state.apply_held(&held);
                let (at, record) = &entry.parts[0];
                let to = self.state.dispatch(record, *at)?.to;
                self.replay_number(to, held.hold.answered_offset(), &entry.parts[..1])?;
            }
            Kind::Pointers => {
                for (position, bytes) in &entry.parts {
                    let pointer = Pointer::decode(bytes, *position)?;
                    let size = bytes.len() as u32;
                    let dispatch = self.state.dispatch_pointer(&pointer, *position, size)?;
                    self.apply_dispatch(dispatch)?;
                    self.state.settle(&pointer.settles);
                }
            }
            Kind::Command => {
                for (position, bytes) in &entry.parts {
                    let command = Command::decode(bytes, *position)?;
                    self.state.apply_command(&command, *position);
                }
            }
            // The replica follows its configuration by itself.
            Kind::Mark | Kind::Configuration => {}
        }
        self.applied_to(entry.place);
        Ok(true)
    }

    /// Remembers the number of a send that an earlier process took.
    fn replay_number(
        &mut self,
        to: QueueKey,
        offset: u64,
        parts: &[(Position, Bytes)],
    ) -> Result<(), StoreError> {
        let Some((at, record)) = parts.first() else { return Ok(()) };
        if let Some(stamp) = stamp_of(record, *at)? {
            let positions = parts.iter().map(|(position, _)| *position).collect();
            self.state.sequences.apply(to, stamp, Receipt::new(stamp, offset, positions));
        }
        Ok(())
    }

    fn applied_to(&mut self, place: Place) {
        assert!(place.end > self.applied.position, "entries are applied once, in order");
        self.applied = Base { position: place.end, index: place.index, term: place.term };
    }

    fn apply_dispatch(&mut self, dispatch: Dispatch) -> Result<(), StoreError> {
        let (log, disk) = self.replica.parts();
        if let Some(shown) = dispatch.shown {
            self.state.roots.note(log.segment_start(dispatch.entry.position), shown);
        }
        self.state.apply_message(disk, dispatch)?;
        if self.parked.is_waiting(dispatch.to) {
            self.scratch.woken.insert(dispatch.to);
        }
        if self.parked_pops.is_waiting(dispatch.to.topic) {
            self.scratch.woken_topics.insert(dispatch.to.topic);
        }
        Ok(())
    }

    fn apply_command(&mut self, now: Now, command: &Command, at: Position) {
        match command {
            Command::Transaction(change) => self.transaction_changes(change),
            Command::Timer(timers::Change::Deferred(deferred)) => self.settles(&deferred.settles),
            _ => {}
        }
        self.state.apply_command(command, at);
        let ready = match command {
            Command::Started { .. } => {
                self.started(now);
                None
            }
            Command::Topic(config) => Some(Needed::Topic(config.name.clone())),
            Command::Group(config) => Some(Needed::Group(config.name.clone())),
            Command::Passed(passed) => {
                self.groups_passed(passed);
                None
            }
            Command::Reset(change) => {
                self.was_reset(change);
                None
            }
            Command::Lease(change) => {
                self.leases_changed(now, change);
                match change {
                    leases::Change::Opened { retry: Some(config), .. } => {
                        Some(Needed::Topic(config.name.clone()))
                    }
                    _ => None,
                }
            }
            Command::Lock(change) => {
                self.owners_changed(now, change);
                None
            }
            Command::Transaction(change) => {
                self.transaction_changed(now, change);
                None
            }
            Command::Timer(timers::Change::Recalled(timer)) => {
                self.firing.recalled(*timer);
                None
            }
            Command::Jumped { .. } | Command::Offsets(_) | Command::Timer(_) => None,
        };
        if let Some(needed) = ready {
            for (conn, frame) in self.awaiting.take(&needed) {
                self.frame(now, conn, frame);
            }
        }
    }
}
