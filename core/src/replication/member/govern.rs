//! Changes of a group's configuration, and of its leader.

use raft::ProgressState;

use super::{Member, Role};
use crate::{
    error::{Corrupt, StoreError},
    ids::{LogIndex, NodeId},
    log::{Draft, Kind, Place},
    peer::Mark,
    replication::configuration::{Change, Configuration, Refused, Standing},
    runtime::Disk,
};

/// A learner this close to the end of the log, in bytes, gets its vote.
const CAUGHT_UP: u64 = 1 << 20;

impl<D: Disk> Member<D> {
    /// The configuration that counts: the newest one that is committed.
    pub fn configuration(&self) -> &Configuration {
        &self.raw.store().configuration
    }

    /// Whether the group went on without this replica.
    pub fn is_removed(&self) -> bool {
        let configuration = self.configuration();
        !configuration.seats.is_empty() && !configuration.contains(self.id())
    }

    /// Begins a change of members; what follows from it the leader does by
    /// itself.
    pub fn change(&mut self, change: Change) -> Result<Result<Place, Refused>, StoreError> {
        if !self.is_established() || self.is_handing_over() {
            return Ok(Err(Refused::NotLeader));
        }
        match self.configuration().changed(change) {
            Ok(next) if !self.can_decide(&next) => Ok(Err(Refused::TooFew)),
            Ok(next) => self.propose_configuration(next),
            Err(refused) => Ok(Err(refused)),
        }
    }

    fn propose_configuration(
        &mut self,
        mut next: Configuration,
    ) -> Result<Result<Place, Refused>, StoreError> {
        if self.raw.raft.has_pending_conf() {
            return Ok(Err(Refused::Changing));
        }
        next.since = LogIndex(self.log().last_index().0 + 1);
        let step = self.configuration().step_to(&next);
        let mut draft = Draft::default();
        draft.clear(Kind::Configuration);
        draft.part(|out| next.encode(out));
        draft.require_sync();
        let term = self.term();
        self.hand_in();
        let store = self.raw.mut_store();
        let place = store.log.append(&mut store.disk, term, &mut draft, |_, _| {})?;
        self.raw.propose_conf_change(Vec::new(), step).expect("a leader takes proposals");
        assert_eq!(self.raw.raft.raft_log.last_index(), place.index.0, "both logs are one");
        Ok(Ok(place))
    }

