//! Which replica serves which reader. The leader sends one that is far behind
//! to a follower that no commit waits for, so that it does not push the log's
//! tail out of the leader's memory. A follower serves what is committed and
//! applied there; it sends the reader back once it has caught up, or when there
//! is something to judge that only the leader can: offsets that are out of range
//! (O2), groups, locks.

use std::{collections::VecDeque, time::Duration};

use super::{
    Broker, Output,
    config::limit,
    pull::{Pull, Tried},
    register::LEADER_ID,
    state::QueueKey,
};
use crate::{
    error::Rejected,
    ids::{ConnId, Position},
    runtime::Disk,
    time::{Now, Time},
    wire::{
        Frame, code,
        frame::{Packet, ReplyTo},
        header::{PullHeader, PullReply},
    },
};

/// How long a follower takes to say "ask the leader": who knows no leader would
/// ask again at once.
const THINK: Duration = Duration::from_millis(100);

/// Answers that send readers back to the leader, in the order in which they are
/// due.
#[derive(Default)]
pub(super) struct Redirects(VecDeque<(Time, ConnId, Packet)>);

impl Redirects {
    pub fn deadline(&self) -> Option<Time> {
        self.0.front().map(|(at, ..)| *at)
    }
}

impl<D: Disk> Broker<D> {
    /// Where a reader shall go on that has been served from this position: the
    /// id of a follower, or the leader's.
    pub(super) fn best_replica(&self, pull: &Pull, at: Position) -> i64 {
        let behind = self.replica.committed().0.saturating_sub(at.0);
        if let Some(set) = self.config.replica_set.as_ref().filter(|_| self.is_following()) {
            // Half the way, lest it goes to and fro.
            let stays = behind > self.config.far_behind / 2;
            return if stays { set.id.0 as i64 } else { LEADER_ID };
        }
        let is_loaded = self.replica.undurable() > limit::LOADED;
        let far = if is_loaded { self.config.far_behind / 8 } else { self.config.far_behind };
        if behind <= far || !self.may_read_elsewhere(pull) {
            return LEADER_ID;
        }
        let followers = self.replica.spare_followers();
        let QueueKey { topic, queue } = pull.to;
        let turn = topic.wrapping_add(queue) as usize;
        let follower = turn.checked_rem(followers.len()).and_then(|turn| followers.get(turn));
        follower.map_or(LEADER_ID, |node| node.0 as i64)
    }

    /// A reader passes over nothing that its group may want, and nobody but the
    /// leader knows who owns a locked queue (L15, R1).
    fn may_read_elsewhere(&self, pull: &Pull) -> bool {
        pull.filter.is_all() && pull.lock_epoch.is_none() && !self.state.locks.has(&pull.group)
    }

    /// 11, on a follower. Nothing is held here, and no offset that comes along
    /// is taken.
    pub(super) fn pull_from_follower(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = PullHeader::parse(&frame.fields)?;
        let next = match self.readable_here(conn, frame.reply_to(), &header) {
            None => header.queue_offset,
            Some(pull) => match self.try_pull(pull) {
                Tried::AtEnd(pull) => pull.offset as i64,
                Tried::Answered => return Ok(()),
            },
        };
        self.send_to_leader(now, conn, frame.reply_to(), next);
        Ok(())
    }

    fn readable_here(
        &self,
        conn: ConnId,
        reply_to: ReplyTo,
        header: &PullHeader<'_>,
    ) -> Option<Pull> {
        let group = self.state.group(header.group)?.name.clone();
        let to = self.readable_queue(header.topic, header.queue).ok()?;
        let index = &self.state.queue(to).index;
        let offset = u64::try_from(header.queue_offset).ok()?;
        let filter = self.pull_filter(header).ok()?;
        let is_here = (index.min()..index.max()).contains(&offset);
        let pull = Pull::new(conn, reply_to, group, to, filter, offset, header);
        (is_here && self.may_read_elsewhere(&pull)).then_some(pull)
    }

    fn send_to_leader(&mut self, now: Now, conn: ConnId, reply_to: ReplyTo, next: i64) {
        if reply_to.one_way || self.redirects.0.len() >= limit::AWAITING {
            return;
        }
        let fields = PullReply {
            suggest_broker: LEADER_ID,
            next_offset: next,
            min_offset: next,
            max_offset: next,
        }
        .fields();
        // Whoever took this one for the leader shall know better.
        let fields = match self.who_leads() {
            Some(who) => fields.with(&who.fields()),
            None => fields,
        };
        let (code, remark) = (code::PULL_RETRY_IMMEDIATELY, "ASK_THE_LEADER");
        let packet = reply_to.answer(code, remark, fields, Vec::new());
        self.redirects.0.push_back((now.mono + THINK, conn, packet));
    }

    /// Lets the answers go that are due.
    pub(super) fn redirect(&mut self, now: Now) {
        while self.redirects.deadline().is_some_and(|at| at <= now.mono)
            && let Some((_, conn, packet)) = self.redirects.0.pop_front()
        {
            self.outputs.push_back(Output::Send { conn, packet });
        }
    }
}
