//! One replica of a group: raft-rs decides, the commit log keeps.
//!
//! A leader's proposal goes to the log and, as a mere index and term, to
//! raft-rs. Once per batch of inputs everything appended is written, and only
//! then sent: the followers' disks work while the leader's does. An entry
//! counts as persisted when it is durable (sync flush) or written (async
//! flush), and is committed once a majority has persisted it.

mod disk;
mod messages;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use raft::{ProgressState, RawNode, StateRole, prelude::Message as RaftMessage};

use super::{
    Flush, Needs,
    lease::Lease,
    store::Store,
    ticks::{ELECTION, HEARTBEAT, Ticks},
};
use crate::{
    error::{Corrupt, StoreError},
    ids::{LogIndex, NodeId, Position, Term},
    log::{Base, CommitLog, Draft, Entry, HardState, Kind, LogConfig, Place, Recovered, Replicas},
    peer::{Message, Replicated, codec},
    runtime::Disk,
    time::Time,
};

/// Appends on their way to one follower; more wait for its answers.
const IN_FLIGHT: usize = 128;
/// Bytes of entries in one message, unless a single entry is longer.
const BATCH_BYTES: u64 = 256 << 10;
/// An entry must fit into a peer's frame with room for the message around it.
const MAX_ENTRY: usize = codec::MAX_BODY - 1024;

/// Which replica of which set this is.
#[derive(Clone, Debug)]
pub struct ReplicaSet {
    pub id: NodeId,
    /// Where the replicas listen for each other: of a new set all of them, this
    /// one too, and the same everywhere. A replica that joins later asks these;
    /// once it has a log or a snapshot, what those say counts.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// The shortest silence of a leader after which another one is elected; the
    /// longest is just below twice that. Heartbeats take a fifth of it.
    pub election_timeout: Duration,
    /// The set is new. Otherwise an empty disk is one that forgot everything,
    /// and its replica has no say in elections before it has caught up.
    pub founding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    /// With the leader, if it is known.
    Follower(Option<NodeId>),
    Candidate,
}

/// Something raft-rs waits for before it goes on.
struct Persisting {
    number: u64,
    /// The end of its entries, if it has any.
    end: Option<Position>,
    /// Durable in every mode.
    needs_sync: bool,
    /// The sync that makes its term and vote durable.
    vote: Option<u64>,
    /// To be sent afterwards.
    messages: Vec<RaftMessage>,
}

/// This node's replica of the log of a group.
pub struct Member<D: Disk> {
    raw: RawNode<Store<D>>,
    flush: Flush,
    ticks: Ticks,
    lease: Lease,
    /// The shortest election timeout.
    patience: Duration,
    /// No vote is given before: one that an earlier life of this process
    /// promised to a leader's lease may still stand.
    quiet_until: Time,
    /// The leader's newest message of this term, on its clock.
    heard: (Term, Time),
    /// Each follower's life as of its last answer.
    lives: BTreeMap<NodeId, u32>,
    persisting: VecDeque<Persisting>,
    /// Messages that wait until what they speak of is written.
    unsent: VecDeque<RaftMessage>,
    outbox: VecDeque<Message>,
    committed: (LogIndex, Position),
    recovered: bool,
    syncing: disk::Syncing,
    /// Reused for entries of other replicas.
    draft: Draft,
}