    /// Takes a change that is under way to its next step, if it is time for it.
    pub(super) fn govern(&mut self) -> Result<(), StoreError> {
        if !self.is_established() || self.is_handing_over() || self.raw.raft.has_pending_conf() {
            return Ok(());
        }
        if self.log().is_damaged() {
            self.hand_over(None);
            return Ok(());
        }
        let configuration = self.configuration();
        let next = if configuration.is_joint() {
            if configuration.standing(self.id()) == Some(Standing::Outgoing) {
                self.hand_over(None);
                return Ok(());
            }
            configuration.settled()
        } else {
            let mut learners = configuration.learners();
            match learners.find(|(id, _)| self.has_caught_up(*id)) {
                Some((id, _)) => configuration.promoted(id).expect("it is a learner"),
                None => return Ok(()),
            }
        };
        if !self.can_decide(&next) {
            return Ok(());
        }
        match self.propose_configuration(next) {
            // No room on the disk: later.
            Err(StoreError::Full) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Whether a majority of those who would decide is there: a change that
    /// leaves nobody to confirm it could not be taken back either.
    fn can_decide(&self, next: &Configuration) -> bool {
        let is_there = |id: &&NodeId| {
            let answers = self.raw.raft.prs().get(id.0).is_some_and(|known| known.recent_active);
            let is_trusted = self.followers.get(id).is_some_and(|known| known.is_trusted);
            **id == self.id() || answers && is_trusted
        };
        let [voters, _] = next.voters();
        voters.iter().filter(is_there).count() * 2 > voters.len()
    }

    fn has_caught_up(&self, id: NodeId) -> bool {
        let (Some(progress), Some(known)) =
            (self.raw.raft.prs().get(id.0), self.followers.get(&id))
        else {
            return false;
        };
        let near = self.log().place_near(LogIndex(progress.matched + 1));
        known.is_trusted
            && progress.recent_active
            && progress.state == ProgressState::Replicate
            && self.log().end().0 - near.0 < CAUGHT_UP
    }

    /// A configuration is committed: from here on it counts.
    pub(super) fn follow_configuration(&mut self, index: LogIndex) -> Result<(), StoreError> {
        let (log, disk) = self.parts();
        let entries = log.entries(disk, index, LogIndex(index.0 + 1), 0)?;
        let Some(entry) = entries.into_iter().next() else { return Ok(()) };
        let at = entry.place.start;
        let corrupt = |what: String| Corrupt { file: "log".into(), position: Some(at), what };
        let Some((_, part)) = entry.parts.first() else {
            return Err(corrupt("an empty configuration".into()).into());
        };
        let next = Configuration::decode(part, at)?;
        let current = self.configuration();
        // What a snapshot held already.
        if next.since <= current.since {
            return Ok(());
        }
        let step = current.step_to(&next);
        let leaving: Vec<NodeId> =
            current.seats.keys().copied().filter(|id| !next.contains(*id)).collect();
        if self.role() == Role::Leader {
            // They hear no more, but this they shall know.
            let previous = Mark { term: entry.place.term, index };
            let me = self.id();
            let others = leaving.into_iter().filter(|id| *id != me);
            self.farewells.extend(others.map(|id| (id, previous)));
        }
        if !next.contains(self.id()) && self.role() == Role::Leader {
            let term = self.term();
            self.raw.raft.become_follower(term.0, 0);
        }
        let state = next.conf_state();
        self.raw.mut_store().configuration = next;
        let applied = self
            .raw
            .apply_conf_change(&step)
            .map_err(|error| corrupt(format!("a configuration that cannot follow: {error}")))?;
        assert_eq!(sorted(applied), sorted(state), "both configurations are one");
        if self.is_removed() {
            tracing::warn!(id = %self.id(), "the set goes on without this replica");
        }
        Ok(())
    }

    /// Hands over to another voter, the one that is furthest if none is named.
    /// Nothing more is proposed until somebody leads. False if there is nobody.
    pub fn hand_over(&mut self, to: Option<NodeId>) -> bool {
        let me = self.id();
        let [voters, _] = self.configuration().voters();
        let progress = self.raw.raft.prs();
        let may = |id: &NodeId| {
            *id != me
                && to.is_none_or(|to| to == *id)
                && self.followers.get(id).is_some_and(|it| it.is_trusted && !it.wants_snapshot)
        };
        let known = voters.iter().filter(|id| may(id));
        let known = known.filter_map(|id| Some((progress.get(id.0)?, *id)));
        let reachable = known.filter(|(progress, _)| progress.recent_active);
        let furthest = reachable.max_by_key(|(progress, id)| (progress.matched, *id));
        let (Role::Leader, Some((_, successor))) = (self.role(), furthest) else { return false };
        self.hand_in();
        self.lease.revoke(self.term());
        self.raw.transfer_leader(successor.0);
        true
    }

    pub fn is_handing_over(&self) -> bool {
        self.role() == Role::Leader && self.raw.raft.lead_transferee.is_some()
    }

    /// A leader whose successor did not come forward cannot know that it never
    /// will: it has no lease any more, and stands for election like others.
    pub(super) fn resign_if_void(&mut self) {
        if self.lease.is_void(self.term()) && self.role() == Role::Leader && !self.is_handing_over()
        {
            let term = self.term();
            self.raw.raft.become_follower(term.0, 0);
        }
    }
}

fn sorted(mut state: raft::prelude::ConfState) -> (Vec<u64>, Vec<u64>, Vec<u64>) {
    state.voters.sort_unstable();
    state.voters_outgoing.sort_unstable();
    state.learners.sort_unstable();
    (state.voters, state.voters_outgoing, state.learners)
}
