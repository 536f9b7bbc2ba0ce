//! Clients of a replica set: its leader dies, falls silent or is deposed, and
//! the name servers have not noticed yet.

use super::*;
use crate::wire::{
    body::{BrokerData, ClusterInfo},
    header::{NotLeader, Resolution},
};

const TIMEOUT: Duration = Duration::from_secs(3);

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_set("orders", 2);
    rig
}

fn send(rig: &mut Rig, key: Option<&str>) -> Ticket {
    let message = Message::new("orders", "x");
    let message = key.map_or(message.clone(), |key| message.sharding_key(key));
    rig.command(Command::Send { messages: vec![message], options: SendOptions::default() })
}

/// When it was answered OK, and after how many tries.
fn ok(rig: &Rig, ticket: Ticket) -> (Time, u32) {
    match rig.outcome(ticket) {
        Some((at, Done::Sent(Ok(receipt)))) => (at, receipt.tries),
        other => panic!("no receipt but {other:?}"),
    }
}

/// Who is asked by each request of this code, as numbers of brokers.
fn asked(rig: &Rig, code: i32) -> Vec<u8> {
    let requests = rig.requests.iter().filter(|(_, _, frame)| frame.code == code);
    requests.filter_map(|(_, addr, _)| (1..9).find(|n| broker(*n) == *addr)).collect()
}

fn dead(n: u8) -> Meddle {
    Box::new(move |addr, _| if addr == broker(n) { Fate::LinkDown } else { Fate::Answer })
}

fn silent(n: u8) -> Meddle {
    Box::new(move |addr, _| if addr == broker(n) { Fate::Silence } else { Fate::Answer })
}

/// N1: the followers know who leads.
#[test]
fn a_dead_leader_is_succeeded_without_the_name_servers() {
    let mut rig = rig();
    rig.meddle = dead(1);
    rig.tables.led_by(3, 2);
    let start = rig.now;
    let ticket = send(&mut rig, None);
    rig.run_for(TIMEOUT);
    let (at, _) = ok(&rig, ticket);
    assert!(at.since(start) < Duration::from_millis(500), "{:?}", at.since(start));
    // And from now on there is nothing to find out.
    let later = send(&mut rig, None);
    assert_eq!(ok(&rig, later), (rig.now, 1));
}

#[test]
fn what_an_operator_asks_of_a_leader_finds_it_too() {
    let mut rig = rig();
    rig.tables.led_by(3, 2);
    let (topic, broker) = ("orders".to_owned(), broker_name(1));
    let start = rig.now;
    let ticket = rig.command(Command::Ask(Ask::TransferLeader { topic, broker }));
    rig.run_for(TIMEOUT);
    let Some((at, Done::Answered(Ok(Answer::Done)))) = rig.outcome(ticket) else { panic!() };
    assert!(at.since(start) < Duration::from_millis(500));
    assert_eq!(asked(&rig, request::TRANSFER_LEADER), [1, 3]);
}

/// Until their own patience is over.
#[test]
fn a_dead_leader_that_others_still_name_is_not_asked_again() {
    let mut rig = rig();
    rig.tables.led_by(1, 4);
    rig.meddle = dead(1);
    let ticket = send(&mut rig, Some("a"));
    rig.run_for(Duration::from_millis(1500));
    let of_dead = rig.requests.iter().filter(|(_, addr, _)| *addr == broker(1)).count();
    assert!(of_dead < 9, "{of_dead}");
    rig.tables.led_by(3, 5);
    rig.run_for(Duration::from_millis(400));
    ok(&rig, ticket);
}

