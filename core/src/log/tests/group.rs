//! Replicas of a group: tails that are cut off, and what is looked up by index.

use proptest::prelude::*;

use super::{
    crashes::{cut_everywhere, op},
    *,
};

impl Node {
    fn in_a_group(seed: u64) -> Node {
        let mut node = Node::new(seed);
        node.config.replicas = Replicas::Group { founding: true };
        node
    }

    pub(super) fn truncate(&mut self, count: usize) -> Result<(), StoreError> {
        let (log, term) = self.log.as_mut().unwrap();
        let (folded, running) = (self.folded.max(self.started_from), &self.snapshot);
        let kept = folded.max(running.as_ref().map_or(0, |(count, _)| *count));
        let left = self.entries.len().saturating_sub(count).max(kept);
        let Some(after) = left.checked_sub(1).map(|last| self.entries[last].place) else {
            return Ok(());
        };
        if left == self.entries.len() || after.end < log.start() {
            return Ok(());
        }
        let old = self.entries[..self.written].to_vec();
        log.truncate(&mut self.disk, after.index)?;
        *term = after.term;
        if left < self.written {
            let ghost = self.ghost.take().map_or(old, |(_, ghost)| ghost);
            self.ghost = Some((log.syncs.begun + 1, ghost));
        }
        self.entries.truncate(left);
        self.written = self.written.min(left);
        self.durable = self.durable.min(left);
        Ok(())
    }

    pub(super) fn elect(&mut self) -> Result<(), StoreError> {
        let (log, term) = self.log.as_mut().unwrap();
        term.0 += 1;
        let state = log.hard_state();
        let term = state.term.max(*term);
        log.save(&mut self.disk, HardState { term, vote: 7, commit: LogIndex(0) })?;
        Ok(())
    }

    /// What is found by index is what was appended.
    fn check_index(&mut self) {
        let (log, _) = self.log.as_ref().unwrap();
        let first = log.first_index();
        let kept = self.entries.iter().position(|entry| entry.place.index == first);
        let kept = kept.unwrap_or(self.entries.len());
        assert!(kept == self.entries.len() || self.entries[kept].place.start >= log.start());
        for entry in &self.entries[kept..] {
            assert_eq!(log.term_at(entry.place.index), Some(entry.place.term));
            let end = log.end_of(&mut self.disk, entry.place.index).unwrap();
            assert_eq!(end, entry.place.end);
        }
        assert_eq!(log.term_at(LogIndex(log.last_index().0 + 1)), None);
        assert_eq!(first.0.checked_sub(2).and_then(|index| log.term_at(LogIndex(index))), None);
        let written = &self.entries[kept..self.written.max(kept)];
        if written.is_empty() {
            return;
        }
        let from = self.rng.below(written.len() as u64) as usize;
        let to = from + self.rng.below((written.len() - from) as u64) as usize + 1;
        let (a, b) = (written[from].place.index, LogIndex(written[to - 1].place.index.0 + 1));
        let all = log.entries(&mut self.disk, a, b, u64::MAX).unwrap();
        assert_eq!(all, written[from..to]);
        let some = log.entries(&mut self.disk, a, b, 2000).unwrap();
        assert!(!some.is_empty() && all.starts_with(&some));
        let taken: u64 = some.iter().map(|entry| entry.place.end.0 - entry.place.start.0).sum();
        assert!(some.len() == 1 || taken <= 2000);
    }
}

fn group_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => op(),
        3 => (1usize..5).prop_map(Op::Truncate),
        2 => Just(Op::Elect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn cuts_and_crashes_leave_what_was_written_or_what_was_cut(
        seed: u64,
        ops in prop::collection::vec(group_op(), 1..150),
    ) {
        let mut node = Node::in_a_group(seed);
        node.open(0).unwrap();
        for op in &ops {
            perform(&mut node, op).unwrap();
            node.check_index();
        }
        let durable = node.durable;
        node.disk.power_failure(&mut node.rng);
        node.open(durable).unwrap();
        node.check_index();
    }
}

