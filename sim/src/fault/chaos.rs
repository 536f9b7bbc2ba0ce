//! Random faults: what strikes whom for how long is drawn from the seed, within
//! a budget that keeps the run recoverable.

use stormglass_core::ids::Name;
use stormglass_scenarios::{Chaos, DurationRange, Role};

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

    /// A broker half of the time, else a client, sometimes a name server.
    fn anyone(&mut self, at: u64) -> Name {
        let set = match self.rng.below(20) {
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

    /// Whether enough servers of a node's kind stay up while it is down: a
    /// majority, unless there are but one or two.
    fn spares_enough(&self, node: &Name, at: u64, until: u64) -> bool {
        let nodes = self.scenario.nodes();
        let Some(role) = nodes.iter().find(|n| *n.id == **node).map(|n| n.role) else {
            return false;
        };
        if matches!(role, Role::Member { .. }) {
            return true;
        }
        let peers: Vec<Name> =
            nodes.into_iter().filter(|n| n.role == role).map(|n| n.id.into()).collect();
        let down = peers.iter().filter(|peer| self.is_down(peer, at, until)).count();
        down < (peers.len().saturating_sub(1) / 2).max(1)
    }
}
