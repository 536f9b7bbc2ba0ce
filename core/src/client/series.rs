//! Numbers for sends, so that their broker stores each of them once, in order,
//! however often and in whatever order they arrive (D1, R3).
//!
//! A series is one queue's sends in one epoch. When one of them is given up, its
//! number may be missing for ever: the series takes no more, those under way end
//! one way or the other, and what the broker refused for the gap goes on, in its
//! order, under the next epoch, which fences late copies of the lost one.

use std::collections::{BTreeMap, VecDeque};

use super::{MessageQueue, Ticket};
use crate::sequence::Stamp;

/// Sends without an outcome in one series: fewer than the receipts that a broker
/// remembers, so that it knows a repetition.
const WINDOW: usize = 128;

pub struct Numbering {
    producer: u64,
    series: BTreeMap<MessageQueue, Series>,
}

#[derive(Default)]
struct Series {
    epoch: u32,
    next: u64,
    /// Numbered and without an outcome, in their order.
    under_way: VecDeque<Ticket>,
    /// To be numbered next, in their order.
    waiting: VecDeque<Ticket>,
    closed: bool,
}

/// How a numbered send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Stored,
    /// Nobody knows, or the number was never used.
    GivenUp,
}

impl Numbering {
    pub fn new(producer: u64) -> Numbering {
        Numbering { producer, series: BTreeMap::new() }
    }

    pub fn clear(&mut self) {
        self.series.clear();
    }

    /// The number of a send of so many messages to this queue; none if it has
    /// to wait for its turn.
    pub fn number(&mut self, queue: &MessageQueue, ticket: Ticket, count: u64) -> Option<Stamp> {
        let series = self.series.entry(queue.clone()).or_default();
        let is_next = series.waiting.front().is_none_or(|first| *first == ticket);
        if series.closed || series.under_way.len() >= WINDOW || !is_next {
            series.wait(ticket);
            return None;
        }
        series.waiting.pop_front();
        series.under_way.push_back(ticket);
        let sequence = series.next;
        series.next += count;
        Some(Stamp { producer: self.producer, epoch: series.epoch, sequence })
    }

    /// The broker refused it because it misses a message before it. Whether that
    /// one will not come: then this one waits for the next epoch.
    pub fn is_behind_a_gap(&mut self, queue: &MessageQueue, ticket: Ticket) -> bool {
        let Some(series) = self.series.get_mut(queue) else { return false };
        let is_first = series.under_way.front() == Some(&ticket);
        if !series.closed && !is_first {
            return false;
        }
        // All before it had an outcome: what the broker misses it has forgotten.
        series.closed = true;
        series.under_way.retain(|other| *other != ticket);
        series.wait(ticket);
        true
    }

    /// A send has an outcome.
    pub fn end(&mut self, queue: &MessageQueue, ticket: Ticket, end: End) {
        let Some(series) = self.series.get_mut(queue) else { return };
        let before = series.under_way.len();
        series.under_way.retain(|other| *other != ticket);
        series.waiting.retain(|other| *other != ticket);
        if end == End::GivenUp && series.under_way.len() < before {
            series.closed = true;
        }
    }

    /// The next send that may be numbered now.
    pub fn next(&mut self, queue: &MessageQueue) -> Option<Ticket> {
        let series = self.series.get_mut(queue)?;
        if series.closed && series.under_way.is_empty() {
            (series.epoch, series.next, series.closed) = (series.epoch + 1, 0, false);
        }
        let has_room = !series.closed && series.under_way.len() < WINDOW;
        series.waiting.front().copied().filter(|_| has_room)
    }
}

impl Series {
    /// In the order of the sends, whenever they come to wait.
    fn wait(&mut self, ticket: Ticket) {
        if let Err(at) = self.waiting.binary_search(&ticket) {
            self.waiting.insert(at, ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> MessageQueue {
        MessageQueue { topic: "orders".into(), broker: "b".into(), queue: 0 }
    }

    fn number(numbering: &mut Numbering, ticket: Ticket) -> Option<(u32, u64)> {
        numbering.number(&queue(), ticket, 1).map(|stamp| (stamp.epoch, stamp.sequence))
    }

    #[test]
    fn what_waits_behind_a_gap_goes_on_in_its_order_under_the_next_epoch() {
        let (queue, mut numbering) = (queue(), Numbering::new(7));
        for ticket in 0..4 {
            assert_eq!(number(&mut numbering, ticket), Some((0, ticket)));
        }
        assert!(!numbering.is_behind_a_gap(&queue, 1), "the one before may still come");
        numbering.end(&queue, 0, End::GivenUp);
        assert_eq!(number(&mut numbering, 4), None);
        assert!(numbering.is_behind_a_gap(&queue, 2));
        assert!(numbering.is_behind_a_gap(&queue, 1));
        assert_eq!(numbering.next(&queue), None, "3 may have been stored under the old epoch");
        numbering.end(&queue, 3, End::Stored);
        for (ticket, sequence) in [(1, 0), (2, 1), (4, 2)] {
            assert_eq!(numbering.next(&queue), Some(ticket));
            assert_eq!(number(&mut numbering, ticket), Some((1, sequence)));
        }
        assert_eq!(numbering.next(&queue), None);
    }

    #[test]
    fn a_broker_that_forgot_the_producer_gets_the_next_epoch() {
        let (queue, mut numbering) = (queue(), Numbering::new(7));
        assert_eq!(number(&mut numbering, 0), Some((0, 0)));
        numbering.end(&queue, 0, End::Stored);
        assert_eq!(number(&mut numbering, 1), Some((0, 1)));
        assert!(numbering.is_behind_a_gap(&queue, 1));
        assert_eq!(numbering.next(&queue), Some(1));
        assert_eq!(number(&mut numbering, 1), Some((1, 0)));
    }

    #[test]
    fn no_more_are_under_way_than_a_broker_remembers() {
        let (queue, mut numbering) = (queue(), Numbering::new(7));
        for ticket in 0..WINDOW as u64 {
            assert!(number(&mut numbering, ticket).is_some());
        }
        assert!(number(&mut numbering, 1_000).is_none() && numbering.next(&queue).is_none());
        numbering.end(&queue, 5, End::Stored);
        assert_eq!(numbering.next(&queue), Some(1_000));
    }
}
