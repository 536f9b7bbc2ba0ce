//! Each power of the disk, by what a process then finds.

use std::task::{Context, Poll, Waker};

use super::*;
use crate::fault::Unsynced;

fn finish(sync: Syncing) -> io::Result<()> {
    let mut sync = Box::pin(sync);
    match sync.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("without time a sync is done at once"),
    }
}

fn names(disk: &mut SimDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_killed_process_loses_nothing_and_its_handles_are_dead() {
    let drive = Drive::new(1, DiskConfig::default());
    let mut first = drive.attach(Rc::new(NoTime));
    let file = first.create("log/0", 8192).unwrap();
    first.write(file, 4090, b"across two pages").unwrap();
    let mut second = drive.attach(Rc::new(NoTime));
    assert!(first.write(file, 0, b"late").is_err());
    let (file, len) = second.open("log/0").unwrap();
    assert_eq!(len, 8192);
    assert_eq!(&second.read(file, 4090, 16).unwrap()[..], b"across two pages");
}

#[test]
fn synced_bytes_and_names_survive_every_power_loss() {
    for seed in 0..50 {
        let drive = Drive::new(seed, DiskConfig::default());
        let mut disk = drive.attach(Rc::new(NoTime));
        let kept = disk.create("kept", 4096).unwrap();
        disk.write(kept, 0, b"durable").unwrap();
        finish(disk.begin_sync(&[kept])).unwrap();
        disk.write(kept, 100, b"maybe").unwrap();
        disk.rename(kept, "renamed").unwrap();
        disk.create("kept", 4096).unwrap();
        drive.power_loss(Unsynced::Random);
        let mut disk = drive.attach(Rc::new(NoTime));
        let found = names(&mut disk);
        let renamed = found.contains(&"renamed".to_owned());
        assert!(renamed || found == ["kept"], "{found:?}");
        let (kept, _) = disk.open(if renamed { "renamed" } else { "kept" }).unwrap();
        assert_eq!(&disk.read(kept, 0, 7).unwrap()[..], b"durable");
        let maybe = disk.read(kept, 100, 5).unwrap();
        assert!(&maybe[..] == b"maybe" || maybe.iter().all(|b| *b == 0));
    }
}

#[test]
fn a_removed_file_may_come_back_until_a_later_change_is_synced() {
    let drive = Drive::new(3, DiskConfig::default());
    let mut disk = drive.attach(Rc::new(NoTime));
    let old = disk.create("old", 4096).unwrap();
    disk.write(old, 0, b"old").unwrap();
    finish(disk.begin_sync(&[old])).unwrap();
    disk.remove(old).unwrap();
    drive.power_loss(Unsynced::Lost);
    let mut disk = drive.attach(Rc::new(NoTime));
    let (old, _) = disk.open("old").unwrap();
    assert_eq!(&disk.read(old, 0, 3).unwrap()[..], b"old");
    disk.remove(old).unwrap();
    let new = disk.create("new", 4096).unwrap();
    finish(disk.begin_sync(&[new])).unwrap();
    drive.power_loss(Unsynced::Lost);
    assert_eq!(names(&mut drive.attach(Rc::new(NoTime))), ["new"]);
}

#[test]
fn a_full_disk_refuses_new_files_and_serves_the_old() {
    let config = DiskConfig { capacity: 10_000, ..DiskConfig::default() };
    let drive = Drive::new(1, config);
    let mut disk = drive.attach(Rc::new(NoTime));
    let file = disk.create("a", 8192).unwrap();
    assert_eq!(disk.create("b", 8192).unwrap_err().kind(), io::ErrorKind::StorageFull);
    drive.set_full(true);
    assert_eq!(disk.create("c", 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.write(file, 0, &[1; 8192]).unwrap();
    drive.repair();
    disk.create("c", 1).unwrap();
    assert_eq!(drive.counters().refused_full, 2);
}

#[test]
fn after_the_power_is_cut_nothing_changes_and_no_sync_ends() {
    let drive = Drive::new(1, DiskConfig::default());
    let mut disk = drive.attach(Rc::new(NoTime));
    let file = disk.create("a", 4096).unwrap();
    drive.cut_power_after(1);
    disk.write(file, 0, b"last").unwrap();
    assert!(disk.write(file, 0, b"none").is_err());
    let mut sync = Box::pin(disk.begin_sync(&[file]));
    assert!(sync.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn rot_strikes_only_what_has_long_been_durable() {
    let drive = Drive::new(9, DiskConfig::default());
    let mut disk = drive.attach(Rc::new(NoTime));
    let file = disk.create("a", 3 * 4096).unwrap();
    disk.write(file, 0, &[7; 4096]).unwrap();
    finish(disk.begin_sync(&[file])).unwrap();
    disk.write(file, 4096, &[7; 4096]).unwrap();
    drive.rot(3, 0);
    assert_eq!(drive.counters().flipped_bits, 0);
    drive.rot(3, 1);
    assert_eq!(drive.counters().flipped_bits, 3);
    assert!(disk.read(file, 0, 4096).unwrap().iter().any(|b| *b != 7));
    assert!(disk.read(file, 4096, 4096).unwrap().iter().all(|b| *b == 7));
}

#[test]
fn a_latent_error_stays_until_the_page_is_written() {
    let drive = Drive::new(4, DiskConfig::default());
    let mut disk = drive.attach(Rc::new(NoTime));
    let file = disk.create("a", 2 * 4096).unwrap();
    disk.write(file, 0, &[7; 4096]).unwrap();
    finish(disk.begin_sync(&[file])).unwrap();
    drive.spoil(1, 1);
    for _ in 0..2 {
        assert!(disk.read(file, 4000, 200).is_err());
        disk.read(file, 4096, 4096).unwrap();
        drive.repair();
        drive.power_loss(Unsynced::Random);
        disk = drive.attach(Rc::new(NoTime));
    }
    let (file, _) = disk.open("a").unwrap();
    disk.write(file, 0, b"again").unwrap();
    assert_eq!(&disk.read(file, 0, 6).unwrap()[..], b"again\x07");
}

#[test]
fn a_misdirected_write_hits_a_neighbour_and_says_nothing() {
    let drive = Drive::new(4, DiskConfig::default());
    let mut disk = drive.attach(Rc::new(NoTime));
    let file = disk.create("a", 3 * 4096).unwrap();
    disk.write(file, 0, &[7; 4096]).unwrap();
    drive.misdirect_writes(1);
    disk.write(file, 4096 + 10, b"stray").unwrap();
    disk.write(file, 4096 + 20, b"straight").unwrap();
    assert_eq!(&disk.read(file, 10, 5).unwrap()[..], b"stray");
    assert_eq!(&disk.read(file, 4096 + 10, 5).unwrap()[..], [0; 5]);
    assert_eq!(&disk.read(file, 4096 + 20, 8).unwrap()[..], b"straight");
    assert_eq!(drive.counters().misdirected_writes, 1);
}
