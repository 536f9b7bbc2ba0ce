//! When a run may end: what clients still wait for. It only decides how long
//! to wait; what is missing then is for the oracles to say.

use std::collections::{BTreeMap, BTreeSet};

use stormglass_core::ids::Name;
use stormglass_scenarios::{From, Model, Scenario, Workload, WorkloadKind, tags_of};

use crate::history::{MemberId, MessageId};

/// With nothing owed, the echo of the last acknowledgement is over after this.
const ECHO: u64 = 1_000_000;
/// With something owed, or who knows: longer than any timer of a client that
/// could still bring it (rebalance 20 s, held pull 15 s, request 3 s).
const SILENCE: u64 = 30_000_000;

pub struct Rest {
    readers: Vec<Reader>,
    open_sends: usize,
    /// By member: handlers that work.
    handlers: BTreeMap<MemberId, usize>,
    last_moved: u64,
}

/// A group, or in broadcasting one of its members.
struct Reader {
    group: String,
    /// In broadcasting.
    node: Option<Name>,
    /// With the tags it wants; none: all.
    topics: BTreeMap<String, Vec<String>>,
    /// Nobody but the broker knows where a group starts that starts at the end.
    from: From,
    owed: BTreeSet<MessageId>,
    acked: BTreeSet<MessageId>,
}

impl Rest {
    pub fn new(scenario: &Scenario) -> Rest {
        let mut readers: Vec<Reader> = Vec::new();
        for workload in &scenario.workloads {
            // Who leaves before the end owes nothing at the end.
            if workload.stop_at.is_none() {
                readers.extend(readers_of(workload));
            }
        }
        readers.sort_by(|a, b| (&a.group, &a.node).cmp(&(&b.group, &b.node)));
        readers.dedup_by(|a, b| (&a.group, &a.node) == (&b.group, &b.node));
        Rest { readers, open_sends: 0, handlers: BTreeMap::new(), last_moved: 0 }
    }

    pub fn sends_begun(&mut self, count: usize) {
        self.open_sends += count;
    }

    pub fn sends_ended(&mut self, count: usize) {
        self.open_sends -= count;
    }

    pub fn stored(&mut self, now: u64, message: MessageId, topic: &str, tag: Option<&str>) {
        self.last_moved = now;
        for reader in &mut self.readers {
            let wants = reader.topics.get(topic).is_some_and(|wanted| {
                wanted.is_empty() || tag.is_some_and(|tag| wanted.iter().any(|w| w == tag))
            });
            if wants && !reader.acked.contains(&message) {
                reader.owed.insert(message);
            }
        }
    }

    pub fn delivered(&mut self, now: u64, member: MemberId) {
        self.last_moved = now;
        *self.handlers.entry(member).or_default() += 1;
    }

    /// The handler has answered, or never will.
    pub fn settled(&mut self, now: u64, member: MemberId) {
        self.last_moved = now;
        if let Some(working) = self.handlers.get_mut(&member) {
            *working = working.saturating_sub(1);
        }
    }

    /// This message is not owed any more.
    pub fn finished(&mut self, group: &str, node: &Name, message: MessageId) {
        for reader in &mut self.readers {
            if reader.group == group && reader.node.as_ref().is_none_or(|own| own == node) {
                reader.owed.remove(&message);
                reader.acked.insert(message);
            }
        }
    }

    /// Its handlers are gone with it.
    pub fn crashed(&mut self, member: MemberId) {
        self.handlers.remove(&member);
    }

    pub fn is_reached(&self, now: u64) -> bool {
        let idle = self.open_sends == 0 && self.handlers.values().all(|working| *working == 0);
        let silence = now.saturating_sub(self.last_moved);
        let is_done = |reader: &Reader| reader.owed.is_empty() && reader.from == From::First;
        idle && silence >= if self.readers.iter().all(is_done) { ECHO } else { SILENCE }
    }
}

fn readers_of(workload: &Workload) -> Vec<Reader> {
    let (group, topics, filter, from, model) = match &workload.kind {
        WorkloadKind::Produce(_) => return Vec::new(),
        WorkloadKind::Consume(c) => (&c.group, c.topics.clone(), &c.filter, c.from, c.model),
        WorkloadKind::Pull(p) => {
            (&p.group, vec![p.topic.clone()], &p.filter, From::First, Model::Clustering)
        }
    };
    let wanted: Vec<String> = tags_of(filter).into_iter().map(str::to_owned).collect();
    let reader = |node: Option<Name>| Reader {
        group: group.clone(),
        node,
        topics: topics.iter().map(|topic| (topic.clone(), wanted.clone())).collect(),
        from,
        owed: BTreeSet::new(),
        acked: BTreeSet::new(),
    };
    match model {
        Model::Clustering => vec![reader(None)],
        Model::Broadcasting => (1..=workload.members)
            .map(|n| reader(Some(format!("{}-{n}", workload.nodes()).into())))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: &str = "
        name = 'many'\nseeds = [1]\nrun_for = '30s'\nsettle = '10s'
        cluster = { topics = [{ name = 't' }] }
        [[workload]]\nkind = 'consume'\ngroup = 'g'\ntopics = ['t']\nfrom = 'first'
        [[workload]]\nkind = 'consume'\ngroup = 'red'\ntopics = ['t']\nfrom = 'first'
        filter = 'red'\nmodel = 'broadcasting'\nmembers = 2
        [[workload]]\nkind = 'consume'\ngroup = 'gone'\ntopics = ['t']\nstop_at = '9s'";

    #[test]
    fn at_rest_is_when_everybody_has_what_they_want() {
        let scenario = stormglass_scenarios::parse("many.toml", MANY).unwrap();
        let mut rest = Rest::new(&scenario);
        let nodes: Vec<Name> = scenario.nodes().into_iter().map(|node| node.id.into()).collect();
        let message = MessageId::at(0);
        rest.sends_begun(1);
        assert!(!rest.is_reached(ECHO), "a send is open");
        rest.stored(ECHO, message, "t", Some("red"));
        rest.sends_ended(1);
        assert!(!rest.is_reached(2 * ECHO), "three members wait for it");
        rest.finished("g", &nodes[2], message);
        rest.finished("red", &nodes[3], message);
        assert!(!rest.is_reached(2 * ECHO), "one still waits");
        rest.finished("red", &nodes[4], message);
        assert!(rest.is_reached(2 * ECHO));
        rest.delivered(2 * ECHO, MemberId::at(0));
        assert!(!rest.is_reached(9 * ECHO), "a handler works");
        rest.crashed(MemberId::at(0));
        assert!(rest.is_reached(9 * ECHO));
    }

    #[test]
    fn what_never_comes_is_not_waited_for_forever() {
        let scenario = stormglass_scenarios::parse("many.toml", MANY).unwrap();
        let mut rest = Rest::new(&scenario);
        rest.stored(0, MessageId::at(0), "t", None);
        assert!(!rest.is_reached(SILENCE - 1));
        assert!(rest.is_reached(SILENCE));
    }
}
