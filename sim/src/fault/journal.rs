//! Faults as the history tells them: when each began, whom it struck, and when
//! it was undone.

use super::Fault;
use crate::history::{self, EventKind, FaultId, FaultKind, LaneId, Recorder};

/// Writes the faults that really struck into a history.
pub struct Journal {
    recorder: Recorder,
    active: Vec<Active>,
}

struct Active {
    fault: Fault,
    id: FaultId,
    lane: LaneId,
}

impl Journal {
    pub fn new(recorder: Recorder) -> Journal {
        Journal { recorder, active: Vec::new() }
    }

    /// A fault strikes, planned in these words; if it undoes an earlier one, that
    /// one is over.
    pub fn strikes(&mut self, fault: &Fault, planned: &Fault) {
        self.over(|earlier| fault.undoes(earlier));
        let Some((kind, _)) = fault.history_kind() else { return };
        let lanes: Vec<LaneId> =
            self.recorder.name(|names| fault.nodes().iter().map(|node| names.lane(node)).collect());
        let Some(lane) = lanes.first().copied() else { return };
        let id = self.recorder.next_fault();
        let side = match fault {
            Fault::Partition { a, .. } => a.len() as u32,
            _ => 0,
        };
        let text = match fault == planned {
            true => fault.to_string(),
            false => format!("{fault} (planned: {planned})"),
        };
        let told = history::Fault { fault: id, kind, lanes, side, text };
        self.recorder.push(lane, EventKind::Fault(Box::new(told)));
        self.active.push(Active { fault: fault.clone(), id, lane });
    }

    /// What it does is done; only what lasts is still there.
    pub fn has_struck(&mut self) {
        self.over(|active| !active.history_kind().is_some_and(|(_, lasts)| lasts));
    }

    /// A fault that ends by itself has ended.
    pub fn ended(&mut self, fault: &Fault) {
        self.over(|active| active == fault);
    }

    /// Everything is healed.
    pub fn healed(&mut self) {
        self.over(|_| true);
    }

    fn over(&mut self, is_over: impl Fn(&Fault) -> bool) {
        for active in self.active.extract_if(.., |active| is_over(&active.fault)) {
            self.recorder.push(active.lane, EventKind::FaultHealed { fault: active.id });
        }
    }
}

impl Fault {
    /// What the history calls it, and whether it lasts; none if it only undoes
    /// another one.
    pub(super) fn history_kind(&self) -> Option<(FaultKind, bool)> {
        Some(match self {
            Fault::Kill { .. } => (FaultKind::Kill, false),
            Fault::PowerLoss { .. } => (FaultKind::PowerLoss, false),
            Fault::Stop { .. } => (FaultKind::Stop, false),
            Fault::TailLoss { .. } => (FaultKind::TailLoss, false),
            Fault::DiskLoss { .. } => (FaultKind::DiskLoss, false),
            Fault::Restart { .. } => (FaultKind::Restart, false),
            Fault::Pause { .. } => (FaultKind::Pause, true),
            Fault::Partition { .. } => (FaultKind::Partition, true),
            Fault::Latency { extra_ms: 1.., .. } => (FaultKind::Latency, true),
            Fault::DropConnections { .. } => (FaultKind::DropConnections, false),
            Fault::SilenceConnections { .. } => (FaultKind::SilenceConnections, false),
            Fault::ClockJump { .. } => (FaultKind::ClockJump, false),
            Fault::ClockDrift { ppm, .. } if *ppm != 0 => (FaultKind::ClockDrift, true),
            Fault::DiskFull { .. } => (FaultKind::DiskFull, true),
            Fault::DiskSlow { max_ms: 1.., .. } => (FaultKind::DiskSlow, true),
            Fault::DiskReadError { .. } => (FaultKind::DiskReadError, false),
            Fault::DiskWriteError { .. } => (FaultKind::DiskWriteError, false),
            Fault::DiskSyncError { .. } => (FaultKind::DiskSyncError, false),
            Fault::BitRot { .. } => (FaultKind::BitRot, false),
            Fault::LatentError { .. } => (FaultKind::LatentError, false),
            Fault::MisdirectedRead { .. } => (FaultKind::MisdirectedRead, false),
            Fault::MisdirectedWrite { .. } => (FaultKind::MisdirectedWrite, false),
            Fault::ConsumerStall { .. } => (FaultKind::ConsumerStall, true),
            Fault::ConsumerSlow { handling_ms: 1.., .. } => (FaultKind::ConsumerSlow, true),
            Fault::Resume { .. }
            | Fault::Heal { .. }
            | Fault::Latency { .. }
            | Fault::ClockDrift { .. }
            | Fault::DiskFree { .. }
            | Fault::DiskSlow { .. }
            | Fault::ConsumerSlow { .. } => return None,
        })
    }

    /// Whether an earlier fault is over once this one strikes.
    fn undoes(&self, earlier: &Fault) -> bool {
        let is_same_node = self.nodes() == earlier.nodes();
        match (self, earlier) {
            (Fault::Heal { a, b, one_way }, Fault::Partition { a: c, b: d, one_way: other }) => {
                (a, b, one_way) == (c, d, other)
            }
            (Fault::Latency { a, b, .. }, Fault::Latency { a: c, b: d, .. }) => (a, b) == (c, d),
            (
                Fault::Kill { .. }
                | Fault::PowerLoss { .. }
                | Fault::TailLoss { .. }
                | Fault::DiskLoss { .. },
                Fault::Pause { .. },
            )
            | (Fault::Resume { .. }, Fault::Pause { .. })
            | (Fault::ClockDrift { .. }, Fault::ClockDrift { .. })
            | (Fault::DiskFree { .. }, Fault::DiskFull { .. })
            | (Fault::DiskSlow { .. }, Fault::DiskSlow { .. })
            | (Fault::ConsumerSlow { .. }, Fault::ConsumerSlow { .. }) => is_same_node,
            _ => false,
        }
    }
}
