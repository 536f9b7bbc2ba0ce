//! Readers that are far behind read from followers: never more than what is
//! committed, whatever the follower knows, and the leader has the last word.

use std::{collections::BTreeMap, time::Duration};

use stormglass_core::{
    message::Record,
    rng::Rng,
    wire::{
        code,
        header::{NotLeader, PullReply, pull_flag},
        request,
    },
};
use stormglass_tests::by_hand::{Sent, pull_fields};

use crate::replica_sets::Set;

/// In bytes; a message of these tests takes about 200.
const FAR: u64 = 8 << 10;

struct Pulled {
    code: i32,
    reply: PullReply,
    /// The leader's number in its set, if the answer names it.
    leader: Option<u64>,
    found: Vec<(u64, String)>,
    took: Duration,
}

/// Three replicas, and a group that they know.
fn set() -> Set {
    let mut set = Set::with(|_, config| config.far_behind = FAR);
    let leader = set.leader();
    set.send(leader, "0");
    pull(&mut set, leader, 0);
    set
}

/// Pulls from whoever that is. Who does not lead does not hold pulls.
fn pull(set: &mut Set, at: usize, offset: i64) -> Pulled {
    let fields = pull_fields("t", 0, offset, pull_flag::SUBSCRIPTION, 0);
    let opaque = set.nodes[at].request(request::PULL_MESSAGE, fields, Vec::new());
    let began = set.nodes[at].now.mono;
    for _ in 0..500 {
        if let Some(answer) = set.nodes[at].answer(opaque) {
            let records = Record::parse_all(&answer.body).unwrap();
            let text = |record: &Record| String::from_utf8(record.body.to_vec()).unwrap();
            return Pulled {
                code: answer.code,
                reply: PullReply::parse(&answer.fields).unwrap(),
                leader: NotLeader::parse(&answer.fields).ok().and_then(|says| says.leader),
                found: records.iter().map(|record| (record.queue_offset, text(record))).collect(),
                took: set.nodes[at].now.mono.since(began),
            };
        }
        set.step();
    }
    panic!("no answer within half a second");
}

fn fill(set: &mut Set, from: u64, to: u64) {
    let leader = set.leader();
    for number in from..to {
        let sent = set.send(leader, &number.to_string());
        assert_eq!(sent, Sent::Ok { queue: 0, offset: number });
    }
}

fn served_following(set: &Set, at: usize) -> u64 {
    set.nodes[at].broker.as_ref().unwrap().view().counters().served_following
}

#[test]
fn a_cold_reader_is_sent_to_a_follower_and_comes_back_for_the_tail() {
    let mut set = set();
    fill(&mut set, 1, 300);
    set.settle();
    let leader = set.leader();
    let (mut at, mut offset, mut seen, mut followers) = (leader, 0, Vec::new(), 0);
    while offset < 300 {
        let pulled = pull(&mut set, at, offset);
        offset = pulled.reply.next_offset;
        seen.extend(pulled.found);
        // Broker ids are the replicas' numbers from 1, the leader's is 0.
        at = match pulled.reply.suggest_broker {
            0 => leader,
            id => id as usize - 1,
        };
        followers += u64::from(at != leader);
    }
    let expected: Vec<_> = (0..300).map(|number: u64| (number, number.to_string())).collect();
    assert_eq!(seen, expected);
    assert!(followers >= 5, "most of it comes from a follower");
    assert_eq!(at, leader, "the tail does not");
    let astray = pull(&mut set, (leader + 1) % 3, 300);
    assert_eq!(astray.leader, Some(leader as u64 + 1), "who lost its leader is told");
    assert!((0..3).map(|at| served_following(&set, at)).sum::<u64>() >= 200);
}

