//! A producer group's own database. It outlives every crash of its members,
//! and what it says of a transaction is the truth that checks ask for.

use std::{cell::RefCell, collections::BTreeMap};

use crate::history::{Decision, LaneId, MessageId};

/// One life of one producer. Its open transactions die with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub lane: LaneId,
    pub life: u32,
}

#[derive(Default)]
pub struct Database {
    rows: RefCell<BTreeMap<MessageId, Row>>,
}

enum Row {
    /// Begun and not decided.
    Open {
        by: Process,
        /// It hangs: so many checks are told that nobody knows, the next one
        /// decides so.
        hangs: Option<(u32, Decision)>,
    },
    Ended(Decision),
}

/// What a check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Somebody still works on it.
    Open,
    Ended(Decision),
    /// It is decided by this very look at it.
    EndsNow(Decision),
}

impl Database {
    /// A local transaction begins, before the half leaves.
    pub fn begin(&self, message: MessageId, by: Process) {
        self.rows.borrow_mut().insert(message, Row::Open { by, hangs: None });
    }

    /// It will not end by itself, but after this many checks.
    pub fn hang(&self, message: MessageId, rounds: u32, fate: Decision) {
        if let Some(Row::Open { hangs, .. }) = self.rows.borrow_mut().get_mut(&message) {
            *hangs = Some((rounds, fate));
        }
    }

    /// The process that began it ends it. False if somebody else did before,
    /// because the database had lost sight of that process.
    pub fn end(&self, message: MessageId, decision: Decision) -> bool {
        let mut rows = self.rows.borrow_mut();
        let row = rows.entry(message).or_insert(Row::Ended(decision));
        match row {
            Row::Open { .. } => {
                *row = Row::Ended(decision);
                true
            }
            Row::Ended(_) => false,
        }
    }

    /// Somebody is asked how it ended. What a dead process left open, or nobody
    /// ever began, is rolled back for good.
    pub fn look_up(&self, message: MessageId, is_alive: impl Fn(Process) -> bool) -> Found {
        let mut rows = self.rows.borrow_mut();
        let fate = match rows.get_mut(&message) {
            Some(Row::Ended(decision)) => return Found::Ended(*decision),
            Some(Row::Open { hangs: Some((0, fate)), by }) if is_alive(*by) => *fate,
            Some(Row::Open { hangs, by }) if is_alive(*by) => {
                if let Some((rounds, _)) = hangs {
                    *rounds -= 1;
                }
                return Found::Open;
            }
            Some(Row::Open { .. }) | None => Decision::Rollback,
        };
        rows.insert(message, Row::Ended(fate));
        Found::EndsNow(fate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: fn() -> Process = || Process { lane: LaneId::at(0), life: 1 };

    #[test]
    fn what_a_dead_process_left_open_is_rolled_back_and_stays_so() {
        let database = Database::default();
        let message = MessageId::at(0);
        database.begin(message, PROCESS());
        assert_eq!(database.look_up(message, |_| true), Found::Open);
        let found = database.look_up(message, |_| false);
        assert_eq!(found, Found::EndsNow(Decision::Rollback));
        assert!(!database.end(message, Decision::Commit), "it was rolled back under its feet");
        let found = database.look_up(message, |_| true);
        assert_eq!(found, Found::Ended(Decision::Rollback));
    }

    #[test]
    fn what_hangs_is_decided_by_the_check_after_its_rounds() {
        let database = Database::default();
        let message = MessageId::at(0);
        database.begin(message, PROCESS());
        database.hang(message, 1, Decision::Commit);
        assert_eq!(database.look_up(message, |_| true), Found::Open);
        assert_eq!(database.look_up(message, |_| true), Found::EndsNow(Decision::Commit));
        assert_eq!(database.look_up(message, |_| true), Found::Ended(Decision::Commit));
    }
}
