//! Who leads a replica set, where we know more than the name servers do: a
//! replica that does not lead says who does, and one that is silent is passed
//! over for the next. So a fail-over takes no longer than the election, whatever
//! the name servers have noticed of it (N1).

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::{
    context::Context,
    routes::{Route, Routes},
};
use crate::{
    ids::Name,
    wire::{Frame, code, header::NotLeader},
};

#[derive(Default)]
pub struct Leaders(BTreeMap<Name, Belief>);

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
            let Some(belief) = self.0.get(name) else { continue };
            let replicas = &route.replicas[name];
            let is_still_there = replicas.values().any(|replica| *replica == belief.addr);
            if belief.instead_of == replicas.get(&0).copied() && is_still_there {
                *master = belief.addr;
            } else {
                self.0.remove(name);
            }
        }
    }
}

/// What an answer says about who leads, if it is a refusal for that reason.
pub fn not_leader(frame: &Frame) -> Option<NotLeader> {
    NotLeader::parse(&frame.fields).ok().filter(|_| frame.code == code::SYSTEM_BUSY)
}

impl Routes {
    /// The set that this address leads, as far as we know, and its replicas.
    fn led_by(&self, addr: SocketAddr) -> Option<(Name, BTreeMap<i64, SocketAddr>)> {
        let mut sets = self.routes().flat_map(|route| route.masters.iter().zip(&route.replicas));
        let ((name, _), (_, replicas)) = sets.find(|((_, master), _)| **master == addr)?;
        Some((name.clone(), replicas.clone()))
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
        let named = replicas.get(&0).copied();
        let newest = self.routes.leaders.0.get(&set).map_or(0, |belief| belief.term);
        let told = told.and_then(|told| Some((told.leader? as i64, told.term)));
        let (next, term) = match told.filter(|(_, term)| *term >= newest) {
            // Name servers call it 0 if they know that it leads.
            Some((id, term)) => (replicas.get(&id).copied().or(named), term),
            None => (after(&replicas, addr), newest),
        };
        let Some(next) = next.filter(|next| *next != addr) else { return Vec::new() };
        let belief = Belief { addr: next, instead_of: named, term };
        self.routes.leaders.0.insert(set.clone(), belief);
        let changed = self.routes.set_leader(&set, next);
        // Two replicas that name each other are not to keep us busy.
        if term > newest { changed } else { Vec::new() }
    }
}

fn after(replicas: &BTreeMap<i64, SocketAddr>, addr: SocketAddr) -> Option<SocketAddr> {
    let at = replicas.values().position(|replica| *replica == addr)?;
    replicas.values().cycle().nth(at + 1).copied()
}
