//! The broker as a value: `handle` takes what arrived, `advance` does what is
//! done once per batch, and `poll_output` drains what it wants done.
//!
//! A send travels: `send` → `replication` (proposed, written, durable,
//! committed) → `apply` (visible in its queue, answered) → `pull`.

pub mod config;

mod acks;
mod apply;
mod cluster;
mod command;
mod dead_letters;
mod delay;
mod ending;
mod follow;
mod halves;
mod interface;
mod leases;
mod locks;
mod members;
mod offsets;
mod opening;
mod parked;
mod pop;
mod propose;
mod pull;
mod reads;
mod register;
mod requests;
mod resets;
mod retention;
mod retry;
mod roots;
mod send;
mod sequences;
mod session;
mod snapshot;
mod state;
mod stored;
mod subscriptions;
mod timers;
mod topics;
mod transactions;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use self::{
    apply::Awaiting,
    dead_letters::Replaying,
    delay::Firing,
    members::Members,
    opening::Opening,
    parked::Parked,
    pop::Pop,
    propose::Proposed,
    pull::Pull,
    reads::Redirects,
    register::Registration,
    resets::Awareness,
    retention::Retention,
    sequences::Sequencing,
    session::Sessions,
    snapshot::Snapshotting,
    state::{Dispatch, Saved, State},
    transactions::Transactions,
};
pub use self::{
    command::{Command, GroupConfig, OffsetCommit, TopicConfig},
    config::BrokerConfig,
    halves::Totals,
    interface::{Input, Output, Phase},
    locks::Owner,
    register::{BrokerRole, LEADER_ID},
    transactions::CheckBack,
    view::View,
};
use crate::{
    error::StoreError,
    ids::{ConnId, LogIndex, Name, Shard, Term},
    log::{self, Base, Draft, SyncTicket},
    replication::{Flush, Folded, Replica},
    rng::Rng,
    runtime::Disk,
    time::{Now, Time},
};

/// One broker. See the module's documentation.
pub struct Broker<D: Disk> {
    config: BrokerConfig,
    phase: Phase,
    rng: Rng,
    state: State,
    replica: Replica<D>,
    /// The term in which this broker serves.
    serves_in: Term,
    opening: Opening,
    /// Everything up to here is in `state`.
    applied: Base,
    /// The newest durable snapshot says what was applied up to here.
    snapshot: Base,
    snapshotting: Snapshotting,
    retention: Retention,
    /// Proposed entries in log order, and the messages in them.
    proposed: VecDeque<Proposed>,
    dispatches: VecDeque<Dispatch>,
    sequencing: Sequencing,
    awaiting: Awaiting,
    /// The sync that makes the note of an orderly stop durable.
    stop_noted: Option<SyncTicket>,
    /// Told once the sync that is under way is over.
    ends_after_sync: Option<StoreError>,
    sessions: Sessions,
    members: Members,
    awareness: Awareness,
    transactions: Transactions,
    parked: Parked<Pull>,
    parked_pops: Parked<Pop>,
    /// Readers that are to ask the leader.
    redirects: Redirects,
    /// Offsets that came with pulls and are not yet proposed.
    unproposed_offsets: BTreeMap<(Name, Shard), u64>,
    offsets_due: Option<Time>,
    registration: Registration,
    firing: Firing,
    replaying: Replaying,
    outputs: VecDeque<Output<D>>,
    /// Reused for every append.
    draft: Draft,
    scratch: Scratch,
    counters: Counters,
    /// The corrupt reads among them that the replica knows of.
    damage_noted: u64,
    /// The configuration whose addresses were told.
    peers_told: Option<LogIndex>,
}

/// Buffers that live on between requests, so that a send allocates little.
#[derive(Default)]
struct Scratch {
    entries: Vec<(u64, crate::queue::QueueEntry)>,
    woken: BTreeSet<state::QueueKey>,
    woken_topics: BTreeSet<u32>,
}

