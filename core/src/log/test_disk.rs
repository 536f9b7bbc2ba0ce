//! A page cache over a platter, in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    rng::Rng,
    runtime::{Disk, FileId},
};

/// What a power failure takes or leaves as a whole.
const PAGE: usize = 512;

#[derive(Default)]
pub struct TestDisk {
    files: Vec<File>,
    /// The name of every file ever created.
    pub created: Vec<String>,
    /// Bytes that all files together may take.
    pub capacity: Option<u64>,
    /// Operations until the power goes; after that all fail.
    pub fuse: Option<u64>,
    /// Reads until one returns the bytes of the page behind, or of the one before.
    pub misread: Option<u64>,
    /// Whether renaming finds readers.
    pub busy: bool,
}

#[derive(Default)]
struct File {
    /// What running programs see; `None` once removed.
    name: Option<String>,
    cache: Vec<u8>,
    /// What a power failure leaves.
    durable_name: Option<String>,
    platter: Vec<u8>,
    /// Pages that a failed sync left marked clean though the platter lacks them.
    forgotten: BTreeSet<usize>,
    /// Pages that cannot be read until they are written.
    unreadable: BTreeSet<usize>,
}

/// What a sync will make durable: the files as they were when it began.
pub struct TestSync(Vec<Begun>);

struct Begun {
    id: FileId,
    name: Option<String>,
    content: Vec<u8>,
    forgotten: BTreeSet<usize>,
}

impl Future for TestSync {
    type Output = io::Result<()>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unreachable!("tests finish syncs by hand")
    }
}

impl TestDisk {
    pub fn finish(&mut self, sync: TestSync) -> io::Result<()> {
        self.tick()?;
        for Begun { id, name, content, forgotten } in sync.0 {
            let file = &mut self.files[id.0 as usize];
            for (page, bytes) in content.chunks(PAGE).enumerate() {
                if !forgotten.contains(&page) {
                    file.platter[page * PAGE..][..bytes.len()].copy_from_slice(bytes);
                }
            }
            if name.is_some() {
                file.durable_name = name;
                self.take_name(id.0 as usize);
            }
        }
        Ok(())
    }

    /// A sync that fails: some pages reach the platter, the others are
    /// forgotten until somebody writes them again.
    pub fn fail(&mut self, sync: TestSync, rng: &mut Rng) -> io::Error {
        for begun in sync.0 {
            self.files[begun.id.0 as usize].write_back(rng, 0.5, true);
        }
        io::Error::other("the sync failed")
    }

    /// Writes some pages and names back, as a kernel does at any time.
    pub fn write_back(&mut self, rng: &mut Rng) {
        for id in 0..self.files.len() {
            if self.files[id].write_back(rng, 0.3, false) {
                self.take_name(id);
            }
        }
    }

    /// A directory holds a name once: the file that had it is gone for good.
    fn take_name(&mut self, id: usize) {
        let taken = self.files[id].durable_name.take();
        let same = self.files.iter_mut().filter(|file| file.durable_name == taken);
        same.for_each(|file| file.durable_name = None);
        self.files[id].durable_name = taken;
    }

    /// Cuts the power: any subset of what was not synced is lost.
    pub fn power_failure(&mut self, rng: &mut Rng) {
        let survival = [0.0, 0.4, 0.6, 0.95][rng.below(4) as usize];
        for id in 0..self.files.len() {
            if self.files[id].write_back(rng, survival, false) {
                self.take_name(id);
            }
        }
        let mut names = BTreeMap::new();
        for file in std::mem::take(&mut self.files) {
            if let Some(name) = file.durable_name {
                names.insert(name, file.platter);
            }
        }
        for (name, content) in names {
            self.files.push(File {
                name: Some(name.clone()),
                cache: content.clone(),
                durable_name: Some(name),
                platter: content,
                ..File::default()
            });
        }
        self.fuse = None;
    }

    /// Flips one bit in cache and platter.
    pub fn flip(&mut self, name: &str, offset: u64, bit: u8) {
        let file = self.files.iter_mut().find(|file| file.name.as_deref() == Some(name));
        let file = file.expect("there is such a file");
        file.cache[offset as usize] ^= 1 << bit;
        file.platter[offset as usize] ^= 1 << bit;
    }

    /// No part of the page at `offset` can be read until it is written again.
    pub fn spoil(&mut self, name: &str, offset: u64) {
        let at = self.by_name(name).expect("there is such a file");
        self.files[at].unreadable.insert(offset as usize / PAGE);
    }

