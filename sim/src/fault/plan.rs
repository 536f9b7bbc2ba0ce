//! From scenario and seed to the list of faults that strike in a run.
//!
//! Each fault of the file draws from a generator of its own, so that editing
//! one does not move the others. What lasts is undone at `run_for` at the
//! latest: afterwards everything must work again.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use stormglass_core::{ids::Name, rng::Rng};
use stormglass_scenarios::{DurationRange, FaultKind, FaultSpec, Scenario, StoreFailure};

use super::{Fault, TimedFault, Unsynced, planned};

/// The faults of one run, in the order in which they strike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Plan {
    pub faults: Vec<TimedFault>,
}

/// The faults that this seed draws from this scenario; always the same ones.
pub fn plan(scenario: &Scenario, seed: u64) -> Plan {
    let mut planner = Planner {
        scenario,
        end: millis(scenario.run_for),
        rng: Rng::new(seed),
        spec: 0,
        words: 0,
        outages: Vec::new(),
        faults: Vec::new(),
    };
    for (index, spec) in scenario.faults.iter().enumerate() {
        (planner.spec, planner.words) = (index + 1, 0);
        planner.rng = Rng::new(Rng::new(seed).next() ^ (index as u64 + 1));
        planner.add_spec(spec);
    }
    if let Some(chaos) = &scenario.chaos {
        (planner.spec, planner.words) = (0, 0);
        planner.rng = Rng::new(Rng::new(seed).next());
        planner.add_chaos(chaos);
    }
    let mut faults = planner.faults;
    faults.sort_by_key(|fault| fault.at_ms);
    Plan { faults }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|TimedFault { at_ms, fault }| {
            writeln!(f, "{:>6}.{:03}s  {fault}", at_ms / 1000, at_ms % 1000)
        })
    }
}

pub(super) struct Planner<'a> {
    pub(super) scenario: &'a Scenario,
    /// When the chaos ends, in milliseconds.
    pub(super) end: u64,
    pub(super) rng: Rng,
    /// The fault of the file that is planned, from 1, and how many words of its
    /// are to be cast when it strikes.
    spec: usize,
    words: u32,
    pub(super) outages: Vec<Outage>,
    faults: Vec<TimedFault>,
}

/// A node that does not run from one moment to another.
pub(super) type Outage = (Name, u64, u64);

/// How long a machine is off that somebody turns off and on again, in milliseconds.
const POWER_CYCLE: u64 = 200;

