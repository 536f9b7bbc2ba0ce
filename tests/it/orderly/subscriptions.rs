//! Members of a group that want different things (L15).

use bytes::Bytes;
use stormglass_core::{
    message::Record,
    replication::Flush,
    wire::{
        body::{ConsumerConnections, Subscription},
        code,
        header::{GroupHeader, PullHeader, PullReply, pull_flag},
        request,
    },
};
use stormglass_tests::by_hand::{ByHand, send_fields};

use super::Client;

const GROUP: &str = "mixed";
const TOPIC: &str = "orders";

/// What a pull gets: the code, the bodies and where to go on.
fn pull(
    by_hand: &mut ByHand,
    client: Client,
    want: &str,
    version: i64,
    at: i64,
) -> (i32, String, i64) {
    let header = PullHeader {
        group: GROUP,
        topic: TOPIC,
        queue: 0,
        queue_offset: at,
        max_messages: 32,
        sys_flag: pull_flag::SUBSCRIPTION,
        commit_offset: -1,
        suspend_timeout: 0,
        subscription: Some(want),
        sub_version: version,
        expression_type: None,
        max_bytes: None,
        lock_epoch: None,
        reset_epoch: None,
    };
    let code = request::PULL_MESSAGE;
    let answer = client.ask(by_hand, code, header.fields(), Bytes::new()).unwrap();
    let records = Record::parse_all(&answer.body).unwrap();
    let bodies: Vec<_> =
        records.iter().map(|record| String::from_utf8_lossy(&record.body).into_owned()).collect();
    let next = PullReply::parse(&answer.fields).map_or(-1, |reply| reply.next_offset);
    (answer.code, bodies.join(" "), next)
}

fn connections(by_hand: &mut ByHand) -> ConsumerConnections {
    let fields = GroupHeader { group: GROUP }.fields();
    let code = request::GET_CONSUMER_CONNECTION_LIST;
    let answer = Client(9).ask(by_hand, code, fields, Bytes::new()).unwrap();
    assert_eq!(answer.code, code::SUCCESS);
    ConsumerConnections::parse(&answer.body).unwrap()
}

#[test]
fn an_upgrade_goes_on_and_nothing_that_the_group_wants_is_passed_over() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    for tag in ["red", "red", "green", "blue", "red"] {
        let fields = send_fields(TOPIC, 0, &format!("TAGS\u{1}{tag}\u{2}"));
        by_hand.ask(request::SEND_MESSAGE, fields, tag.as_bytes().to_vec());
    }
    let (old, new) = (Client(1), Client(2));
    let join = |by_hand: &mut ByHand, client: Client, tags: &str, version: i64| {
        let joined = client.join(by_hand, GROUP, Subscription::tags(TOPIC, tags, version));
        assert_eq!(joined, Some(code::SUCCESS));
    };
    join(&mut by_hand, old, "red", 100);
    assert_eq!(pull(&mut by_hand, old, "red", 100, 0), (0, "red red red".into(), 5));
    assert_eq!(connections(&mut by_hand).disagreements, []);

    // One member is upgraded: the others go on up to the first message that is
    // not theirs to skip any more. Green is nobody's.
    join(&mut by_hand, new, "red || blue", 200);
    assert_eq!(pull(&mut by_hand, old, "red", 100, 0), (0, "red red".into(), 3));
    assert_eq!(pull(&mut by_hand, old, "red", 100, 3).0, code::SUBSCRIPTION_NOT_LATEST);
    assert_eq!(pull(&mut by_hand, new, "red || blue", 200, 3), (0, "blue red".into(), 5));
    let seen = connections(&mut by_hand);
    assert_eq!(seen.members.len(), 2);
    assert_eq!(seen.subscriptions[TOPIC].expression, "red || blue");
    let [found] = &seen.disagreements[..] else { panic!("{seen:?}") };
    assert_eq!((&*found.client_id, found.expression.as_deref()), (&*old.name(), Some("red")));
    {
        let view = by_hand.broker.as_ref().unwrap().view();
        assert_eq!(view.disagreements().count(), 1);
        assert_eq!((view.counters().disagreements, view.counters().outdated_pulls), (1, 1));
    }
    // The last one is upgraded, too: all is well again.
    join(&mut by_hand, old, "blue || red", 300);
    assert_eq!(connections(&mut by_hand).disagreements, []);
    assert_eq!(pull(&mut by_hand, old, "blue || red", 300, 3), (0, "blue red".into(), 5));

    // Or the upgraded one leaves again: the rest may skip what it wanted.
    join(&mut by_hand, old, "red", 400);
    assert_eq!(pull(&mut by_hand, new, "red || blue", 200, 3), (0, "blue red".into(), 5));
    by_hand.input(stormglass_core::broker::Input::Closed { conn: new.conn() });
    assert_eq!(pull(&mut by_hand, old, "red", 400, 3), (0, "red".into(), 5));
}

#[test]
fn a_member_that_does_not_know_a_topic_is_named() {
    let mut by_hand = ByHand::new(Flush::Sync);
    by_hand.start().unwrap();
    Client(1).join(&mut by_hand, GROUP, Subscription::tags("orders", "*", 1));
    Client(2).join(&mut by_hand, GROUP, Subscription::tags("payments", "*", 1));
    let found = connections(&mut by_hand).disagreements;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|found| found.expression.is_none()));
}
