//! What the disk itself can do: positioned writes and `fdatasync`, nothing else.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::latency::Latencies;

/// How the file was prepared before the loop writes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Empty: each write makes it longer.
    Growing,
    /// Its blocks are allocated and have never been written.
    Allocated,
    /// Zeros were written and synced: what a recycled segment is like.
    Written,
}

impl Segment {
    pub const ALL: [Segment; 3] = [Segment::Growing, Segment::Allocated, Segment::Written];

    pub fn name(self) -> &'static str {
        match self {
            Segment::Growing => "growing",
            Segment::Allocated => "allocated",
            Segment::Written => "pre-written",
        }
    }
}

/// Writes `count` blocks of `size` bytes one after the other, each followed by
/// an `fdatasync`, and says how long each of the pairs took.
pub fn append_and_sync(
    dir: &Path,
    segment: Segment,
    size: usize,
    count: usize,
) -> io::Result<Latencies> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("raw-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    let done = prepare(&file, segment, size, count).and_then(|()| run(&file, size, count));
    fs::remove_file(&path)?;
    done
}

fn prepare(file: &File, segment: Segment, size: usize, count: usize) -> io::Result<()> {
    let len = (size * count) as u64;
    match segment {
        Segment::Growing => {}
        Segment::Allocated => fallocate(file, FallocateFlags::empty(), 0, len)?,
        Segment::Written => {
            let zeros = vec![0; 1 << 20];
            for at in (0..len).step_by(zeros.len()) {
                let n = zeros.len().min((len - at) as usize);
                file.write_all_at(&zeros[..n], at)?;
            }
        }
    }
    file.sync_all()
}

fn run(file: &File, size: usize, count: usize) -> io::Result<Latencies> {
    // Not constant, in case something below compresses.
    let block: Vec<u8> = (0..size).map(|n| (n as u32).wrapping_mul(2_654_435_761) as u8).collect();
    let mut latencies = Latencies::default();
    for n in 0..count {
        let began = Instant::now();
        file.write_all_at(&block, (n * size) as u64)?;
        file.sync_data()?;
        latencies.add(began.elapsed());
    }
    Ok(latencies)
}

/// How long the same bytes take without a broker: `bytes` in syncs of `group`.
pub fn time_for(dir: &Path, bytes: u64, group: usize) -> io::Result<Duration> {
    let count = bytes.div_ceil(group as u64).max(1) as usize;
    // A sample is enough where the whole would take minutes.
    let sample = count.min(2000);
    let spent = append_and_sync(dir, Segment::Written, group, sample)?.total();
    Ok(spent.mul_f64(count as f64 / sample as f64))
}
