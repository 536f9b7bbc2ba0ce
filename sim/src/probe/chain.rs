//! Digests of a replica set's committed log: equal indices have equal digests
//! on all replicas, or they do not hold the same log.

use std::{collections::BTreeMap, hash::Hasher};

use stormglass_core::{
    broker::View,
    ids::{LogIndex, Position},
    log::Entry,
};

use crate::{digest::Fnv, disk::SimDisk};

/// What the replicas of a set have committed, as the last one to commit an
/// entry said.
pub struct Chain {
    links: BTreeMap<LogIndex, Known>,
}

#[derive(Clone, Copy)]
struct Known {
    digest: u64,
    /// The history mentions it.
    is_told: bool,
}

impl Default for Chain {
    fn default() -> Chain {
        let nothing = Known { digest: 0, is_told: false };
        Chain { links: BTreeMap::from([(LogIndex(0), nothing)]) }
    }
}

/// How far one replica has been followed in one of its lives.
pub(super) struct Followed {
    end: Position,
    /// None if nobody knows what lies before.
    digest: Option<u64>,
}

/// One entry that a replica has committed.
pub(super) struct Link {
    pub index: LogIndex,
    pub end: Position,
    pub digest: u64,
}

impl Chain {
    /// What a replica has committed since it was last looked at: the newest
    /// entry, and those before it that others stopped at.
    pub fn follow(
        &mut self,
        followed: &mut Option<Followed>,
        view: &View<'_, SimDisk>,
        committed: LogIndex,
        disk: &mut SimDisk,
    ) -> Vec<Link> {
        let end = view.committed();
        // Opened anew, or brought here by a snapshot: what lies before is what
        // the others say it is.
        let so_far =
            followed.take().filter(|so_far| (view.log().start()..=end).contains(&so_far.end));
        let mut so_far = so_far.unwrap_or_else(|| {
            let digest = self.links.get(&committed).map(|known| known.digest);
            Followed { end, digest }
        });
        let mut links = Vec::new();
        while so_far.end < end
            && let Ok(Some(entry)) = view.log().entry_at(disk, so_far.end)
        {
            let (index, end) = (entry.place.index, entry.place.end);
            let known = self.links.get(&index).copied();
            let digest = match so_far.digest {
                Some(before) => Some(chained(before, &entry)),
                None => known.map(|known| known.digest),
            };
            so_far = Followed { end, digest };
            let Some(digest) = digest else { continue };
            let is_told = index == committed || known.is_some_and(|known| known.is_told);
            self.links.insert(index, Known { digest, is_told });
            if is_told {
                links.push(Link { index, end, digest });
            }
        }
        *followed = Some(so_far);
        links
    }
}

fn chained(before: u64, entry: &Entry) -> u64 {
    let mut digest = Fnv::after(before);
    digest.write_u64(entry.place.term.0);
    digest.write_u64(entry.place.index.0);
    digest.write_u8(entry.kind as u8);
    for (_, part) in &entry.parts {
        digest.write_usize(part.len());
        digest.write(part);
    }
    digest.finish()
}