    /// A misdirected write within one file.
    pub fn copy(&mut self, name: &str, from: u64, to: u64, len: usize) {
        let at = self.by_name(name).expect("there is such a file");
        let (from, to) = (from as usize, to as usize);
        self.files[at].cache.copy_within(from..from + len, to);
    }

    /// Puts the contents of another disk's file in the place of this one's.
    pub fn swap_in(&mut self, name: &str, other: &TestDisk) {
        let foreign = &other.files[other.by_name(name).expect("the other disk has it")];
        let at = self.by_name(name).expect("this disk has it");
        self.files[at].cache.clone_from(&foreign.cache);
        self.files[at].platter.clone_from(&foreign.cache);
    }

    fn tick(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn by_name(&self, name: &str) -> Option<usize> {
        self.files.iter().position(|file| file.name.as_deref() == Some(name))
    }
}

impl File {
    /// Returns whether the name was written back, too.
    fn write_back(&mut self, rng: &mut Rng, chance: f64, forget: bool) -> bool {
        for (page, bytes) in self.cache.chunks(PAGE).enumerate() {
            let place = &mut self.platter[page * PAGE..][..bytes.len()];
            if *place == *bytes || self.forgotten.contains(&page) {
                continue;
            }
            if rng.chance(chance) {
                place.copy_from_slice(bytes);
            } else if forget {
                self.forgotten.insert(page);
            }
        }
        let named = !forget && rng.chance(chance);
        if named {
            self.durable_name.clone_from(&self.name);
        }
        named
    }
}

impl Disk for TestDisk {
    type Sync = TestSync;

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        self.tick()?;
        let names = self.files.iter();
        let names = names.filter_map(|file| Some((file.name.clone()?, file.cache.len() as u64)));
        Ok(names.collect::<BTreeMap<_, _>>().into_iter().collect())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<FileId> {
        self.tick()?;
        if self.by_name(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let used: u64 =
            self.files.iter().filter(|f| f.name.is_some()).map(|f| f.cache.len() as u64).sum();
        if self.capacity.is_some_and(|capacity| used + len > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.created.push(name.to_owned());
        self.files.push(File {
            name: Some(name.to_owned()),
            cache: vec![0; len as usize],
            platter: vec![0; len as usize],
            ..File::default()
        });
        Ok(FileId(self.files.len() as u32 - 1))
    }

    fn open(&mut self, name: &str) -> io::Result<(FileId, u64)> {
        self.tick()?;
        let id = self.by_name(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((FileId(id as u32), self.files[id].cache.len() as u64))
    }

    fn rename(&mut self, file: FileId, to: &str) -> io::Result<()> {
        self.tick()?;
        if self.busy {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        assert!(self.by_name(to).is_none(), "{to} exists");
        self.files[file.0 as usize].name = Some(to.to_owned());
        Ok(())
    }

    fn remove(&mut self, file: FileId) -> io::Result<()> {
        self.tick()?;
        self.files[file.0 as usize].name = None;
        Ok(())
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> io::Result<()> {
        self.tick()?;
        let file = &mut self.files[file.0 as usize];
        assert!(file.name.is_some(), "a removed file is not written");
        let start = offset as usize;
        file.cache[start..start + data.len()].copy_from_slice(data);
        (start / PAGE..(start + data.len()).div_ceil(PAGE)).for_each(|page| {
            file.forgotten.remove(&page);
            file.unreadable.remove(&page);
        });
        Ok(())
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> io::Result<Bytes> {
        self.tick()?;
        let file = &self.files[file.0 as usize];
        assert!(file.name.is_some(), "a removed file is not read");
        let mut start = offset as usize;
        let pages = start / PAGE..(start + len).div_ceil(PAGE);
        if file.unreadable.range(pages).next().is_some() {
            return Err(io::Error::other("an unreadable sector"));
        }
        self.misread = self.misread.and_then(|left| {
            if left == 0 {
                let behind = start + PAGE;
                let fits = behind + len <= file.cache.len();
                start = if fits { behind } else { start.saturating_sub(PAGE) };
            }
            left.checked_sub(1)
        });
        Ok(Bytes::copy_from_slice(&file.cache[start..][..len]))
    }

    fn begin_sync(&mut self, files: &[FileId]) -> TestSync {
        let begun = files.iter().map(|id| {
            let file = &self.files[id.0 as usize];
            assert!(file.name.is_some(), "a removed file is not synced");
            Begun {
                id: *id,
                name: file.name.clone(),
                content: file.cache.clone(),
                forgotten: file.forgotten.clone(),
            }
        });
        TestSync(begun.collect())
    }
}
