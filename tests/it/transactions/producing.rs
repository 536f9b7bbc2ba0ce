//! A member of a producer group, as bytes on a connection.

use stormglass_core::{
    broker::Input,
    ids::ConnId,
    wire::{
        Frame,
        body::HeartbeatData,
        code,
        header::{CheckReceipt, CheckTransactionHeader, EndTransactionHeader, Resolution},
        request,
    },
};
use stormglass_tests::by_hand::{ByHand, send_fields};

#[derive(Clone, Debug)]
pub struct Producing {
    pub conn: ConnId,
    pub group: &'static str,
    /// Whether it says at once that a check arrived, as Stormglass's client does.
    acknowledges: bool,
}

/// What a producer knows of its half message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    pub number: i64,
    pub position: i64,
    pub message_id: String,
}

impl Half {
    /// What the answer to a half message's send says of it.
    pub fn of_answer(answer: &Frame) -> Option<Half> {
        let message_id = answer.fields.get("msgId")?.to_owned();
        Some(Half {
            number: answer.fields.get("queueOffset")?.parse().ok()?,
            position: i64::from_str_radix(&message_id[16..], 16).ok()?,
            message_id,
        })
    }
}

impl Producing {
    pub fn new(conn: u64, group: &'static str) -> Producing {
        Producing { conn: ConnId(conn), group, acknowledges: false }
    }

    pub fn acknowledging(self) -> Producing {
        Producing { acknowledges: true, ..self }
    }

    /// Hands a request in; returns its opaque.
    fn request(&self, by_hand: &mut ByHand, code: i32, frame: Frame) -> i32 {
        let opaque = by_hand.next_opaque();
        let frame = Frame { code, opaque, ..frame };
        by_hand.input(Input::Frame { conn: self.conn, frame });
        opaque
    }

    pub fn heartbeat(&self, by_hand: &mut ByHand) {
        let data = HeartbeatData {
            client_id: format!("producer-{}", self.conn),
            producer_groups: vec![self.group.to_owned()],
            consumers: Vec::new(),
        };
        let frame = Frame::request(0, 0, Default::default(), data.to_bytes());
        let opaque = self.request(by_hand, request::HEART_BEAT, frame);
        by_hand.settle();
        by_hand.answer(opaque);
    }

    /// Sends a half message to queue 0 of `orders`. None if it was not stored,
    /// or if nobody knows.
    pub fn send_half(&self, by_hand: &mut ByHand, body: &str, more: &str) -> Option<Half> {
        let opaque = self.request_half(by_hand, body, more);
        by_hand.settle();
        let answer = by_hand.answer(opaque).filter(|answer| answer.code == code::SUCCESS)?;
        assert_eq!(answer.fields.get("transactionId"), Some(format!("K-{body}").as_str()));
        Half::of_answer(&answer)
    }

    /// The same without letting the broker do anything about it yet.
    pub fn request_half(&self, by_hand: &mut ByHand, body: &str, more: &str) -> i32 {
        let properties = format!(
            "TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{}\u{2}UNIQ_KEY\u{1}K-{body}\u{2}{more}",
            self.group
        );
        let fields = send_fields("orders", 0, &properties);
        let frame = Frame::request(0, 0, fields, body.as_bytes().to_vec().into());
        self.request(by_hand, request::SEND_MESSAGE, frame)
    }

    /// Decides, two-way, and returns the code of the answer.
    pub fn end(&self, by_hand: &mut ByHand, half: &Half, resolution: Resolution) -> Option<i32> {
        let opaque = self.request_end(by_hand, half, resolution);
        by_hand.settle();
        by_hand.answer(opaque).map(|answer| answer.code)
    }

    /// The same without letting the broker do anything about it yet.
    pub fn request_end(&self, by_hand: &mut ByHand, half: &Half, resolution: Resolution) -> i32 {
        self.request(by_hand, request::END_TRANSACTION, self.end_frame(half, resolution, false))
    }

    pub fn answer_check(
        &self,
        by_hand: &mut ByHand,
        half: &Half,
        resolution: Resolution,
    ) -> Option<i32> {
        let opaque = self.request_answer(by_hand, half, resolution);
        by_hand.settle();
        by_hand.answer(opaque).map(|answer| answer.code)
    }

    pub fn request_answer(&self, by_hand: &mut ByHand, half: &Half, resolution: Resolution) -> i32 {
        self.request(by_hand, request::END_TRANSACTION, self.end_frame(half, resolution, true))
    }

    fn end_frame(&self, half: &Half, resolution: Resolution, from_check: bool) -> Frame {
        let fields = EndTransactionHeader {
            producer_group: self.group,
            topic: Some("orders"),
            half_offset: half.number,
            position: half.position,
            resolution,
            from_check: Some(from_check),
            message_id: "",
            transaction_id: None,
            broker_name: None,
        }
        .fields();
        Frame::request(0, 0, fields, Default::default())
    }

    /// The checks that arrived since the last call.
    pub fn checks(&self, by_hand: &mut ByHand) -> Vec<Half> {
        let is_check = |conn: ConnId, frame: &Frame| {
            conn == self.conn && frame.code == request::CHECK_TRANSACTION_STATE
        };
        let mut found = Vec::new();
        for (conn, frame) in std::mem::take(&mut by_hand.sent) {
            if is_check(conn, &frame) {
                found.push(frame);
            } else {
                by_hand.sent.push((conn, frame));
            }
        }
        found.iter().map(|frame| self.take_check(by_hand, frame)).collect()
    }

    fn take_check(&self, by_hand: &mut ByHand, frame: &Frame) -> Half {
        let header = CheckTransactionHeader::parse(&frame.fields).expect("a whole header");
        let half = Half {
            number: header.half_offset,
            position: header.position,
            message_id: header.offset_message_id.unwrap_or_default().to_owned(),
        };
        if self.acknowledges && header.acknowledge == Some(true) {
            let receipt = CheckReceipt { half_offset: half.number, position: half.position };
            let packet = frame.reply_to().answer(code::SUCCESS, "", receipt.fields(), Vec::new());
            let frame = stormglass_tests::by_hand::decode(&packet);
            by_hand.input(Input::Frame { conn: self.conn, frame });
            by_hand.settle();
        }
        half
    }
}
