//! How a broker ends: in order, with a note in the log that everything is
//! durable; or on the spot, when its store fails or another replica leads.

use super::{Broker, Input, Output, Phase};
use crate::{error::StoreError, ids::ConnId, runtime::Disk, time::Now};

impl<D: Disk> Broker<D> {
    pub(super) fn stop(&mut self) -> Result<(), StoreError> {
        match self.phase {
            Phase::Serving => {
                self.flush_all_offsets()?;
                self.replica.hand_over(None);
                self.phase = Phase::Stopping;
            }
            Phase::Recovering | Phase::Starting | Phase::Full => {
                // Nothing was promised yet, so there is nothing to finish.
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::Stopped);
            }
            Phase::Stopping | Phase::Ended => {}
        }
        Ok(())
    }

    /// Everything durable first, then the note that it is, then the end.
    pub(super) fn advance_stop(&mut self, now: Now) -> Result<(), StoreError> {
        if self.replica.is_syncing() || self.stop_noted.is_some() {
            return Ok(());
        }
        if self.replica.is_handing_over() {
            if let Some((ticket, done)) = self.replica.begin_sync(now.mono) {
                self.outputs.push_back(Output::Sync { ticket, done });
            }
            return Ok(());
        }
        if self.replica.undurable() == 0 {
            self.replica.close()?;
        }
        let is_noted = self.replica.undurable() == 0;
        if let Some((ticket, done)) = self.replica.sync_with(now.mono, &[]) {
            self.stop_noted = is_noted.then_some(ticket);
            self.outputs.push_back(Output::Sync { ticket, done });
        }
        Ok(())
    }

    /// Ends on the spot. What was proposed has an unknown outcome: connections
    /// are closed rather than answered, for an answer could be wrong.
    pub(super) fn fail(&mut self, error: StoreError) {
        self.phase = Phase::Ended;
        self.outputs.retain(|output| !matches!(output, Output::Send { .. }));
        let conns: Vec<ConnId> = self.sessions.ids().collect();
        self.outputs.extend(conns.into_iter().map(|conn| Output::Close { conn }));
        let opens_again = matches!(error, StoreError::NotLeader | StoreError::Replaced);
        if opens_again && self.replica.is_syncing() {
            self.ends_after_sync = Some(error);
        } else {
            self.outputs.push_back(Output::Failed(error));
        }
    }

    /// What still matters to a broker that has ended: whoever opens its disk next
    /// finds what was written in the kernel's cache, and must not take it for
    /// durable with its own first sync if the last one here failed (L2).
    pub(super) fn handle_ended(&mut self, now: Now, input: Input) {
        let Some(error) = self.ends_after_sync.take() else { return };
        match input {
            Input::Synced { ticket, result } => {
                let synced = self.replica.synced(now.mono, ticket, result);
                self.outputs.push_back(Output::Failed(synced.err().unwrap_or(error)));
            }
            Input::Stop => self.outputs.push_back(Output::Stopped),
            Input::Connected { conn, .. } => {
                // The next broker would not know of it.
                self.outputs.push_back(Output::Close { conn });
                self.ends_after_sync = Some(error);
            }
            _ => self.ends_after_sync = Some(error),
        }
    }
}
