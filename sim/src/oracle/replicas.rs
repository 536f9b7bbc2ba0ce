//! What is known of brokers that are replicas of one set: who belongs to it,
//! what is safe there, and what crashes may take. The set itself is told as a
//! broker, whose lives are the times in which one of them serves as the leader.
//! A broker without a set is the only replica of itself.

use super::{
    EventIndex, Facts,
    facts::{ActiveFault, Node, PowerLoss},
};
use crate::history::{Event, EventKind, FaultKind, LaneId, Role, ShardId};

#[derive(Debug, Default)]
pub struct ReplicaSet {
    pub replicas: Vec<LaneId>,
    /// The newest term that had a leader, and since when.
    pub led: Option<(u64, EventIndex)>,
    /// Whether a leader was elected that does not serve yet.
    pub is_elected: bool,
    /// Everything before this position has been durable on a majority.
    pub durable: Option<u64>,
}

/// Why the loss of a message cannot be excused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    SyncFlush,
    ScenarioForbids,
    /// Only processes died.
    NoPowerLoss,
    /// It was older than the flush interval.
    TooOld,
    /// No replica that lost power had it unsynced, or a majority has it still.
    Replicated,
}

impl NotAllowed {
    pub fn tell(self) -> &'static str {
        match self {
            NotAllowed::SyncFlush => "sync flush allows no loss",
            NotAllowed::ScenarioForbids => "this scenario allows no loss",
            NotAllowed::NoPowerLoss => "a killed process alone loses nothing",
            NotAllowed::TooOld => "it was older than the flush interval",
            NotAllowed::Replicated => "a majority had it, and power took it from none of these",
        }
    }
}

/// Something that was stored: when it was asked for, by when it was there, and
/// where.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub begun_at: u64,
    pub stored_by: u64,
    pub event: EventIndex,
    pub position: Option<u64>,
}

impl Facts {
    /// The lane of the set that this broker is a replica of: where its shards live.
    pub fn set_of(&self, node: LaneId) -> LaneId {
        self.node(node).set.unwrap_or(node)
    }

    pub fn set(&self, lane: LaneId) -> Option<&ReplicaSet> {
        self.sets.get(&lane)
    }

    /// All replicas of a set, or the broker that is none of any.
    pub fn replicas(&self, broker: LaneId) -> impl Iterator<Item = (LaneId, &Node)> {
        let set = self.sets.get(&broker);
        let alone = set.is_none().then_some(broker);
        let members = set.into_iter().flat_map(|set| set.replicas.iter().copied());
        alone.into_iter().chain(members).map(|lane| (lane, self.node(lane)))
    }

    /// How many replicas are more than half of them.
    pub fn majority(&self, broker: LaneId) -> usize {
        self.replicas(broker).count() / 2 + 1
    }

    /// Everything of the shard's log before this is as durable as the mode
    /// promises under sync flush.
    pub fn durable_of(&self, shard: ShardId) -> Option<u64> {
        let broker = self.shard(shard).broker;
        self.set(broker).map_or(self.node(broker).durable, |set| set.durable)
    }

    /// The first damage to a disk that holds the shard.
    pub fn damaged(&self, shard: ShardId) -> Option<EventIndex> {
        let replicas = self.replicas(self.shard(shard).broker);
        replicas.filter_map(|(_, node)| node.damaged.map(|(first, _)| first)).min()
    }

    pub fn power_losses(&self, broker: LaneId) -> impl Iterator<Item = &PowerLoss> {
        self.replicas(broker).flat_map(|(_, node)| &node.power_losses)
    }

    /// The least and the most that the broker's clock showed between these
    /// times; of a set, the clock of any replica: each may have led.
    pub fn shown(&self, broker: LaneId, from: u64, to: u64) -> (i64, i64) {
        let ranges = self.replicas(broker).map(|(_, node)| node.clock.range(from, to));
        let all = ranges.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
        all.unwrap_or((from as i64, to as i64))
    }

    /// The most time that has passed since then by a clock of the broker's that
    /// nobody sets.
    pub fn passed(&self, broker: LaneId, since: u64) -> i64 {
        let replicas = self.replicas(broker);
        replicas.map(|(_, node)| node.clock.passed(since, self.now)).max().unwrap_or(0)
    }

