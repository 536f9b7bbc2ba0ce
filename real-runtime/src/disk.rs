//! A node's files on a real disk.
//!
//! Writes are positioned writes into files whose blocks are allocated; reads
//! are slices of maps of the same files. Both go through the page cache, so a
//! map sees what was written at once. One thread does the syncs.
//!
//! A map has one price: a read that the device fails is not an error but a
//! `SIGBUS`, which ends the process like a kill.

mod ahead;
mod read_ahead;
mod sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::{
    fs::{Advice, FallocateFlags, FlockOperation, fadvise, fallocate, flock, fstatvfs},
    io::{pwritev, retry_on_intr},
};
use stormglass_core::runtime::{Disk, FileId};

use ahead::{Ahead, AheadThread, PAGE};
use read_ahead::ReadAhead;
pub use sync::Synced;
use sync::{SyncJob, SyncThread};

/// A file beside the store that says that a sync failed and the process ended.
const SYNC_FAILED: &str = "sync-failed";

const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// The files below `DIR/store`; `DIR/lock` keeps a second process away.
pub struct RealDisk {
    root: PathBuf,
    files: BTreeMap<FileId, OpenFile>,
    next: u32,
    syncs: SyncThread,
    ahead: Option<AheadThread>,
    /// Held, and with it the lock, as long as the disk is open.
    _lock: File,
}

struct OpenFile {
    name: String,
    file: Arc<File>,
    len: u64,
    map: Option<Map>,
    ahead: Option<Arc<Ahead>>,
    read_ahead: ReadAhead,
    /// Directories that must be synced before the file's name is durable.
    unsynced_dirs: BTreeSet<PathBuf>,
}

impl RealDisk {
    /// Opens the disk below `dir`, which is made if it does not exist.
    /// `ResourceBusy` if another process has it open.
    pub fn open(dir: &Path) -> io::Result<RealDisk> {
        let root = dir.join("store");
        fs::create_dir_all(&root)?;
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                let why = format!("another process has {} open", dir.display());
                io::Error::new(io::ErrorKind::ResourceBusy, why)
            } else {
                error.into()
            }
        })?;
        let failed = dir.join(SYNC_FAILED);
        if failed.exists() {
            forget_cache(&root)?;
            fs::remove_file(&failed)?;
        }
        let (files, syncs) = (BTreeMap::new(), SyncThread::start(failed)?);
        Ok(RealDisk { root, files, next: 0, syncs, ahead: None, _lock: lock })
    }

    /// From now on writes zeros ahead of what is written and synced in new
    /// files: it makes syncs faster and costs the disk every byte twice. For a
    /// store that answers after the sync.
    pub fn writing_ahead(self) -> io::Result<RealDisk> {
        Ok(RealDisk { ahead: Some(AheadThread::start()?), ..self })
    }

    fn file(&mut self, id: FileId) -> io::Result<&mut OpenFile> {
        self.files.get_mut(&id).ok_or_else(|| not_open(id))
    }

    fn add(&mut self, name: &str, file: File, len: u64) -> FileId {
        let id = FileId(self.next);
        self.next += 1;
        // Also for a file that was there before: a killed process may have made
        // its name, or its directory's, and not synced it.
        let unsynced_dirs = self.dirs_of(name);
        let (name, file) = (name.to_owned(), Arc::new(file));
        let (map, ahead, read_ahead) = Default::default();
        let open = OpenFile { name, file, len, map, ahead, read_ahead, unsynced_dirs };
        self.files.insert(id, open);
        id
    }

    /// Every directory from the file's own up to the one that holds `root`.
    fn dirs_of(&self, name: &str) -> BTreeSet<PathBuf> {
        let depth = name.split('/').count() + 1;
        self.root.join(name).ancestors().skip(1).take(depth).map(Path::to_owned).collect()
    }
}

impl Disk for RealDisk {
    type Sync = Synced;

    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        list_below(&self.root, "", &mut found)?;
        found.sort();
        Ok(found)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<FileId> {
        check_name(name)?;
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = allocate(&file, len) {
            fs::remove_file(&path)?;
            return Err(error);
        }
        let ahead = self.ahead.as_ref().and_then(|_| Ahead::of_new_file(&path, len));
        let id = self.add(name, file, len);
        self.file(id)?.ahead = ahead;
        Ok(id)
    }

