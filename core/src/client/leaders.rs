//! Who leads a replica set, where we know more than the name servers do: a
//! replica that does not lead says who does, and one that is silent is passed
//! over for the next. While nobody leads, one small request after the other
//! finds out when somebody does, rather than everything that waits for it (P1).
//! So a fail-over takes little longer than the election, whatever the name
//! servers have noticed of it (N1).

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    context::{Context, Purpose, Reply, Timer},
    routes::{Route, Routes},
};
use crate::{
    ids::Name,
    wire::{
        Frame, code,
        header::{NotLeader, QueueHeader},
        request,
    },
};

/// Between two questions whether somebody leads by now.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// And after so many of them.
const ELECTION: u32 = 50;
const ASK_RARELY: Duration = Duration::from_secs(1);
/// A replica that takes longer is passed over.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Leaders {
    beliefs: BTreeMap<Name, Belief>,
    /// Who led each set and did not answer, and the newest term known then: others
    /// name it until their own patience is over.
    silent: BTreeMap<Name, (SocketAddr, u64)>,
    /// Sets that have no leader as far as we know, and how often we asked.
    searches: BTreeMap<Name, u32>,
}

/// A leader that name servers do not name.
#[derive(Clone, Copy)]
struct Belief {
    addr: SocketAddr,
    /// Whom they name: once that is another one, they know better.
    instead_of: Option<SocketAddr>,
    /// The newest term in which a replica told us of a leader.
    term: u64,
}

impl Leaders {
    /// Puts what we believe into a route that name servers gave us.
    pub fn correct(&mut self, route: &mut Route) {
        for (name, master) in &mut route.masters {
            let Some(belief) = self.beliefs.get(name) else { continue };
            let replicas = &route.replicas[name];
            let is_still_there = replicas.values().any(|replica| *replica == belief.addr);
            if belief.instead_of == replicas.get(&0).copied() && is_still_there {
                *master = belief.addr;
            } else {
                self.beliefs.remove(name);
            }
        }
    }
}

/// What an answer says about who leads, if it is a refusal for that reason, or
/// sends a reader away.
pub fn not_leader(frame: &Frame) -> Option<NotLeader> {
    let refuses =
        matches!(frame.code, code::SYSTEM_BUSY | code::NOT_LEADER | code::PULL_RETRY_IMMEDIATELY);
    NotLeader::parse(&frame.fields).ok().filter(|_| refuses)
}

impl Routes {
    /// The set that this address leads, as far as we know, and its replicas.
    fn led_by(&self, addr: SocketAddr) -> Option<(Name, BTreeMap<i64, SocketAddr>)> {
        let mut sets = self.routes().flat_map(|route| route.masters.iter().zip(&route.replicas));
        let ((name, _), (_, replicas)) = sets.find(|((_, master), _)| **master == addr)?;
        Some((name.clone(), replicas.clone()))
    }

    /// Who leads this set, as far as we know, and a topic that it has.
    fn place_of(&self, set: &Name) -> Option<(SocketAddr, Name)> {
        let topic = self.topics_of(set).next()?;
        let addr = self.get(topic)?.master(set)?;
        Some((addr, topic.clone()))
    }

    fn topics_of(&self, set: &Name) -> impl Iterator<Item = &Name> {
        let has_it =
            |name: &&Name| self.get(name).is_some_and(|route| route.masters.contains_key(set));
        self.topics.keys().filter(has_it)
    }

    fn set_leader(&mut self, set: &Name, addr: SocketAddr) -> Vec<Name> {
        let mut changed = Vec::new();
        for (name, topic) in &mut self.topics {
            for route in [&mut topic.route, &mut topic.expected].into_iter().flatten() {
                if route.masters.contains_key(set) {
                    Arc::make_mut(route).masters.insert(set.clone(), addr);
                    changed.push(name.clone());
                }
            }
        }
        changed
    }
}

impl Context {
    /// The replica at this address does not lead, or does not answer. Returns
    /// the topics that have a new leader now, if it said so: otherwise the next
    /// replica is a guess.
    pub fn on_not_leader(&mut self, addr: SocketAddr, told: Option<NotLeader>) -> Vec<Name> {
        let Some((set, replicas)) = self.routes.led_by(addr) else { return Vec::new() };
        if replicas.len() < 2 {
            return Vec::new();
        }
        let named = replicas.get(&0).copied();
        let newest = self.routes.leaders.beliefs.get(&set).map_or(0, |belief| belief.term);
        if told.is_none() {
            self.routes.leaders.silent.insert(set.clone(), (addr, newest));
        }
        let silent = self.routes.leaders.silent.get(&set).copied();
        let is_silent = |leader, term| silent.is_some_and(|(who, t)| who == leader && term <= t);
        let told = told.and_then(|told| {
            // Name servers call it 0 if they know that it leads.
            let leader = replicas.get(&(told.leader? as i64)).copied().or(named)?;
            (told.term >= newest && !is_silent(leader, told.term)).then_some((leader, told.term))
        });
        let (next, term) = match told {
            Some((leader, term)) => (Some(leader), term),
            None => (after(&replicas, addr), newest),
        };
        self.search(&set);
        let Some(next) = next.filter(|next| *next != addr) else { return Vec::new() };
        let belief = Belief { addr: next, instead_of: named, term };
        self.routes.leaders.beliefs.insert(set.clone(), belief);
        let changed = self.routes.set_leader(&set, next);
        // Two replicas that name each other are not to keep us busy.
        if term > newest { changed } else { Vec::new() }
    }

    fn search(&mut self, set: &Name) {
        if !self.routes.leaders.searches.contains_key(set) {
            self.routes.leaders.searches.insert(set.clone(), 0);
            self.timers.set(self.now.mono + ASK_EVERY, Timer::Search(set.clone()));
        }
    }

    /// Asks whom we believe to lead the set something that only a leader answers.
    pub fn on_search_timer(&mut self, set: Name) {
        let found = self.routes.place_of(&set);
        let Some(asked) = self.routes.leaders.searches.get_mut(&set) else { return };
        *asked += 1;
        let Some((addr, topic)) = found else {
            self.routes.leaders.searches.remove(&set);
            return;
        };
        let (code, fields) = (request::GET_MAX_OFFSET, QueueHeader { topic: &topic, queue: 0 });
        let purpose = Purpose::Search { set };
        self.call(addr, code, fields.fields(), Bytes::new(), ANSWER_WITHIN, purpose);
    }

    /// Returns the topics that have a leader again.
    pub fn on_searched(&mut self, set: Name, reply: Reply) -> Vec<Name> {
        let Some(asked) = self.routes.leaders.searches.get(&set).copied() else {
            return Vec::new();
        };
        if reply.is_ok_and(|frame| not_leader(&frame).is_none()) {
            self.routes.leaders.searches.remove(&set);
            return self.routes.topics_of(&set).cloned().collect();
        }
        let pause = if asked < ELECTION { ASK_EVERY } else { ASK_RARELY };
        let at = self.now.mono + self.backoff(pause, 0, pause);
        self.timers.set(at, Timer::Search(set));
        Vec::new()
    }
}

fn after(replicas: &BTreeMap<i64, SocketAddr>, addr: SocketAddr) -> Option<SocketAddr> {
    let at = replicas.values().position(|replica| *replica == addr)?;
    replicas.values().cycle().nth(at + 1).copied()
}
