//! An overload that ends is over: soon afterwards the cluster does what it did
//! before. One that has collapsed goes on failing, under the retries of its own
//! clients, with nothing else in its way (P1).

use super::{EventIndex, Facts, Oracle, Verdict, Violation, readers::Answer};
use crate::history::{DeliveryId, Event, EventKind, FaultId, FaultKind, Mode, Names};

/// How long goodput is measured, before and after.
const WINDOW_SECS: u64 = 5;
/// How soon it is back.
const BACK_SECS: u64 = 15;
/// Of what it was before, in hundredths.
const LEAST_PERCENT: u64 = 90;
/// With fewer in a window, chance decides.
const ENOUGH: u64 = 50;

#[derive(Debug, Default)]
pub struct NoMetastableCollapse {
    /// What went well in each second, counted from the run's start.
    stored: Vec<u32>,
    handled: Vec<u32>,
    overload: Overload,
}

#[derive(Debug, Default)]
enum Overload {
    #[default]
    None,
    /// These producers send too much; before the first of them began, this is
    /// what was stored and handled in a window.
    Lasts { faults: Vec<FaultId>, before: Option<[u64; 2]> },
    /// It ended at this time, by this event.
    Over { at: u64, event: EventIndex, before: [u64; 2] },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Breach {
    /// Fewer sends are answered OK in a window than before the overload.
    StoresLess { now: u64, before: u64 },
    /// Fewer messages are acknowledged.
    HandlesLess { now: u64, before: u64 },
}

impl Oracle for NoMetastableCollapse {
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict {
        self.judge(facts)?;
        match &event.kind {
            EventKind::SendOk { .. } | EventKind::SendHeld { .. } => {
                count(&mut self.stored, event.at);
            }
            EventKind::Acked { delivery } if is_first(*delivery, facts) => {
                count(&mut self.handled, event.at);
            }
            EventKind::Fault(fault) if fault.kind == FaultKind::Overload => {
                self.begins(fault.fault, facts);
            }
            EventKind::FaultHealed { fault } => self.ends(*fault, facts),
            // Producers stop.
            EventKind::ChaosEnded => self.overload = Overload::None,
            _ => {}
        }
        Ok(())
    }
}

impl NoMetastableCollapse {
    /// Messages stored and handled in the window that ends before this time.
    fn goodput(&self, at: u64) -> Option<[u64; 2]> {
        let end = (at / SECOND) as usize;
        let begin = end.checked_sub(WINDOW_SECS as usize)?;
        let sum = |all: &[u32]| {
            let window = all.iter().take(end).skip(begin);
            window.map(|count| u64::from(*count)).sum()
        };
        Some([sum(&self.stored), sum(&self.handled)])
    }

    fn begins(&mut self, fault: FaultId, facts: &Facts) {
        match &mut self.overload {
            Overload::Lasts { faults, .. } => faults.push(fault),
            _ => {
                let calm = facts.calm_for(WINDOW_SECS * SECOND);
                let before = self.goodput(facts.now).filter(|_| calm);
                self.overload = Overload::Lasts { faults: vec![fault], before };
            }
        }
    }

    fn ends(&mut self, fault: FaultId, facts: &Facts) {
        let Overload::Lasts { faults, before } = &mut self.overload else { return };
        faults.retain(|known| *known != fault);
        if !faults.is_empty() {
            return;
        }
        self.overload = match before {
            Some(before) => Overload::Over { at: facts.now, event: facts.index, before: *before },
            None => Overload::None,
        };
    }

    fn judge(&mut self, facts: &Facts) -> Verdict {
        let Overload::Over { at, event, before } = self.overload else { return Ok(()) };
        let due = at + (BACK_SECS + WINDOW_SECS + 1) * SECOND;
        if facts.now < due {
            return Ok(());
        }
        self.overload = Overload::None;
        // Something else has come in between.
        if facts.disturbed.1 > event {
            return Ok(());
        }
        let Some(now) = self.goodput(due) else { return Ok(()) };
        let is_less =
            |kind: usize| before[kind] >= ENOUGH && now[kind] * 100 < before[kind] * LEAST_PERCENT;
        let breach = if is_less(0) {
            Breach::StoresLess { now: now[0], before: before[0] }
        } else if is_less(1) {
            Breach::HandlesLess { now: now[1], before: before[1] }
        } else {
            return Ok(());
        };
        Err(Violation::new(breach, facts, [event]))
    }
}

const SECOND: u64 = 1_000_000;

fn count(all: &mut Vec<u32>, at: u64) {
    let second = (at / SECOND) as usize;
    if all.len() <= second {
        all.resize(second + 1, 0);
    }
    all[second] += 1;
}

/// Whether its group has not acknowledged the message before.
fn is_first(delivery: DeliveryId, facts: &Facts) -> bool {
    let Some(delivery) = facts.delivery(delivery).filter(|d| d.answer == Answer::Open) else {
        return false;
    };
    let reader = facts.reader_of(delivery.member).filter(|r| r.mode == Mode::Clustering);
    let known = reader.zip(delivery.message);
    known.is_some_and(|(reader, message)| !reader.acked.contains(message.index()))
}

impl Breach {
    pub fn tell(&self, _names: &Names) -> String {
        let (what, now, before) = match self {
            Breach::StoresLess { now, before } => ("sends were answered OK", now, before),
            Breach::HandlesLess { now, before } => ("messages were acknowledged", now, before),
        };
        format!(
            "{BACK_SECS} s after an overload, {now} {what} in {WINDOW_SECS} s; before it, {before}"
        )
    }
}
