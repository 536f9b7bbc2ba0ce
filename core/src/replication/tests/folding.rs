//! What a broker does with a replica, as far as the group notices: it folds
//! what is committed, writes that out now and then, and lets the log before
//! it go.

use super::super::*;
use crate::{
    log::{
        snapshot::{self, Unpublished},
        test_disk::{TestDisk, TestSync},
    },
    rng::Rng,
};

/// Bytes of log between two snapshots.
const EVERY: u64 = 24 << 10;

/// A digest of all entries up to `base`, which stands for a broker's state.
#[derive(Clone, Debug, Default)]
pub struct Folding {
    pub base: Base,
    pub digest: u64,
    /// The newest durable snapshot ends here.
    saved: Base,
    pub taken: u64,
}

pub enum Taking {
    Idle,
    Saving(Base, Unpublished, SyncTicket),
    Published(Base, FileId),
    Confirming(Base, SyncTicket),
}

impl Folding {
    /// The newest snapshot on a disk, and what a member is opened with.
    pub fn restore(disk: &mut TestDisk) -> (Folding, Folded) {
        let Some(found) = snapshot::newest(disk).unwrap() else {
            return (Folding::default(), Folded::default());
        };
        let (digest, rest) = found.payload.split_at(8);
        let digest = u64::from_le_bytes(digest.try_into().unwrap());
        let (len, rest) = rest.split_at(8);
        let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
        let configuration = Configuration::decode(&rest[..len], Position(0)).unwrap();
        assert_eq!(rest.len() - len, filler(found.base).len());
        assert!(rest[len..].iter().eq(filler(found.base).iter()), "the snapshot is what was saved");
        let base = found.base;
        let folding = Folding { base, digest, saved: base, taken: 0 };
        let configuration = Some(configuration).filter(|known| !known.seats.is_empty());
        (folding, Folded { base, configuration })
    }

    pub fn fold(&mut self, entry: &Entry) {
        let Place { index, term, end, .. } = entry.place;
        for (_, part) in &entry.parts {
            self.digest = self.digest.rotate_left(9) ^ u64::from(crc32fast::hash(part));
        }
        self.digest = self.digest.wrapping_mul(31) ^ term.0 ^ index.0;
        self.base = Base { position: end, index, term };
    }

    fn payload(&self, configuration: &Configuration) -> Vec<u8> {
        let mut members = Vec::new();
        configuration.encode(&mut members);
        let len = (members.len() as u64).to_le_bytes();
        [&self.digest.to_le_bytes(), &len[..], &members, &filler(self.base)].concat()
    }

    /// The next step of a snapshot; returns a sync that it began.
    pub fn advance(
        &mut self,
        taking: &mut Taking,
        member: &mut Member<TestDisk>,
        now: Time,
    ) -> Option<(SyncTicket, TestSync)> {
        if member.is_syncing() {
            return None;
        }
        match std::mem::replace(taking, Taking::Idle) {
            Taking::Idle => {
                let since = self.base.position.0 - self.saved.position.0;
                let is_due = since >= EVERY || (self.saved == Base::default() && since > 0);
                if !is_due || self.base.position > member.log().durable() {
                    return None;
                }
                let payload = self.payload(member.configuration());
                let store_id = member.log().store_id();
                let (_, disk) = member.parts();
                let snapshot = snapshot::save(disk, store_id, self.base, &payload).unwrap();
                let begun = member.sync_with(now, &[snapshot.file()])?;
                *taking = Taking::Saving(self.base, snapshot, begun.0);
                Some(begun)
            }
            Taking::Published(base, file) => {
                let begun = member.sync_with(now, &[file])?;
                *taking = Taking::Confirming(base, begun.0);
                Some(begun)
            }
            other => {
                *taking = other;
                None
            }
        }
    }

    /// A sync has finished.
    pub fn synced(
        &mut self,
        taking: &mut Taking,
        member: &mut Member<TestDisk>,
        ticket: SyncTicket,
        rng: &mut Rng,
    ) {
        match std::mem::replace(taking, Taking::Idle) {
            Taking::Saving(base, snapshot, of) if of == ticket => {
                let file = snapshot.file();
                snapshot.publish(member.parts().1).unwrap();
                *taking = Taking::Published(base, file);
            }
            Taking::Confirming(base, of) if of == ticket => {
                self.saved = base;
                self.taken += 1;
                snapshot::remove_older(member.parts().1, base.position).unwrap();
                if rng.chance(0.7) {
                    member.expire(base.position).unwrap();
                }
            }
            other => *taking = other,
        }
    }
}

/// So that a snapshot takes several pieces.
fn filler(base: Base) -> Vec<u8> {
    vec![base.index.0 as u8; 9000 + base.index.0 as usize % 1000]
}
