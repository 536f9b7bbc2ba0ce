//! Numbered sends: each message once and in its producer's order, whatever the
//! network repeats or overtakes, and whatever dies meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stormglass_core::{
    replication::Flush,
    wire::{Fields, Frame, body, code, request},
};
use stormglass_tests::by_hand::{ByHand, Sent, send_fields, small_config};

use crate::crashes::{Crash, at_any_time, revive};

const TOPIC: &str = "orders";

fn fields(queue: i32, producer: u64, epoch: u32, sequence: u64, properties: &str) -> Fields {
    let mut fields = Fields::builder();
    for (key, value) in send_fields(TOPIC, queue, properties).iter() {
        fields.put(key, value);
    }
    fields.put("producerId", producer).put("producerEpoch", epoch).put("sequence", sequence);
    fields.finish()
}

fn send(by_hand: &mut ByHand, fields: Fields, text: &str) -> Option<Frame> {
    by_hand.ask(request::SEND_MESSAGE, fields, text.as_bytes().to_vec())
}

fn numbered(by_hand: &mut ByHand, epoch: u32, sequence: u64) -> Sent {
    let answer = send(by_hand, fields(0, 7, epoch, sequence, ""), &format!("{epoch}.{sequence}"));
    by_hand.outcome(answer)
}

fn ok(offset: u64) -> Sent {
    Sent::Ok { queue: 0, offset }
}

#[test]
fn a_repeated_send_is_stored_once_and_answered_like_the_first() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    by_hand.send(TOPIC, 0, "from somebody else");
    let first = send(&mut by_hand, fields(0, 7, 1, 0, ""), "a").unwrap();
    for restart in [false, true, false] {
        if restart {
            by_hand.power_loss();
            by_hand.start().unwrap();
        }
        let again = send(&mut by_hand, fields(0, 7, 1, 0, ""), "a").unwrap();
        assert_eq!((again.code, &again.fields), (first.code, &first.fields), "{restart}");
    }
    // Repeated before the first copy is durable: both are answered once it is.
    let both = [(); 2]
        .map(|()| by_hand.request(request::SEND_MESSAGE, fields(0, 7, 1, 1, ""), b"b".to_vec()));
    by_hand.settle();
    let answers = both.map(|opaque| by_hand.answer(opaque).unwrap());
    assert_eq!(answers[0].fields, answers[1].fields);
    let stored = by_hand.contents(TOPIC, 0);
    assert_eq!(
        stored.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(),
        ["from somebody else", "a", "b"]
    );
}

#[test]
fn nothing_overtakes_and_an_old_epoch_is_fenced() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    assert_eq!(numbered(&mut by_hand, 1, 1), Sent::Refused(code::OUT_OF_SEQUENCE));
    assert_eq!(numbered(&mut by_hand, 1, 0), ok(0));
    assert_eq!(numbered(&mut by_hand, 1, 2), Sent::Refused(code::OUT_OF_SEQUENCE));
    assert_eq!(numbered(&mut by_hand, 1, 1), ok(1));
    assert_eq!(numbered(&mut by_hand, 1, 2), ok(2));
    // A new life of the producer starts at 0; the old one is over.
    assert_eq!(numbered(&mut by_hand, 2, 1), Sent::Refused(code::OUT_OF_SEQUENCE));
    assert_eq!(numbered(&mut by_hand, 2, 0), ok(3));
    assert_eq!(numbered(&mut by_hand, 1, 3), Sent::Refused(code::FENCED));
    assert_eq!(numbered(&mut by_hand, 1, 2), Sent::Refused(code::FENCED));
    assert_eq!(by_hand.contents(TOPIC, 0).len(), 4);
}

#[test]
fn what_is_too_old_is_not_stored_again() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    for sequence in 0..400 {
        assert_eq!(numbered(&mut by_hand, 1, sequence), ok(sequence));
    }
    assert_eq!(numbered(&mut by_hand, 1, 399), ok(399));
    assert_eq!(numbered(&mut by_hand, 1, 200), ok(200));
    assert_eq!(numbered(&mut by_hand, 1, 100), Sent::Refused(code::OUT_OF_SEQUENCE));
    assert_eq!(by_hand.contents(TOPIC, 0).len(), 400);
}