/// The tail that is cut off has the same lengths and the higher terms: it would
/// continue whatever is written over its beginning.
#[test]
fn a_tail_that_was_cut_off_never_continues_what_replaced_it() {
    for seed in 0..300 {
        let mut node = Node::in_a_group(seed);
        node.open(0).unwrap();
        let same = || Op::Append(Kind::Command, vec![400]);
        let before = [same(), Op::Elect, Op::Elect, same(), same(), same(), Op::SyncAll];
        before.iter().for_each(|op| perform(&mut node, op).unwrap());
        perform(&mut node, &Op::Truncate(3)).unwrap();
        perform(&mut node, &same()).unwrap();
        let steps = [Op::Write, Op::BeginSync, Op::FinishSync, Op::Write, Op::WriteBack];
        for op in &steps[..node.rng.below(6) as usize] {
            perform(&mut node, op).unwrap();
        }
        let end = if seed % 3 == 0 { Op::Kill } else { Op::PowerFailure };
        perform(&mut node, &end).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}

#[test]
fn a_power_cut_after_any_disk_operation_of_a_cut_leaves_one_of_both_tails() {
    let big = || Op::Append(Kind::Messages, vec![1500, 500]);
    let small = || Op::Append(Kind::Command, vec![100]);
    let round = [big(), small(), big(), Op::SyncAll, Op::Prepare, big(), Op::Write, Op::BeginSync];
    let cut = [Op::Truncate(3), small(), Op::FinishSync, big(), Op::SyncAll, Op::Elect, big()];
    let script = [&round[..], &cut, &[Op::Kill, Op::SyncAll], &round, &cut, &round].concat();
    cut_everywhere(Node::in_a_group, &script, Node::check_index);
}

#[test]
fn a_vote_survives_any_crash_once_its_sync_is_through() {
    for seed in 0..60 {
        let mut node = Node::in_a_group(seed);
        node.open(0).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
        let mut promised = HardState::default();
        for term in 1..8 {
            let (log, _) = node.log.as_mut().unwrap();
            let state = HardState { term: Term(term), vote: term % 3 + 1, commit: LogIndex(0) };
            let sync = log.save(&mut node.disk, state).unwrap();
            for op in [Op::BeginSync, Op::FinishSync, Op::WriteBack] {
                if node.rng.chance(0.7) {
                    perform(&mut node, &op).unwrap();
                }
            }
            if node.log.as_ref().unwrap().0.is_synced(sync) {
                promised = state;
            }
            if node.rng.chance(0.5) {
                perform(&mut node, &Op::PowerFailure).unwrap();
                let (log, _) = node.log.as_ref().unwrap();
                let found = log.hard_state();
                assert!(found == promised || found.term > promised.term);
                promised = found;
                perform(&mut node, &Op::SyncAll).unwrap();
            }
        }
    }
}

#[test]
fn damage_to_either_slot_takes_no_vote_back() {
    for slot in [0, 4096] {
        let mut node = Node::in_a_group(slot);
        node.open(0).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
        let vote = HardState { term: Term(9), vote: 2, commit: LogIndex(0) };
        node.log.as_mut().unwrap().0.save(&mut node.disk, vote).unwrap();
        // One sync for the vote, one for its copy.
        for op in [Op::SyncAll, Op::Append(Kind::Command, vec![1]), Op::SyncAll] {
            perform(&mut node, &op).unwrap();
        }
        node.disk.flip("store", slot + 20, 1);
        node.open(1).unwrap();
        assert_eq!(node.log.as_ref().unwrap().0.hard_state(), vote);
    }
}

#[test]
fn a_damaged_replica_keeps_what_is_intact_and_is_not_trusted() {
    let mut node = Node::in_a_group(1);
    node.open(0).unwrap();
    for _ in 0..6 {
        perform(&mut node, &Op::Append(Kind::Command, vec![900])).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
    }
    let wound = node.entries[2].place.start;
    node.disk.flip("log/00000000000000000000", wound.0 + 60, 3);
    let lives = |node: &mut Node| {
        let opened = CommitLog::open(&mut node.disk, node.config.clone(), Base::default());
        opened.unwrap()
    };
    let (log, recovered) = lives(&mut node);
    assert_eq!(recovered.end, wound);
    assert!(log.is_distrusted() && recovered.damage.is_some() && !recovered.clean);
    // It stays so until somebody says that it has caught up.
    let (mut log, recovered) = lives(&mut node);
    assert!(log.is_distrusted() && recovered.damage.is_none());
    log.trust(&mut node.disk).unwrap();
    let (ticket, sync) = log.begin_sync(&mut node.disk, &[]).unwrap();
    let outcome = node.disk.finish(sync);
    log.synced(ticket, outcome).unwrap();
    node.disk.power_failure(&mut node.rng);
    assert!(!lives(&mut node).0.is_distrusted());
}

#[test]
fn an_empty_disk_is_trusted_only_where_the_group_is_founded() {
    for founding in [true, false] {
        let mut node = Node::new(1);
        node.config.replicas = Replicas::Group { founding };
        node.open(0).unwrap();
        assert_eq!(node.log.as_ref().unwrap().0.is_distrusted(), !founding);
    }
}

#[test]
fn a_log_that_began_alone_goes_on_in_a_group() {
    let mut node = filled(1, 4);
    node.config.replicas = Replicas::Group { founding: true };
    let all = node.entries.len();
    node.open(all).unwrap();
    let ops = [Op::SyncAll, Op::Append(Kind::Command, vec![50]), Op::SyncAll, Op::Truncate(2)];
    ops.iter().for_each(|op| perform(&mut node, op).unwrap());
    node.check_index();
    for op in [Op::SyncAll, Op::Append(Kind::Command, vec![50]), Op::SyncAll, Op::PowerFailure] {
        perform(&mut node, &op).unwrap();
    }
    node.check_index();
}

/// The leader has dropped what comes next, and offers what it still has.
#[test]
fn a_log_that_is_filled_from_farther_on_during_a_sync_is_durable_up_to_there() {
    let mut node = Node::new(1);
    node.config.replicas = Replicas::Group { founding: false };
    node.open(0).unwrap();
    let begin_at = |node: &mut Node, segment: u64| {
        let position = Position(segment * node.config.segment_bytes);
        let base = Base { position, index: LogIndex(9 * segment), term: Term(0) };
        let (log, _) = node.log.as_mut().unwrap();
        log.begin_at(&mut node.disk, base).unwrap();
        position
    };
    begin_at(&mut node, 1);
    perform(&mut node, &Op::SyncAll).unwrap();
    perform(&mut node, &Op::Append(Kind::Command, vec![50])).unwrap();
    node.write().unwrap();
    node.begin_sync().unwrap();
    let farther = begin_at(&mut node, 3);
    node.finish_sync().unwrap();
    assert_eq!(node.log.as_ref().unwrap().0.durable(), farther);
}
