//! The pages of one file: what the cache shows, and what the platter holds
//! where that differs.
//!
//! The cache is the file's current contents. For each page that was written
//! since it last became durable, `unsynced` keeps what it looked like before,
//! one version per sync epoch, so that a sync costs what it has to write and a
//! power loss can put any of the versions back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stormglass_core::rng::Rng;

use crate::fault::Unsynced;

pub const PAGE: usize = 4096;
pub const SECTOR: usize = 512;
/// The unit in which memory is taken for a sparse file.
const EXTENT: usize = 16 * PAGE;

/// Writes between the begins of two syncs of a file belong to one epoch.
pub type Epoch = u64;

pub struct Pages {
    len: u64,
    extents: Vec<Option<Box<[u8]>>>,
    unsynced: BTreeMap<u32, Vec<Version>>,
    epoch: Epoch,
    /// The last epoch covered by a sync that was begun and did not fail.
    syncing: Epoch,
    /// Per page, when it last became durable, in ms; zero if it never was.
    durable_since: Vec<u64>,
    /// Pages that cannot be read until they are written again.
    spoiled: BTreeSet<u32>,
}

/// A page as it was before its first write of an epoch; `None` if it was zero.
struct Version {
    epoch: Epoch,
    before: Option<Box<[u8]>>,
    /// A sync failed on this write and marked the page clean: unless it is
    /// written again, no later sync will write it (fsyncgate, L2).
    forgotten: bool,
}

/// What a power loss did to pages that no finished sync covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub kept_pages: u64,
    pub lost_pages: u64,
    pub torn_pages: u64,
}