impl<D: Disk> Member<D> {
    /// Opens the log. The replica is silent until its first sync has finished.
    pub fn open(
        mut disk: D,
        mut log: LogConfig,
        flush: Flush,
        base: Base,
        set: &ReplicaSet,
        seed: u64,
    ) -> Result<(Member<D>, Recovered), StoreError> {
        assert!(set.peers.contains_key(&set.id), "a replica is one of its set");
        log.replicas = Replicas::Group { founding: set.founding };
        let (log, found) = CommitLog::open(&mut disk, log, base)?;
        let voters = set.peers.keys().copied().collect();
        let known = log.last_index();
        let store = Store { disk, log, voters, folded: base.index, known };
        let config = raft::Config {
            id: set.id.0,
            election_tick: ELECTION,
            heartbeat_tick: HEARTBEAT,
            applied: base.index.0,
            max_size_per_msg: BATCH_BYTES,
            max_inflight_msgs: IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store, &logger).expect("this configuration is valid");
        let member = Member {
            raw,
            flush,
            ticks: Ticks::new(set.election_timeout, seed),
            lease: Lease::default(),
            patience: set.election_timeout,
            quiet_until: Time::MAX,
            heard: (Term(0), Time::ZERO),
            lives: BTreeMap::new(),
            persisting: VecDeque::new(),
            unsent: VecDeque::new(),
            outbox: VecDeque::new(),
            committed: (base.index, base.position),
            recovered: false,
            syncing: disk::Syncing::default(),
            draft: Draft::default(),
        };
        Ok((member, found))
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => {
                let leader = self.raw.raft.leader_id;
                Role::Follower((leader != 0).then_some(NodeId(leader)))
            }
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    pub fn id(&self) -> NodeId {
        NodeId(self.raw.raft.id)
    }

    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    pub fn log(&self) -> &CommitLog {
        &self.raw.store().log
    }

    /// The log and the disk under it, for those who read records and keep
    /// derived files.
    pub fn parts(&mut self) -> (&CommitLog, &mut D) {
        let store = self.raw.mut_store();
        (&store.log, &mut store.disk)
    }

    /// The next entry at or after `at`, if it is written.
    pub fn entry_at(&mut self, at: Position) -> Result<Option<Entry>, StoreError> {
        let (log, disk) = self.parts();
        log.entry_at(disk, at)
    }

    /// Everything before this position may be applied and shown.
    pub fn committed(&self) -> Position {
        self.committed.1
    }

    /// The index of the last committed entry.
    pub fn committed_index(&self) -> LogIndex {
        self.committed.0
    }

    /// Whether this replica leads and all that earlier leaders committed is
    /// before [`committed`](Self::committed): once that is applied, it serves
    /// (R5).
    pub fn is_established(&self) -> bool {
        let current = self.log().term_at(self.committed.0) == Some(self.term());
        self.role() == Role::Leader && current
    }

    /// Until when no other replica can have become the leader.
    pub fn lease_until(&self) -> Time {
        if self.role() != Role::Leader {
            return Time::ZERO;
        }
        let voters = self.raw.store().voters.len();
        self.lease.until(self.term(), voters, self.ticks.lease())
    }

    /// Appends an entry in memory; `places` learns where each part will lie.
    /// `NotLeader` if another replica leads, or is about to.
    pub fn propose(
        &mut self,
        draft: &mut Draft,
        needs: Needs,
        mut places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        if self.role() != Role::Leader || self.raw.raft.lead_transferee.is_some() {
            return Err(StoreError::NotLeader);
        }
        if draft.size() > MAX_ENTRY {
            return Err(StoreError::TooLarge { bytes: draft.size(), limit: MAX_ENTRY });
        }
        let mut parts = 0;
        if needs == Needs::Durable || self.syncing.is_window_full() {
            draft.require_sync();
        }
        let term = self.term();
        let store = self.raw.mut_store();
        let place = store.log.append(&mut store.disk, term, draft, |part, position| {
            parts += 1;
            places(part, position);
        })?;
        self.syncing.appended(parts);
        self.raw.propose(Vec::new(), Vec::new()).expect("a leader takes proposals");
        assert_eq!(self.raw.raft.raft_log.last_index(), place.index.0, "both logs are one");
        Ok(place)
    }

    /// The followers that answer and take entries as they come, sorted.
    pub fn followers(&self) -> Vec<NodeId> {
        let progress = self.raw.raft.prs();
        let keeps_up = |node: &NodeId| {
            let progress = progress.get(node.0).filter(|_| *node != self.id());
            progress.is_some_and(|of| of.recent_active && of.state == ProgressState::Replicate)
        };
        let mut nodes = match self.role() {
            Role::Leader => self.raw.store().voters.clone(),
            Role::Follower(_) | Role::Candidate => Vec::new(),
        };
        nodes.retain(keeps_up);
        nodes.sort();
        nodes
    }

    /// Hands over to the follower that is furthest, before an orderly stop.
    /// Nothing more is proposed until somebody leads.
    pub fn hand_over(&mut self) {
        let me = self.id();
        let voters = self.raw.store().voters.clone();
        let progress = self.raw.raft.prs();
        let others = voters.iter().filter(|voter| **voter != me);
        let known = others.filter_map(|voter| Some((progress.get(voter.0)?, *voter)));
        let reachable = known.filter(|(progress, _)| progress.recent_active);
        let furthest = reachable.max_by_key(|(progress, voter)| (progress.matched, *voter));
        if let (Role::Leader, Some((_, successor))) = (self.role(), furthest) {
            self.lease.revoke(self.term());
            self.raw.transfer_leader(successor.0);
        }
    }

    pub fn is_handing_over(&self) -> bool {
        self.role() == Role::Leader && self.raw.raft.lead_transferee.is_some()
    }

    pub fn into_disk(self) -> D {
        self.raw.raft.r.raft_log.store.disk
    }

    /// What was sent to this replica may be lost: find out what it has.
    pub fn unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.0);
    }

    /// Ticks until something happens by itself; `None` if nothing does.
    fn ticks_wanted(&self) -> Option<usize> {
        let raft = &self.raw.raft;
        if raft.state == StateRole::Leader {
            return Some(HEARTBEAT.saturating_sub(raft.heartbeat_elapsed()).max(1));
        }
        let left = self.ticks.timeout(self.term()).saturating_sub(raft.election_elapsed);
        (self.recovered && !self.log().is_distrusted()).then_some(left.max(1))
    }

    fn tick(&mut self, now: Time) -> Result<(), StoreError> {
        let wanted = self.ticks_wanted();
        let due = self.ticks.due(now, wanted.unwrap_or(0));
        for _ in 0..due {
            let timeout = self.ticks.timeout(self.term());
            self.raw.raft.set_randomized_election_timeout(timeout);
            if self.raw.tick() && self.raw.raft.state != StateRole::Leader {
                self.ticks.campaigned();
            }
        }
        self.drive()
    }

    /// Does what raft-rs wants done: appends, notes votes, collects messages.
    fn drive(&mut self) -> Result<(), StoreError> {
        self.absorb(Vec::new())
    }

    /// The same, with the entries of the message that raft-rs just took.
    fn absorb(&mut self, received: Vec<Replicated>) -> Result<(), StoreError> {
        let mut received = VecDeque::from(received);
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.unsent.extend(ready.take_messages());
            let mut persisting = Persisting {
                number: ready.number(),
                end: None,
                needs_sync: false,
                vote: None,
                messages: ready.take_persisted_messages(),
            };
            for entry in ready.take_entries() {
                let (index, term) = (LogIndex(entry.index), Term(entry.term));
                while received.front().is_some_and(|next| next.index < index) {
                    received.pop_front();
                }
                let bytes =
                    received.front().filter(|next| (next.index, next.term) == (index, term));
                persisting.needs_sync |= bytes.is_some_and(|entry| entry.needs_sync);
                self.keep(index, term, bytes, &mut persisting)?;
                persisting.end = Some(self.log().end());
            }
            if let Some(state) = ready.hs() {
                let saved = self.log().hard_state();
                if (state.term, state.vote) != (saved.term.0, saved.vote) {
                    let commit = LogIndex(self.raw.raft.raft_log.committed.min(state.commit));
                    let state = HardState { term: Term(state.term), vote: state.vote, commit };
                    let store = self.raw.mut_store();
                    persisting.vote = Some(store.log.save(&mut store.disk, state)?);
                }
            }
            self.persisting.push_back(persisting);
            let store = self.raw.mut_store();
            store.known = store.log.last_index();
            self.raw.advance_append_async(ready);
        }
        self.advance_commit()
    }

    /// Sees to it that the log holds this entry: a leader's own is there
    /// already, or is the empty one that opens its term.
    fn keep(
        &mut self,
        index: LogIndex,
        term: Term,
        received: Option<&Replicated>,
        persisting: &mut Persisting,
    ) -> Result<(), StoreError> {
        if self.log().term_at(index) == Some(term) {
            return Ok(());
        }
        if index <= self.log().last_index() {
            self.cut(LogIndex(index.0 - 1), persisting)?;
        }
        let draft = &mut self.draft;
        match received {
            Some(entry) => {
                draft.clear(entry.kind);
                entry.parts.iter().for_each(|part| draft.part(|out| out.extend_from_slice(part)));
                if entry.needs_sync {
                    draft.require_sync();
                }
            }
            None => {
                assert_eq!(self.raw.raft.state, StateRole::Leader, "others get their entries");
                draft.clear(Kind::Mark);
            }
        }
        let store = self.raw.mut_store();
        let place = store.log.append(&mut store.disk, term, &mut self.draft, |_, _| {})?;
        assert_eq!(place.index, index, "entries come in order");
        match received {
            Some(entry) if entry.start != place.start => Err(Corrupt {
                file: "log".into(),
                position: Some(place.start),
                what: format!("the leader has entry {index} at {}: other segments", entry.start),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Cuts off what a new leader's log contradicts. Nothing that is still to be
    /// said vouches for it; what waited for it waits for what replaces it.
    fn cut(&mut self, after: LogIndex, replaced_by: &mut Persisting) -> Result<(), StoreError> {
        let store = self.raw.mut_store();
        store.log.truncate(&mut store.disk, after)?;
        let end = store.log.end();
        while let Some(last) = self.persisting.back()
            && last.end.is_some_and(|old| old > end)
        {
            replaced_by.vote = replaced_by.vote.max(last.vote);
            self.persisting.pop_back();
        }
        Ok(())
    }

    fn advance_commit(&mut self) -> Result<(), StoreError> {
        let log = &self.raw.raft.raft_log;
        let reached = LogIndex(log.committed.min(log.persisted));
        if reached <= self.committed.0 {
            return Ok(());
        }
        self.raw.advance_apply_to(reached.0);
        let (log, disk) = self.parts();
        let end = log.end_of(disk, reached)?;
        assert!(end <= log.written(), "committed is never ahead of the disk");
        self.committed = (reached, end);
        let caught_up = self.log().term_at(reached) == Some(self.term());
        if caught_up && self.log().is_distrusted() {
            let store = self.raw.mut_store();
            store.log.trust(&mut store.disk)?;
        }
        Ok(())
    }
}
