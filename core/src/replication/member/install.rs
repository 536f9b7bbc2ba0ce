//! Filling a blank replica from the leader, piece by piece: first the log from
//! the leader's first kept entry up to a snapshot, then the snapshot. The
//! replica asks for each piece, so that whoever fails or is replaced in between
//! costs no more than the piece; and it counts for nothing before the end.

use bytes::Bytes;

use super::Member;
use crate::{
    error::{Corrupt, StoreError},
    ids::{NodeId, Position},
    log::snapshot::Unpublished,
    peer::{Body, Message, Offer, Piece, Replicated},
    runtime::Disk,
    time::Time,
};

/// How far a blank replica is.
pub(super) struct Install {
    from: NodeId,
    offer: Offer,
    /// The snapshot as far as it has arrived.
    state: Vec<u8>,
    /// When the piece was asked for that is on its way.
    asked: Time,
    stage: Stage,
}

enum Stage {
    Filling,
    /// The snapshot is written; durable with this sync.
    Saving {
        snapshot: Unpublished,
        sync: u64,
    },
    /// It counts from this sync on.
    Publishing {
        sync: u64,
    },
    /// The disk counts from this one on.
    Finishing {
        sync: u64,
    },
}

impl<D: Disk> Member<D> {
    /// The leader says that its log no longer has what this replica lacks.
    pub(super) fn offered(
        &mut self,
        now: Time,
        from: NodeId,
        offer: Offer,
    ) -> Result<(), StoreError> {
        let (start, base) = (offer.start, offer.base);
        if start.position > base.position || start.index > base.index {
            return Ok(());
        }
        if !self.is_blank() {
            // An offer that comes late takes nothing from who has caught up.
            let is_needed = self.wants_snapshot() || base.index > self.committed_index();
            return if is_needed { self.give_up() } else { Ok(()) };
        }
        let end = self.log().end();
        match &mut self.install {
            Some(install) if !matches!(install.stage, Stage::Filling) => return Ok(()),
            // Whatever lies before a snapshot is committed: the pieces of one
            // leader go on with those of another.
            Some(install) if start.position <= end => {
                if install.offer.base != base {
                    install.state.clear();
                }
                install.from = from;
                install.offer = offer;
            }
            _ => {
                let store = self.raw.mut_store();
                match store.log.begin_at(&mut store.disk, start) {
                    Ok(()) => {}
                    // The leader offers again.
                    Err(StoreError::Full) => return Ok(()),
                    Err(error) => return Err(error),
                }
                tracing::info!(%from, position = %base.position, "filling this replica");
                let (state, stage) = (Vec::new(), Stage::Filling);
                self.install = Some(Install { from, offer, state, asked: now, stage });
            }
        }
        self.ask(now);
        Ok(())
    }

    /// What is here is damaged, does not agree with the leader's, or is behind it
    /// for good. It stays as it is until this is durable.
    fn give_up(&mut self) -> Result<(), StoreError> {
        tracing::warn!(id = %self.id(), "this replica's log is given up for another one's");
        let store = self.raw.mut_store();
        self.giving_up = Some(store.log.give_up(&mut store.disk)?);
        Ok(())
    }

    /// Whether this replica would rather have the leader's log than its own.
    pub(super) fn wants_snapshot(&self) -> bool {
        self.is_contradicted || self.is_blank() || self.log().is_damaged()
    }

    /// What raft-rs knows of is an empty log, whatever lies on the disk already.
    pub(super) fn is_blank(&self) -> bool {
        self.log().is_blank() || self.install.is_some()
    }

    /// A read found that something on the disk is not what was written. This
    /// replica goes on with the rest until the others can do without it.
    pub fn note_damage(&mut self) -> Result<(), StoreError> {
        let store = self.raw.mut_store();
        store.log.note_damage(&mut store.disk)
    }

    fn ask(&mut self, now: Time) {
        let (end, term, me) = (self.log().end(), self.term(), self.id());
        let Some(install) = &mut self.install else { return };
        let Offer { base, state_bytes, .. } = install.offer;
        let received = install.state.len() as u64;
        let piece = match () {
            () if end < base.position => Piece::Log(end),
            () if received < state_bytes => Piece::State(received),
            () => return,
        };
        install.asked = now;
        let body = Body::Fetch { base: base.index, piece };
        self.outbox.push_back(Message { from: me, to: install.from, term, body });
    }

