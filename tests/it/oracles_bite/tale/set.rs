//! Tales of a replica set. Its log holds one entry for each slot of queue 0, so
//! that entry 1 is slot 0.

use stormglass_sim::history::{EventKind, FaultId, FaultKind, LaneId, Role, Stop};

use super::{Tale, position};

/// The replicas `broker-1` to `broker-3`, or more; the first leads in term 1.
#[derive(Clone)]
pub struct SetTale {
    pub tale: Tale,
    pub replicas: Vec<LaneId>,
    lives: Vec<u32>,
    reigns: u32,
}

impl SetTale {
    pub fn of(replicas: usize) -> SetTale {
        SetTale::begin(Tale::with_lane("set-1"), replicas, 0)
    }

    /// Three replicas, and one that may join them.
    pub fn with_spare() -> SetTale {
        SetTale::begin(Tale::with_lane("set-1"), 3, 1)
    }

    pub fn async_flush() -> SetTale {
        let mut tale = Tale::with_lane("set-1");
        tale.context.sync_flush = false;
        SetTale::begin(tale, 3, 0)
    }

    fn begin(mut tale: Tale, replicas: usize, spares: usize) -> SetTale {
        let names = (1..=replicas + spares).map(|number| format!("broker-{number}"));
        let replicas: Vec<LaneId> = names.map(|name| tale.lane(&name)).collect();
        let (founders, spares) = replicas.split_at(replicas.len() - spares);
        let formed = EventKind::Formed { replicas: founders.into(), spares: spares.into() };
        tale.push(tale.broker, formed);
        let lives = vec![0; replicas.len()];
        let mut set = SetTale { tale, replicas, lives, reigns: 0 };
        for at in 0..set.replicas.len() {
            set.start(at, 0);
            set.synced(at, 0);
        }
        set.leads(0, 1, 0);
        set.tale.push(set.tale.broker, EventKind::TopicSized { topic: set.tale.topic, queues: 2 });
        set
    }

    /// A replica says so.
    pub fn says(&mut self, at: usize, kind: EventKind) {
        self.tale.push(self.replicas[at], kind);
    }

    /// It starts and has everything before this slot.
    pub fn start(&mut self, at: usize, first_lost: u64) {
        self.lives[at] += 1;
        self.says(at, EventKind::NodeStarted { life: self.lives[at] });
        self.says(at, EventKind::Recovered { log_end: position(0, first_lost) });
    }

    pub fn stop(&mut self, at: usize, why: Stop) {
        self.says(at, EventKind::NodeStopped { why });
    }

    /// It leads from here on and serves, with a log up to this slot.
    pub fn leads(&mut self, at: usize, term: u64, first_lost: u64) {
        self.is_elected(at, term);
        self.serves(first_lost);
    }

    /// Of the first three, one has given its place to another.
    pub fn replaced(&mut self, left: usize, joined: usize) {
        let founders: Box<[LaneId]> = self.replicas[..3].into();
        let mut voters = founders.clone();
        voters[left] = self.replicas[joined];
        for before in [Some(founders), None] {
            let voters = voters.clone();
            self.tale.push(self.tale.broker, EventKind::Members { voters, before });
        }
    }

    /// Nobody serves any more.
    pub fn is_leaderless(&mut self) {
        self.tale.stop_broker(Stop::GaveUp);
    }

    pub fn is_elected(&mut self, at: usize, term: u64) {
        self.says(at, EventKind::Role { term, role: Role::Leader });
        self.reigns += 1;
        self.tale.push(self.tale.broker, EventKind::NodeStarted { life: self.reigns });
    }

    /// The new leader has applied its log.
    pub fn serves(&mut self, first_lost: u64) {
        let log_end = position(0, first_lost);
        self.tale.push(self.tale.broker, EventKind::Recovered { log_end });
    }

    /// A partition between these replicas.
    pub fn cut(&mut self, a: &[usize], b: &[usize]) -> FaultId {
        let lanes = |all: &[usize]| all.iter().map(|at| self.replicas[*at]).collect::<Vec<_>>();
        self.tale.fault_between(&lanes(a), &lanes(b), FaultKind::Partition)
    }

    pub fn heal(&mut self, fault: FaultId) {
        self.tale.push(self.tale.broker, EventKind::FaultHealed { fault });
    }

    pub fn follows(&mut self, at: usize, term: u64) {
        self.says(at, EventKind::Role { term, role: Role::Follower });
    }

    /// Everything before this slot is durable there.
    pub fn synced(&mut self, at: usize, offset: u64) {
        self.says(at, EventKind::Durable { position: position(0, offset) });
    }

    pub fn commits(&mut self, at: usize, index: u64) {
        self.commits_as(at, index, index);
    }

    pub fn commits_as(&mut self, at: usize, index: u64, digest: u64) {
        self.says(at, EventKind::Committed { index, end: position(0, index), digest });
    }

    pub fn expired(&mut self, at: usize, to: u64) {
        let shard = self.tale.shard(0);
        self.says(at, EventKind::Expired { shard, from: 0, to });
    }

    /// Sent, durable on these replicas, committed by the first of them, and
    /// answered OK.
    pub fn send(&mut self, message: u32, offset: u64, durable_on: &[usize]) {
        let op = self.tale.begin(message);
        durable_on.iter().for_each(|at| self.synced(*at, offset + 1));
        self.commits(durable_on[0], offset + 1);
        self.tale.stored(op, offset);
    }

    /// The same with no sync: only this replica knows that it is committed.
    pub fn send_unsynced(&mut self, message: u32, offset: u64, leader: usize) {
        let op = self.tale.begin(message);
        self.commits(leader, offset + 1);
        self.tale.stored(op, offset);
    }

    /// Everybody has it, and all is quiet.
    pub fn at_rest(mut self, leader: usize, index: u64) -> Tale {
        for at in 0..self.replicas.len() {
            self.synced(at, index);
        }
        self.commits(leader, index);
        (0..self.replicas.len()).filter(|at| *at != leader).for_each(|at| self.commits(at, index));
        self.tale
    }
}
