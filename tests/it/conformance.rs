//! The simulated disk is believed because it does what the real one does: one
//! list of operations runs on both, step by step, and every result is the same.
//! What only one of them can do is not compared: faults are the simulated
//! disk's, and a file whose slices are alive can be renamed there, because its
//! slices are copies.

use std::{io, rc::Rc};

use bytes::Bytes;
use proptest::prelude::*;
use stormglass::{disk::RealDisk, on_tokio::block_on};
use stormglass_core::runtime::{Disk, FileId};
use stormglass_sim::disk::{DiskConfig, Drive, NoTime};

const NAMES: [&str; 5] = ["log/0", "log/1", "queue/%RETRY%g/0", "queue/orders/0", "identity"];

#[derive(Clone, Debug)]
enum Step {
    List,
    Create {
        name: usize,
        len: u64,
    },
    Open {
        name: usize,
    },
    Rename {
        file: usize,
        to: usize,
    },
    Remove {
        file: usize,
    },
    Write {
        file: usize,
        offset: u64,
        byte: u8,
        len: usize,
    },
    Read {
        file: usize,
        offset: u64,
        len: usize,
    },
    Sync {
        files: Vec<usize>,
    },
    Seal {
        file: usize,
    },
    /// The process ends and another one opens the disk.
    Remount,
}

/// What a caller can see of a step.
#[derive(Debug, PartialEq)]
enum Seen {
    Names(Vec<(String, u64)>),
    Opened(u64),
    Bytes(Bytes),
    Done,
    Failed(io::ErrorKind),
}

async fn run<D: Disk>(steps: &[Step], mut mount: impl FnMut() -> D) -> Vec<Seen> {
    let mut disk = Some(mount());
    // A place is the n-th file opened; before any, it names none.
    let mut opened: Vec<FileId> = Vec::new();
    let mut seen = Vec::new();
    for step in steps {
        let file = |place: &usize| {
            let at = place.checked_rem(opened.len());
            at.map_or(FileId(u32::MAX), |at| opened[at])
        };
        let on = disk.as_mut().expect("mounted");
        let result = match step {
            Step::List => on.list().map(Seen::Names),
            Step::Create { name, len } => on.create(NAMES[*name], *len).map(|id| {
                opened.push(id);
                Seen::Done
            }),
            Step::Open { name } => on.open(NAMES[*name]).map(|(id, len)| {
                opened.push(id);
                Seen::Opened(len)
            }),
            Step::Rename { file: f, to } => on.rename(file(f), NAMES[*to]).map(|()| Seen::Done),
            Step::Remove { file: f } => on.remove(file(f)).map(|()| Seen::Done),
            Step::Write { file: f, offset, byte, len } => {
                on.write(file(f), *offset, &vec![*byte; *len]).map(|()| Seen::Done)
            }
            Step::Read { file: f, offset, len } => {
                on.read(file(f), *offset, *len).map(|bytes| Seen::Bytes(bytes.to_vec().into()))
            }
            Step::Sync { files } => {
                let files: Vec<FileId> = files.iter().map(file).collect();
                on.begin_sync(&files).await.map(|()| Seen::Done)
            }
            Step::Seal { file: f } => {
                on.seal(file(f));
                Ok(Seen::Done)
            }
            Step::Remount => {
                // The old process lets go of the disk before the new one asks for it.
                drop(disk.take());
                disk = Some(mount());
                opened.clear();
                Ok(Seen::Done)
            }
        };
        seen.push(result.unwrap_or_else(|error| Seen::Failed(error.kind())));
    }
    seen
}

fn on_real(steps: &[Step], ahead: bool) -> Vec<Seen> {
    let dir = tempfile::tempdir().unwrap();
    let mount = || {
        let disk = RealDisk::open(dir.path()).unwrap();
        if ahead { disk.writing_ahead().unwrap() } else { disk }
    };
    block_on(run(steps, mount)).unwrap()
}

fn on_simulated(steps: &[Step]) -> Vec<Seen> {
    let drive = Drive::new(1, DiskConfig::default());
    block_on(run(steps, || drive.attach(Rc::new(NoTime)))).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let file = 0..8usize;
    let offset = prop_oneof![4 => 0..20_000u64, 1 => 900_000..1_100_000u64, 1 => Just(u64::MAX)];
    let len = prop_oneof![4 => 0..9000usize, 1 => Just(300_000)];
    let file_len = prop_oneof![Just(0u64), 1..10_000u64, Just(1 << 20)];
    prop_oneof![
        1 => Just(Step::List),
        3 => (name.clone(), file_len).prop_map(|(name, len)| Step::Create { name, len }),
        2 => name.clone().prop_map(|name| Step::Open { name }),
        2 => (file.clone(), name).prop_map(|(file, to)| Step::Rename { file, to }),
        1 => file.clone().prop_map(|file| Step::Remove { file }),
        8 => (file.clone(), offset.clone(), any::<u8>(), len.clone())
            .prop_map(|(file, offset, byte, len)| Step::Write { file, offset, byte, len }),
        8 => (file.clone(), offset, len)
            .prop_map(|(file, offset, len)| Step::Read { file, offset, len }),
        2 => prop::collection::vec(file.clone(), 0..3).prop_map(|files| Step::Sync { files }),
        1 => file.prop_map(|file| Step::Seal { file }),
        1 => Just(Step::Remount),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_simulated_disk_does_what_the_real_one_does(
        steps in prop::collection::vec(step(), 1..60), ahead: bool,
    ) {
        prop_assert_eq!(on_simulated(&steps), on_real(&steps, ahead));
    }
}

#[test]
fn zeros_written_ahead_never_touch_what_was_written() {
    // An odd length, so that writes meet the chunks of zeros at every angle; few
    // syncs, so that the writes catch up with the zeros.
    const LEN: usize = 12_345;
    const FILE: usize = 16 << 20;
    let mut steps = vec![Step::Create { name: 0, len: FILE as u64 }];
    for n in 0..FILE / LEN {
        let byte = 1 + (n % 255) as u8;
        steps.push(Step::Write { file: 0, offset: (n * LEN) as u64, byte, len: LEN });
        if n % 64 == 0 {
            steps.push(Step::Sync { files: vec![0] });
        }
    }
    steps.extend([Step::Remount, Step::Open { name: 0 }]);
    steps.push(Step::Read { file: 0, offset: 0, len: FILE });
    // Not assert_eq: nobody wants to read sixteen million bytes twice.
    assert!(on_real(&steps, true) == on_simulated(&steps));
}
