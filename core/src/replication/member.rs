//! One replica of a group: raft-rs decides, the commit log keeps.
//!
//! A leader's proposal goes to the log and, as a mere index and term, to
//! raft-rs. Once per batch of inputs everything appended is written, and only
//! then sent: the followers' disks work while the leader's does. An entry
//! counts as persisted when it is durable (sync flush) or written (async
//! flush), and is committed once a majority has persisted it.

mod disk;
mod drive;
mod govern;
mod install;
mod messages;
mod serving;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use raft::{
    ProgressState, RawNode, StateRole,
    prelude::{Message as RaftMessage, MessageType},
};

use self::{install::Install, serving::Serving};
use super::{
    Flush, Folded, Needs,
    configuration::Configuration,
    lease::Lease,
    store::Store,
    ticks::{ELECTION, HEARTBEAT, Ticks},
};
use crate::{
    error::StoreError,
    ids::{LogIndex, NodeId, Position, Term},
    log::{CommitLog, Draft, Entry, LogConfig, Place, Recovered, Replicas},
    peer::{Echo, Mark, Message, codec},
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

/// How far another replica is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that it is known to have persisted.
    pub matched: LogIndex,
    /// Bytes of the leader's log behind that entry.
    pub bytes_behind: u64,
    pub is_active: bool,
    pub is_trusted: bool,
    pub is_installing: bool,
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
    /// What each follower said of itself last.
    followers: BTreeMap<NodeId, Echo>,
    /// Committed entries here are not the leader's: nothing of it is of use.
    is_contradicted: bool,
    /// The log does not count any more once this sync has finished.
    giving_up: Option<u64>,
    install: Option<Install>,
    serving: BTreeMap<NodeId, Serving>,
    /// Who said that it needs a snapshot, or a piece of one that is gone.
    needy: BTreeSet<NodeId>,
    /// For those whom a change removes: what they shall still know.
    farewells: Vec<(NodeId, Mark)>,
    /// Entries in the log that raft-rs is still to be told of: all at once is
    /// cheaper, and they leave together.
    proposed: u64,
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
        folded: Folded,
        set: &ReplicaSet,
        seed: u64,
    ) -> Result<(Member<D>, Recovered), StoreError> {
        log.replicas = Replicas::Group { founding: set.founding };
        let (log, found) = CommitLog::open(&mut disk, log, folded.base)?;
        let base = found.base;
        let configuration = match folded.configuration {
            _ if log.is_blank() => Configuration::default(),
            Some(configuration) => configuration,
            None => Configuration::of_founders(&set.peers),
        };
        let known = log.last_index();
        let starving = RefCell::default();
        let store = Store { disk, log, configuration, folded: base.index, known, starving };
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
            // Appends and heartbeats say it in time.
            skip_bcast_commit: true,
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
            followers: BTreeMap::new(),
            is_contradicted: false,
            giving_up: None,
            install: None,
            serving: BTreeMap::new(),
            needy: BTreeSet::new(),
            farewells: Vec::new(),
            proposed: 0,
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
        let voters = self.configuration().voters();
        self.lease.until(self.term(), self.id(), &voters, self.ticks.lease())
    }

    /// How far a replica is; only a leader knows, and of itself, too.
    pub fn progress(&self, id: NodeId) -> Option<Progress> {
        if self.role() != Role::Leader {
            return None;
        }
        let known = self.raw.raft.prs().get(id.0)?;
        let matched = LogIndex(known.matched);
        let log = self.log();
        let near = match matched == log.last_index() {
            true => log.end(),
            false => log.place_near(LogIndex(matched.0 + 1)),
        };
        let is_me = id == self.id();
        Some(Progress {
            matched,
            bytes_behind: log.end().0 - near.0,
            is_active: is_me || known.recent_active,
            is_trusted: is_me || self.followers.get(&id).is_some_and(|echo| echo.is_trusted),
            is_installing: self.serving.contains_key(&id),
        })
    }

    /// Appends an entry in memory; `places` learns where each part will lie.
    /// `NotLeader` if another replica leads, or is about to.
    pub fn propose(
        &mut self,
        draft: &mut Draft,
        needs: Needs,
        mut places: impl FnMut(usize, Position),
    ) -> Result<Place, StoreError> {
        if self.role() != Role::Leader || self.is_handing_over() || self.is_removed() {
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
        self.proposed += 1;
        Ok(place)
    }

    /// Tells raft-rs what was proposed: before anything else happens to it.
    fn hand_in(&mut self) {
        if self.proposed == 0 {
            return;
        }
        let mut message = RaftMessage::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        let entries = vec![Default::default(); std::mem::take(&mut self.proposed) as usize];
        message.set_entries(entries.into());
        self.raw.raft.step(message).expect("a leader takes proposals");
        let last = self.raw.raft.raft_log.last_index();
        assert_eq!(last, self.log().last_index().0, "both logs are one");
    }

    /// The followers that keep up and that may be kept busy: without them there
    /// still is a majority, so that no commit waits for them.
    pub fn spare_followers(&self) -> Vec<NodeId> {
        let progress = self.raw.raft.prs();
        let keeps_up = |node: &NodeId| {
            let progress = progress.get(node.0).filter(|_| *node != self.id());
            progress.is_some_and(|of| of.recent_active && of.state == ProgressState::Replicate)
        };
        let mut nodes: Vec<NodeId> = match self.role() {
            Role::Leader => self.configuration().seats.keys().copied().collect(),
            Role::Follower(_) | Role::Candidate => Vec::new(),
        };
        nodes.retain(keeps_up);
        nodes.sort();
        let needed = self.configuration().voters().iter().map(|voters| voters.len() / 2).max();
        nodes.drain(..needed.unwrap_or(0).min(nodes.len()));
        nodes
    }

    pub fn into_disk(self) -> D {
        self.raw.raft.r.raft_log.store.disk
    }

    /// What was sent to this replica may be lost: find out what it has.
    pub fn unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.0);
    }
}
