//! Random failures of every request: whatever happens, the promises hold, and
//! once it is over everything gets done.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use proptest::prelude::*;

use super::*;
use crate::{ids::Shard, rng::Rng};

/// Answers most requests and mistreats the others until `calm` is set.
fn storm(seed: u64, calm: Rc<RefCell<bool>>) -> Meddle {
    let mut rng = Rng::new(seed);
    Box::new(move |_, _| match rng.below(20) {
        _ if *calm.borrow() => Fate::Answer,
        0 => Fate::Silence,
        1 | 2 => Fate::LoseReply,
        3 => Fate::LinkDown,
        4 | 5 => Fate::Refuse([1, 2, 14, 17, 24, 25][rng.below(6) as usize]),
        _ => Fate::Answer,
    })
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.tables.add_topic("orders", &[(1, 2), (2, 2)]);
    rig
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// No stored offset ever passes a message that was neither acknowledged nor
    /// taken back by a broker, and in the end every message was acknowledged.
    #[test]
    fn every_message_is_processed_and_no_offset_runs_ahead(seed: u64, orderly: bool) {
        let mut rig = rig();
        rig.tables.add_topic("%RETRY%g", &[(1, 1), (2, 1)]);
        let calm = Rc::new(RefCell::new(false));
        rig.meddle = storm(seed, calm.clone());
        let mut rng = Rng::new(!seed);
        for (n, queue) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            rig.tables.fill(broker(n), queue, 40);
        }
        for ((at, slot), log) in &mut rig.tables.logs {
            for record in log {
                record.body = format!("{at} {slot} {}", record.queue_offset).into();
            }
        }
        let mut config = ConsumerConfig::new("g").start_at(StartAt::First).topic("orders", "*");
        config.max_outstanding = 16;
        if orderly {
            config = config.orderly();
        }
        rig.command(Command::Subscribe(Box::new(config)));
        let mut acked: BTreeSet<(SocketAddr, u32, u64)> = BTreeSet::new();
        let mut seen_requests = 0;
        for round in 0..600 {
            if round == 300 {
                *calm.borrow_mut() = true;
                rig.tables.members = vec![ME.to_owned()];
            } else if round < 300 && rng.chance(0.05) {
                let other = rng.chance(0.5).then(|| "other".to_owned());
                rig.tables.members = [Some(ME.to_owned()), other].into_iter().flatten().collect();
                rig.notify_members_changed("g");
            }
            rig.run_for(Duration::from_millis(rng.below(800)));
            rig.wake_held();
            while let Some((id, message)) = rig.delivered.pop_front() {
                let at = if &*message.broker_name == "broker-1" { broker(1) } else { broker(2) };
                let slot = tables::slot(&message.shard.topic, message.shard.queue);
                if round >= 300 || rng.chance(0.7) {
                    acked.insert((at, slot, message.queue_offset()));
                    rig.settle(id, Verdict::Ack);
                } else {
                    rig.settle(id, Verdict::Nack(Duration::from_millis(rng.below(3_000))));
                }
            }
            // A message that was sent again in place of a send-back has the same body.
            let resent: BTreeSet<Bytes> = rig.tables.logs.iter()
                .filter(|((_, slot), _)| *slot >= tables::RETRIES)
                .flat_map(|(_, log)| log.iter().map(|record| record.body.clone()))
                .collect();
            for (_, addr, frame) in &rig.requests[seen_requests..] {
                if frame.code != request::UPDATE_CONSUMER_OFFSET {
                    continue;
                }
                let header = UpdateOffsetHeader::parse(&frame.fields).unwrap();
                let slot = tables::slot(header.topic, header.queue);
                for offset in 0..header.commit_offset as u64 {
                    let record = &rig.tables.logs[&(*addr, slot)][offset as usize];
                    prop_assert!(
                        acked.contains(&(*addr, slot, offset)) || resent.contains(&record.body),
                        "{} of {addr}/{slot} was stored before {offset} was acknowledged",
                        header.commit_offset
                    );
                }
            }
            seen_requests = rig.requests.len();
        }
        let done: BTreeSet<&[u8]> = acked.iter()
            .map(|(at, slot, offset)| &rig.tables.logs[&(*at, *slot)][*offset as usize].body[..])
            .collect();
        prop_assert_eq!(done.len(), 160);
        for (n, queue) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
            prop_assert_eq!(rig.tables.offsets.get(&(broker(n), queue)), Some(&40));
        }
        for n in [1, 2] {
            let slot = tables::slot("%RETRY%g", 0);
            let log = rig.tables.logs.get(&(broker(n), slot)).map_or(0, Vec::len) as i64;
            prop_assert_eq!(rig.tables.offsets.get(&(broker(n), slot)).copied().unwrap_or(0), log);
        }
        if orderly {
            prop_assert!(rig.tables.taken.is_empty(), "order is kept by waiting");
        }
    }

    /// Every send gets one outcome in its time, and the outcome is true. Numbered
    /// ones are stored once, and keep their order although they do not wait for
    /// each other.
    #[test]
    fn outcomes_come_in_time_and_are_true(seed: u64, idempotent: bool) {
        let mut config = ClientConfig::new(vec![name_server()]);
        config.idempotent = idempotent;
        let mut rig = Rig::with(config);
        rig.tables.add_topic("orders", &[(1, 2), (2, 2)]);
        rig.meddle = storm(seed, Rc::default());
        let mut rng = Rng::new(!seed);
        let mut sent: BTreeMap<Ticket, (Time, String, bool)> = BTreeMap::new();
        for n in 0..150 {
            let body = format!("m{n}");
            let mut message = Message::new("orders", body.clone());
            let ordered = rng.chance(0.5);
            if ordered {
                message = message.sharding_key(format!("k{}", rng.below(3)));
            }
            let options = SendOptions { ordered, ..SendOptions::default() };
            let start = rig.now;
            let ticket = rig.command(Command::Send { messages: vec![message], options });
            sent.insert(ticket, (start, body, ordered));
            rig.run_for(Duration::from_millis(rng.below(200)));
        }
        rig.run_for(Duration::from_secs(10));
        prop_assert_eq!(rig.done.len(), sent.len());

        let mut places: BTreeMap<String, Vec<(Shard, String, u64)>> = BTreeMap::new();
        for ((addr, queue), log) in &rig.tables.logs {
            let shard = Shard { topic: "orders".into(), queue: *queue };
            for record in log {
                let body = String::from_utf8(record.body.to_vec()).unwrap();
                let place = (shard.clone(), addr.to_string(), record.queue_offset);
                places.entry(body).or_default().push(place);
            }
        }
        let mut last: BTreeMap<(Shard, String), u64> = BTreeMap::new();
        for (ticket, (start, body, ordered)) in &sent {
            let (at, done) = rig.outcome(*ticket).unwrap();
            prop_assert!(at.since(*start) <= Duration::from_secs(3), "{:?}", at.since(*start));
            let copies = places.get(body).map_or(&[][..], |copies| copies);
            prop_assert!(!idempotent || copies.len() <= 1, "{body} is stored {} times", copies.len());
            match done {
                Done::Sent(Ok(receipt)) => {
                    prop_assert!(copies.len() <= receipt.tries as usize);
                    let place = (&receipt.shard, receipt.queue_offset);
                    let is_there = copies.iter().any(|(shard, _, at)| (shard, *at) == place);
                    prop_assert!(is_there);
                }
                Done::Sent(Err(SendError::Refused(_))) => prop_assert!(copies.is_empty()),
                Done::Sent(Err(SendError::Unknown { tries, .. })) => {
                    prop_assert!(copies.len() <= *tries as usize);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            // Copies of an ordered message lie behind all of the one before it.
            if *ordered {
                for (shard, addr, offset) in copies {
                    let before = last.insert((shard.clone(), addr.clone()), *offset);
                    prop_assert!(before.is_none_or(|before| before < *offset));
                }
            }
        }
    }
}