/// An election takes time; what is refused meanwhile was never stored, so a
/// send has all its time for it.
#[test]
fn a_send_waits_for_the_election_and_keeps_its_shard() {
    for key in [None, Some("a"), Some("b")] {
        let mut rig = rig();
        let before = send(&mut rig, key);
        let shard = |rig: &Rig, ticket| match rig.outcome(ticket) {
            Some((_, Done::Sent(Ok(receipt)))) => receipt.shard.clone(),
            other => panic!("{other:?}"),
        };
        let first = shard(&rig, before);
        rig.tables.without_leader(2);
        let ticket = send(&mut rig, key);
        rig.run_for(Duration::from_millis(2200));
        assert!(rig.outcome(ticket).is_none());
        rig.tables.led_by(2, 3);
        rig.run_for(TIMEOUT - Duration::from_millis(2200));
        ok(&rig, ticket);
        assert!(key.is_none() || shard(&rig, ticket) == first, "R2");
        assert!(asked(&rig, request::SEND_MESSAGE_V2).len() < 20, "P1");
    }
}

/// P1: what waits for an election does not ask for its end all the time, and is
/// there when it comes.
#[test]
fn one_small_request_asks_for_all_that_wait() {
    let mut rig = rig();
    send(&mut rig, Some("a"));
    rig.tables.without_leader(2);
    rig.requests.clear();
    let tickets: Vec<_> = (0..50).map(|_| send(&mut rig, Some("a"))).collect();
    rig.run_for(Duration::from_millis(2000));
    assert!(asked(&rig, request::SEND_MESSAGE_V2).len() < 50 * 7);
    assert!(asked(&rig, request::GET_MAX_OFFSET).len() < 21);
    rig.tables.led_by(2, 3);
    rig.run_for(Duration::from_millis(400));
    tickets.into_iter().for_each(|ticket| assert!(ok(&rig, ticket).1 > 0));
    rig.requests.clear();
    rig.run_for(Duration::from_secs(5));
    assert!(asked(&rig, request::GET_MAX_OFFSET).is_empty(), "found is found");
}

#[test]
fn a_silent_leader_leaves_time_for_its_successor() {
    let mut rig = rig();
    send(&mut rig, Some("a"));
    rig.meddle = silent(1);
    rig.tables.without_leader(2);
    let ticket = send(&mut rig, Some("a"));
    rig.run_for(Duration::from_millis(1500));
    rig.tables.led_by(2, 2);
    rig.run_for(TIMEOUT);
    ok(&rig, ticket);
}

#[test]
fn another_set_takes_what_has_no_shard() {
    let mut rig = rig();
    rig.tables.add_topic("orders", &[(1, 2), (5, 2)]);
    rig.tables.name("orders", &[(0, 1), (2, 2), (3, 3)]);
    rig.tables.without_leader(2);
    let tickets: Vec<_> = (0..4).map(|_| send(&mut rig, None)).collect();
    for ticket in tickets {
        assert_eq!(ok(&rig, ticket).0, rig.now, "at once");
    }
}

/// N5 and worse: two that name each other are not asked all the time.
#[test]
fn replicas_that_name_each_other_do_not_keep_a_client_busy() {
    let mut rig = rig();
    rig.tables.led_by(2, 7);
    rig.tables.following.insert(broker(2), NotLeader { leader: Some(3), term: 7 });
    let ticket = send(&mut rig, None);
    rig.run_for(TIMEOUT);
    assert!(matches!(rig.outcome(ticket), Some((_, Done::Sent(Err(SendError::Refused(_)))))));
    assert!(asked(&rig, request::SEND_MESSAGE_V2).len() < 30);
}

/// N3: the name servers learn of the new leader, and then of the next.
#[test]
fn what_name_servers_find_out_later_counts() {
    let mut rig = rig();
    rig.tables.led_by(2, 2);
    send(&mut rig, None);
    rig.tables.name("orders", &[(0, 3), (1, 1), (2, 2)]);
    rig.tables.led_by(3, 3);
    rig.run_for(Duration::from_secs(31));
    rig.requests.clear();
    let ticket = send(&mut rig, None);
    assert_eq!(ok(&rig, ticket).1, 1);
    assert_eq!(asked(&rig, request::SEND_MESSAGE_V2), [3]);
}

