//! What a leader does for those who cannot follow its log: it offers them its
//! newest snapshot and the log around it, and sends the pieces that they ask
//! for. And it keeps segments for a while that somebody is about to ask for.

use std::collections::BTreeSet;

use super::{Member, Role};
use crate::{
    error::StoreError,
    ids::{LogIndex, NodeId, Position, Term},
    log::{
        Base,
        snapshot::{self, Snapshot},
    },
    peer::{Body, Message, Offer, Piece, Replicated, codec},
    runtime::Disk,
    time::Time,
};

/// Bytes of one piece, unless a single entry is longer; a quarter of a segment
/// if that is less.
const PIECE_BYTES: u64 = 1 << 20;
/// Segments that are kept longer for a replica that is about to need them.
const HELD_SEGMENTS: u64 = 4;

/// A snapshot that a replica is sent.
pub(super) struct Serving {
    snapshot: Snapshot,
    /// What it asked for last, or may ask for.
    at: Position,
    heard: Time,
}

impl<D: Disk> Member<D> {
    /// Offers a snapshot to whoever was found to need one.
    pub(super) fn offer_snapshots(&mut self, now: Time) -> Result<(), StoreError> {
        let starving = self.raw.store().starving.take();
        let mut needy = std::mem::take(&mut self.needy);
        if self.role() != Role::Leader {
            self.serving.clear();
            return Ok(());
        }
        for peer in starving {
            if !self.is_in_log(peer)? {
                needy.insert(peer);
            }
        }
        let patience = self.patience * 2;
        self.serving.retain(|_, serving| now < serving.heard + patience * 4);
        for peer in needy {
            let is_busy =
                self.serving.get(&peer).is_some_and(|serving| now < serving.heard + patience);
            if !is_busy && self.can_spare(peer) {
                self.offer(now, peer)?;
            }
        }
        Ok(())
    }

    /// Whether what this replica lacks is only older than the snapshot from which
    /// this process started, and still kept.
    fn is_in_log(&mut self, peer: NodeId) -> Result<bool, StoreError> {
        let Some(progress) = self.raw.raft.prs().get(peer.0) else { return Ok(true) };
        let next = LogIndex(progress.next_idx);
        let store = self.raw.mut_store();
        match store.log.index_from(&mut store.disk, next) {
            Err(StoreError::Corrupt(_)) => self.note_damage().map(|()| false),
            found => found,
        }
    }

    /// Whether the set can do without what this replica has: it gives it up. Who
    /// is not trusted, or behind for good, has no say anyway.
    fn can_spare(&self, peer: NodeId) -> bool {
        let is_sound = |id: &NodeId| {
            let known = self.followers.get(id);
            let progress = self.raw.raft.prs().get(id.0);
            *id == self.id()
                || (*id != peer
                    && known.is_some_and(|known| known.is_trusted)
                    && progress.is_some_and(|progress| {
                        progress.recent_active && progress.matched >= self.committed.0.0
                    }))
        };
        let wants = self.followers.get(&peer).is_some_and(|known| known.wants_snapshot);
        let is_trusted = self.followers.get(&peer).is_some_and(|known| known.is_trusted);
        let majority = |voters: &BTreeSet<NodeId>| {
            voters.iter().filter(|id| is_sound(id)).count() * 2 > voters.len()
        };
        !wants || !is_trusted || self.configuration().voters().iter().all(majority)
    }

    fn offer(&mut self, now: Time, peer: NodeId) -> Result<(), StoreError> {
        let (log, disk) = self.parts();
        let start = log.start();
        // The broker takes the first one soon.
        let Some(snapshot) = snapshot::newest(disk)? else { return Ok(()) };
        let base = snapshot.base;
        let first = match log.entry_at(disk, start) {
            Err(StoreError::Corrupt(_)) => return self.note_damage(),
            first => first?,
        };
        let start = match first {
            Some(first) if start < base.position => {
                let index = LogIndex(first.place.index.0 - 1);
                Base { position: start, index, term: Term(0) }
            }
            _ => base,
        };
        let offer = Offer { start, base, state_bytes: snapshot.payload.len() as u64 };
        self.serving.insert(peer, Serving { snapshot, at: start.position, heard: now });
        self.tell(peer, Body::Offer { offer, sent: now });
        Ok(())
    }

    pub(super) fn tell(&mut self, to: NodeId, body: Body) {
        let message = Message { from: self.id(), to, term: self.term(), body };
        self.outbox.push_back(message);
    }

    /// Sends a piece of what was offered; or offers anew if it is gone.
    pub(super) fn serve(
        &mut self,
        now: Time,
        peer: NodeId,
        base: LogIndex,
        piece: Piece,
    ) -> Result<(), StoreError> {
        if self.role() != Role::Leader || !self.configuration().contains(peer) {
            return Ok(());
        }
        let (start, segment_bytes) = (self.log().start(), self.log().segment_bytes());
        let offered = self.serving.get_mut(&peer);
        let is_there = |serving: &&mut Serving| {
            let kept = !matches!(piece, Piece::Log(at) if at < start);
            serving.snapshot.base.index == base && kept
        };
        let Some(serving) = offered.filter(is_there) else {
            self.serving.remove(&peer);
            self.needy.insert(peer);
            return Ok(());
        };
        serving.heard = now;
        let most = PIECE_BYTES.min(segment_bytes / 4);
        let end = serving.snapshot.base.position;
        let body = match piece {
            Piece::State(offset) => {
                let state = &serving.snapshot.payload;
                let from = offset.min(state.len() as u64) as usize;
                let to = state.len().min(from + most as usize);
                Body::StatePiece { base, offset, bytes: state.slice(from..to) }
            }
            Piece::Log(at) => {
                serving.at = at;
                let (log, disk) = self.parts();
                let entries = match log.stretch(disk, at, end, most, codec::MAX_ENTRIES) {
                    Err(StoreError::Corrupt(_)) => return self.note_damage(),
                    entries => entries?,
                };
                let entries = entries.into_iter().map(Replicated::from).collect();
                Body::LogPiece { from: at, entries }
            }
        };
        self.tell(peer, body);
        Ok(())
    }

    /// Drops whole segments before `keep_from`; returns how many bytes went.
    /// Within a bound, keeps those that a replica is about to ask for.
    pub fn expire(&mut self, keep_from: Position) -> Result<u64, StoreError> {
        let wanted = self.wanted_by_others().unwrap_or(keep_from).min(keep_from);
        let held = HELD_SEGMENTS * self.log().segment_bytes();
        let keep_from = wanted.max(Position(keep_from.0.saturating_sub(held)));
        let store = self.raw.mut_store();
        store.log.expire(&mut store.disk, keep_from)
    }

    fn wanted_by_others(&self) -> Option<Position> {
        if self.role() != Role::Leader {
            return None;
        }
        let log = self.log();
        let me = self.id().0;
        let followers = self.raw.raft.prs().iter();
        let following = followers
            .filter(|(id, progress)| **id != me && progress.recent_active && progress.matched > 0)
            .map(|(_, progress)| log.place_near(LogIndex(progress.matched + 1)));
        let served = self.serving.values().map(|serving| serving.at);
        following.chain(served).min()
    }
}
