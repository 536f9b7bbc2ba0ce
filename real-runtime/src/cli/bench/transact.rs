//! Transactions against plain sends, turn by turn in one run: each message is
//! sent as a half, and committed as soon as that is answered.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use stormglass_core::{
    message::{Properties, property, sys_flag},
    wire::{
        Encoding, Frame, code,
        header::{EndTransactionHeader, Resolution, SendHeader, SendReply},
        request,
    },
};

use super::{
    SILENCE, Table, Transact, produce,
    tally::{Tally, Turns, failed, millis, rounded},
    target,
};
use crate::cli::{
    admin::parsed,
    link::{Answer, Link, Template},
};

const GROUP: &str = "stormglass-bench";
/// Turns of plain sends, and of transactions.
const TURNS: u32 = 4;

/// Prints how many transactions per second there are, and how that compares.
pub async fn run(load: &Transact) -> io::Result<()> {
    let queues = target::find(&load.common).await?;
    let halves: Vec<Template> = queues.iter().map(|queue| half(load, queue.queue)).collect();
    if let Some(count) = load.leave_open {
        let tally = transact(queues[0].addr, &halves[0], load, Until::Open(count)).await?;
        println!("{count} half messages are open after {:.2} s", tally.took.as_secs_f64());
        return failed(tally.first_failure);
    }
    let seconds = load.duration / u64::from(2 * TURNS);
    let (mut plain, mut committed) = (Turns::default(), Turns::default());
    for n in 0..TURNS as usize {
        plain.add(produce::run_on(&load.plain(seconds), &queues, None).await?);
        let nth = n % queues.len();
        let until = Until::Time(Instant::now() + Duration::from_secs(seconds));
        committed.add(transact(queues[nth].addr, &halves[nth], load, until).await?);
    }
    let share = rounded(committed.rate() / plain.rate(), 3);
    let mut table =
        Table::new(&["what", "messages", "msgs/s", "p50_ms", "p99_ms", "failed", "of_plain"]);
    table.row(row(&plain, "plain", Value::Null));
    table.row(row(&committed, "transactions", share));
    table.print(load.common.output);
    failed(plain.tally.first_failure.or(committed.tally.first_failure))
}

fn row(turns: &Turns, what: &str, of_plain: Value) -> [Value; 7] {
    let Tally { messages, latencies, failed, .. } = &turns.tally;
    [
        what.into(),
        (*messages).into(),
        rounded(turns.rate(), 0),
        millis(latencies.quantile(0.5)),
        millis(latencies.quantile(0.99)),
        (*failed).into(),
        of_plain,
    ]
}

/// When to stop.
#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    /// So many halves are stored; none is decided.
    Open(u64),
}

impl Until {
    /// How many of so many free places get another half now.
    fn more(self, free: usize, sent: u64) -> usize {
        match self {
            Until::Time(end) if Instant::now() >= end => 0,
            Until::Time(_) => free,
            Until::Open(count) => free.min((count - sent) as usize),
        }
    }
}

/// What a place in flight waits for.
#[derive(Clone, Copy)]
enum Waiting {
    Half(Instant),
    Commit(Instant),
}

async fn transact(
    broker: SocketAddr,
    half: &Template,
    load: &Transact,
    until: Until,
) -> io::Result<Tally> {
    let mut link = Link::connect(broker).await?;
    let (mut tally, mut sent) = (Tally::default(), 0);
    let began = Instant::now();
    let mut places: Vec<Option<Waiting>> = vec![None; load.in_flight as usize];
    let mut free: Vec<usize> = (0..places.len()).collect();
    loop {
        for place in free.split_off(free.len() - until.more(free.len(), sent)) {
            sent += 1;
            link.push(half, place as i32, &[]);
            places[place] = Some(Waiting::Half(Instant::now()));
        }
        if free.len() == places.len() {
            return Ok(tally);
        }
        let exchange = poll_fn(|cx| link.poll_exchange(cx));
        tokio::time::timeout(SILENCE, exchange).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "no answer from the broker for 30 s")
        })??;
        tally.took = began.elapsed();
        while let Some(answer) = link.next_answer()? {
            let place = answer.opaque as usize;
            let Some(waiting) = places.get_mut(place).and_then(Option::take) else { continue };
            match (waiting, until) {
                _ if answer.code != code::SUCCESS => tally.fail(answer)?,
                (Waiting::Half(sent), Until::Time(_)) => {
                    link.push_frame(&commit(answer)?);
                    places[place] = Some(Waiting::Commit(sent));
                    continue;
                }
                (Waiting::Half(sent) | Waiting::Commit(sent), _) => {
                    tally.messages += 1;
                    tally.bytes += u64::from(load.size);
                    tally.latencies.add(sent.elapsed());
                }
            }
            free.push(place);
        }
    }
}

/// The commit of the half that this answers, in the same place in flight.
fn commit(answer: Answer) -> io::Result<Frame> {
    let opaque = answer.opaque;
    let answer = answer.decode()?;
    let reply = parsed(SendReply::parse(&answer.fields))?;
    let position = reply.message_id.get(reply.message_id.len().saturating_sub(16)..);
    let position = position.and_then(|hex| i64::from_str_radix(hex, 16).ok());
    let header = EndTransactionHeader {
        producer_group: GROUP,
        topic: None,
        half_offset: reply.queue_offset,
        position: position.ok_or_else(|| io::Error::other("a half message without a place"))?,
        resolution: Resolution::Commit,
        from_check: Some(false),
        message_id: "",
        transaction_id: None,
        broker_name: None,
    };
    let code = request::END_TRANSACTION;
    let frame = Frame::request(code, opaque, header.fields(), Default::default());
    Ok(frame.encoding(Encoding::Binary))
}

fn half(load: &Transact, queue: u32) -> Template {
    let mut properties = Vec::new();
    Properties::put(&mut properties, property::TRAN_MSG, "true");
    Properties::put(&mut properties, property::PGROUP, GROUP);
    let properties = String::from_utf8(properties).expect("they are text");
    let header = SendHeader {
        producer_group: GROUP,
        topic: &load.common.topic,
        default_topic: Some("TBW102"),
        default_topic_queues: Some(4),
        queue: queue as i32,
        sys_flag: sys_flag::TRANSACTION_PREPARED,
        born_wall: 0,
        flag: 0,
        properties: Some(&properties),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: Some(false),
        producer_id: None,
        producer_epoch: None,
        sequence: None,
    };
    let body = (0..load.size).map(|n| (n * 31 + n / 7) as u8).collect();
    Template::new(request::SEND_MESSAGE_V2, header.short_fields(), body)
}