#[test]
fn a_consumer_goes_on_at_the_new_leader() {
    let mut rig = rig();
    let config = ConsumerConfig::new("g").start_at(StartAt::First);
    consuming::subscribe(&mut rig, config);
    assert!(rig.delivered.is_empty());
    rig.tables.led_by(2, 2);
    rig.meddle = dead(1);
    rig.link_down(broker(1));
    rig.tables.fill(broker(1), 0, 3);
    rig.run_for(Duration::from_secs(1));
    assert_eq!(rig.delivered.len(), 3);
    assert!(asked(&rig, request::GET_CONSUMER_LIST_BY_GROUP).contains(&2), "as a member");
}

#[test]
fn decisions_go_to_the_new_leader() {
    let mut rig = rig();
    let message = Message::new("orders", "paid");
    let ticket = rig.command(Command::SendHalf { message, options: SendOptions::default() });
    let Some((_, Done::HalfSent(Ok(half)))) = rig.outcome(ticket) else { panic!("no half") };
    let half = half.clone();
    rig.tables.led_by(3, 2);
    let resolution = Resolution::Commit;
    let ticket = rig.command(Command::Ask(Ask::EndTransaction { half, resolution }));
    rig.run_for(Duration::from_secs(1));
    assert!(matches!(rig.outcome(ticket), Some((_, Done::Answered(Ok(Answer::Done))))));
    assert_eq!(asked(&rig, request::END_TRANSACTION), [1, 3]);
}

/// A topic is created on every set, also on one that has no leader just now.
#[test]
fn a_topic_is_created_on_sets_that_are_electing() {
    let mut rig = rig();
    let data = |name: &str, id, n: u8| {
        let addrs = [(id, broker(n).to_string())].into();
        (name.to_owned(), BrokerData { cluster: "c".into(), broker_name: name.to_owned(), addrs })
    };
    rig.tables.cluster = ClusterInfo {
        brokers: [data("broker-1", 2, 2), data("broker-5", 0, 5)].into(),
        clusters: [("c".to_owned(), vec!["broker-1".to_owned(), "broker-5".to_owned()])].into(),
    };
    let (cluster, topic) = ("c".to_owned(), "new".to_owned());
    let ask = Ask::CreateTopic { cluster, topic, queues: 2, order: true };
    let ticket = rig.command(Command::Ask(ask));
    rig.run_for(Duration::from_secs(1));
    assert!(rig.outcome(ticket).is_none());
    rig.tables.led_by(2, 2);
    rig.tables.cluster.brokers.extend([data("broker-1", 0, 2)]);
    rig.run_for(TIMEOUT);
    assert!(matches!(rig.outcome(ticket), Some((_, Done::Answered(Ok(Answer::Done))))));
    assert_eq!(asked(&rig, request::UPDATE_AND_CREATE_TOPIC), [2, 5], "each once");
    let lists = rig.requests_of(request::UPDATE_AND_CREATE_TOPIC).into_iter();
    let lists: Vec<_> = lists.map(|frame| frame.fields.get("orderTopicConf").unwrap()).collect();
    assert_eq!(lists, ["broker-1:2;broker-5:2"; 2], "each keeps all of it");
}

/// R2: also for a client that starts while a set of the list is away.
#[test]
fn keys_stay_where_the_queue_list_says() {
    let mut rig = rig();
    let list = Some("broker-1:2;broker-5:2".to_owned());
    rig.tables.routes.get_mut("orders").unwrap().order_topic_conf = list;
    let keys = ["a", "b", "c", "d"];
    let tickets = keys.map(|key| send(&mut rig, Some(key)));
    rig.run_for(TIMEOUT);
    let sent = |ticket| match rig.outcome(ticket) {
        Some((_, Done::Sent(result))) => result.is_ok(),
        other => panic!("{other:?}"),
    };
    assert_eq!(tickets.map(sent).iter().filter(|sent| **sent).count(), 2);
    rig.tables.add_topic("orders", &[(1, 2), (5, 2), (6, 2)]);
    let list = Some("broker-1:2;broker-5:2".to_owned());
    rig.tables.routes.get_mut("orders").unwrap().order_topic_conf = list;
    rig.run_for(Duration::from_secs(31));
    rig.requests.clear();
    let tickets = keys.map(|key| send(&mut rig, Some(key)));
    for ticket in tickets {
        ok(&rig, ticket);
    }
    let mut brokers = asked(&rig, request::SEND_MESSAGE_V2);
    brokers.sort();
    assert_eq!(brokers, [1, 1, 5, 5], "and none on the one that joined");
}