    fn open(&mut self, name: &str) -> io::Result<(FileId, u64)> {
        check_name(name)?;
        if let Some((id, open)) = self.files.iter().find(|(_, open)| open.name == name) {
            return Ok((*id, open.len));
        }
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(name))?;
        let len = file.metadata()?.len();
        Ok((self.add(name, file, len), len))
    }

    fn rename(&mut self, id: FileId, to: &str) -> io::Result<()> {
        check_name(to)?;
        let (root, dirs) = (self.root.clone(), self.dirs_of(to));
        let open = self.file(id)?;
        open.map = open.map.take().and_then(Map::if_shared);
        if open.map.is_some() {
            let why = format!("slices of {} are still in use", open.name);
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let path = root.join(to);
        if path.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{to} exists")));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(root.join(&open.name), &path)?;
        // The directory that it left is among its unsynced ones or gets in now.
        let left = root.join(&open.name).parent().map(Path::to_owned);
        open.unsynced_dirs.extend(dirs);
        open.unsynced_dirs.extend(left);
        open.name = to.to_owned();
        open.read_ahead = ReadAhead::default();
        if let Some(ahead) = open.ahead.take() {
            ahead.claim(open.len);
        }
        Ok(())
    }

    fn remove(&mut self, id: FileId) -> io::Result<()> {
        let name = self.file(id)?.name.clone();
        fs::remove_file(self.root.join(name))?;
        self.files.remove(&id);
        Ok(())
    }

    fn write(&mut self, id: FileId, offset: u64, data: &[u8]) -> io::Result<()> {
        let open = self.file(id)?;
        open.check_range(offset, data.len())?;
        let end = offset + data.len() as u64;
        open.read_ahead.note_write(end);
        match open.ahead.as_ref().map_or(0, |ahead| ahead.claim(end)) {
            0 => open.file.write_all_at(data, offset),
            zeros => write_all_at(&open.file, data, &ZEROS[..zeros], offset),
        }
    }

    fn read(&mut self, id: FileId, offset: u64, len: usize) -> io::Result<Bytes> {
        let open = self.file(id)?;
        open.check_range(offset, len)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let map = match &mut open.map {
            Some(map) => map,
            empty => empty.insert(Map::new(&open.file, open.len)?),
        };
        open.read_ahead.note_read(&open.file, open.len, offset);
        let start = offset as usize;
        Ok(map.whole.slice(start..start + len))
    }

    fn begin_sync(&mut self, ids: &[FileId]) -> Synced {
        let mut job = SyncJob::default();
        for id in ids {
            // What was removed needs no sync.
            let Some(open) = self.files.get_mut(id) else { continue };
            job.dirs.append(&mut open.unsynced_dirs);
            job.files.push(open.file.clone());
            if let (Some(thread), Some(ahead)) = (&self.ahead, &open.ahead) {
                thread.nudge(ahead);
            }
        }
        self.syncs.begin(job)
    }
}

impl OpenFile {
    fn check_range(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(invalid(format!(
                "{len} bytes at {offset} are outside {}, which has {}",
                self.name, self.len
            ))),
        }
    }
}

/// A read-only map of a whole file and the knowledge of who still reads it.
struct Map {
    whole: Bytes,
    map: Weak<Mmap>,
}

impl Map {
    fn new(file: &File, len: u64) -> io::Result<Map> {
        let len = usize::try_from(len).map_err(|_| invalid("too long to map".to_owned()))?;
        // SAFETY: the lock file keeps other processes out and `Disk` never
        // shrinks a file, so every page of the map exists as long as the map.
        // `write` changes bytes under it, but the caller of `Disk::read`
        // promises not to overwrite a range whose bytes it holds, and `rename`,
        // which begins the reuse of a file, refuses while any are held.
        let map = Arc::new(unsafe { MmapOptions::new().len(len).map(file)? });
        Ok(Map { map: Arc::downgrade(&map), whole: Bytes::from_owner(Shared(map)) })
    }

