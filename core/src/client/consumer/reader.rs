//! Which replica a queue is read from: the leader, or the follower to which the
//! last answer sent us. Everything else about the queue is asked of the leader.

use std::{net::SocketAddr, time::Duration};

use crate::{
    client::{MessageQueue, context::Reply, routes::Route},
    time::Time,
    wire::code,
};

/// A follower that could not serve is not asked again for so long.
const LEADER_ONLY: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Reader {
    follower: Option<i64>,
    /// The pull that is under way went to a follower.
    asked_follower: bool,
    leader_until: Time,
}

impl Reader {
    /// Where the next pull goes: to a follower only if the last answer said so.
    pub fn ask(&mut self, route: &Route, queue: &MessageQueue) -> Option<SocketAddr> {
        let follower = self.follower.take();
        let follower = follower.and_then(|id| route.replica(&queue.broker, id));
        self.asked_follower = follower.is_some();
        follower.or_else(|| route.master(&queue.broker))
    }

    /// The last answer named this replica, by broker id.
    pub fn is_sent_to(&mut self, now: Time, id: i64) {
        self.follower = Some(id).filter(|id| *id > 0 && now >= self.leader_until);
    }

    /// Whether a follower had nothing for us. What it says beyond that, of
    /// offsets for one, is not its to say (O2).
    pub fn was_in_vain(&mut self, now: Time, reply: &Reply) -> bool {
        let code = reply.as_ref().ok().map(|frame| frame.code);
        if !std::mem::take(&mut self.asked_follower) || code == Some(code::SUCCESS) {
            return false;
        }
        if code != Some(code::PULL_RETRY_IMMEDIATELY) && code != Some(code::PULL_NOT_FOUND) {
            self.leader_until = now + LEADER_ONLY;
        }
        true
    }
}
