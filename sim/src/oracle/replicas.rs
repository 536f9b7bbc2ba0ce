//! What is known of brokers that are replicas of one set: who belongs to it,
//! what is safe there, and what crashes may take. The set itself is told as a
//! broker, whose lives are the times in which one of them serves as the leader.
//! A broker without a set is the only replica of itself.

use std::collections::BTreeSet;

use super::{
    EventIndex, Facts,
    facts::{ActiveFault, Node, PowerLoss},
};
use crate::history::{Event, EventKind, FaultKind, LaneId, Role, ShardId};

#[derive(Debug, Default)]
pub struct ReplicaSet {
    /// Whoever is or may become one.
    pub replicas: Vec<LaneId>,
    /// Who decides, and who did before that changed last.
    voters: Electorate,
    former: Electorate,
    /// Whoever ever did.
    have_voted: BTreeSet<LaneId>,
    /// The newest term that had a leader, and since when.
    pub led: Option<(u64, EventIndex)>,
    /// Whether a leader was elected that does not serve yet.
    pub is_elected: bool,
    /// Everything before this position has been durable on a majority.
    pub durable: Option<u64>,
}

/// Those who decide: a majority of each of these groups, of which there are two
/// while the members of a set change.
#[derive(Debug, Default)]
struct Electorate(Vec<Vec<LaneId>>);

impl Electorate {
    /// In how many of the groups those for whom this holds are a majority.
    fn majorities(&self, holds: impl Fn(LaneId) -> bool) -> usize {
        let is_majority = |group: &&Vec<LaneId>| {
            group.iter().filter(|lane| holds(**lane)).count() > group.len() / 2
        };
        self.0.iter().filter(is_majority).count()
    }

    /// Whether nothing is decided without one of them.
    fn needs(&self, holds: impl Fn(LaneId) -> bool) -> bool {
        self.majorities(holds) > 0
    }

    fn is_decided_by(&self, holds: impl Fn(LaneId) -> bool) -> bool {
        self.majorities(holds) == self.0.len()
    }

    /// The most that a majority of each group has of something.
    fn have(&self, known: impl Fn(LaneId) -> Option<u64>) -> Option<u64> {
        let by_majority = |group: &Vec<LaneId>| {
            let mut known: Vec<Option<u64>> = group.iter().map(|lane| known(*lane)).collect();
            known.sort_unstable();
            known[(group.len() - 1) / 2]
        };
        self.0.iter().map(by_majority).min().flatten()
    }
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

    /// All replicas of a set, and those that may join it; or the broker that is
    /// none of any.
    pub fn replicas(&self, broker: LaneId) -> impl Iterator<Item = (LaneId, &Node)> {
        let set = self.sets.get(&broker);
        let alone = set.is_none().then_some(broker);
        let members = set.into_iter().flat_map(|set| set.replicas.iter().copied());
        alone.into_iter().chain(members).map(|lane| (lane, self.node(lane)))
    }

    /// Those among them who have a vote from now on.
    pub fn voters(&self, broker: LaneId) -> impl Iterator<Item = (LaneId, &Node)> {
        let newest = self.sets.get(&broker).and_then(|set| set.voters.0.first());
        self.replicas(broker).filter(move |(lane, _)| newest.is_none_or(|all| all.contains(lane)))
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
        let set = self.set(broker);
        let voted = move |lane| set.is_none_or(|set| set.have_voted.contains(&lane));
        let nodes = self.replicas(broker).filter(move |(lane, _)| voted(*lane));
        nodes.flat_map(|(_, node)| &node.power_losses)
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
        let is_destroyed =
            |lane| self.node(lane).damaged.is_some_and(|(_, last)| last > what.event);
        if self.set(broker).is_some_and(|set| set.voters.needs(is_destroyed)) {
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
        let (Some(set), Some(position)) = (self.set(broker), what.position) else { return Ok(()) };
        let is_kept = set.voters.needs(|lane| held(self.node(lane)) > position);
        let is_taken = in_time.any(|loss| {
            let unsynced = loss.durable.is_none_or(|durable| durable <= position);
            unsynced && loss.kept.is_none_or(|kept| kept <= position)
        });
        if is_taken && !is_kept { Ok(()) } else { Err(NotAllowed::Replicated) }
    }

    /// Whether enough replicas live and reach one of them that it may lead.
    pub fn has_quorum(&self, set: LaneId) -> bool {
        let is_well = |lane: LaneId| {
            let paused = |f: &ActiveFault| f.kind == FaultKind::Pause && f.lanes.contains(&lane);
            self.node(lane).up && !self.faults.iter().any(paused)
        };
        let Some(known) = self.set(set) else { return false };
        let may_lead = |leader: LaneId| {
            let reaches = |lane| is_well(lane) && !self.are_cut(leader, lane);
            is_well(leader) && known.voters.is_decided_by(reaches)
        };
        self.voters(set).any(|(leader, _)| may_lead(leader))
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
            let set = self.node(*lane).set.and_then(|set| self.set(set));
            set.is_some_and(|set| !set.voters.needs(|voter| lanes.contains(&voter)))
        };
        !lanes.is_empty() && lanes.iter().all(is_few)
    }

    /// Whether few replicas are cut off from replicas only, or so that none of
    /// them can lead.
    fn are_cut_off(&self, few: &[LaneId], from: &[LaneId]) -> bool {
        let cannot_lead = |lane: &LaneId| {
            let others = self.node(*lane).set.into_iter().flat_map(|set| self.voters(set));
            others.map(|(lane, _)| lane).all(|other| few.contains(&other) || from.contains(&other))
        };
        let among_replicas = from.iter().all(|lane| self.node(*lane).set.is_some());
        self.are_few(few) && (among_replicas || few.iter().all(cannot_lead))
    }

    /// Folds in what replicas say of themselves.
    pub(super) fn absorb_replica(&mut self, event: &Event) {
        let lane = event.lane;
        match &event.kind {
            EventKind::Formed { replicas, spares } => {
                let set = self.sets.entry(lane).or_default();
                set.replicas = replicas.iter().chain(spares).copied().collect();
                set.voters = Electorate(vec![replicas.to_vec()]);
                set.have_voted.extend(replicas);
                for replica in &set.replicas {
                    self.nodes[replica.index()].set = Some(lane);
                }
            }
            EventKind::Members { voters, before } => {
                if let Some(set) = self.sets.get_mut(&lane) {
                    let groups = [Some(voters), before.as_ref()].into_iter().flatten();
                    let voters = Electorate(groups.map(|group| group.to_vec()).collect());
                    set.have_voted.extend(voters.0.iter().flatten());
                    set.former = std::mem::replace(&mut set.voters, voters);
                }
                self.note_majority(lane);
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
        if let Some(set) = node.set {
            self.note_majority(set);
        }
    }

    /// A new leader that does not know yet that its set has other members now
    /// decides with the former ones.
    fn note_majority(&mut self, set: LaneId) {
        let Some(set) = self.sets.get_mut(&set) else { return };
        let durable = |lane: LaneId| self.nodes[lane.index()].durable;
        let known = set.voters.have(durable).max(set.former.have(durable));
        set.durable = set.durable.max(known);
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
