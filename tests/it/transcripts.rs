//! What goes in and what comes out, as one would see it on the wire: read them
//! as documentation. Change the broker, run `cargo insta review`, and judge.

use std::fmt::Write;

use stormglass_core::{
    replication::Flush,
    wire::{Frame, body::HeartbeatData, header::pull_flag, request},
};
use stormglass_tests::by_hand::{ByHand, pull_fields, send_fields};

/// Requests and answers as lines of text.
struct Transcript {
    by_hand: ByHand,
    text: String,
}

impl Transcript {
    fn new() -> Transcript {
        let mut by_hand = ByHand::new(Flush::Sync);
        by_hand.start().expect("an empty disk opens");
        Transcript { by_hand, text: String::new() }
    }

    fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Asks, and writes down the answer and whatever else was sent.
    fn ask(&mut self, what: &str, code: i32, fields: stormglass_core::wire::Fields, body: &[u8]) {
        self.say(&format!("> {code} {what}"));
        self.by_hand.request(code, fields, body.to_vec());
        self.by_hand.settle();
        self.note_sent();
    }

    fn note_sent(&mut self) {
        for (_, frame) in std::mem::take(&mut self.by_hand.sent) {
            let line = show(&frame);
            self.say(&line);
        }
    }
}

fn show(frame: &Frame) -> String {
    let kind = match (frame.is_response(), frame.is_one_way()) {
        (true, _) => "answer",
        (false, true) => "one-way",
        (false, false) => "request",
    };
    let mut line = format!("< {kind} {}", frame.code);
    for (key, value) in frame.fields.iter() {
        let _ = write!(line, " {key}={value}");
    }
    if !frame.remark.is_empty() {
        let _ = write!(line, " ({})", frame.remark);
    }
    if !frame.body.is_empty() {
        let _ = write!(line, " +{} bytes", frame.body.len());
    }
    line
}

#[test]
fn the_first_message_creates_its_topic() {
    let mut it = Transcript::new();
    let hello = send_fields("orders", 0, "UNIQ_KEY\u{1}AB01\u{2}");
    it.ask("orders/0 \"hello\"", request::SEND_MESSAGE, hello, b"hello");
    let beyond = send_fields("orders", 9, "");
    it.ask("orders/9", request::SEND_MESSAGE, beyond, b"hello");
    let bad_name = send_fields("or ders", 0, "");
    it.ask("\"or ders\"", request::SEND_MESSAGE, bad_name, b"hello");
    let delayed = send_fields("orders", 0, "DELAY\u{1}3\u{2}");
    it.ask("orders/0 delayed", request::SEND_MESSAGE, delayed, b"later");
    insta::assert_snapshot!(it.text);
}

#[test]
fn a_consumer_comes_reads_and_goes() {
    let mut it = Transcript::new();
    it.ask("orders/0", request::SEND_MESSAGE, send_fields("orders", 0, ""), b"one");
    let heartbeat = br#"{"clientID":"c1","consumerDataSet":[{"groupName":"readers",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING",
        "consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET",
        "subscriptionDataSet":[{"topic":"orders","subString":"*","subVersion":1}]}]}"#;
    HeartbeatData::parse(heartbeat).expect("a heartbeat");
    it.ask("heartbeat of c1 in readers", request::HEART_BEAT, Default::default(), heartbeat);
    let group = |key: &str| {
        stormglass_core::wire::Fields::builder()
            .put(key, "readers")
            .put("clientID", "c1")
            .put("topic", "orders")
            .put("queueId", 0)
            .put("commitOffset", 1)
            .finish()
    };
    it.ask("members of readers", request::GET_CONSUMER_LIST_BY_GROUP, group("consumerGroup"), b"");
    it.ask("offset of readers", request::QUERY_CONSUMER_OFFSET, group("consumerGroup"), b"");
    let flags = pull_flag::SUSPEND;
    it.ask("from 0", request::PULL_MESSAGE, pull_fields("orders", 0, 0, flags, 15_000), b"");
    it.ask("from 1, held", request::PULL_MESSAGE, pull_fields("orders", 0, 1, flags, 15_000), b"");
    it.ask("orders/0", request::SEND_MESSAGE, send_fields("orders", 0, ""), b"two");
    it.ask("offset 1", request::UPDATE_CONSUMER_OFFSET, group("consumerGroup"), b"");
    it.ask("offset of readers", request::QUERY_CONSUMER_OFFSET, group("consumerGroup"), b"");
    it.ask("c1 leaves readers", request::UNREGISTER_CLIENT, group("consumerGroup"), b"");
    it.ask("members of readers", request::GET_CONSUMER_LIST_BY_GROUP, group("consumerGroup"), b"");
    it.ask("something unknown", 4711, Default::default(), b"");
    insta::assert_snapshot!(it.text);
}