#[test]
fn a_batch_counts_its_messages() {
    let mut batch = Vec::new();
    for text in ["a", "b", "c"] {
        let record = body::BatchRecord { flag: 0, body: text.as_bytes(), properties: b"" };
        body::put_batch_record(&mut batch, record);
    }
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    let code = request::SEND_BATCH_MESSAGE;
    let first = by_hand.ask(code, fields(0, 7, 1, 0, ""), batch.clone()).unwrap();
    by_hand.kill();
    by_hand.start().unwrap();
    let again = by_hand.ask(code, fields(0, 7, 1, 0, ""), batch.clone()).unwrap();
    assert_eq!(again.fields, first.fields);
    assert_eq!(again.fields.get("msgId").unwrap().split(',').count(), 3);
    assert_eq!(numbered(&mut by_hand, 1, 3), ok(3));
    assert_eq!(by_hand.contents(TOPIC, 0).len(), 4);
}

#[test]
fn a_copied_number_is_no_number() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    assert_eq!(numbered(&mut by_hand, 1, 0), ok(0));
    // An application sends on what it got, with all its properties.
    let copied = send_fields(TOPIC, 0, "__PRODUCER_SEQUENCE\u{1}7 9 50\u{2}TAGS\u{1}a\u{2}");
    let sent = by_hand.ask(request::SEND_MESSAGE, copied, b"copy".to_vec());
    assert_eq!(by_hand.outcome(sent), ok(1));
    by_hand.power_loss();
    by_hand.start().unwrap();
    assert_eq!(numbered(&mut by_hand, 1, 1), ok(2));
}

#[derive(Clone, Debug)]
enum Step {
    /// Producer and queue: the request after the newest, or so many before it,
    /// or one that has overtaken so many.
    Send(u64, i32, i64),
    NewLife(u64),
    Crash(Crash),
    Plain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..2u64, 0..2i32, -4..3i64).prop_map(|(p, q, by)| Step::Send(p, q, by)),
        1 => (0..2u64).prop_map(Step::NewLife),
        2 => at_any_time().prop_map(Step::Crash),
        2 => Just(Step::Plain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn each_once_and_in_order(steps in prop::collection::vec(step(), 1..80)) {
        let mut config = small_config(Flush::Sync);
        config.snapshot_every = 2 << 10;
        let mut by_hand = ByHand::with(config);
        by_hand.start().unwrap();
        // By producer and queue, the next message: as far as answers say, and if
        // all that got none is stored. Where each message is.
        let mut next: BTreeMap<(u64, i32), (u64, u64)> = BTreeMap::new();
        let mut epochs: BTreeMap<u64, u32> = BTreeMap::new();
        let mut placed: BTreeMap<String, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Send(producer, queue, by) => {
                    let epoch = *epochs.entry(producer).or_insert(1);
                    let (next, at_most) = next.entry((producer, queue)).or_default();
                    let Some(sequence) = next.checked_add_signed(by) else { continue };
                    let text = format!("{producer}/{queue}/{epoch}/{sequence:03}");
                    let fields = fields(queue, producer, epoch, sequence, "");
                    let answer = send(&mut by_hand, fields, &text);
                    match by_hand.outcome(answer) {
                        Sent::Ok { offset, .. } => {
                            prop_assert!(sequence <= *at_most, "{text} overtook {at_most}");
                            *next = (*next).max(sequence + 1);
                            *at_most = (*at_most).max(*next);
                            let known = *placed.entry(text.clone()).or_insert(offset);
                            prop_assert_eq!(known, offset, "{} moved", text);
                        }
                        Sent::Refused(code) => {
                            prop_assert_eq!(code, code::OUT_OF_SEQUENCE);
                            prop_assert!(sequence > *next, "{text} is next or known");
                        }
                        Sent::Unknown if sequence <= *at_most => {
                            *at_most = (*at_most).max(sequence + 1);
                        }
                        Sent::Unknown => {}
                    }
                }
                Step::NewLife(producer) => {
                    *epochs.entry(producer).or_insert(1) += 1;
                    next.retain(|(of, _), _| *of != producer);
                }
                Step::Crash(crash) => crash.strike(&mut by_hand),
                Step::Plain => { by_hand.send(TOPIC, 0, &"x".repeat(3000)); }
            }
            revive(&mut by_hand);
        }
        by_hand.power_loss();
        by_hand.start().unwrap();
        for queue in 0..2u32 {
            if !by_hand.contents_exist(TOPIC) {
                break;
            }
            let mut last: BTreeMap<String, String> = BTreeMap::new();
            for (offset, text) in by_hand.contents(TOPIC, queue) {
                if text.starts_with('x') {
                    continue;
                }
                prop_assert!(placed.get(&text).is_none_or(|known| *known == offset));
                let producer = text.split('/').next().unwrap().to_owned();
                if let Some(before) = last.insert(producer, text.clone()) {
                    prop_assert!(before < text, "{text} after {before}");
                }
            }
        }
    }
}