    /// The map itself if slices of it are alive. Our own `whole` must be given
    /// up to find out.
    fn if_shared(self) -> Option<Map> {
        drop(self.whole);
        let map = self.map.upgrade()?;
        Some(Map { map: self.map, whole: Bytes::from_owner(Shared(map)) })
    }
}

struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Has the operating system forget what it holds of the files below a directory,
/// but for what is not synced. After a failed sync it holds clean pages that the
/// disk never got (L2): what comes next must read what the disk has.
pub fn forget_cache(root: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    list_below(root, "", &mut files)?;
    for (name, _) in files {
        fadvise(File::open(root.join(name))?, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn list_below(dir: &Path, prefix: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| invalid(format!("the name {name:?} is not ours")))?;
        let name = format!("{prefix}{name}");
        if meta.is_dir() {
            list_below(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.push((name, meta.len()));
        }
    }
    Ok(())
}

/// Gives an empty file its length and its blocks, all zero.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    // Some file systems take a second to find out that there is no room, and a
    // store that is full asks again and again.
    let room = fstatvfs(file)?;
    if room.f_bavail.saturating_mul(room.f_frsize) < len {
        return Err(io::ErrorKind::StorageFull.into());
    }
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        // Some file systems (ZFS, NFS 3) allocate only what is written.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 20];
            (0..len).step_by(zeros.len()).try_for_each(|at| {
                let n = zeros.len().min((len - at) as usize);
                file.write_all_at(&zeros[..n], at)
            })
        }
        done => Ok(done?),
    }
}

fn write_all_at(file: &File, data: &[u8], after: &[u8], offset: u64) -> io::Result<()> {
    let slices = [IoSlice::new(data), IoSlice::new(after)];
    let written = retry_on_intr(|| pwritev(file, &slices, offset))?;
    match data.get(written..) {
        Some(rest) => file.write_all_at(rest, offset + written as u64),
        None => Ok(()),
    }
}

fn check_name(name: &str) -> io::Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"%|_.-".contains(&b);
    let good =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(allowed);
    if name.split('/').all(good) { Ok(()) } else { Err(invalid(format!("bad name {name:?}"))) }
}

fn not_open(id: FileId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("file {} is not open", id.0))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_refused_until_the_first_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = RealDisk::open(dir.path()).unwrap();
        let second = RealDisk::open(dir.path()).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
        assert!(second.to_string().contains("another process"), "{second}");
        drop(first);
        RealDisk::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_is_reused_only_when_nobody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("log/0", 8192).unwrap();
        disk.write(file, 0, b"old").unwrap();
        let slice = disk.read(file, 0, 3).unwrap();
        let busy = disk.rename(file, "log/1").unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(&slice[..], b"old");
        drop(slice);
        disk.rename(file, "log/1").unwrap();
        disk.write(file, 0, b"new").unwrap();
        assert_eq!(&disk.read(file, 0, 3).unwrap()[..], b"new");
        assert_eq!(disk.list().unwrap(), [("log/1".to_owned(), 8192)]);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::open(dir.path()).unwrap();
        let full = disk.create("log/0", 1 << 60).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.list().unwrap(), []);
    }

    #[test]
    fn a_failed_sync_is_told_and_remembered_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("log/0", 4096).unwrap();
        // A socket cannot be synced.
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let not_a_file = File::from(std::os::fd::OwnedFd::from(socket));
        disk.file(file).unwrap().file = Arc::new(not_a_file);
        let sync = disk.begin_sync(&[file]);
        crate::on_tokio::block_on(sync).unwrap().unwrap_err();
        assert!(dir.path().join(SYNC_FAILED).exists());
        drop(disk);
        RealDisk::open(dir.path()).unwrap();
        assert!(!dir.path().join(SYNC_FAILED).exists());
    }

    #[test]
    fn what_was_read_outlives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("log/0", 4096).unwrap();
        disk.write(file, 10, b"kept").unwrap();
        let slice = disk.read(file, 10, 4).unwrap();
        disk.remove(file).unwrap();
        drop(disk);
        assert_eq!(&slice[..], b"kept");
    }
}