impl Pages {
    pub fn new(len: u64) -> Pages {
        Pages {
            len,
            extents: (0..len.div_ceil(EXTENT as u64)).map(|_| None).collect(),
            unsynced: BTreeMap::new(),
            epoch: 1,
            syncing: 0,
            durable_since: vec![0; len.div_ceil(PAGE as u64) as usize],
            spoiled: BTreeSet::new(),
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, offset: u64, len: usize) -> Bytes {
        let (extent, at) = (offset as usize / EXTENT, offset as usize % EXTENT);
        if at + len <= EXTENT {
            return match &self.extents[extent.min(self.extents.len() - 1)] {
                Some(bytes) if len > 0 => Bytes::copy_from_slice(&bytes[at..at + len]),
                _ => Bytes::from(vec![0; len]),
            };
        }
        let mut out = vec![0; len];
        self.read_into(offset, &mut out);
        Bytes::from(out)
    }

    fn read_into(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let (extent, at) = place(offset + done as u64);
            let n = (EXTENT - at).min(out.len() - done);
            match &self.extents[extent] {
                Some(bytes) => out[done..done + n].copy_from_slice(&bytes[at..at + n]),
                None => out[done..done + n].fill(0),
            }
            done += n;
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let last = (offset + data.len() as u64 - 1) / PAGE as u64;
        for page in offset / PAGE as u64..=last {
            self.remember(page as u32);
            self.spoiled.remove(&(page as u32));
        }
        let mut done = 0;
        while done < data.len() {
            let (extent, at) = place(offset + done as u64);
            let n = (EXTENT - at).min(data.len() - done);
            let bytes = self.extents[extent].get_or_insert_with(|| vec![0; EXTENT].into());
            bytes[at..at + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
    }

    /// Keeps the page as it is before the first write of this epoch.
    fn remember(&mut self, page: u32) {
        let versions = self.unsynced.entry(page).or_default();
        if versions.last().is_some_and(|v| v.epoch == self.epoch) {
            return;
        }
        let (extent, at) = place(u64::from(page) * PAGE as u64);
        let before = self.extents[extent].as_ref().map(|bytes| bytes[at..at + PAGE].into());
        versions.push(Version { epoch: self.epoch, before, forgotten: false });
    }

    /// A sync begins: returns the epoch that its completion will make durable.
    pub fn begin_sync(&mut self) -> Epoch {
        self.syncing = self.epoch;
        self.epoch += 1;
        self.syncing
    }

    /// The sync that covers this epoch finished, at this time in ms.
    pub fn synced(&mut self, covered: Epoch, now_ms: u64) {
        let durable_since = &mut self.durable_since;
        self.unsynced.retain(|page, versions| {
            if versions.iter().any(|v| v.epoch <= covered && !v.forgotten) {
                versions.retain(|v| v.epoch > covered);
                durable_since[*page as usize] = now_ms.max(1);
            }
            !versions.is_empty()
        });
    }

    /// A sync failed: each page that no other sync is writing has reached the
    /// platter or has not, and is called clean in either case.
    pub fn sync_failed(&mut self, rng: &mut Rng) {
        let syncing = self.syncing;
        self.unsynced.retain(|_, versions| {
            let reached = versions.iter().all(|v| v.epoch > syncing) && rng.chance(0.5);
            for version in versions.iter_mut().filter(|v| v.epoch > syncing) {
                version.forgotten = true;
            }
            !reached
        });
        self.epoch += 1;
    }

    /// The cache is gone: of each unsynced page, what `how` says is left.
    pub fn power_loss(&mut self, how: Unsynced, rng: &mut Rng) -> Losses {
        let mut losses = Losses::default();
        for (page, versions) in std::mem::take(&mut self.unsynced) {
            let (extent, at) = place(u64::from(page) * PAGE as u64);
            let Some(bytes) = self.extents[extent].as_mut() else { continue };
            let bytes = &mut bytes[at..at + PAGE];
            let current: Box<[u8]> = (&*bytes).into();
            let mut reachable = vec![versions[0].before.as_deref()];
            for (i, version) in versions.iter().enumerate() {
                if !version.forgotten {
                    reachable.push(match versions.get(i + 1) {
                        Some(next) => next.before.as_deref(),
                        None => Some(&current),
                    });
                }
            }
            let torn = match how {
                Unsynced::Torn => true,
                Unsynced::Random => rng.chance(0.25),
                Unsynced::Lost | Unsynced::Kept => false,
            };
            if torn && reachable.len() > 1 {
                for sector in (0..PAGE).step_by(SECTOR) {
                    let chosen = reachable[rng.below(reachable.len() as u64) as usize];
                    put(&mut bytes[sector..sector + SECTOR], chosen.map(|page| &page[sector..]));
                }
                losses.torn_pages += 1;
                continue;
            }
            let chosen = match how {
                Unsynced::Lost => 0,
                Unsynced::Kept => reachable.len() - 1,
                Unsynced::Random | Unsynced::Torn => rng.below(reachable.len() as u64) as usize,
            };
            put(bytes, reachable[chosen]);
            let kept = chosen == versions.len();
            losses.kept_pages += u64::from(kept);
            losses.lost_pages += u64::from(!kept);
        }
        losses
    }

    /// Pages that have been durable since this time in ms and are not dirty.
    pub fn durable_pages(&self, until_ms: u64) -> impl Iterator<Item = u32> {
        (0..).zip(&self.durable_since).filter_map(move |(page, since)| {
            let settled = *since > 0 && *since <= until_ms && !self.unsynced.contains_key(&page);
            settled.then_some(page)
        })
    }

    /// Pages that became durable after this time in ms are zeros, as before.
    pub fn forget_since(&mut self, since_ms: u64) {
        for page in 0..self.durable_since.len() as u32 {
            if self.durable_since[page as usize] > since_ms {
                let (extent, at) = place(u64::from(page) * PAGE as u64);
                if let Some(bytes) = &mut self.extents[extent] {
                    put(&mut bytes[at..at + PAGE], None);
                }
            }
        }
    }

    /// Flips one bit of a page, on the platter and in what is read from it.
    pub fn flip(&mut self, page: u32, bit: usize) {
        let (extent, at) = place(u64::from(page) * PAGE as u64);
        if let Some(bytes) = &mut self.extents[extent] {
            bytes[at + bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// The page is lost to every reader, though nobody knows yet.
    pub fn spoil(&mut self, page: u32) {
        self.spoiled.insert(page);
    }

    /// Whether a read here meets such a page.
    pub fn is_spoiled(&self, offset: u64, len: usize) -> bool {
        let (first, end) = (offset / PAGE as u64, (offset + len as u64).div_ceil(PAGE as u64));
        self.spoiled.range(first as u32..end as u32).next().is_some()
    }
}

fn place(offset: u64) -> (usize, usize) {
    let offset = offset as usize;
    (offset / EXTENT, offset % EXTENT)
}

fn put(to: &mut [u8], from: Option<&[u8]>) {
    match from {
        Some(from) => to.copy_from_slice(&from[..to.len()]),
        None => to.fill(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stormglass_core::rng::Rng;

    use super::*;

    const LEN: usize = 3 * PAGE;

    /// Every state that each page of the platter may legally be in.
    struct Model {
        cache: Vec<u8>,
        /// Per page: what may be found after a power loss, durable first.
        allowed: Vec<Vec<Vec<u8>>>,
        in_flight: Option<(Epoch, Vec<u8>)>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write { at: usize, data: Vec<u8> },
        BeginSync,
        FinishSync,
        PowerLoss,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..LEN - 700, prop::collection::vec(1u8.., 1..700))
                .prop_map(|(at, data)| Step::Write { at, data }),
            1 => Just(Step::BeginSync),
            1 => Just(Step::FinishSync),
            1 => Just(Step::PowerLoss),
        ]
    }

    fn page(bytes: &[u8], page: usize) -> Vec<u8> {
        bytes[page * PAGE..(page + 1) * PAGE].to_vec()
    }

    proptest! {
        #[test]
        fn power_loss_leaves_only_what_was_written_and_all_that_was_synced(
            seed: u64, steps in prop::collection::vec(step(), 1..60),
        ) {
            let mut rng = Rng::new(seed);
            let mut pages = Pages::new(LEN as u64);
            let mut model =
                Model { cache: vec![0; LEN], allowed: vec![vec![vec![0; PAGE]]; 3], in_flight: None };
            for step in steps {
                match step {
                    Step::Write { at, data } => {
                        pages.write(at as u64, &data);
                        model.cache[at..at + data.len()].copy_from_slice(&data);
                    }
                    Step::BeginSync => {
                        if model.in_flight.is_none() {
                            let epoch = pages.begin_sync();
                            model.in_flight = Some((epoch, model.cache.clone()));
                        }
                    }
                    Step::FinishSync => {
                        if let Some((epoch, image)) = model.in_flight.take() {
                            pages.synced(epoch, 1);
                            model.allowed = (0..3).map(|p| vec![page(&image, p)]).collect();
                        }
                    }
                    Step::PowerLoss => {
                        pages.power_loss(Unsynced::Random, &mut rng);
                        model.in_flight = None;
                        let found = pages.read(0, LEN);
                        for p in 0..3 {
                            let mut allowed = model.allowed[p].clone();
                            allowed.push(page(&model.cache, p));
                            let found = page(&found, p);
                            for sector in (0..PAGE).step_by(SECTOR) {
                                let range = sector..sector + SECTOR;
                                prop_assert!(
                                    allowed.iter().any(|a| a[range.clone()] == found[range.clone()]),
                                    "page {p} sector {} holds what was never written", sector / SECTOR,
                                );
                            }
                        }
                        model.cache = found.to_vec();
                        model.allowed = (0..3).map(|p| vec![page(&found, p)]).collect();
                    }
                }
                let image = model.in_flight.as_ref().map_or(&model.cache, |(_, image)| image);
                for p in 0..3 {
                    let image = page(image, p);
                    if !model.allowed[p].contains(&image) {
                        model.allowed[p].push(image);
                    }
                }
                prop_assert_eq!(&pages.read(0, LEN)[..], &model.cache[..]);
            }
        }
    }

    #[test]
    fn what_a_failed_sync_forgot_is_read_until_the_power_fails() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let mut pages = Pages::new(LEN as u64);
            pages.write(0, b"first");
            let first = pages.begin_sync();
            pages.synced(first, 1);
            pages.write(0, b"other");
            pages.sync_failed(&mut rng);
            // A later sync succeeds and still does not write the page.
            let later = pages.begin_sync();
            pages.synced(later, 2);
            assert_eq!(&pages.read(0, 5)[..], b"other");
            let forgotten = !pages.unsynced.is_empty();
            pages.power_loss(Unsynced::Kept, &mut rng);
            assert_eq!(&pages.read(0, 5)[..], if forgotten { b"first" } else { b"other" });
        }
    }

    #[test]
    fn a_page_written_again_after_a_failed_sync_is_durable_after_the_next() {
        let mut rng = Rng::new(1);
        let mut pages = Pages::new(LEN as u64);
        pages.write(0, b"first");
        pages.sync_failed(&mut rng);
        pages.write(5, b"again");
        let later = pages.begin_sync();
        pages.synced(later, 1);
        pages.power_loss(Unsynced::Lost, &mut rng);
        assert_eq!(&pages.read(0, 10)[..], b"firstagain");
    }
}