/// What the broker counts about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub appended: u64,
    pub served: u64,
    /// Those among them that were served while another replica led.
    pub served_following: u64,
    pub refused: u64,
    pub sent_back: u64,
    pub corrupt_reads: u64,
    pub snapshots: u64,
    /// Numbered sends that were repeated, and answered like the first copy.
    pub repeated: u64,
    /// Times that members of a group began to want different things (L15), and
    /// pulls refused because they would have passed over what newer members want.
    pub disagreements: u64,
    pub outdated_pulls: u64,
    /// Popped messages whose lease ended before they were acknowledged.
    pub revived: u64,
    /// Those among them that retention had taken.
    pub leases_lost: u64,
    /// Decisions about transactions that were decided otherwise before.
    pub conflicts: u64,
    pub checks_sent: u64,
    /// Times that a producer group's due checks found none of its members.
    pub unreachable_groups: u64,
}

impl<D: Disk> Broker<D> {
    /// Opens what is on the disk. The broker serves once its first sync and its
    /// opening record are through; until then it answers that it is not ready.
    pub fn open(config: BrokerConfig, mut disk: D, seed: u64) -> Result<Broker<D>, StoreError> {
        let snapshot = log::snapshot::newest(&mut disk)?;
        let saved = snapshot.as_ref().map(|snapshot| Saved::decode(&snapshot.payload));
        let saved = saved.transpose()?;
        let folded = Folded {
            base: snapshot.as_ref().map_or(Base::default(), |snapshot| snapshot.base),
            configuration: saved.as_ref().and_then(Saved::configuration),
        };
        let mut log = config.log.clone();
        log.birth_id = Rng::new(seed).next();
        let (mut replica, base) =
            Replica::open(disk, log, config.flush, folded, config.replica_set.as_ref(), seed)?;
        let mut queue = config.queue.clone();
        queue.store_id = replica.log().store_id();
        let (log, disk) = replica.parts();
        let state = match snapshot.zip(saved) {
            Some((snapshot, saved)) if snapshot.base == base => {
                let has_files = !snapshot.is_received;
                State::restore(disk, log, queue, saved, base.position, has_files)?
            }
            _ => State::new(queue),
        };
        replica.prepare()?;
        Ok(Broker {
            phase: Phase::Recovering,
            rng: Rng::new(seed),
            state,
            serves_in: Term(0),
            opening: Opening::default(),
            applied: base,
            snapshot: base,
            snapshotting: Snapshotting::default(),
            retention: Retention::new(config.retain_bytes.is_some() || config.retain_for.is_some()),
            replica,
            proposed: VecDeque::new(),
            dispatches: VecDeque::new(),
            sequencing: Sequencing::default(),
            awaiting: Awaiting::default(),
            stop_noted: None,
            ends_after_sync: None,
            sessions: Sessions::default(),
            members: Members::default(),
            awareness: Awareness::new(),
            transactions: Transactions::default(),
            parked: Parked::default(),
            parked_pops: Parked::default(),
            redirects: Redirects::default(),
            unproposed_offsets: BTreeMap::new(),
            offsets_due: None,
            registration: Registration::new(config.name_servers.len()),
            firing: Firing::default(),
            replaying: Replaying::default(),
            outputs: VecDeque::new(),
            draft: Draft::default(),
            scratch: Scratch::default(),
            counters: Counters::default(),
            damage_noted: 0,
            peers_told: None,
            config,
        })
    }

    /// The disk under a broker that ended, for the next one.
    pub fn into_disk(self) -> D {
        self.replica.into_disk()
    }

