//! Handmade runs for the tests of the renderers, with names as hostile as a
//! scenario file allows.

use std::collections::BTreeMap;

use crate::record::{
    Event, EventKind, Finding, Lane, LaneKind, PlanLine, Position, Record, Span, SpanKind, Verdict,
    Violation,
};

fn lane(name: &str, kind: LaneKind) -> Lane {
    Lane { name: name.to_string(), kind }
}

fn event(at_us: u64, lane: u32, kind: EventKind, text: &str) -> Event {
    Event {
        at_us,
        lane,
        to_lane: None,
        kind,
        text: text.to_string(),
        message: None,
        shard: None,
        offset: None,
    }
}

fn verdict(oracle: u32, name: &str, promise: &str) -> Verdict {
    Verdict {
        oracle: Some(oracle),
        name: name.to_string(),
        promise: promise.to_string(),
        finding: Finding::Holds,
    }
}

const NAMES: u32 = 0;
const BROKER: u32 = 1;
const PRODUCER: u32 = 2;
const CONSUMER: u32 = 4;

/// A run in which everything held: `messages` messages through one broker that
/// is killed on the way.
pub fn passing(scenario: &str, seed: u64, world: &str, messages: u64) -> Record {
    let lanes = vec![
        lane("names-1", LaneKind::Names),
        lane("broker-1", LaneKind::Broker),
        lane("producer-orders-1", LaneKind::Producer),
        lane("producer-orders-2", LaneKind::Producer),
        lane("consumer-billing-1", LaneKind::Consumer),
        lane("consumer-billing-2", LaneKind::Consumer),
    ];
    let gap = 20_000_000 / messages.max(1);
    let mut events = vec![
        event(0, NAMES, EventKind::Life, "started"),
        event(1_000, BROKER, EventKind::Life, "started, log empty"),
    ];
    let mut positions = Vec::new();
    let down = 8_000_000..9_200_000;
    for m in 1..=messages {
        let at = m * gap + m * 7919 % 3000;
        let shard = format!("orders/{}", m % 4);
        let mut step = |after: u64, lane: u32, to_lane, kind, text: String| {
            let at_us = if down.contains(&(at + after)) { down.end + after } else { at + after };
            events.push(Event {
                at_us,
                lane,
                to_lane,
                kind,
                text,
                message: Some(m),
                shard: Some(shard.clone()),
                offset: Some(m / 4),
            });
        };
        let producer = PRODUCER + (m % 2) as u32;
        let consumer = CONSUMER + (m % 4 / 2) as u32;
        let place = format!("{shard}[{}]", m / 4);
        step(0, producer, Some(BROKER), EventKind::Send, format!("send #{m} m{m} to {shard}"));
        step(3_100, producer, None, EventKind::Stored, format!("send #{m} stored at {place}"));
        step(
            5_200,
            BROKER,
            Some(consumer),
            EventKind::Deliver,
            format!("billing gets m{m} from {place}"),
        );
        step(9_000, consumer, None, EventKind::Ack, format!("acks m{m}"));
        positions.push(Position {
            at_us: at,
            lane: BROKER,
            written: m * 512,
            durable: (m.saturating_sub(m % 7)) * 512,
        });
    }
    events.push(event(down.start, BROKER, EventKind::Fault, "killed"));
    events.push(event(down.end, BROKER, EventKind::Life, "started again, log ends at 87 040"));
    events.sort_by_key(|event| event.at_us);
    let mut record = Record {
        scenario: scenario.to_string(),
        area: "delivery".to_string(),
        about: "The broker is killed while messages are on their way in.".to_string(),
        seed,
        world: world.to_string(),
        stories: vec!["D6".to_string(), "D1".to_string()],
        ended_us: 40_000_000,
        plan: vec![
            PlanLine { at_us: down.start, text: "kill broker-1".to_string() },
            PlanLine {
                at_us: 14_000_000,
                text: "consumer-billing-2 stalls for 3000 ms".to_string(),
            },
        ],
        lanes,
        verdicts: vec![
            verdict(1, "no loss", "What was answered OK is acknowledged by every group."),
            verdict(2, "no phantom", "What is delivered was sent."),
            verdict(3, "honest replies", "What was refused is never visible."),
            verdict(4, "slot agreement", "A shard and an offset mean one message."),
            verdict(16, "liveness", "After the heal everything pending resolves."),
        ],
        coverage: BTreeMap::from([
            ("kill".to_string(), 1),
            ("restart".to_string(), 1),
            ("consumer-stall".to_string(), 1),
            ("send-unknown".to_string(), 12),
            ("redelivery".to_string(), 4),
        ]),
        spans: vec![
            Span {
                from_us: down.start,
                to_us: down.end,
                lane: BROKER,
                kind: SpanKind::Down,
                text: "killed".to_string(),
            },
            Span {
                from_us: 14_000_000,
                to_us: 17_000_000,
                lane: CONSUMER + 1,
                kind: SpanKind::Slow,
                text: "stalled".to_string(),
            },
        ],
        positions,
        event_count: events.len() as u64,
        events,
        ..Record::default()
    };
    record.seal();
    record
}

/// The same storm, in which one message that was answered OK is never delivered.
pub fn failing(scenario: &str, seed: u64, world: &str, messages: u64) -> Record {
    let mut record = passing(scenario, seed, world, messages);
    let lost = messages / 3;
    let of_lost = |event: &Event| event.message == Some(lost);
    record.events.retain(|event| {
        !(of_lost(event) && matches!(event.kind, EventKind::Deliver | EventKind::Ack))
    });
    record.event_count = record.events.len() as u64;
    let cited = |kind| {
        let found = record.events.iter().position(|event| of_lost(event) && event.kind == kind);
        found.expect("the sample sends every message") as u64
    };
    let cites = vec![cited(EventKind::Stored), cited(EventKind::Send)];
    record.verdicts[0].finding = Finding::Broken(Violation {
        message: format!("m{lost} was answered OK, and group billing never acknowledged it"),
        values: vec![
            ("message".to_string(), format!("m{lost}")),
            ("shard".to_string(), format!("orders/{}", lost % 4)),
            ("offset".to_string(), (lost / 4).to_string()),
            ("may be lost".to_string(), "nothing: flush is sync".to_string()),
        ],
        at_us: record.events[cites[0] as usize].at_us,
        cites,
    });
    record.seal();
    record
}

pub const EVIL: &str = "</script><img src=x onerror=alert(1)>|\"'&]]>`\u{1b}[2J\nnext";

/// Every text a scenario file, a client or an oracle can choose.
pub fn hostile() -> Record {
    let evil = EVIL;
    let mut record = failing(evil, 1, "madsim", 8);
    record.about = evil.to_string();
    record.area = evil.to_string();
    record.replay_as = evil.to_string();
    record.stories = vec![evil.to_string()];
    record.plan[0].text = evil.to_string();
    record.coverage.insert(evil.to_string(), 1);
    record.lanes.iter_mut().for_each(|lane| lane.name = evil.to_string());
    record.spans.iter_mut().for_each(|span| span.text = evil.to_string());
    for event in &mut record.events {
        event.text = evil.to_string();
        event.shard = Some(evil.to_string());
    }
    for verdict in &mut record.verdicts {
        verdict.name = evil.to_string();
        verdict.promise = evil.to_string();
        if let Finding::Broken(violation) = &mut verdict.finding {
            violation.message = evil.to_string();
            violation.values = vec![(evil.to_string(), evil.to_string())];
        }
    }
    record
}