/// A topic that its first message makes is made on one set, the same for every
/// client.
#[test]
fn a_topic_made_by_sending_lives_on_one_set() {
    let mut rig = Rig::new();
    rig.tables.add_topic("TBW102", &[(1, 8), (5, 8), (6, 8)]);
    let tickets: Vec<_> =
        (0..8).map(|n| send(&mut rig, Some(["a", "b", "c", "d"][n % 4]))).collect();
    let brokers = tickets.iter().map(|ticket| match rig.outcome(*ticket) {
        Some((_, Done::Sent(Ok(receipt)))) => receipt.broker_name.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(brokers.collect::<std::collections::BTreeSet<_>>().len(), 1);
}

/// A consumer with 320 messages before it, whose leader sends it to the second
/// replica.
fn far_behind() -> Rig {
    let mut rig = rig();
    rig.tables.fill(broker(1), 0, 320);
    rig.tables.suggested.insert(broker(1), 2);
    rig.tables.suggested.insert(broker(2), 2);
    rig
}

fn consume(rig: &mut Rig) -> Vec<u64> {
    consuming::subscribe(rig, ConsumerConfig::new("g").start_at(StartAt::First));
    rig.run_for(Duration::from_secs(1));
    let mut delivered: Vec<u64> =
        rig.delivered.iter().map(|(_, message)| message.queue_offset()).collect();
    delivered.sort();
    delivered
}

/// Those of queue 0.
fn pulled(rig: &Rig) -> Vec<u8> {
    let of_queue = |frame: &Frame| {
        let header = PullHeader::parse(&frame.fields).unwrap();
        header.topic == "orders" && header.queue == 0
    };
    let requests = rig.requests.iter();
    let pulls = requests.filter(|(_, _, f)| f.code == request::PULL_MESSAGE && of_queue(f));
    pulls.filter_map(|(_, addr, _)| (1..9).find(|n| broker(*n) == *addr)).collect()
}

#[test]
fn a_reader_that_is_far_behind_reads_from_a_follower() {
    let mut rig = far_behind();
    assert_eq!(consume(&mut rig), (0..320).collect::<Vec<_>>());
    assert_eq!(pulled(&rig), [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    let asked = |code| asked(&rig, code).contains(&2);
    assert!(asked(request::HEART_BEAT), "it knows the group");
    assert!(!asked(request::UPDATE_CONSUMER_OFFSET) && !asked(request::QUERY_CONSUMER_OFFSET));
}

/// O2: what a follower says of offsets is not obeyed, and its failure costs
/// nothing but the request.
#[test]
fn a_follower_that_cannot_serve_is_left_for_the_leader() {
    for fate in [0, 1, 2] {
        let mut rig = far_behind();
        rig.meddle = Box::new(move |addr, frame| {
            match frame.code == request::PULL_MESSAGE && addr == broker(2) {
                true if fate == 0 => Fate::LinkDown,
                true if fate == 1 => Fate::Refuse(code::SYSTEM_ERROR),
                true => Fate::Refuse(code::PULL_OFFSET_MOVED),
                false => Fate::Answer,
            }
        });
        assert_eq!(consume(&mut rig), (0..320).collect::<Vec<_>>());
        let of_follower = pulled(&rig).iter().filter(|n| **n == 2).count();
        assert_eq!(of_follower, 1, "not again for a while");
        let moved = rig.changes.iter().any(|change| {
            matches!(change, Change::Reading { source: OffsetSource::Corrected, .. })
        });
        assert!(!moved);
    }
}

/// It lacks the newest messages: the leader has them, and is asked at once.
#[test]
fn a_follower_sends_readers_back() {
    let mut rig = far_behind();
    rig.tables.suggested.insert(broker(2), 0);
    assert_eq!(consume(&mut rig), (0..320).collect::<Vec<_>>());
    assert_eq!(pulled(&rig)[..6], [1, 2, 1, 2, 1, 2]);
}
