//! The power goes out after each single disk operation of a short run, and
//! again during the recovery from that: what was acknowledged is there, a batch
//! is whole, and no queue offset means two messages.

use std::{collections::BTreeMap, time::Duration};

use stormglass_core::{
    replication::Flush,
    wire::{body, code, request},
};
use stormglass_sim::fault::Unsynced;
use stormglass_tests::by_hand::{ByHand, Sent, send_fields};

/// What a client of the run remembers.
#[derive(Default)]
struct Memory {
    /// Acknowledged messages of queue 0, by offset.
    acknowledged: BTreeMap<u64, String>,
    /// What offset 0 of each slot was ever seen to mean, acknowledged or not.
    seen: BTreeMap<u64, String>,
    committed: i64,
}

const ROUNDS: usize = 6;
const BATCHED: [&str; 3] = ["batch-a", "batch-b", "batch-c"];

/// Sends, batches, commits and rolls segments until the disk stops; true if it
/// never did.
fn run(by_hand: &mut ByHand, memory: &mut Memory) -> bool {
    if by_hand.start().is_err() {
        return false;
    }
    let mut answered = 0;
    for n in 0..ROUNDS {
        let body = format!("{n:->9000}");
        if let Sent::Ok { offset, .. } = by_hand.send("orders", 0, &body) {
            memory.acknowledged.insert(offset, body);
            answered += 1;
        }
        by_hand.pass(Duration::from_millis(200));
        let mut batch = Vec::new();
        for text in BATCHED {
            let record = body::BatchRecord { flag: 0, body: text.as_bytes(), properties: b"" };
            body::put_batch_record(&mut batch, record);
        }
        let answer = by_hand.ask(request::SEND_BATCH_MESSAGE, send_fields("orders", 0, ""), batch);
        if let Sent::Ok { offset, .. } = by_hand.outcome(answer) {
            memory.acknowledged.extend((offset..).zip(BATCHED.map(str::to_owned)));
        }
        let end = memory.acknowledged.keys().last().map_or(0, |last| *last as i64 + 1);
        if by_hand.commit("readers", "orders", 0, end) == Some(code::SUCCESS) {
            memory.committed = end;
            answered += 1;
        }
    }
    answered == 2 * ROUNDS
}

/// Looks at what is there after a restart.
fn judge(by_hand: &mut ByHand, memory: &mut Memory, may_lose: bool, what: &str) {
    if by_hand.send("orders", 1, "does the topic exist?") == Sent::Unknown {
        panic!("{what}: a repaired broker does not answer");
    }
    let contents = by_hand.contents("orders", 0);
    for (offset, body) in &contents {
        let before = memory.seen.entry(*offset).or_insert_with(|| body.clone());
        assert_eq!(before, body, "{what}: offset {offset} changed its meaning");
    }
    let contents: BTreeMap<u64, String> = contents.into_iter().collect();
    for (offset, body) in &memory.acknowledged {
        match contents.get(offset) {
            Some(found) => assert_eq!(found, body, "{what}: offset {offset}"),
            None => assert!(may_lose, "{what}: offset {offset} was acknowledged and is gone"),
        }
    }
    let count = |text: &str| contents.values().filter(|body| body.as_str() == text).count();
    let batches = BATCHED.map(count);
    assert!(batches.iter().all(|n| *n == batches[0]), "{what}: a batch was cut: {batches:?}");
    if !may_lose {
        let committed = by_hand.committed("readers", "orders", 0).unwrap_or(0);
        assert!(committed >= memory.committed, "{what}: progress {committed} went back");
    }
}

fn cut_everywhere(flush: Flush, unsynced: Unsynced) {
    let may_lose = flush != Flush::Sync;
    for cut in 0.. {
        let what = format!("power cut after operation {cut}, {unsynced:?}");
        let mut by_hand = ByHand::new(flush);
        let mut memory = Memory::default();
        // `start` attaches, which ends an earlier cut: so cut once attached.
        by_hand.cut_after = Some(cut);
        let finished = run(&mut by_hand, &mut memory);
        for second in [0, 1, 3, 7, 15] {
            by_hand.power_loss_with(unsynced);
            by_hand.cut_after = Some(second);
            let _ = by_hand.start();
        }
        by_hand.power_loss_with(unsynced);
        by_hand.cut_after = None;
        by_hand.start().unwrap_or_else(|error| panic!("{what}: {error}"));
        judge(&mut by_hand, &mut memory, may_lose, &what);
        let sent = by_hand.send("orders", 0, "after");
        assert!(matches!(sent, Sent::Ok { .. }), "{what}: {sent:?}");
        by_hand.kill();
        by_hand.start().unwrap_or_else(|error| panic!("{what}, killed: {error}"));
        judge(&mut by_hand, &mut memory, may_lose, &what);
        if finished {
            assert!(cut > 20, "the run must have something to cut");
            return;
        }
    }
}

#[test]
fn under_sync_flush_with_pages_lost_at_random() {
    cut_everywhere(Flush::Sync, Unsynced::Random);
}

#[test]
fn under_sync_flush_with_every_page_torn() {
    cut_everywhere(Flush::Sync, Unsynced::Torn);
}

#[test]
fn under_async_flush_with_pages_lost_at_random() {
    cut_everywhere(Flush::Async { interval: Duration::from_millis(500) }, Unsynced::Random);
}