    /// The most that the broker's clock would show by now if nobody had set it any
    /// more since some moment from `from` on.
    pub fn would_show(&self, broker: LaneId, from: u64) -> i64 {
        let replicas = self.replicas(broker);
        let most = replicas.map(|(_, node)| node.clock.would_show(from, self.now)).max();
        most.unwrap_or(self.now as i64)
    }

    /// When, by the world's time, the broker's clock shows this at the latest.
    pub fn when_shown(&self, broker: LaneId, shown: i64) -> u64 {
        let times = self.replicas(broker).map(|(_, node)| node.clock.when(shown, self.now));
        times.max().unwrap_or(self.now)
    }

    /// Whether crashes may have taken this by now, or why not.
    pub fn may_be_gone(&self, broker: LaneId, what: Stored) -> Result<(), NotAllowed> {
        self.may_be_taken(broker, what, |node| node.holds)
    }

    /// Whether crashes may have taken this before the leader was elected that serves
    /// without it.
    pub fn may_have_gone(&self, broker: LaneId, what: Stored) -> Result<(), NotAllowed> {
        self.may_be_taken(broker, what, |node| node.held_at_election)
    }

    fn may_be_taken(
        &self,
        broker: LaneId,
        what: Stored,
        held: impl Fn(&Node) -> u64,
    ) -> Result<(), NotAllowed> {
        let majority = self.majority(broker);
        let is_destroyed =
            |(_, node): &(LaneId, &Node)| node.damaged.is_some_and(|(_, last)| last > what.event);
        if self.set(broker).is_some()
            && self.replicas(broker).filter(is_destroyed).count() >= majority
        {
            return Ok(());
        }
        if self.context.sync_flush {
            return Err(NotAllowed::SyncFlush);
        }
        let since = |loss: &&PowerLoss| loss.at >= what.begun_at;
        let mut losses = self.power_losses(broker).filter(since).peekable();
        if losses.peek().is_none() {
            return Err(NotAllowed::NoPowerLoss);
        }
        if self.context.may_lose_nothing {
            return Err(NotAllowed::ScenarioForbids);
        }
        let window = self.context.flush_window;
        let mut in_time = losses.filter(|loss| what.stored_by + window >= loss.at).peekable();
        if in_time.peek().is_none() {
            return Err(NotAllowed::TooOld);
        }
        let (Some(_), Some(position)) = (self.set(broker), what.position) else { return Ok(()) };
        let holders = self.replicas(broker).filter(|(_, node)| held(node) > position).count();
        let is_taken = in_time.any(|loss| {
            let unsynced = loss.durable.is_none_or(|durable| durable <= position);
            unsynced && loss.kept.is_none_or(|kept| kept <= position)
        });
        if is_taken && holders < majority { Ok(()) } else { Err(NotAllowed::Replicated) }
    }

    /// Whether enough replicas live and reach one of them that it may lead.
    pub fn has_quorum(&self, set: LaneId) -> bool {
        let is_well = |lane: LaneId| {
            let paused = |f: &ActiveFault| f.kind == FaultKind::Pause && f.lanes.contains(&lane);
            self.node(lane).up && !self.faults.iter().any(paused)
        };
        let well: Vec<LaneId> =
            self.replicas(set).map(|(lane, _)| lane).filter(|lane| is_well(*lane)).collect();
        let reached = |from: &LaneId| well.iter().filter(|to| !self.are_cut(*from, **to)).count();
        well.iter().any(|leader| reached(leader) >= self.majority(set))
    }

    /// Whether a partition lies between these two, at least in one direction.
    fn are_cut(&self, one: LaneId, other: LaneId) -> bool {
        self.faults.iter().filter(|fault| fault.kind == FaultKind::Partition).any(|fault| {
            let (a, b) = fault.lanes.split_at(fault.side);
            let between = |x: LaneId, y: LaneId| a.contains(&x) && b.contains(&y);
            between(one, other) || between(other, one)
        })
    }

