//! Groups whose members share queues one at a time: locks, resets, leases.

mod locks;
mod operator;
mod pop;
mod resets;
mod subscriptions;

use bytes::Bytes;
use stormglass_core::{
    broker::Input,
    ids::ConnId,
    wire::{
        Fields, Frame,
        body::{ConsumeFrom, ConsumeType, ConsumerData, HeartbeatData, MessageModel, Subscription},
        code, request,
    },
};
use stormglass_tests::by_hand::ByHand;

/// A client with a connection of its own, of the number that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Client(u64);

impl Client {
    fn name(self) -> String {
        format!("10.0.0.{}@1#1", self.0)
    }

    fn conn(self) -> ConnId {
        ConnId(100 + self.0)
    }

    /// Sends a request and lets it be; the number is for `answer`.
    fn request(self, by_hand: &mut ByHand, code: i32, fields: Fields, body: Bytes) -> i32 {
        let opaque = by_hand.next_opaque();
        let frame = Frame::request(code, opaque, fields, body);
        by_hand.input(Input::Frame { conn: self.conn(), frame });
        opaque
    }

    /// None if the broker died over it.
    fn ask(self, by_hand: &mut ByHand, code: i32, fields: Fields, body: Bytes) -> Option<Frame> {
        let opaque = self.request(by_hand, code, fields, body);
        by_hand.settle();
        by_hand.answer(opaque)
    }

    /// Joins a group with one subscription.
    fn join(self, by_hand: &mut ByHand, group: &str, subscription: Subscription) -> Option<i32> {
        let peer = "10.0.0.9:4000".parse().expect("an address");
        by_hand.input(Input::Connected { conn: self.conn(), peer, name_server: None });
        let consumer = ConsumerData {
            group: group.into(),
            consume_type: ConsumeType::Push,
            message_model: MessageModel::Clustering,
            consume_from: ConsumeFrom::First,
            subscriptions: vec![subscription],
        };
        let heartbeat = HeartbeatData {
            client_id: self.name(),
            producer_groups: Vec::new(),
            consumers: vec![consumer],
        };
        let body = heartbeat.to_bytes();
        Some(self.ask(by_hand, request::HEART_BEAT, Fields::default(), body)?.code)
    }

    fn join_all(self, by_hand: &mut ByHand, group: &str, topic: &str) {
        let joined = self.join(by_hand, group, Subscription::tags(topic, "*", 1));
        assert_eq!(joined, Some(code::SUCCESS));
    }

    /// Requests with this code that the broker sent to this client.
    fn told(self, by_hand: &ByHand, code: i32) -> usize {
        let is_it = |(conn, frame): &&(ConnId, Frame)| {
            *conn == self.conn() && !frame.is_response() && frame.code == code
        };
        by_hand.sent.iter().filter(is_it).count()
    }
}
