//! Whatever the scenario and the seed: a plan breaks nothing for good.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const KINDS: [&str; 20] = [
    "kind = 'kill'\nnode = 'broker'\nrestart_after = '1ms..9s'",
    "kind = 'kill'\nnode = 'any-consumer'",
    "kind = 'stop'\nnode = 'any-name'\nrestart_after = '1s'",
    "kind = 'stop'\nnode = 'leader'\nrestart_after = '1s'",
    "kind = 'power-loss'\nnode = 'brokers'\nrestart_after = '1s'",
    "kind = 'kill'\nnode = 'set-1'",
    "kind = 'disk-loss'\nnode = 'any-follower'",
    "kind = 'partition'\na = ['leader', 'clients']\nb = ['majority']\nfor = '3s'",
    "kind = 'power-loss'\nnode = 'any-client'\nrestart_after = '2s'",
    "kind = 'pause'\nnode = 'any-name'\nfor = '1s..30s'",
    "kind = 'partition'\na = ['brokers']\nb = ['consumers', 'any-producer']\nfor = '3s'",
    "kind = 'partition'\na = ['names']\nb = ['broker-1']\none_way = true",
    "kind = 'latency'\na = ['brokers']\nb = ['clients']\nextra = '1ms..80ms'",
    "kind = 'clock-drift'\nnode = 'broker'\nppm = -400",
    "kind = 'disk-full'\nnode = 'broker'\nfor = '500ms..4s'",
    "kind = 'disk-slow'\nnode = 'broker'\nextra = '0ms..50ms'\nfor = '2s'",
    "kind = 'disk-sync-error'\nnode = 'broker'",
    "kind = 'disk-write-error'\nnode = 'broker'\nreboot_after = '0ms..5s'",
    "kind = 'consumer-stall'\nnode = 'any-consumer'\nfor = '1s..60s'",
    "kind = 'consumer-slow'\nnode = 'consumer-billing-2'\nwork = '10ms..1s'",
];