    /// Entries that were asked for. They are committed, whoever leads by now.
    pub(super) fn take_log(
        &mut self,
        now: Time,
        sender: NodeId,
        from: Position,
        entries: &[Replicated],
    ) -> Result<(), StoreError> {
        let end = self.log().end();
        let is_wanted = |install: &Install| {
            let filling = matches!(install.stage, Stage::Filling);
            filling && install.from == sender && from == end && from < install.offer.base.position
        };
        if !self.install.as_ref().is_some_and(is_wanted) {
            return Ok(());
        }
        for entry in entries {
            let log = self.log();
            if entry.index.0 != log.last_index().0 + 1 || entry.term < log.last_term() {
                break;
            }
            match self.append_received(entry) {
                Ok(_) => {}
                // It is asked for again.
                Err(StoreError::Full) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.log().end() > end {
            self.ask(now);
        }
        Ok(())
    }

    pub(super) fn take_state(
        &mut self,
        now: Time,
        sender: NodeId,
        base: crate::ids::LogIndex,
        offset: u64,
        bytes: &Bytes,
    ) {
        let Some(install) = &mut self.install else { return };
        let Offer { base: wanted, state_bytes, .. } = install.offer;
        let received = install.state.len() as u64;
        let fits = offset == received && received + bytes.len() as u64 <= state_bytes;
        if install.from == sender && base == wanted.index && fits && !bytes.is_empty() {
            install.state.extend_from_slice(bytes);
            self.ask(now);
        }
    }

    /// Takes the next step that the disk allows. `Replaced` once all of it is
    /// durable.
    pub(super) fn advance_install(&mut self, now: Time) -> Result<(), StoreError> {
        let Some(mut install) = self.install.take() else { return Ok(()) };
        let store = self.raw.mut_store();
        let (log, disk) = (&mut store.log, &mut store.disk);
        let Offer { base, state_bytes, .. } = install.offer;
        install.stage = match install.stage {
            Stage::Filling
                if log.durable() >= base.position && install.state.len() as u64 == state_bytes =>
            {
                match log.receive_snapshot(disk, base, &install.state) {
                    Ok(snapshot) => {
                        let sync = log.sync_along(snapshot.file());
                        Stage::Saving { snapshot, sync }
                    }
                    Err(StoreError::Full) => Stage::Filling,
                    Err(error) => return Err(error),
                }
            }
            Stage::Saving { snapshot, sync } if log.is_synced(sync) => {
                let file = snapshot.file();
                snapshot.publish(disk)?;
                Stage::Publishing { sync: log.sync_along(file) }
            }
            Stage::Publishing { sync } if log.is_synced(sync) => {
                Stage::Finishing { sync: log.installed(disk, base.index)? }
            }
            Stage::Finishing { sync } if log.is_synced(sync) => {
                tracing::info!(position = %base.position, "this replica is filled");
                return Err(StoreError::Replaced);
            }
            same => same,
        };
        let is_late =
            matches!(install.stage, Stage::Filling) && now >= install.asked + self.patience;
        self.install = Some(install);
        if is_late {
            self.ask(now);
        }
        Ok(())
    }

    pub(super) fn install_deadline(&self) -> Option<Time> {
        let install = self.install.as_ref()?;
        matches!(install.stage, Stage::Filling).then(|| install.asked + self.patience)
    }

    /// Appends another replica's entry, where it lies there too.
    pub(super) fn append_received(
        &mut self,
        entry: &Replicated,
    ) -> Result<crate::log::Place, StoreError> {
        let draft = &mut self.draft;
        draft.clear(entry.kind);
        entry.parts.iter().for_each(|part| draft.part(|out| out.extend_from_slice(part)));
        if entry.needs_sync {
            draft.require_sync();
        }
        let store = self.raw.mut_store();
        let place = store.log.append(&mut store.disk, entry.term, &mut self.draft, |_, _| {})?;
        if entry.start == place.start {
            return Ok(place);
        }
        let (index, start) = (entry.index, entry.start);
        Err(Corrupt {
            file: "log".into(),
            position: Some(place.start),
            what: format!("the leader has entry {index} at {start}: other segments"),
        }
        .into())
    }
}
