//! Segments that are full, too many, or written again.

use super::*;

#[test]
fn a_full_disk_refuses_an_entry_and_changes_nothing() {
    let mut node = filled(1, 1);
    node.disk.capacity = Some(0);
    while node.append(Kind::Messages, &[1000]).is_ok() {}
    let end = node.log.as_ref().unwrap().0.end();
    assert!(matches!(node.append(Kind::Messages, &[1000]), Err(StoreError::Full)));
    assert_eq!(node.log.as_ref().unwrap().0.end(), end);
    perform(&mut node, &Op::Prepare).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    node.disk.capacity = None;
    node.append(Kind::Messages, &[1000]).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    perform(&mut node, &Op::PowerFailure).unwrap();
}

#[test]
fn an_entry_is_as_large_as_a_segment_at_most() {
    let mut node = filled(1, 1);
    node.append(Kind::Command, &[4096 - 48]).unwrap();
    node.append(Kind::Command, &[4096 - 48]).unwrap();
    let refused = node.append(Kind::Command, &[4096 - 47]);
    assert!(matches!(refused, Err(StoreError::TooLarge { bytes: 4104, limit: 4096 })));
    node.append(Kind::Command, &[1]).unwrap();
    perform(&mut node, &Op::SyncAll).unwrap();
    perform(&mut node, &Op::Kill).unwrap();
}

#[test]
fn expired_segments_are_written_again() {
    let mut node = filled(1, 10);
    for _ in 0..20 {
        for op in [Op::Snapshot, Op::SyncAll, Op::Expire, Op::SyncAll, Op::Prepare] {
            perform(&mut node, &op).unwrap();
        }
        node.append(Kind::Messages, &[1900, 50]).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
    }
    let created = node.disk.created.iter().filter(|name| name.starts_with("log/")).count();
    let segments = node.log.as_ref().unwrap().0.end().0 / 4096;
    assert!(segments >= 14 && created < 9, "{segments} segments, {created} created");
    perform(&mut node, &Op::PowerFailure).unwrap();
}

#[test]
fn a_recycled_segment_never_shows_new_bytes_under_its_old_name() {
    for seed in 0..50 {
        let mut node = filled(seed, 6);
        let append = || Op::Append(Kind::Command, vec![1500]);
        let ops = [Op::Recycle, append(), Op::Prepare, append(), append(), append(), Op::Write];
        ops.iter().for_each(|op| perform(&mut node, op).unwrap());
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}

#[test]
fn nothing_expires_before_the_snapshot_found_is_durable() {
    for seed in 0..20 {
        let mut node = filled(seed, 6);
        for op in [Op::Snapshot, Op::BeginSync, Op::FinishSync, Op::BeginSync] {
            perform(&mut node, &op).unwrap();
        }
        // The snapshot's header is in the page cache only.
        perform(&mut node, &Op::Kill).unwrap();
        if seed % 2 == 0 {
            perform(&mut node, &Op::SyncAll).unwrap();
        }
        perform(&mut node, &Op::Expire).unwrap();
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}

#[test]
fn a_snapshot_whose_sync_failed_is_never_relied_upon() {
    for seed in 0..20 {
        let mut node = filled(seed, 6);
        let ops = [Op::Snapshot, Op::BeginSync, Op::FailSyncAndKill, Op::SyncAll, Op::Expire];
        ops.iter().for_each(|op| perform(&mut node, op).unwrap());
        perform(&mut node, &Op::PowerFailure).unwrap();
    }
}
