//! What goes into a broker, what comes out of it, and how far it is.

use std::{collections::BTreeMap, io, net::SocketAddr};

use crate::{
    error::StoreError,
    ids::{ConnId, NodeId},
    log::SyncTicket,
    peer,
    runtime::Disk,
    wire::{Frame, frame::Packet},
};

/// What happens to a broker.
#[derive(Debug)]
pub enum Input {
    /// A connection was accepted, or one to the name server of this number
    /// (in `BrokerConfig::name_servers`) was made.
    Connected {
        conn: ConnId,
        peer: SocketAddr,
        name_server: Option<usize>,
    },
    Frame {
        conn: ConnId,
        frame: Frame,
    },
    Closed {
        conn: ConnId,
    },
    /// A connection to a name server could not be made.
    DialFailed {
        name_server: usize,
    },
    Synced {
        ticket: SyncTicket,
        result: io::Result<()>,
    },
    /// Another replica of this broker's set sent this.
    Peer(peer::Message),
    /// What was sent to another replica may be lost.
    PeerLost(NodeId),
    /// Finish: make everything durable, say so in the log, and end.
    Stop,
}

/// What a broker wants done.
pub enum Output<D: Disk> {
    Send {
        conn: ConnId,
        packet: Packet,
    },
    Close {
        conn: ConnId,
    },
    /// Await this, then hand in `Input::Synced`.
    Sync {
        ticket: SyncTicket,
        done: D::Sync,
    },
    /// Connect to a name server, then hand in `Connected` or `DialFailed`.
    Dial {
        name_server: usize,
        addr: SocketAddr,
    },
    /// For another replica; may be lost.
    Peer(peer::Message),
    /// Where all replicas of the set are from now on, this one too.
    Peers(BTreeMap<NodeId, SocketAddr>),
    /// Topics or the broker's role changed: the name server on the same node
    /// shall know. First when it is known what the broker is to its set.
    Registered,
    /// The broker ended in order.
    Stopped,
    /// The store failed (L2). Or the broker must be opened again, because another
    /// replica leads now (`NotLeader`) or the log was given up (`Replaced`).
    Failed(StoreError),
}

/// How far a broker is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The log's tail is made durable, then applied; in a replica set, for as
    /// long as another one leads.
    Recovering,
    /// The record that opens this term is on its way.
    Starting,
    /// The disk has no room for that record: what is stored can be read, and
    /// nothing else is taken until there is room.
    Full,
    Serving,
    /// What was taken is made durable, then the note that it is.
    Stopping,
    Ended,
}
