//! The CPU time of the process under test, from /proc.

use std::{fs, io, time::Duration};

/// `utime` and `stime` count in hundredths of a second on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process and all its threads so far.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read the CPU time of process {pid}: {error}"))
    })?;
    parse(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat says {stat:?}")))
}

fn parse(stat: &str) -> Option<Duration> {
    // The command's name, in parentheses, may hold anything, also parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 4 0 900 0 0";
        assert_eq!(parse(stat), Some(Duration::from_secs(2)));
    }
}
