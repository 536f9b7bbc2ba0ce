//! Who handles which request, and what leaves as its answer.

use bytes::Bytes;

use super::{Broker, Output};
use crate::{
    error::{Rejected, StoreError},
    ids::ConnId,
    runtime::Disk,
    time::Now,
    wire::{Fields, Frame, code, frame::ReplyTo, header::NotLeader, request},
};

impl<D: Disk> Broker<D> {
    pub(super) fn frame(&mut self, now: Now, conn: ConnId, frame: Frame) {
        self.heard(now, conn);
        if frame.is_response() {
            self.registration.answered(conn, &frame);
            self.check_received(conn, &frame);
            return;
        }
        let reply_to = frame.reply_to();
        let leads = now.mono <= self.replica.lease_until() && !self.replica.is_handing_over();
        let handled = if (request::CLUSTER_STATUS..=request::TRANSFER_LEADER).contains(&frame.code)
        {
            self.request_about_set(conn, &frame)
        } else if self.is_serving() && leads {
            self.request(now, conn, frame)
        } else if self.is_following() {
            self.request_of_follower(now, conn, frame)
        } else {
            return self.refuse_to_lead(conn, reply_to, code::SYSTEM_BUSY);
        };
        if let Err(rejected) = handled {
            self.refuse(conn, reply_to, rejected);
        }
    }

    /// What any replica answers, if only with who leads.
    fn request_about_set(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        match frame.code {
            request::CLUSTER_STATUS => self.cluster_status(conn, frame),
            request::CHANGE_MEMBERS => self.change_members(conn, frame),
            _ => self.transfer_leader(conn, frame),
        }
    }

    /// What a replica can answer that does not lead: nothing that proposes, and
    /// nothing that the leader may know better.
    fn request_of_follower(
        &mut self,
        now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        match frame.code {
            request::PULL_MESSAGE => self.pull_from_follower(now, conn, &frame),
            request::HEART_BEAT => self.heartbeat(now, conn, frame),
            request::UNREGISTER_CLIENT => self.unregister_client(conn, &frame),
            _ => {
                self.refuse_to_lead(conn, frame.reply_to(), code::SYSTEM_BUSY);
                Ok(())
            }
        }
    }

    /// Nothing was done, and another broker may do it at once: RocketMQ's clients
    /// try one after `SYSTEM_BUSY`, ours knows which.
    pub(super) fn refuse_to_lead(&mut self, conn: ConnId, reply_to: ReplyTo, code: i32) {
        let (fields, remark) = match self.who_leads() {
            None => (Fields::default(), "[REJECTREQUEST] the broker is not ready"),
            Some(who) => (who.fields(), "[REJECTREQUEST] this replica does not lead its set"),
        };
        self.counters.refused += 1;
        self.reply(conn, reply_to, code, remark, fields, Vec::new());
    }

    /// As far as this replica knows; none if there is nobody else.
    pub(super) fn who_leads(&self) -> Option<NotLeader> {
        let set = self.config.replica_set.as_ref()?;
        let me = self.replica.leads().then_some(set.id);
        let leader = self.replica.leader().or(me).map(|node| node.0);
        Some(NotLeader { leader, term: self.replica.term().0 })
    }

    fn request(&mut self, now: Now, conn: ConnId, frame: Frame) -> Result<(), Rejected> {
        match frame.code {
            request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
                self.send_message(now, conn, frame)
            }
            request::PULL_MESSAGE => self.pull_message(now, conn, frame),
            request::POP_MESSAGE => self.pop_message(now, conn, frame),
            request::NOTIFICATION => self.notify_of_messages(now, conn, frame),
            request::ACK_MESSAGE => self.ack_message(conn, &frame),
            request::BATCH_ACK_MESSAGE => self.ack_batch(conn, &frame),
            request::CHANGE_MESSAGE_INVISIBLE_TIME => self.change_invisible(now, conn, &frame),
            request::INVOKE_BROKER_TO_RESET_OFFSET => self.reset_offsets(conn, &frame),
            request::GET_CONSUMER_CONNECTION_LIST => self.consumer_connections(conn, &frame),
            request::LOCK_BATCH_MQ => self.lock_queues(now, conn, frame),
            request::UNLOCK_BATCH_MQ => self.unlock_queues(conn, &frame),
            request::LIST_HALVES => self.list_halves(now, conn, &frame),
            request::SHOW_HALF => self.show_half(now, conn, &frame),
            request::SETTLE_HALF => self.settle_half(now, conn, &frame),
            request::RESUME_CHECK_HALF_MESSAGE => self.resume_half(now, conn, &frame),
            request::END_TRANSACTION => self.end_transaction(now, conn, &frame),
            request::HEART_BEAT => self.heartbeat(now, conn, frame),
            request::UNREGISTER_CLIENT => self.unregister_client(conn, &frame),
            request::GET_CONSUMER_LIST_BY_GROUP => self.consumer_list(conn, &frame),
            request::QUERY_CONSUMER_OFFSET => self.query_offset(conn, &frame),
            request::UPDATE_CONSUMER_OFFSET => self.update_offset(now, conn, frame),
            request::GET_MAX_OFFSET => self.max_offset(conn, &frame),
            request::GET_MIN_OFFSET => self.min_offset(conn, &frame),
            request::SEARCH_OFFSET_BY_TIMESTAMP => self.search_offset(conn, &frame),
            request::UPDATE_AND_CREATE_TOPIC => self.create_topic(conn, &frame),
            request::CONSUMER_SEND_MSG_BACK => self.send_back(now, conn, frame),
            request::RECALL_MESSAGE => self.recall_message(conn, &frame),
            request::REPLAY_DEAD_LETTERS => self.replay_dead_letters(now, conn, &frame),
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => self.configure_group(conn, &frame),
            request::GET_SUBSCRIPTIONGROUP_CONFIG => self.show_group(conn, &frame),
            other => Err(Rejected::new(
                code::REQUEST_CODE_NOT_SUPPORTED,
                format!("request code {other} is not supported"),
            )),
        }
    }

    pub(super) fn refuse(&mut self, conn: ConnId, reply_to: ReplyTo, rejected: Rejected) {
        self.counters.refused += 1;
        self.reply(conn, reply_to, rejected.code, &rejected.remark, Fields::default(), Vec::new());
    }

    pub(super) fn reply_ok(&mut self, conn: ConnId, reply_to: ReplyTo, fields: Fields) {
        self.reply(conn, reply_to, code::SUCCESS, "", fields, Vec::new());
    }

    pub(super) fn reply_body(&mut self, conn: ConnId, reply_to: ReplyTo, body: Bytes) {
        self.reply(conn, reply_to, code::SUCCESS, "", Fields::default(), vec![body]);
    }

    pub(super) fn reply(
        &mut self,
        conn: ConnId,
        reply_to: ReplyTo,
        code: i32,
        remark: &str,
        fields: Fields,
        body: Vec<Bytes>,
    ) {
        if reply_to.one_way {
            return;
        }
        let packet = reply_to.answer(code, remark, fields, body);
        self.outputs.push_back(Output::Send { conn, packet });
    }
}

/// What a refused append tells a client. Nothing of it was stored.
pub(super) fn refusal(error: &StoreError) -> Option<Rejected> {
    match error {
        StoreError::Full => {
            Some(Rejected::new(code::SERVICE_NOT_AVAILABLE, "the disk is full: nothing is stored"))
        }
        StoreError::TooLarge { .. } => {
            Some(Rejected::new(code::MESSAGE_ILLEGAL, error.to_string()))
        }
        _ => None,
    }
}
