//! Who is registered, set by set: the replicas of one brokerName, the leader
//! as brokerId 0. Of two registrations the one of the older term is void, in
//! whatever order they arrive (N3, N4).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    broker::{BrokerRole, LEADER_ID},
    error::Rejected,
    ids::{ConnId, Term},
    time::Time,
    wire::{
        body::{BrokerData, ClusterInfo, QueueData, TopicConfig, TopicRoute},
        code,
    },
};

/// A replica that has not been heard for so long is forgotten (RocketMQ).
const EXPIRY: Duration = Duration::from_secs(120);
/// For so long the topics of a leader that went away without a word are not
/// ready rather than not there (N2).
const AWAY: Duration = Duration::from_secs(3600);
/// The largest number of sets, and of replicas in one.
const MAX_SETS: usize = 10_000;
const MAX_REPLICAS: usize = 64;

#[derive(Default)]
pub struct Registry {
    sets: BTreeMap<String, Set>,
}

/// What somebody says of itself.
pub struct Registration<'a> {
    pub cluster: &'a str,
    /// The set's brokerName.
    pub name: &'a str,
    pub addr: &'a str,
    pub role: BrokerRole,
    /// How it said so; none if it lives on this node.
    pub conn: Option<ConnId>,
    pub topics: BTreeMap<String, TopicConfig>,
}

/// The replicas of one set.
struct Set {
    cluster: String,
    /// The newest term whose leader was here; none if the broker has no terms.
    term: Option<Term>,
    /// By brokerId.
    replicas: BTreeMap<i64, Replica>,
    /// What replicas had that are gone, and since when: until a leader says what
    /// there is.
    missed: BTreeSet<String>,
    missed_since: Time,
}

struct Replica {
    addr: String,
    term: Option<Term>,
    /// Who registered it: only the end of this very connection, or this very
    /// registration's age, may end it (N3).
    conn: Option<ConnId>,
    heard: Time,
    topics: BTreeMap<String, TopicConfig>,
}

/// What is known of a topic.
pub enum Found {
    Route(TopicRoute),
    /// Brokers that had it are away.
    Away,
    Nowhere,
}

impl Registry {
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Takes a registration, unless a newer one contradicts it.
    pub fn register(&mut self, now: Time, said: Registration) -> Result<(), Rejected> {
        let full = || Rejected::new(code::SYSTEM_BUSY, "too many brokers are registered");
        if self.sets.len() >= MAX_SETS && !self.sets.contains_key(said.name) {
            return Err(full());
        }
        let set = self.sets.entry(said.name.to_owned()).or_insert_with(|| Set {
            cluster: String::new(),
            term: None,
            replicas: BTreeMap::new(),
            missed: BTreeSet::new(),
            missed_since: now,
        });
        let BrokerRole { broker_id, term } = said.role;
        if set.is_stale(said.addr, said.role) {
            let remark = format!("{} has a newer leader, or {} said more", said.name, said.addr);
            return Err(Rejected::new(code::FENCED, remark));
        }
        set.replicas.retain(|id, replica| *id != broker_id && replica.addr != said.addr);
        if set.replicas.len() >= MAX_REPLICAS {
            return Err(full());
        }
        let replica = Replica {
            addr: said.addr.to_owned(),
            term,
            conn: said.conn,
            // What lives on this node needs no heartbeats.
            heard: if said.conn.is_some() { now } else { Time::MAX },
            topics: said.topics,
        };
        set.cluster = said.cluster.to_owned();
        set.replicas.insert(broker_id, replica);
        if broker_id == LEADER_ID {
            set.term = term;
            set.missed.clear();
        }
        Ok(())
    }

    /// A broker says goodbye: nothing of it is missed.
    pub fn unregister(&mut self, name: &str, id: i64, addr: &str) {
        let Some(set) = self.sets.get_mut(name) else { return };
        if set.replicas.get(&id).is_some_and(|replica| replica.addr == addr) {
            set.replicas.remove(&id);
        }
        if set.replicas.is_empty() {
            self.sets.remove(name);
        }
    }

    /// Forgets what this connection registered; without one, the replicas that
    /// live on this node.
    pub fn closed(&mut self, now: Time, conn: Option<ConnId>) {
        self.keep(now, |replica| replica.conn != conn);
    }

    /// Forgets who has been silent for too long.
    pub fn expire(&mut self, now: Time) {
        self.keep(now, |replica| now.since(replica.heard) <= EXPIRY);
        self.sets.retain(|_, set| {
            let missed_for = now.since(set.missed_since);
            if set.replicas.is_empty() && missed_for > EXPIRY {
                // Whoever founds the set anew begins with the first term.
                set.term = None;
            }
            if missed_for > AWAY {
                set.missed.clear();
            }
            !(set.replicas.is_empty() && missed_for > AWAY)
        });
    }

    fn keep(&mut self, now: Time, stays: impl Fn(&Replica) -> bool) {
        for set in self.sets.values_mut() {
            let Set { replicas, missed, missed_since, .. } = set;
            replicas.retain(|_, replica| {
                let stays = stays(replica);
                if !stays {
                    missed.extend(std::mem::take(&mut replica.topics).into_keys());
                    *missed_since = now;
                }
                stays
            });
        }
    }

    /// Where a topic is. The leader's word counts; while there is none, another
    /// replica's, so that readers find their data and nobody believes that the
    /// topic is gone (N2).
    pub fn route(&self, topic: &str) -> Found {
        let mut route = TopicRoute::default();
        let (mut is_away, mut order) = (false, None);
        for (name, set) in &self.sets {
            is_away |= set.missed.contains(topic);
            let Some(config) = set.replicas.values().find_map(|replica| replica.topics.get(topic))
            else {
                continue;
            };
            route.queues.push(QueueData {
                broker_name: name.clone(),
                read_queues: config.read_queues,
                write_queues: config.write_queues,
                perm: config.perm,
                topic_sys_flag: 0,
            });
            route.brokers.push(set.data(name));
            order = order.max(config.order_list.as_ref().filter(|_| config.order));
        }
        route.order_topic_conf = order.map(|list| list.queues.clone());
        match route.brokers.is_empty() {
            false => Found::Route(route),
            true if is_away => Found::Away,
            true => Found::Nowhere,
        }
    }

    pub fn cluster_info(&self) -> ClusterInfo {
        let mut info = ClusterInfo::default();
        for (name, set) in self.sets.iter().filter(|(_, set)| !set.replicas.is_empty()) {
            info.brokers.insert(name.clone(), set.data(name));
            info.clusters.entry(set.cluster.clone()).or_default().push(name.clone());
        }
        info
    }

    /// The names of all topics.
    pub fn topics(&self) -> BTreeSet<String> {
        let replicas = self.sets.values().flat_map(|set| set.replicas.values());
        replicas.flat_map(|replica| replica.topics.keys().cloned()).collect()
    }
}

impl Set {
    /// Whether something newer is known of the set's leader, of this address or
    /// of who else had this id.
    fn is_stale(&self, addr: &str, said: BrokerRole) -> bool {
        let is_other = |(id, replica): (&i64, &Replica)| {
            (*id == said.broker_id || replica.addr == addr) && said.term < replica.term
        };
        let leads = said.broker_id == LEADER_ID;
        leads && said.term < self.term || self.replicas.iter().any(is_other)
    }

    fn data(&self, name: &str) -> BrokerData {
        let addrs = self.replicas.iter().map(|(id, replica)| (*id, replica.addr.clone()));
        BrokerData {
            cluster: self.cluster.clone(),
            broker_name: name.to_owned(),
            addrs: addrs.collect(),
        }
    }
}