    /// Takes one input. Call [`advance`](Self::advance) after each batch.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.phase == Phase::Ended {
            return self.handle_ended(now, input);
        }
        match input {
            Input::Connected { conn, peer, name_server } => {
                self.sessions.open(conn, peer);
                if let Some(number) = name_server {
                    self.registration.connected(number, conn);
                }
            }
            Input::Frame { conn, frame } => self.frame(now, conn, frame),
            Input::Closed { conn } => self.closed(now, conn),
            Input::DialFailed { name_server } => {
                self.registration.disconnected(name_server, now.mono);
            }
            Input::Synced { ticket, result } => {
                if let Err(error) = self.synced(now, ticket, result) {
                    self.fail(error);
                }
            }
            Input::Peer(message) => {
                if let Err(error) = self.replica.receive(now.mono, message) {
                    self.fail(error);
                }
            }
            Input::PeerLost(peer) => self.replica.unreachable(peer),
            Input::Stop => {
                if let Err(error) = self.stop() {
                    self.fail(error);
                }
            }
        }
    }

    /// Everything that is done once per batch of inputs: what is due, one write
    /// for all that was appended, and what that commits.
    pub fn advance(&mut self, now: Now) {
        if self.phase == Phase::Ended {
            return;
        }
        if let Err(error) = self.try_advance(now) {
            self.fail(error);
        }
        self.send_to_peers();
    }

    pub fn poll_output(&mut self) -> Option<Output<D>> {
        self.outputs.pop_front()
    }

    /// When `advance` wants to be called even if nothing arrives.
    pub fn deadline(&self) -> Time {
        if self.phase == Phase::Ended {
            return Time::MAX;
        }
        let earliest = |all: &[Option<Time>]| all.iter().flatten().min().copied();
        let always = earliest(&[self.replica.deadline(), self.redirects.deadline()]);
        if self.is_handing_over() {
            // The rest waits until somebody leads: see `hands_over`.
            return always.unwrap_or(Time::MAX);
        }
        let always = earliest(&[always, self.registration.deadline()]);
        if self.phase == Phase::Recovering {
            // The rest waits until there is something to serve: see `follow`.
            return always.unwrap_or(Time::MAX);
        }
        let all = earliest(&[
            always,
            self.parked.deadline(),
            self.offsets_due,
            self.retention.deadline(),
            self.state.locks.deadline(),
            self.state.leases.deadline(),
            self.parked_pops.deadline(),
            self.transactions.deadline(),
            self.firing.deadline(),
            self.opening.deadline(),
        ]);
        all.unwrap_or(Time::MAX)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    fn try_advance(&mut self, now: Now) -> Result<(), StoreError> {
        self.redirect(now);
        if self.phase == Phase::Recovering && self.follow(now)? {
            return Ok(());
        }
        self.check_leadership()?;
        if self.phase == Phase::Ended || self.hands_over(now)? {
            return Ok(());
        }
        self.look_for_room(now)?;
        self.tell_peers();
        self.note_damage()?;
        self.expire_parked(now);
        self.expire_pops(now);
        self.revive_due(now)?;
        self.flush_offsets(now)?;
        self.scan_retention(now)?;
        self.check_back(now)?;
        self.replica.write(now.mono)?;
        self.apply_committed(now)?;
        self.fire_timers(now)?;
        self.replica.write(now.mono)?;
        self.apply_committed(now)?;
        // Applying may have proposed (an opening record, a waiting send), and so
        // do held pops that got something.
        loop {
            let was_any = self.wake_pops(now);
            self.replica.write(now.mono)?;
            self.apply_committed(now)?;
            if !was_any {
                break;
            }
        }
        self.plan_timers(now);
        self.wake_parked(now);
        self.offer_freed_locks(now);
        // Time passed in there, too.
        self.check_leadership()?;
        self.start_sync(now)?;
        self.register(now);
        Ok(())
    }

    fn start_sync(&mut self, now: Now) -> Result<(), StoreError> {
        self.advance_snapshot(now)?;
        if self.phase == Phase::Stopping {
            return self.advance_stop(now);
        }
        if let Some((ticket, done)) = self.replica.begin_sync(now.mono) {
            self.outputs.push_back(Output::Sync { ticket, done });
        }
        Ok(())
    }

    fn synced(
        &mut self,
        now: Now,
        ticket: SyncTicket,
        result: io::Result<()>,
    ) -> Result<(), StoreError> {
        self.replica.synced(now.mono, ticket, result)?;
        self.snapshot_synced(now, ticket)?;
        if self.stop_noted == Some(ticket) {
            self.phase = Phase::Ended;
            self.outputs.push_back(Output::Stopped);
            return Ok(());
        }
        self.replica.prepare()
    }

    fn closed(&mut self, now: Now, conn: ConnId) {
        self.sessions.close(conn);
        self.parked.drop_connection(conn);
        self.parked_pops.drop_connection(conn);
        self.awaiting.drop_connection(conn);
        self.registration.closed(conn, now.mono);
        self.transactions.closed(conn);
        self.forgets_resets(conn);
        let changed = self.members.closed(conn);
        self.notify(changed);
    }

    fn is_async(&self) -> bool {
        matches!(self.config.flush, Flush::Async { .. })
    }
}