prop_compose! {
    fn scenario()(
        faults in prop::collection::vec(
            (0..KINDS.len(), 0u64..29_999, prop::option::of((1u64..8_000, 1u32..9))), 0..6),
        chaos in prop::option::of((1u64..3_000, 1u64..9_000, 1u32..40)),
        names in 1u32..4,
    ) -> Scenario {
        let mut text = format!("
            name = 'any'\nseeds = [1]\nrun_for = '30s'\nsettle = '10s'
            cluster = {{ brokers = 3, replicas = 3, name_servers = {names}, topics = [{{ name = 't' }}] }}
            clock = [{{ node = 'broker-1', drift_ppm = 50 }}]
            [[workload]]\nkind = 'produce'\ntopic = 't'\nmembers = 2
            [[workload]]\nkind = 'consume'\ngroup = 'billing'\ntopics = ['t']\nmembers = 3
            stagger = '4s'\n");
        for (kind, at, again) in faults {
            text += &format!("[[fault]]\nat = '{at}ms'\n{}\n", KINDS[kind]);
            if let Some((every, times)) = again {
                text += &format!("every = '{every}ms'\ntimes = {times}\n");
            }
        }
        if let Some((every, lasts, budget)) = chaos {
            text += &format!("[chaos]\nkinds = {:?}\nevery = '{every}ms'\nfor = '0ms..{lasts}ms'\nbudget = {budget}\n",
                stormglass_scenarios::RECOVERABLE);
        }
        stormglass_scenarios::parse("any.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }
}

/// What is broken at a moment; everything must be whole at the end.
#[derive(Default)]
struct Damage {
    stopped: BTreeMap<Name, &'static str>,
    cuts: Vec<(Vec<Name>, Vec<Name>, bool)>,
    levels: BTreeMap<String, bool>,
    doubtful: BTreeMap<Name, u64>,
}

impl Damage {
    fn strike(&mut self, TimedFault { at_ms, fault }: &TimedFault) {
        match fault.clone() {
            Fault::Kill { node } | Fault::Pause { node } | Fault::Stop { node } => {
                self.stop(node, fault.kind());
            }
            Fault::PowerLoss { node, .. }
            | Fault::TailLoss { node, .. }
            | Fault::DiskLoss { node } => {
                self.doubtful.remove(&node);
                self.stop(node, "power-loss");
            }
            Fault::Restart { node } => {
                let how = self.stopped.remove(&node);
                assert!(matches!(how, Some("kill" | "power-loss" | "stop")), "{node} was {how:?}");
            }
            Fault::Resume { node } => assert_eq!(self.stopped.remove(&node), Some("pause")),
            Fault::Partition { a, b, one_way } => {
                assert!(!a.is_empty() && !b.is_empty() && a.iter().all(|n| !b.contains(n)));
                self.cuts.push((a, b, one_way));
            }
            Fault::Heal { a, b, one_way } => {
                let cut = self.cuts.iter().position(|cut| *cut == (a.clone(), b.clone(), one_way));
                self.cuts.remove(cut.expect("only what was cut can heal"));
            }
            Fault::Latency { a, b, extra_ms } => self.level(format!("{a:?} {b:?}"), extra_ms > 0),
            Fault::ClockDrift { node, ppm } => {
                let usual = if &*node == "broker-1" { 50 } else { 0 };
                self.level(format!("drift {node}"), ppm != usual);
            }
            Fault::DiskFull { node } => self.level(format!("full {node}"), true),
            Fault::DiskFree { node } => self.level(format!("full {node}"), false),
            Fault::DiskSlow { node, max_ms, .. } => self.level(format!("slow {node}"), max_ms > 0),
            Fault::ConsumerSlow { node, handling_ms } => {
                self.level(format!("pace {node}"), handling_ms > 0);
            }
            Fault::ConsumerStall { for_ms, .. } => assert!(at_ms + for_ms <= 30_000),
            Fault::DiskSyncError { node, .. } | Fault::DiskWriteError { node, .. } => {
                self.doubtful.insert(node, *at_ms);
            }
            Fault::DropConnections { .. }
            | Fault::SilenceConnections { .. }
            | Fault::ClockJump { .. }
            | Fault::DiskReadError { .. }
            | Fault::BitRot { .. }
            | Fault::LatentError { .. }
            | Fault::MisdirectedRead { .. }
            | Fault::MisdirectedWrite { .. } => {}
        }
    }

    fn stop(&mut self, node: Name, how: &'static str) {
        assert_eq!(self.stopped.insert(node.clone(), how), None, "{node} is already down");
    }

    fn level(&mut self, what: String, wrong: bool) {
        self.levels.insert(what, wrong);
    }
}

proptest! {
    #[test]
    fn a_plan_breaks_nothing_for_good(scenario in scenario(), seed: u64) {
        let drawn = plan(&scenario, seed);
        prop_assert!(drawn.faults.is_sorted_by_key(|fault| fault.at_ms));
        let mut damage = Damage::default();
        for fault in &drawn.faults {
            prop_assert!(fault.at_ms <= 30_000);
            damage.strike(fault);
        }
        prop_assert_eq!(damage.stopped, BTreeMap::new());
        prop_assert_eq!(damage.cuts, vec![]);
        prop_assert_eq!(damage.doubtful, BTreeMap::new(), "stores that nobody restarted");
        prop_assert!(damage.levels.values().all(|wrong| !wrong), "{:?}", damage.levels);
    }

    #[test]
    fn a_plan_is_data_that_the_seed_decides(scenario in scenario(), seed: u64) {
        let drawn = plan(&scenario, seed);
        prop_assert_eq!(&plan(&scenario, seed), &drawn);
        let json = serde_json::to_string(&drawn).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), drawn);
    }
}

#[test]
fn editing_one_fault_leaves_the_others_where_they_were() {
    let text = |first: &str| {
        format!(
            "
        name = 'two'\nseeds = [1]\nrun_for = '30s'\nsettle = '10s'
        cluster = {{ topics = [{{ name = 't' }}] }}
        [[fault]]\nat = '{first}'\nkind = 'clock-jump'\nnode = 'broker'\nby = '1s'
        [[fault]]\nat = '1s..29s'\nkind = 'clock-jump'\nnode = 'broker'\nby = '2s'"
        )
    };
    let second = |first: &str| {
        let scenario = stormglass_scenarios::parse("two.toml", &text(first)).unwrap();
        let is_second =
            |fault: &&TimedFault| matches!(fault.fault, Fault::ClockJump { by_ms: 2000, .. });
        plan(&scenario, 7).faults.iter().find(is_second).map(|fault| fault.at_ms)
    };
    assert_eq!(second("1s..29s"), second("3s"));
}
