//! Requests that are held until something that they want is there, or their
//! time is up.

use std::collections::{BTreeMap, BTreeSet};

use super::config::limit;
use crate::{ids::ConnId, time::Time};

/// A request that can be held: whose it is, and what it waits for.
pub(super) trait Waiting {
    type Key: Copy + Ord;
    fn conn(&self) -> ConnId;
    fn keys(&self) -> impl Iterator<Item = Self::Key> + 'static;
}

/// Held requests, in the order in which they came.
pub(super) struct Parked<W: Waiting> {
    next_id: u64,
    requests: BTreeMap<u64, (Time, W)>,
    deadlines: BTreeSet<(Time, u64)>,
    by_key: BTreeMap<W::Key, BTreeSet<u64>>,
    per_connection: BTreeMap<ConnId, usize>,
}

impl<W: Waiting> Default for Parked<W> {
    fn default() -> Parked<W> {
        Parked {
            next_id: 0,
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            by_key: BTreeMap::new(),
            per_connection: BTreeMap::new(),
        }
    }
}

impl<W: Waiting> Parked<W> {
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub fn is_waiting(&self, key: W::Key) -> bool {
        self.by_key.contains_key(&key)
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn drop_connection(&mut self, conn: ConnId) {
        if !self.per_connection.contains_key(&conn) {
            return;
        }
        let held = self.requests.iter().filter(|(_, (_, request))| request.conn() == conn);
        let held: Vec<u64> = held.map(|(id, _)| *id).collect();
        for id in held {
            self.take(id);
        }
    }

    pub fn has_room(&self, conn: ConnId) -> bool {
        self.per_connection.get(&conn).copied().unwrap_or(0) < limit::PARKED_PER_CONNECTION
    }

    pub fn park(&mut self, until: Time, request: W) {
        let id = self.next_id;
        self.next_id += 1;
        self.deadlines.insert((until, id));
        for key in request.keys() {
            self.by_key.entry(key).or_default().insert(id);
        }
        *self.per_connection.entry(request.conn()).or_default() += 1;
        self.requests.insert(id, (until, request));
    }

    fn take(&mut self, id: u64) -> Option<(Time, W)> {
        let (until, request) = self.requests.remove(&id)?;
        self.deadlines.remove(&(until, id));
        for key in request.keys() {
            if let Some(ids) = self.by_key.get_mut(&key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        let conn = request.conn();
        if let Some(count) = self.per_connection.get_mut(&conn) {
            *count -= 1;
            if *count == 0 {
                self.per_connection.remove(&conn);
            }
        }
        Some((until, request))
    }

    /// Everything that waits for this, the oldest first.
    pub fn take_waiting(&mut self, key: W::Key) -> Vec<(Time, W)> {
        let ids = self.by_key.get(&key).cloned().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    pub fn take_due(&mut self, now: Time) -> Option<W> {
        let (at, id) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.take(id).map(|(_, request)| request)
    }
}