/// O2: of what lies beyond its end a follower knows nothing, and says so.
#[test]
fn a_follower_that_is_cut_off_serves_what_it_has_and_judges_no_offset() {
    let mut set = set();
    fill(&mut set, 1, 100);
    set.settle();
    let follower = (set.leader() + 1) % 3;
    set.isolated = Some(follower);
    fill(&mut set, 100, 200);
    let old = pull(&mut set, follower, 40);
    assert_eq!((old.code, old.found.first()), (code::SUCCESS, Some(&(40, "40".to_owned()))));
    for offset in [100, 150, 5000] {
        let beyond = pull(&mut set, follower, offset);
        assert_eq!(beyond.code, code::PULL_RETRY_IMMEDIATELY, "never an offset to go to");
        assert!(beyond.leader.is_none_or(|leader| leader != follower as u64 + 1));
        assert_eq!((beyond.reply.next_offset, beyond.reply.suggest_broker), (offset, 0));
        assert!(beyond.took >= Duration::from_millis(100), "who knows no leader asks at once");
    }
}

/// Of a locked queue only the leader knows the owner (R1), and of a group only
/// it knows what its newest member wants (L15).
#[test]
fn who_may_not_read_elsewhere_is_sent_back() {
    let mut set = set();
    fill(&mut set, 1, 100);
    set.settle();
    let follower = (set.leader() + 1) % 3;
    for (field, value) in [("lockEpoch", "1"), ("subscription", "red"), ("consumerGroup", "new")] {
        let all = pull_fields("t", 0, 0, pull_flag::SUBSCRIPTION, 0);
        let mut fields = stormglass_core::wire::Fields::builder();
        all.iter().filter(|(key, _)| *key != field).for_each(|(key, had)| {
            fields.put(key, had);
        });
        let fields = fields.put(field, value).finish();
        let opaque = set.nodes[follower].request(request::PULL_MESSAGE, fields, Vec::new());
        set.settle();
        let answer = set.nodes[follower].answer(opaque).unwrap();
        assert_eq!(answer.code, code::PULL_RETRY_IMMEDIATELY, "{field}");
    }
}

/// Whatever happens to whom: what any replica ever served stays what it is.
#[test]
fn what_a_follower_served_is_never_taken_back() {
    for seed in 0..12 {
        let (mut rng, mut set, mut seen) = (Rng::new(seed), set(), BTreeMap::new());
        for round in 0..60 {
            match rng.below(8) {
                0 => set.isolated = Some(rng.below(3) as usize),
                1 => set.isolated = None,
                2 if set.isolated.is_none() => {
                    let victim = rng.below(3) as usize;
                    set.nodes[victim].power_loss();
                    set.nodes[victim].start().unwrap();
                }
                3..6 => {
                    // To whoever thinks that it leads; what it says does not matter.
                    let leads = (0..3).find(|at| set.nodes[*at].is_serving());
                    if let Some(at) = leads {
                        set.send(at, &format!("{seed}-{round}"));
                    }
                }
                _ => (0..rng.below(150)).for_each(|_| set.step()),
            }
            let at = rng.below(3) as usize;
            if set.nodes[at].broker.is_some() && !set.nodes[at].is_serving() {
                let offset = rng.below(20) as i64;
                let fields = pull_fields("t", 0, offset, pull_flag::SUBSCRIPTION, 0);
                let opaque = set.nodes[at].request(request::PULL_MESSAGE, fields, Vec::new());
                set.nodes[at].settle();
                if let Some(answer) = set.nodes[at].answer(opaque) {
                    let records = Record::parse_all(&answer.body).unwrap();
                    seen.extend(records.into_iter().map(|record| {
                        let text = String::from_utf8(record.body.to_vec()).unwrap();
                        (record.queue_offset, text)
                    }));
                }
            }
        }
        set.isolated = None;
        set.settle();
        let leader = set.leader();
        let all: BTreeMap<_, _> = set.nodes[leader].contents("t", 0).into_iter().collect();
        for (offset, text) in &seen {
            assert_eq!(all.get(offset), Some(text), "seed {seed}");
        }
        assert!(!seen.is_empty(), "seed {seed}: no follower served anything");
    }
}
