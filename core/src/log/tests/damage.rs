//! Bytes that are not what was written.

use proptest::prelude::*;

use super::{crashes::op, *};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn damage_below_a_claim_is_refused_or_harmless(
        seed: u64,
        ops in prop::collection::vec(op(), 1..40),
        wounds in prop::collection::vec((any::<u64>(), 0u8..8), 1..3),
    ) {
        let mut node = Node::new(seed);
        node.open(0).unwrap();
        let covering = [Op::SyncAll, Op::Append(Kind::Mark, Vec::new()), Op::SyncAll];
        ops.iter().chain(&covering).for_each(|op| perform(&mut node, op).unwrap());
        let covered = node.entries.len() - 1;
        let (log, _) = node.log.take().unwrap();
        let claimed = node.entries[covered].place.start;
        for (at, bit) in wounds {
            let at = log.start().0 + at % (claimed.0 - log.start().0).max(1);
            let segment = at / 4096 * 4096;
            node.disk.flip(&format!("log/{segment:020}"), at - segment, bit);
        }

        for entry in node.entries.iter().filter(|entry| entry.place.start >= log.start()) {
            for (position, part) in &entry.parts {
                match log.read(&mut node.disk, *position, part.len() as u32) {
                    Ok(read) => prop_assert_eq!(&read, part),
                    Err(StoreError::Corrupt(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        match node.open(covered) {
            Ok(()) | Err(StoreError::Corrupt(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_position_from_a_stranger_finds_a_part_or_nothing(seed: u64, at: u64) {
        let mut node = filled(seed, 5);
        let (log, _) = node.log.take().unwrap();
        for at in [at % 16_000, at] {
            let found = log.look_up(&mut node.disk, Position(at)).unwrap();
            let parts = node.entries.iter().flat_map(|entry| &entry.parts);
            let real = parts.clone().find(|(position, _)| position.0 == at);
            prop_assert_eq!(found.as_ref(), real.map(|(_, part)| part));
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let mut node = filled(1, 10);
    let (file, _) = node.disk.open("log/00000000000000008192").unwrap();
    node.disk.remove(file).unwrap();
    let error = node.open(0).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn a_segment_of_another_store_is_damage() {
    let (mut node, other) = (filled(1, 10), filled(2, 10));
    node.disk.swap_in("log/00000000000000004096", &other.disk);
    let error = node.open(0).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn an_entry_at_the_place_of_another_is_damage() {
    let mut node = filled(1, 2);
    let (log, _) = node.log.take().unwrap();
    let part = |entry: usize| node.entries[entry].parts[0].clone();
    let ((from, bytes), (to, _)) = (part(1), part(4));
    node.disk.copy("log/00000000000000000000", from.0 - 8, to.0 - 8, 8 + bytes.len());
    let error = log.read(&mut node.disk, to, bytes.len() as u32).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(_)), "{error}");
}

#[test]
fn after_an_orderly_stop_even_the_last_entry_cannot_vanish() {
    let mut node = filled(1, 1);
    let (mut log, _) = node.log.take().unwrap();
    log.close(&mut node.disk).unwrap();
    let last = node.entries.last().unwrap().place.start;
    node.disk.flip("log/00000000000000000000", last.0 + 60, 3);
    let error = node.open(0).unwrap_err().to_string();
    assert!(error.contains("was durable up to 1608"), "{error}");
}

#[test]
fn a_misdirected_read_during_recovery_neither_cuts_nor_spoils_the_log() {
    for read in 0.. {
        let mut node = filled(read, 4);
        perform(&mut node, &Op::Snapshot).unwrap();
        perform(&mut node, &Op::SyncAll).unwrap();
        let all = node.entries.len();
        node.disk.misread = Some(read);
        node.open(all).unwrap();
        let done = node.disk.misread.take().is_some();
        perform(&mut node, &Op::SyncAll).unwrap();
        perform(&mut node, &Op::PowerFailure).unwrap();
        if done {
            break;
        }
    }
}

#[test]
fn a_lost_identity_is_damage() {
    let mut node = filled(1, 1);
    let (file, _) = node.disk.open("store").unwrap();
    node.disk.remove(file).unwrap();
    let error = node.open(0).unwrap_err().to_string();
    assert_eq!(error, "store is damaged: it is missing or illegible, but there is a log");
}
