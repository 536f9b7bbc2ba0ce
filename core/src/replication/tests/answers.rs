//! What one replica says, and when: nothing that its disk could take back.

use bytes::Bytes;

use super::{super::*, cluster};
use crate::{
    ids::LogIndex,
    log::{
        Kind, entry_size,
        test_disk::{TestDisk, TestSync},
    },
    peer::{Body, Echo, Mark, Replicated},
};

struct One {
    member: Member<TestDisk>,
    now: Time,
    sync: Option<(SyncTicket, TestSync)>,
}

impl One {
    /// Replica 1 of three, some time after its start.
    fn new(flush: Flush) -> One {
        let set = ReplicaSet {
            id: NodeId(1),
            peers: cluster::peers(3),
            election_timeout: Duration::from_millis(200),
            founding: true,
        };
        let log = LogConfig { segment_bytes: 16 << 10, birth_id: 1, ..LogConfig::default() };
        let disk = TestDisk::default();
        let (member, _) = Member::open(disk, log, flush, Folded::default(), &set, 1).unwrap();
        let mut one = One { member, now: Time(1_000_000), sync: None };
        one.begin_sync();
        one.finish_sync();
        one.now = one.now + set.election_timeout;
        one.member.write(one.now).unwrap();
        one
    }

    fn begin_sync(&mut self) {
        self.sync = self.sync.take().or_else(|| self.member.begin_sync(self.now));
    }

    fn finish_sync(&mut self) {
        let (ticket, sync) = self.sync.take().expect("a sync was due");
        let outcome = self.member.parts().1.finish(sync);
        self.member.synced(self.now, ticket, outcome).unwrap();
        self.member.write(self.now).unwrap();
    }

    fn hear(&mut self, from: u64, term: u64, body: Body) {
        let message = Message { from: NodeId(from), to: NodeId(1), term: Term(term), body };
        self.member.receive(self.now, message).unwrap();
        self.member.write(self.now).unwrap();
    }

    /// What it said since, to whom.
    fn said(&mut self) -> Vec<(u64, Body)> {
        let messages = std::iter::from_fn(|| self.member.poll_message());
        messages.map(|message| (message.to.0, message.body)).collect()
    }
}

/// An append of the entry at `index`, all of one size, under `term`.
fn append(previous: u64, term: u64, index: u64) -> Body {
    let part = Bytes::from(vec![term as u8; 100]);
    let entry = Replicated {
        term: Term(term),
        index: LogIndex(index),
        start: Position((index - 1) * entry_size([100].into_iter())),
        kind: Kind::Command,
        needs_sync: false,
        parts: vec![part],
    };
    let previous = Mark { term: Term(previous), index: LogIndex(index - 1) };
    Body::Append { previous, commit: LogIndex(0), sent: Time(7), entries: vec![entry] }
}

fn appended(index: u64, life: u64) -> Body {
    // The store's number is one, too.
    let life = 1 + life;
    let echo = Echo { sent: Time(7), life, is_trusted: true, wants_snapshot: false };
    Body::Appended { index: LogIndex(index), commit: LogIndex(0), echo }
}

fn heartbeat() -> Body {
    Body::Heartbeat { commit: LogIndex(0), sent: Time(7) }
}

fn alive() -> Body {
    let echo = Echo { sent: Time(7), life: 2, is_trusted: true, wants_snapshot: false };
    Body::Alive { commit: LogIndex(0), echo }
}

fn canvass() -> Body {
    let last = Mark { term: Term(9), index: LogIndex(99) };
    Body::Canvass { pre: false, transfer: false, last, commit: Mark::default() }
}

#[test]
fn a_vote_is_durable_before_it_is_told() {
    let mut one = One::new(Flush::Sync);
    one.hear(2, 5, canvass());
    assert_eq!(one.said(), []);
    one.begin_sync();
    assert_eq!(one.said(), []);
    one.finish_sync();
    let vote = Body::Voted { pre: false, granted: true, commit: Mark::default() };
    assert_eq!(one.said(), [(2, vote)]);
}

#[test]
fn entries_are_durable_before_they_are_acknowledged() {
    let mut one = One::new(Flush::Sync);
    one.hear(2, 1, append(0, 1, 1));
    one.begin_sync();
    assert_eq!(one.said(), []);
    one.finish_sync();
    assert_eq!(one.said(), [(2, appended(1, 1))]);
}

#[test]
fn under_async_flush_a_known_term_needs_no_sync() {
    let mut one = One::new(Flush::Async { interval: Duration::from_secs(1) });
    one.hear(2, 1, append(0, 1, 1));
    one.begin_sync();
    assert_eq!(one.said(), [], "the term is new");
    one.finish_sync();
    assert_eq!(one.said(), [(2, appended(1, 1))]);
    one.hear(2, 1, append(1, 1, 2));
    assert_eq!(one.said(), [(2, appended(2, 1))]);
}

/// A slow disk does not end the lease of a leader who is heard (L8).
#[test]
fn who_is_heard_is_told_before_the_disk_is_through() {
    let mut one = One::new(Flush::Sync);
    one.hear(2, 1, heartbeat());
    assert_eq!(one.said(), [], "the term is new");
    one.begin_sync();
    one.finish_sync();
    assert_eq!(one.said(), [(2, alive())]);
    one.hear(2, 1, append(0, 1, 1));
    one.begin_sync();
    one.hear(2, 1, heartbeat());
    assert_eq!(one.said(), [(2, alive())], "while its entry is on its way to the disk");
    one.finish_sync();
    assert_eq!(one.said(), [(2, appended(1, 1))]);
}

/// The old leader must not learn of an entry that a new one has replaced.
#[test]
fn what_was_cut_off_is_never_acknowledged() {
    let mut one = One::new(Flush::Sync);
    one.hear(2, 1, append(0, 1, 1));
    one.begin_sync();
    one.finish_sync();
    assert_eq!(one.said(), [(2, appended(1, 1))]);
    one.hear(2, 1, append(1, 1, 2));
    one.begin_sync();
    one.hear(3, 2, append(1, 2, 2));
    one.finish_sync();
    assert_eq!(one.said(), [], "its own entry is gone, the new one not durable");
    for _ in 0..2 {
        one.begin_sync();
        one.finish_sync();
    }
    assert_eq!(one.said(), [(3, appended(2, 2))]);
}

#[test]
fn after_a_start_nobody_is_elected_for_the_length_of_a_lease() {
    let mut one = One::new(Flush::Sync);
    one.now = Time(1_000_001);
    one.hear(2, 5, canvass());
    assert_eq!(one.member.term(), Term(0), "an earlier life may have promised otherwise");
}
