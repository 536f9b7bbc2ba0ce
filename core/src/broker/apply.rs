//! From proposed to visible: what the replica has committed is folded into the
//! state, answered, and from time to time written out as a snapshot.

use std::collections::BTreeMap;

use super::{
    Broker, Output, Phase, command::Command, config::limit, send::SendAnswer, state::Dispatch,
};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Name, Position},
    log::{Base, Kind, Place},
    replication::{ASYNC_WINDOW, Needs},
    runtime::Disk,
    time::Now,
    wire::{Fields, Frame, code, frame::ReplyTo},
};

/// An entry of this process that is not yet applied.
pub(super) struct Proposed {
    place: Place,
    what: Proposal,
}

enum Proposal {
    /// The next so many of `Broker::dispatches`.
    Messages {
        count: u32,
        answer: Option<SendAnswer>,
    },
    Command {
        command: Command,
        answer: Option<(ConnId, ReplyTo)>,
    },
}

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
    /// Appends the messages in `self.draft`; `self.dispatches` got their entries
    /// from the caller, up to the positions that are filled in here.
    pub(super) fn propose_messages(
        &mut self,
        count: u32,
        mut answer: Option<SendAnswer>,
    ) -> Result<(), StoreError> {
        let first = self.dispatches.len() - count as usize;
        let dispatches = &mut self.dispatches;
        let place = self.replica.propose(&mut self.draft, Needs::Flush, |part, position| {
            dispatches[first + part].entry.position = position;
        })?;
        if let Some(answer) = &mut answer {
            answer.placed(self.dispatches.range(first..).map(|dispatch| dispatch.entry.position));
        }
        self.counters.appended += u64::from(count);
        self.proposed.push_back(Proposed { place, what: Proposal::Messages { count, answer } });
        Ok(())
    }

    pub(super) fn propose_command(
        &mut self,
        command: Command,
        answer: Option<(ConnId, ReplyTo)>,
    ) -> Result<Place, StoreError> {
        self.draft.clear(Kind::Command);
        self.draft.part(|out| command.encode(out));
        let needs = match command {
            Command::Offsets(_) => Needs::Flush,
            _ => Needs::Durable,
        };
        let place = self.replica.propose(&mut self.draft, needs, |_, _| {})?;
        self.proposed.push_back(Proposed { place, what: Proposal::Command { command, answer } });
        Ok(place)
    }

    /// Proposes a command for a client; a refusal is told, a broken store ends
    /// the broker.
    pub(super) fn propose_for(
        &mut self,
        conn: ConnId,
        reply_to: ReplyTo,
        command: Command,
    ) -> Result<(), Rejected> {
        match self.propose_command(command, Some((conn, reply_to))) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    /// What to tell a client of an append that did not happen. A store that
    /// broke ends the broker, and then the answer never leaves.
    pub(super) fn refused_or_failed(&mut self, error: StoreError) -> Rejected {
        if let Some(rejected) = super::refusal(&error) {
            return rejected;
        }
        let rejected = Rejected::new(code::SERVICE_NOT_AVAILABLE, error.to_string());
        self.fail(error);
        rejected
    }

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
            && let Err(error) = self.propose_command(create, None)
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
            if self.replica.has_recovered() {
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
        match proposed.what {
            Proposal::Messages { count, answer } => {
                for _ in 0..count {
                    let dispatch = self.dispatches.pop_front().expect("one for each message");
                    self.apply_dispatch(dispatch)?;
                }
                if let Some(answer) = answer {
                    self.answer_send(answer);
                }
            }
            Proposal::Command { command, answer } => {
                self.apply_command(now, &command);
                if let Some((conn, reply_to)) = answer {
                    self.reply_ok(conn, reply_to, Fields::default());
                }
            }
        }
        Ok(())
    }

    /// Applies the next entry that an earlier process left in the log; false if
    /// there is none before `committed`.
    fn apply_logged(&mut self, committed: Position) -> Result<bool, StoreError> {
        let Some(entry) = self.replica.entry_at(self.applied.position)? else { return Ok(false) };
        if entry.place.end > committed {
            return Ok(false);
        }
        for (position, bytes) in &entry.parts {
            match entry.kind {
                Kind::Messages => {
                    let dispatch = self.state.dispatch(bytes, *position)?;
                    self.apply_dispatch(dispatch)?;
                }
                Kind::Command => {
                    let command = Command::decode(bytes, *position)?;
                    self.state.apply_command(&command);
                }
                Kind::Mark => {}
            }
        }
        self.applied_to(entry.place);
        Ok(true)
    }

    fn applied_to(&mut self, place: Place) {
        assert!(place.end > self.applied.position, "entries are applied once, in order");
        self.applied = Base { position: place.end, index: place.index, term: place.term };
    }

    fn apply_dispatch(&mut self, dispatch: Dispatch) -> Result<(), StoreError> {
        let (_, disk) = self.replica.parts();
        self.state.apply_message(disk, dispatch)?;
        if self.parked.is_waiting(dispatch.to) {
            self.scratch.woken.insert(dispatch.to);
        }
        Ok(())
    }

    fn apply_command(&mut self, now: Now, command: &Command) {
        self.state.apply_command(command);
        let ready = match command {
            Command::Started { .. } => {
                self.phase = Phase::Serving;
                self.outputs.push_back(Output::Registered);
                None
            }
            Command::Topic(config) => Some(Needed::Topic(config.name.clone())),
            Command::Group(config) => Some(Needed::Group(config.name.clone())),
            Command::Jumped { .. } | Command::Offsets(_) => None,
        };
        if let Some(needed) = ready {
            self.registration.changed(now.mono);
            self.outputs.push_back(Output::Registered);
            for (conn, frame) in self.awaiting.take(&needed) {
                self.frame(now, conn, frame);
            }
        }
    }

    /// The log's tail is durable and applied: open this process's own term.
    fn recovered(&mut self, now: Now) -> Result<(), StoreError> {
        let (log, disk) = self.replica.parts();
        let start = log.start();
        self.state.expire(disk, start)?;
        self.phase = Phase::Starting;
        if self.state.was_async() && !self.replica.was_clean() {
            self.propose_command(Command::Jumped { by: ASYNC_WINDOW }, None)?;
        }
        let started = Command::Started { async_flush: self.is_async(), wall: now.wall };
        self.propose_command(started, None)?;
        Ok(())
    }
}
