//! Between raft-rs's messages and those that replicas exchange.

use raft::prelude::{Message as RaftMessage, MessageType};

use super::store::stub;
use crate::{
    ids::{LogIndex, NodeId, Term},
    peer::{Body, Echo, Mark, Message, Replicated},
    time::Time,
};

/// How raft-rs marks a campaign that the leader asked for.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// What raft-rs needs to know of a message. `last` is the last entry here: a
/// leader may think that there are more (they were lost).
pub(super) fn to_raft(message: &Message, last: LogIndex) -> RaftMessage {
    let mut to = RaftMessage::default();
    to.from = message.from.0;
    to.to = message.to.0;
    to.term = message.term.0;
    let kind = match &message.body {
        Body::Append { previous, commit, entries, .. } => {
            to.index = previous.index.0;
            to.log_term = previous.term.0;
            to.commit = commit.0;
            let stubs: Vec<_> = entries.iter().map(stub_of).collect();
            to.set_entries(stubs.into());
            MessageType::MsgAppend
        }
        Body::Appended { index, commit, .. } => {
            to.index = index.0;
            to.commit = commit.0;
            MessageType::MsgAppendResponse
        }
        Body::Rejected { index, hint, commit, .. } => {
            to.reject = true;
            to.index = index.0;
            to.reject_hint = hint.index.0;
            to.log_term = hint.term.0;
            to.commit = commit.0;
            MessageType::MsgAppendResponse
        }
        Body::Heartbeat { commit, .. } => {
            to.commit = commit.0.min(last.0);
            MessageType::MsgHeartbeat
        }
        Body::Alive { commit, .. } => {
            to.commit = commit.0;
            MessageType::MsgHeartbeatResponse
        }
        Body::Canvass { pre, transfer, last, commit } => {
            to.index = last.index.0;
            to.log_term = last.term.0;
            to.commit = commit.index.0;
            to.commit_term = commit.term.0;
            if *transfer {
                to.context = TRANSFER.into();
            }
            match pre {
                true => MessageType::MsgRequestPreVote,
                false => MessageType::MsgRequestVote,
            }
        }
        Body::Voted { pre, granted, commit } => {
            to.reject = !granted;
            to.commit = commit.index.0;
            to.commit_term = commit.term.0;
            match pre {
                true => MessageType::MsgRequestPreVoteResponse,
                false => MessageType::MsgRequestVoteResponse,
            }
        }
        Body::TakeOver => MessageType::MsgTimeoutNow,
        // All that raft-rs has to know is that there is a leader. The rest is
        // between the two members.
        Body::Offer { .. } => MessageType::MsgHeartbeat,
        Body::Trust { .. }
        | Body::Fetch { .. }
        | Body::LogPiece { .. }
        | Body::StatePiece { .. } => {
            unreachable!("raft-rs does not see these")
        }
    };
    to.set_msg_type(kind);
    to
}

fn stub_of(entry: &Replicated) -> raft::prelude::Entry {
    stub(entry.term, entry.index, entry.kind)
}

/// The message for a peer; entries of an append are still to be filled in.
/// `None` for what replicas do not send to each other.
pub(super) fn from_raft(from: &RaftMessage, sent: Time, echo: Echo) -> Option<Message> {
    let commit = LogIndex(from.commit);
    let committed = Mark { term: Term(from.commit_term), index: commit };
    let index = LogIndex(from.index);
    let at_index = Mark { term: Term(from.log_term), index };
    let kind = from.get_msg_type();
    let body = match kind {
        MessageType::MsgAppend => {
            Body::Append { previous: at_index, commit, sent, entries: Vec::new() }
        }
        MessageType::MsgAppendResponse if from.reject => {
            let hint = Mark { term: Term(from.log_term), index: LogIndex(from.reject_hint) };
            Body::Rejected { index, hint, commit, echo }
        }
        MessageType::MsgAppendResponse => Body::Appended { index, commit, echo },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit, sent },
        MessageType::MsgHeartbeatResponse => Body::Alive { commit, echo },
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Body::Canvass {
            pre: kind == MessageType::MsgRequestPreVote,
            transfer: from.context == TRANSFER,
            last: at_index,
            commit: committed,
        },
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            Body::Voted {
                pre: kind == MessageType::MsgRequestPreVoteResponse,
                granted: !from.reject,
                commit: committed,
            }
        }
        MessageType::MsgTimeoutNow => Body::TakeOver,
        _ => return None,
    };
    Some(Message { from: NodeId(from.from), to: NodeId(from.to), term: Term(from.term), body })
}
