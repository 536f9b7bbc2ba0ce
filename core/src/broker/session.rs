//! The connections that are open, and who is at their other end.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::ids::ConnId;

#[derive(Default)]
pub(super) struct Sessions(BTreeMap<ConnId, SocketAddr>);

impl Sessions {
    pub fn open(&mut self, conn: ConnId, peer: SocketAddr) {
        self.0.insert(conn, peer);
    }

    pub fn close(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }

    pub fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        self.0.get(&conn).copied()
    }

    pub fn ids(&self) -> impl Iterator<Item = ConnId> {
        self.0.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
