//! Faults as sentences, for plans, traces and reports.

use std::fmt;

use stormglass_core::ids::Name;

use super::Fault;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { node } => write!(f, "kill {node}"),
            Fault::PowerLoss { node, unsynced } => {
                write!(f, "power loss of {node}, unsynced pages: {unsynced:?}")
            }
            Fault::Stop { node } => write!(f, "stop {node}"),
            Fault::TailLoss { node, last_ms } => {
                write!(f, "power loss of {node}, and the last {last_ms} ms of its log")
            }
            Fault::DiskLoss { node } => write!(f, "power loss of {node}, and all of its disk"),
            Fault::Restart { node } => write!(f, "restart {node}"),
            Fault::Pause { node } => write!(f, "pause {node}"),
            Fault::Resume { node } => write!(f, "resume {node}"),
            Fault::Partition { a, b, one_way } => {
                let arrow = if *one_way { "-/->" } else { "<-/->" };
                write!(f, "partition {} {arrow} {}", Side(a), Side(b))
            }
            Fault::Heal { a, b, one_way } => {
                let arrow = if *one_way { "-->" } else { "<-->" };
                write!(f, "heal {} {arrow} {}", Side(a), Side(b))
            }
            Fault::Latency { a, b, extra_ms } => {
                write!(f, "latency +{extra_ms} ms {} <--> {}", Side(a), Side(b))
            }
            Fault::DropConnections { a, b } => {
                write!(f, "drop connections {} <--> {}", Side(a), Side(b))
            }
            Fault::SilenceConnections { a, b } => {
                write!(f, "silence connections {} <--> {}", Side(a), Side(b))
            }
            Fault::ClockJump { node, by_ms } => write!(f, "clock of {node} jumps by {by_ms} ms"),
            Fault::ClockDrift { node, ppm } => write!(f, "clocks of {node} drift by {ppm} ppm"),
            Fault::DiskFull { node } => write!(f, "disk of {node} is full"),
            Fault::DiskFree { node } => write!(f, "disk of {node} has room again"),
            Fault::DiskSlow { node, min_ms, max_ms } => {
                write!(f, "syncs of {node} take {min_ms} to {max_ms} ms longer")
            }
            Fault::DiskReadError { node, count } => write!(f, "{count} reads of {node} fail"),
            Fault::DiskWriteError { node, count } => write!(f, "{count} writes of {node} fail"),
            Fault::DiskSyncError { node, count } => write!(f, "{count} syncs of {node} fail"),
            Fault::BitRot { node, flips, older_than_ms } => {
                write!(f, "{flips} bits of {node} older than {older_than_ms} ms flip")
            }
            Fault::MisdirectedRead { node, count } => {
                write!(f, "{count} reads of {node} return another page")
            }
            Fault::LatentError { node, pages, older_than_ms } => {
                write!(f, "{pages} pages of {node} older than {older_than_ms} ms cannot be read")
            }
            Fault::MisdirectedWrite { node, count } => {
                write!(f, "{count} writes of {node} land on another page")
            }
            Fault::ConsumerStall { node, for_ms } => write!(f, "{node} stalls for {for_ms} ms"),
            Fault::ConsumerSlow { node, handling_ms } => {
                write!(f, "{node} takes {handling_ms} ms for each message")
            }
        }
    }
}

/// The nodes on one side of a link.
struct Side<'a>(&'a [Name]);

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(i, node)| write!(f, "{}{node}", if i > 0 { " " } else { "" }))
    }
}
