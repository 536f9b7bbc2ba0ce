//! Appending what shall become so: each proposal is one entry of the log, and
//! is applied and answered once it is committed.

use bytes::Bytes;

use super::{Broker, Output, command::Command, send::SendAnswer, state::Dispatch};
use crate::{
    error::{Rejected, StoreError},
    ids::{ConnId, Position},
    log::{Kind, Place},
    pointer::{Appearance, Held, Hold, Pointer, Settles},
    queue::QueueEntry,
    replication::Needs,
    runtime::Disk,
    time::Now,
    wire::{
        Fields, code,
        frame::{Packet, ReplyTo},
    },
};

/// An entry of this process that is not yet applied.
pub(super) struct Proposed {
    pub place: Place,
    pub what: Proposal,
}

pub(super) enum Proposal {
    /// The next so many of `Broker::dispatches`.
    Messages {
        count: u32,
        answer: Answer,
    },
    Held {
        held: Held,
        answer: Answer,
    },
    /// One of `Broker::dispatches` for each of these.
    Pointers {
        settles: Vec<Settles>,
        answer: Answer,
    },
    Command {
        command: Command,
        at: Position,
        answer: Answer,
    },
    /// The replica follows it by itself.
    Members {
        answer: Answer,
    },
}

/// What is said once a proposal is applied.
pub(super) enum Answer {
    /// Nobody asked, or nobody listens.
    Nothing,
    Send(Box<SendAnswer>),
    /// Made beforehand.
    Packet(ConnId, Packet),
}

impl Answer {
    pub fn ok(conn: ConnId, reply_to: ReplyTo) -> Answer {
        Answer::with(conn, reply_to, Fields::default())
    }

    pub fn with(conn: ConnId, reply_to: ReplyTo, fields: Fields) -> Answer {
        Answer::with_body(conn, reply_to, fields, Vec::new())
    }

    pub fn with_body(conn: ConnId, reply_to: ReplyTo, fields: Fields, body: Vec<Bytes>) -> Answer {
        if reply_to.one_way {
            return Answer::Nothing;
        }
        Answer::Packet(conn, reply_to.answer(code::SUCCESS, "", fields, body))
    }
}

impl<D: Disk> Broker<D> {
    /// Appends the messages in `self.draft`; `self.dispatches` got their entries
    /// from the caller, up to the positions that are filled in here.
    pub(super) fn propose_messages(
        &mut self,
        count: u32,
        mut answer: Answer,
    ) -> Result<(), StoreError> {
        self.may_propose()?;
        let first = self.dispatches.len() - count as usize;
        let place = self.append_dispatched(first)?;
        let positions = self.dispatches.range(first..).map(|dispatch| dispatch.entry.position);
        if let Answer::Send(answer) = &mut answer {
            answer.placed(positions.clone());
        }
        if self.has_number() {
            let positions = positions.collect();
            self.numbered(place.end, self.dispatches[first].offset, positions);
        }
        self.counters.appended += u64::from(count);
        self.proposed.push_back(Proposed { place, what: Proposal::Messages { count, answer } });
        Ok(())
    }

    /// Appends the record in `self.draft`, which is not to be seen yet.
    pub(super) fn propose_held(
        &mut self,
        now: Now,
        size: u32,
        hold: Hold,
        mut answer: Answer,
    ) -> Result<(), StoreError> {
        self.may_propose()?;
        self.draft.part(|out| hold.encode(out));
        let mut at = Position(0);
        let place = self.replica.propose(&mut self.draft, Needs::Flush, |part, position| {
            if part == 0 {
                at = position;
            }
        })?;
        if let Answer::Send(answer) = &mut answer {
            answer.placed([at].into_iter());
        }
        self.numbered(place.end, hold.answered_offset(), vec![at]);
        self.counters.appended += 1;
        let held = Held { at, size, store_wall: now.wall, hold };
        self.proposed.push_back(Proposed { place, what: Proposal::Held { held, answer } });
        Ok(())
    }

    /// Makes stored records visible, each in its queue at the next offset, all
    /// of them or none. Their queues must exist.
    pub(super) fn propose_pointers(
        &mut self,
        now: Now,
        shows: Vec<(Appearance, Settles)>,
        answer: Answer,
    ) -> Result<(), StoreError> {
        self.may_propose()?;
        let first = self.dispatches.len();
        let mut all_settles = Vec::with_capacity(shows.len());
        self.draft.clear(Kind::Pointers);
        for (shows, settles) in shows {
            let to = self.state.find_queue(&shows.topic, shows.queue);
            let to = to.expect("who makes a message appear has seen to its queue");
            let (_, disk) = self.replica.parts();
            let queue = self.state.queue_mut(to);
            let offset = queue.next;
            if let Err(error) = queue.index.room(disk, offset + 1) {
                self.withdraw_dispatches(first);
                return Err(error);
            }
            queue.next += 1;
            let (tag, shown) = (shows.tag, Some(shows.origin));
            let pointer = Pointer {
                shows,
                queue_offset: offset,
                store_wall: now.wall,
                settles: settles.clone(),
            };
            let mut size = 0;
            self.draft.part(|out| {
                let start = out.len();
                pointer.encode(out);
                size = (out.len() - start) as u32;
            });
            all_settles.push(settles);
            let entry = QueueEntry { position: Position(0), size, tag };
            self.dispatches.push_back(Dispatch { to, offset, entry, shown });
        }
        let place = match self.append_dispatched(first) {
            Ok(place) => place,
            Err(error) => {
                self.withdraw_dispatches(first);
                return Err(error);
            }
        };
        let what = Proposal::Pointers { settles: all_settles, answer };
        self.proposed.push_back(Proposed { place, what });
        Ok(())
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Send(answer) => self.answer_send(*answer),
            Answer::Packet(conn, packet) => self.outputs.push_back(Output::Send { conn, packet }),
        }
    }

    fn append_dispatched(&mut self, first: usize) -> Result<Place, StoreError> {
        let dispatches = &mut self.dispatches;
        self.replica.propose(&mut self.draft, Needs::Flush, |part, position| {
            dispatches[first + part].entry.position = position;
        })
    }

    /// Gives back the offsets of what could not be appended, the last first.
    fn withdraw_dispatches(&mut self, first: usize) {
        for dispatch in self.dispatches.drain(first..).rev() {
            let queue = self.state.queue_mut(dispatch.to);
            queue.next -= 1;
            assert_eq!(queue.next, dispatch.offset, "offsets are given back in reverse order");
        }
    }

    pub(super) fn propose_command(
        &mut self,
        command: Command,
        answer: Answer,
    ) -> Result<Place, StoreError> {
        self.may_propose()?;
        self.draft.clear(Kind::Command);
        self.draft.part(|out| command.encode(out));
        let mut at = Position(0);
        let place = self.replica.propose(&mut self.draft, command.needs(), |_, position| {
            at = position;
        })?;
        let what = Proposal::Command { command, at, answer };
        self.proposed.push_back(Proposed { place, what });
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
        match self.propose_command(command, Answer::ok(conn, reply_to)) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused_or_failed(error)),
        }
    }

    /// What to tell a client of an append that did not happen. A store that
    /// broke ends the broker, and then the answer never leaves.
    pub(super) fn refused_or_failed(&mut self, error: StoreError) -> Rejected {
        if let Some(rejected) = super::requests::refusal(&error) {
            return rejected;
        }
        let rejected = Rejected::new(code::SERVICE_NOT_AVAILABLE, error.to_string());
        self.fail(error);
        rejected
    }
}