impl Planner<'_> {
    fn add_spec(&mut self, spec: &FaultSpec) {
        let times = spec.times.unwrap_or(if spec.every.is_some() { u32::MAX } else { 1 });
        let mut at = self.draw(spec.at);
        for _ in 0..times {
            if at >= self.end {
                break;
            }
            self.add(at, &spec.kind);
            at += spec.every.map_or(0, |every| self.draw(every).max(1));
        }
    }

    fn add(&mut self, at: u64, kind: &FaultKind) {
        match kind {
            FaultKind::Kill(stop) => {
                let nodes = self.nodes(&stop.node, at);
                let until = self.after(at, stop.restart_after);
                nodes.into_iter().for_each(|node| self.kill(at, until, node));
            }
            FaultKind::PowerLoss(stop) => {
                let nodes = self.nodes(&stop.node, at);
                let until = self.after(at, stop.restart_after);
                nodes.into_iter().for_each(|node| self.power_loss(at, until, node));
            }
            FaultKind::Stop(stop) => {
                let nodes = self.nodes(&stop.node, at);
                let until = self.after(at, stop.restart_after);
                nodes.into_iter().for_each(|node| self.stop(at, until, node));
            }
            FaultKind::TailLoss(loss) => {
                let nodes = self.nodes(&loss.node, at);
                let until = self.after(at, loss.restart_after);
                let last_ms = millis(loss.last);
                for node in nodes {
                    let struck = node.clone();
                    self.down(at, until, node, Fault::TailLoss { node: struck, last_ms });
                }
            }
            FaultKind::DiskLoss(stop) => {
                let nodes = self.nodes(&stop.node, at);
                let until = self.after(at, stop.restart_after);
                for node in nodes {
                    self.down(at, until, node.clone(), Fault::DiskLoss { node });
                }
            }
            FaultKind::Restart(restart) => {
                for node in self.stopped(&restart.node, at) {
                    for (_, _, until) in self.outages.iter_mut().filter(|(down, ..)| *down == node)
                    {
                        *until = at.min(*until);
                    }
                    self.push(at, Fault::Restart { node });
                }
            }
            FaultKind::Pause(pause) => {
                let nodes = self.nodes(&pause.node, at);
                let until = self.after(at, pause.lasts);
                nodes.into_iter().for_each(|node| self.pause(at, until, node));
            }
            FaultKind::Partition(cut) => {
                let (a, b) = self.sides(&cut.a, &cut.b, at);
                let until = self.after(at, cut.lasts);
                self.partition(at, until, a, b, cut.one_way);
            }
            FaultKind::Latency(slow) => {
                let (a, b) = self.sides(&slow.a, &slow.b, at);
                let until = self.after(at, slow.lasts);
                let extra_ms = self.draw(slow.extra);
                self.latency(at, until, a, b, extra_ms);
            }
            FaultKind::DropConnections(between) => {
                let (a, b) = self.sides(&between.a, &between.b, at);
                self.push(at, Fault::DropConnections { a, b });
            }
            FaultKind::SilenceConnections(between) => {
                let (a, b) = self.sides(&between.a, &between.b, at);
                self.push(at, Fault::SilenceConnections { a, b });
            }
            FaultKind::ClockJump(jump) => {
                let by_ms = jump.by_ms;
                self.strike(at, &jump.node, |node| Fault::ClockJump { node, by_ms });
            }
            FaultKind::ClockDrift(drift) => {
                let nodes = self.nodes(&drift.node, at);
                let until = self.after(at, drift.lasts);
                nodes.into_iter().for_each(|node| self.drift(at, until, node, drift.ppm));
            }
            FaultKind::DiskFull(full) => {
                let nodes = self.nodes(&full.node, at);
                let until = self.after(at, full.lasts);
                nodes.into_iter().for_each(|node| self.disk_full(at, until, node));
            }
            FaultKind::DiskSlow(slow) => {
                let nodes = self.nodes(&slow.node, at);
                let until = self.after(at, slow.lasts);
                nodes.into_iter().for_each(|node| self.disk_slow(at, until, node, slow.extra));
            }
            FaultKind::DiskReadError(error) => {
                let count = error.count;
                self.strike(at, &error.node, |node| Fault::DiskReadError { node, count });
            }
            FaultKind::DiskWriteError(error) => {
                let count = error.count;
                self.fail_store(at, error, |node| Fault::DiskWriteError { node, count });
            }
            FaultKind::DiskSyncError(error) => {
                let count = error.count;
                self.fail_store(at, error, |node| Fault::DiskSyncError { node, count });
            }
            FaultKind::BitRot(rot) => {
                let (flips, older_than_ms) = (rot.flips, millis(rot.older_than));
                self.strike(at, &rot.node, |node| Fault::BitRot { node, flips, older_than_ms });
            }
            FaultKind::MisdirectedRead(error) => {
                let count = error.count;
                self.strike(at, &error.node, |node| Fault::MisdirectedRead { node, count });
            }
            FaultKind::LatentError(error) => {
                let (pages, older_than_ms) = (error.pages, millis(error.older_than));
                self.strike(at, &error.node, |node| Fault::LatentError {
                    node,
                    pages,
                    older_than_ms,
                });
            }
            FaultKind::MisdirectedWrite(error) => {
                let count = error.count;
                self.strike(at, &error.node, |node| Fault::MisdirectedWrite { node, count });
            }
            FaultKind::ConsumerStall(stall) => {
                let nodes = self.nodes(&stall.node, at);
                let for_ms = self.after(at, stall.lasts) - at;
                for node in nodes {
                    self.push(at, Fault::ConsumerStall { node, for_ms });
                }
            }
            FaultKind::ConsumerSlow(slow) => {
                let nodes = self.nodes(&slow.node, at);
                let until = self.after(at, slow.lasts);
                let handling_ms = self.draw(slow.work).max(1);
                nodes.into_iter().for_each(|node| self.consumer_slow(at, until, node, handling_ms));
            }
        }
    }

    /// A fault that is over at once.
    fn strike(&mut self, at: u64, word: &str, fault: impl Fn(Name) -> Fault) {
        for node in self.nodes(word, at) {
            self.push(at, fault(node));
        }
    }

    fn fail_store(&mut self, at: u64, error: &StoreFailure, failure: impl Fn(Name) -> Fault) {
        let nodes = self.nodes(&error.node, at);
        let off = (at + self.draw(error.reboot_after).max(1)).min(self.end - 1);
        for node in nodes {
            self.store_failure(at, off, off + POWER_CYCLE, failure(node.clone()), node);
        }
    }

    pub(super) fn kill(&mut self, at: u64, until: u64, node: Name) {
        self.down(at, until, node.clone(), Fault::Kill { node });
    }

    pub(super) fn stop(&mut self, at: u64, until: u64, node: Name) {
        self.down(at, until, node.clone(), Fault::Stop { node });
    }

    /// A fault after which the node is down until it starts again.
    fn down(&mut self, at: u64, until: u64, node: Name, fault: Fault) {
        if self.take_down(at, until, &node) {
            self.push(at, fault);
            self.push(until, Fault::Restart { node });
        }
    }

    pub(super) fn power_loss(&mut self, at: u64, until: u64, node: Name) {
        let unsynced = self.unsynced();
        self.down(at, until, node.clone(), Fault::PowerLoss { node, unsynced });
    }

    pub(super) fn pause(&mut self, at: u64, until: u64, node: Name) {
        if self.take_down(at, until, &node) {
            self.push(at, Fault::Pause { node: node.clone() });
            self.push(until, Fault::Resume { node });
        }
    }

    /// A node that is down cannot be stopped again.
    fn take_down(&mut self, at: u64, until: u64, node: &Name) -> bool {
        let free = at < until && !self.is_down(node, at, until);
        if free {
            self.outages.push((node.clone(), at, until));
        }
        free
    }

    /// A failed write or sync, and the power cycle that follows: only then does
    /// it show what the page cache had lied about (L2).
    pub(super) fn store_failure(&mut self, at: u64, off: u64, on: u64, failure: Fault, node: Name) {
        let mut outage = (off, on.min(self.end));
        while let Some((_, _, until)) = self.overlap(&node, outage.0, outage.1) {
            outage = (until + 1, until + 1 + (on - off));
        }
        if !self.is_down(&node, at, at) && outage.1 <= self.end {
            self.push(at, failure);
            self.power_loss(outage.0, outage.1, node);
        }
    }

    pub(super) fn partition(
        &mut self,
        at: u64,
        until: u64,
        a: Vec<Name>,
        b: Vec<Name>,
        one_way: bool,
    ) {
        self.push(at, Fault::Partition { a: a.clone(), b: b.clone(), one_way });
        self.push(until, Fault::Heal { a, b, one_way });
    }

    pub(super) fn latency(
        &mut self,
        at: u64,
        until: u64,
        a: Vec<Name>,
        b: Vec<Name>,
        extra_ms: u64,
    ) {
        self.push(at, Fault::Latency { a: a.clone(), b: b.clone(), extra_ms });
        self.push(until, Fault::Latency { a, b, extra_ms: 0 });
    }

    pub(super) fn drift(&mut self, at: u64, until: u64, node: Name, ppm: i64) {
        let own = self.scenario.clock.iter().find(|clock| *clock.node == *node);
        let usual = own.map_or(0, |clock| clock.drift_ppm);
        self.push(at, Fault::ClockDrift { node: node.clone(), ppm });
        self.push(until, Fault::ClockDrift { node, ppm: usual });
    }

    pub(super) fn disk_full(&mut self, at: u64, until: u64, node: Name) {
        self.push(at, Fault::DiskFull { node: node.clone() });
        self.push(until, Fault::DiskFree { node });
    }

    pub(super) fn disk_slow(&mut self, at: u64, until: u64, node: Name, extra: DurationRange) {
        let (min_ms, max_ms) = (millis(extra.min), millis(extra.max).max(1));
        self.push(at, Fault::DiskSlow { node: node.clone(), min_ms, max_ms });
        self.push(until, Fault::DiskSlow { node, min_ms: 0, max_ms: 0 });
    }

    pub(super) fn consumer_slow(&mut self, at: u64, until: u64, node: Name, handling_ms: u64) {
        self.push(at, Fault::ConsumerSlow { node: node.clone(), handling_ms });
        self.push(until, Fault::ConsumerSlow { node, handling_ms: 0 });
    }

    /// The nodes that a word means at this moment; a word that is cast when the
    /// fault strikes stays one.
    fn nodes(&mut self, word: &str, at: u64) -> Vec<Name> {
        if self.scenario.role_word(word).is_some() {
            return vec![self.cast_later(word)];
        }
        let named = self.scenario.nodes_named(word);
        if named.len() == 1 || word.starts_with("any-") || word == "broker" {
            return vec![self.one(word, at)];
        }
        named.into_iter().map(Name::from).collect()
    }

    pub(super) fn cast_later(&mut self, word: &str) -> Name {
        self.words += 1;
        planned(word, self.spec, self.words)
    }

    /// The one node that a word means at this moment.
    pub(super) fn one(&mut self, word: &str, at: u64) -> Name {
        let named = self.scenario.nodes_named(word);
        let nodes = self.scenario.nodes();
        let started =
            |id: &String| nodes.iter().any(|node| node.id == *id && millis(node.start_at) <= at);
        let running: Vec<String> = named.iter().filter(|id| started(id)).cloned().collect();
        self.pick(if running.is_empty() { named } else { running })
    }

    /// The nodes, or the words for them, that an earlier fault stopped under this word.
    fn stopped(&mut self, word: &str, at: u64) -> Vec<Name> {
        if self.scenario.role_word(word).is_none() {
            return self.nodes(word, at);
        }
        let is_it = |down: &Name| down.split_once('#').is_some_and(|(base, _)| base == word);
        let last = self.outages.iter().rev().find(|(down, from, _)| is_it(down) && *from <= at);
        last.map(|(down, ..)| down.clone()).into_iter().collect()
    }

    fn sides(&mut self, a: &[String], b: &[String], at: u64) -> (Vec<Name>, Vec<Name>) {
        let casts = a.iter().chain(b).any(|word| self.scenario.role_word(word).is_some());
        (self.side(a, at, casts), self.side(b, at, casts))
    }

    fn side(&mut self, words: &[String], at: u64, casts: bool) -> Vec<Name> {
        let mut side: Vec<Name> = Vec::new();
        for word in words {
            if casts && word == "brokers" {
                for set in self.scenario.sets() {
                    side.push(self.cast_later(&set.name));
                }
            } else if self.scenario.role_word(word).is_some() {
                side.push(self.cast_later(word));
            } else if word.starts_with("any-") {
                side.push(self.one(word, at));
            } else {
                side.extend(self.scenario.nodes_named(word).into_iter().map(Name::from));
            }
        }
        side.sort();
        side.dedup();
        side
    }

    pub(super) fn pick(&mut self, ids: Vec<String>) -> Name {
        let index = self.rng.below(ids.len() as u64) as usize;
        ids[index].as_str().into()
    }

    pub(super) fn is_down(&self, node: &Name, at: u64, until: u64) -> bool {
        self.overlap(node, at, until).is_some()
    }

    /// An outage of the node that touches this span of time.
    fn overlap(&self, node: &Name, at: u64, until: u64) -> Option<Outage> {
        let touches = |(other, from, to): &&Outage| other == node && *from <= until && at <= *to;
        self.outages.iter().find(touches).cloned()
    }

    fn unsynced(&mut self) -> Unsynced {
        let disk = &self.scenario.disk;
        match (disk.lose_unsynced, disk.torn) {
            (false, _) => Unsynced::Kept,
            (true, false) => Unsynced::Lost,
            (true, true) => match self.rng.below(5) {
                0 => Unsynced::Lost,
                1 => Unsynced::Torn,
                _ => Unsynced::Random,
            },
        }
    }

    /// When something that starts now and lasts this long is over.
    pub(super) fn after(&mut self, at: u64, lasts: Option<DurationRange>) -> u64 {
        match lasts {
            Some(lasts) => (at + self.draw(lasts).max(1)).min(self.end),
            None => self.end,
        }
    }

    pub(super) fn draw(&mut self, range: DurationRange) -> u64 {
        let (min, max) = (millis(range.min), millis(range.max));
        min + self.rng.below(max - min + 1)
    }

    pub(super) fn push(&mut self, at_ms: u64, fault: Fault) {
        self.faults.push(TimedFault { at_ms, fault });
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