    /// Whether replica sets bear this for as long as it lasts: it strikes only
    /// replicas that the others can do without, and that do not lead others'
    /// clients astray.
    pub(super) fn is_borne(&self, fault: &ActiveFault) -> bool {
        let (a, b) = fault.lanes.split_at(fault.side);
        let borne = match fault.kind {
            FaultKind::Pause => self.are_few(&fault.lanes),
            FaultKind::Partition => self.are_cut_off(a, b) || self.are_cut_off(b, a),
            _ => false,
        };
        borne && self.sets.keys().all(|set| self.has_quorum(*set))
    }

    /// Whether these are replicas, and a minority of each set.
    fn are_few(&self, lanes: &[LaneId]) -> bool {
        let is_few = |lane: &LaneId| {
            let set = self.node(*lane).set;
            let here = lanes.iter().filter(|other| self.node(**other).set == set).count();
            set.is_some_and(|set| here < self.majority(set))
        };
        !lanes.is_empty() && lanes.iter().all(is_few)
    }

    /// Whether few replicas are cut off from replicas only, or so that none of
    /// them can lead.
    fn are_cut_off(&self, few: &[LaneId], from: &[LaneId]) -> bool {
        let cannot_lead = |lane: &LaneId| {
            let others = self.node(*lane).set.into_iter().flat_map(|set| self.replicas(set));
            others.map(|(lane, _)| lane).all(|other| few.contains(&other) || from.contains(&other))
        };
        let among_replicas = from.iter().all(|lane| self.node(*lane).set.is_some());
        self.are_few(few) && (among_replicas || few.iter().all(cannot_lead))
    }

    /// Folds in what replicas say of themselves.
    pub(super) fn absorb_replica(&mut self, event: &Event) {
        let lane = event.lane;
        match &event.kind {
            EventKind::Formed { replicas } => {
                for replica in replicas {
                    self.nodes[replica.index()].set = Some(lane);
                }
                self.sets.entry(lane).or_default().replicas = replicas.to_vec();
            }
            EventKind::Role { term, role: Role::Leader } => {
                let set = self.nodes[lane.index()].set.and_then(|set| self.sets.get_mut(&set));
                if let Some(set) = set.filter(|set| set.led.is_none_or(|(led, _)| led < *term)) {
                    set.led = Some((*term, self.index));
                    if !std::mem::replace(&mut set.is_elected, true) {
                        for replica in &set.replicas {
                            let node = &mut self.nodes[replica.index()];
                            node.held_at_election = node.holds;
                        }
                    }
                }
            }
            EventKind::Committed { index, end, .. } => {
                let node = &mut self.nodes[lane.index()];
                node.committed = Some((*index, *end));
                node.holds = node.holds.max(*end);
            }
            EventKind::Durable { position } => self.durable(lane, *position),
            EventKind::Recovered { log_end } => self.recovered(lane, *log_end),
            _ => {}
        }
    }

    fn durable(&mut self, lane: LaneId, position: u64) {
        let node = &mut self.nodes[lane.index()];
        // What a new leader's log contradicts is cut off; a new life may know less.
        let is_cut = node.set.is_some() && node.called_durable.is_some_and(|said| position < said);
        node.called_durable = Some(position);
        node.durable = if is_cut { Some(position) } else { node.durable.max(Some(position)) };
        let Some(set) = node.set else { return };
        let mut known: Vec<u64> = self.replicas(set).filter_map(|(_, node)| node.durable).collect();
        known.sort_unstable();
        let majority = self.majority(set);
        if let Some(set) = self.sets.get_mut(&set)
            && known.len() >= majority
        {
            set.durable = set.durable.max(Some(known[known.len() - majority]));
        }
    }

    /// This is what its disk has kept.
    fn recovered(&mut self, lane: LaneId, log_end: u64) {
        let node = &mut self.nodes[lane.index()];
        node.holds_at_most(log_end);
        node.durable = node.durable.map(|durable| durable.min(log_end));
        if let Some(loss) = node.power_losses.last_mut() {
            loss.kept.get_or_insert(log_end);
        }
        if let Some(set) = self.sets.get_mut(&lane) {
            set.is_elected = false;
        }
    }
}

impl Node {
    pub(super) fn holds_at_most(&mut self, end: u64) {
        self.holds = self.holds.min(end);
        self.held_at_election = self.held_at_election.min(end);
    }
}
