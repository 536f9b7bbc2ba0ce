//! Random faults: what strikes whom for how long is drawn from the seed, within
//! a budget that keeps the run recoverable.

use std::collections::BTreeMap;

use stormglass_core::ids::Name;
use stormglass_scenarios::{Chaos, DurationRange, Role, RoleWord};

use super::{
    Fault,
    plan::{Planner, millis},
};

impl Planner<'_> {
    pub(super) fn add_chaos(&mut self, chaos: &Chaos) {
        let mut at = millis(chaos.start_at) + self.draw(chaos.every);
        for _ in 0..chaos.budget {
            if at >= self.end {
                break;
            }
            let kind = &chaos.kinds[self.rng.below(chaos.kinds.len() as u64) as usize];
            let until = self.after(at, Some(chaos.lasts));
            self.add_random(at, until, kind);
            at += self.draw(chaos.every).max(1);
        }
    }

    /// One fault of a kind out of `RECOVERABLE`, its numbers drawn.
    fn add_random(&mut self, at: u64, until: u64, kind: &str) {
        match kind {
            "kill" => {
                let node = self.anyone(at);
                if self.spares_enough(&node, at, until) {
                    self.kill(at, until, node);
                }
            }
            "stop" => {
                let node = self.server(at);
                if self.spares_enough(&node, at, until) {
                    self.stop(at, until, node);
                }
            }
            "power-loss" => {
                let node = self.anyone(at);
                if self.spares_enough(&node, at, until) {
                    self.power_loss(at, until, node);
                }
            }
            "pause" => {
                let node = self.anyone(at);
                if self.spares_enough(&node, at, until) {
                    self.pause(at, until, node);
                }
            }
            "partition" => {
                let (a, b) = self.two_sides();
                let one_way = self.rng.chance(0.3);
                self.partition(at, until, a, b, one_way);
            }
            "latency" => {
                let (a, b) = self.two_sides();
                let extra_ms = self.rng.below(500) + 1;
                self.latency(at, until, a, b, extra_ms);
            }
            "drop-connections" => {
                let (a, b) = self.two_sides();
                self.push(at, Fault::DropConnections { a, b });
            }
            "clock-jump" => {
                let by_ms = self.either_sign(10_000);
                let node = self.anyone(at);
                self.push(at, Fault::ClockJump { node, by_ms });
            }
            "clock-drift" => {
                let ppm = self.either_sign(10_000);
                let node = self.anyone(at);
                self.drift(at, until, node, ppm);
            }
            "disk-full" => {
                let node = self.one("any-broker", at);
                self.disk_full(at, until, node);
            }
            "disk-slow" => {
                let node = self.one("any-broker", at);
                self.disk_slow(at, until, node, DurationRange::millis(5, 200));
            }
            "disk-sync-error" => {
                let node = self.one("any-broker", at);
                let failure = Fault::DiskSyncError { node: node.clone(), count: 1 };
                if self.spares_enough(&node, at, until) {
                    self.store_failure(at, at + (until - at) / 2, until, failure, node);
                }
            }
            "consumer-stall" => {
                let node = self.one("any-consumer", at);
                self.push(at, Fault::ConsumerStall { node, for_ms: until - at });
            }
            "consumer-slow" => {
                let node = self.one("any-consumer", at);
                let handling_ms = self.rng.below(200) + 1;
                self.consumer_slow(at, until, node, handling_ms);
            }
            other => unreachable!("{other} passed the scenario's validation"),
        }
    }

    /// A broker, or at times a name server.
    fn server(&mut self, at: u64) -> Name {
        match self.rng.below(20) {
            drawn @ 0..17 => self.broker(drawn < 8, at),
            _ => self.one("any-name", at),
        }
    }

    /// Any broker, or in a replica set the leader if that is preferred.
    fn broker(&mut self, prefers_leader: bool, at: u64) -> Name {
        if prefers_leader && self.scenario.cluster.replicas > 1 {
            let set = self.rng.below(self.scenario.sets().len() as u64) + 1;
            return self.cast_later(&format!("leader-{set}"));
        }
        self.one("any-broker", at)
    }

    /// A broker half of the time, else a client, sometimes a name server.
    fn anyone(&mut self, at: u64) -> Name {
        let drawn = self.rng.below(20);
        if drawn < 5 {
            return self.broker(true, at);
        }
        let set = match drawn {
            0..10 => "any-broker",
            10..17 => "any-client",
            _ => "any-name",
        };
        match self.scenario.nodes_named(set).is_empty() {
            true => self.one("any-broker", at),
            false => self.one(set, at),
        }
    }

    /// A broker or a name server, and some of the others.
    fn two_sides(&mut self) -> (Vec<Name>, Vec<Name>) {
        let set = if self.rng.chance(0.8) { "brokers" } else { "names" };
        let server = self.pick(self.scenario.nodes_named(set));
        let mut others: Vec<Name> = Vec::new();
        for node in self.scenario.nodes() {
            if *node.id != *server && self.rng.chance(0.4) {
                others.push(node.id.into());
            }
        }
        if others.is_empty() {
            let nodes = self.scenario.nodes().into_iter().map(|node| node.id);
            others.push(self.pick(nodes.filter(|id| **id != *server).collect()));
        }
        (vec![server], others)
    }

    fn either_sign(&mut self, bound: u64) -> i64 {
        let size = self.rng.below(bound) as i64 + 1;
        if self.rng.chance(0.5) { size } else { -size }
    }

    /// Whether enough servers of a node's kind, or of its replica set, stay up
    /// while it is down: a majority, unless there are but one or two.
    fn spares_enough(&self, node: &Name, at: u64, until: u64) -> bool {
        let word = node.split('#').next().unwrap_or(node);
        let is_it = |id: &String| self.scenario.nodes_named(word).contains(id);
        let sets = self.scenario.sets();
        let replicas = sets.into_iter().find(|set| set.brokers.iter().any(is_it));
        let replicas = replicas.filter(|set| set.brokers.len() > 1).map(|set| set.brokers);
        let servers = match replicas {
            Some(replicas) => replicas,
            None => {
                let role = self.scenario.nodes().into_iter().find(|n| n.id == word).map(|n| n.role);
                let Some(role) = role.filter(|role| !matches!(role, Role::Member { .. })) else {
                    return role.is_some();
                };
                let same = self.scenario.nodes().into_iter().filter(|n| n.role == role);
                same.map(|n| n.id).collect()
            }
        };
        let down = self.count_down(&servers, at, until);
        down < (servers.len().saturating_sub(1) / 2).max(1)
    }

    /// How many of these servers are planned to be down at some time within a
    /// span, whoever they will be.
    fn count_down(&self, servers: &[String], at: u64, until: u64) -> usize {
        let mut down: BTreeMap<&Name, usize> = BTreeMap::new();
        for (name, from, to) in &self.outages {
            let word = name.split('#').next().unwrap_or(name);
            let is_one = self.scenario.nodes_named(word).iter().any(|id| servers.contains(id));
            if is_one && *from <= until && at <= *to {
                let count = RoleWord::parse(word).map_or(1, |role| role.count(servers.len()));
                down.insert(name, count);
            }
        }
        down.values().sum()
    }
}
