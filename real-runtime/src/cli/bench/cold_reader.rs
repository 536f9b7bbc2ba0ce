//! What a reader of a large backlog, which no memory holds any more, does to
//! those who send meanwhile.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use stormglass::{disk::forget_cache, on_tokio::block_on};
use stormglass_core::{broker::LEADER_ID, wire::request};
use tokio::task::spawn_local;

use super::{
    Backlog, Common, Load, Table,
    catch_up::{TOPIC, start, start_with},
    consume::Reader,
    nodes::{Data, Nodes},
    produce,
    tally::{Tally, Turns, failed, millis, rounded},
    target,
};
use crate::cli::admin::{Admin, Server};

/// Messages that are sent in a second, meanwhile.
const RATE: f64 = 2000.0;
/// Turns of each kind of reader.
const TURNS: u32 = 2;
/// Messages that the reader asks for at a time.
const BATCH: u32 = 32;

/// Where the reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Nowhere,
    FromTheLeader,
    WhereItIsSent,
}

pub async fn run(backlog: &Backlog) -> io::Result<()> {
    let data = Data::new(&backlog.sets.dir, "cold-reader")?;
    start_with(&data.0, backlog).await?.stop().await?;
    let kinds = [
        (Reads::Nowhere, "none"),
        (Reads::FromTheLeader, "from the leader"),
        (Reads::WhereItIsSent, "where it is sent"),
    ];
    let mut all = kinds.map(|_| (Turns::default(), Turns::default()));
    for _ in 0..TURNS {
        for ((sent, read), (reads, _)) in all.iter_mut().zip(kinds) {
            forget_cache(&data.0)?;
            let nodes = start(&data.0).await?;
            let (more_sent, more_read) = measure(&nodes, backlog, reads).await?;
            sent.add(more_sent);
            read.add(more_read);
            nodes.stop().await?;
        }
    }
    let columns = &["reader", "p50_ms", "p99_ms", "p99.9_ms", "max_ms", "read_MB/s"];
    let mut table = Table::new(columns);
    for ((sent, read), (reads, what)) in all.into_iter().zip(kinds) {
        let latency = |share| millis(sent.tally.latencies.quantile(share));
        table.row([
            what.into(),
            latency(0.5),
            latency(0.99),
            latency(0.999),
            millis(sent.tally.latencies.max()),
            match reads {
                Reads::Nowhere => Value::Null,
                _ => rounded(read.bytes_per_second() / 1e6, 1),
            },
        ]);
        failed(sent.tally.first_failure)?;
    }
    table.print(backlog.sets.output);
    Ok(())
}

/// Sends as long as the reader reads, which has a thread of its own; without
/// one, for as many seconds as a turn has.
async fn measure(nodes: &Nodes, backlog: &Backlog, reads: Reads) -> io::Result<(Tally, Tally)> {
    let common = Common::of(nodes.server(), "stormglass-bench");
    let queues = target::create(&common).await?;
    let second =
        Load { rate: Some(RATE), in_flight: 64, ..Load::lasting(common, backlog.sets.size, 1) };
    let server = nodes.server();
    let reader = (reads != Reads::Nowhere)
        .then(|| thread::spawn(move || block_on(read_all(server, reads == Reads::WhereItIsSent))?));
    let began = Instant::now();
    let mut tally = Tally::default();
    let is_over = |began: Instant| match &reader {
        Some(reader) => reader.is_finished(),
        None => began.elapsed() >= Duration::from_secs(backlog.sets.seconds),
    };
    while !is_over(began) {
        tally.add(produce::run_on(&second, &queues, None).await?);
    }
    let read = match reader {
        Some(reader) => reader.join().map_err(|_| io::Error::other("the reader panicked"))??,
        None => Tally::default(),
    };
    Ok((tally, read))
}

/// Reads every queue of the backlog from its beginning to its end.
async fn read_all(server: Server, goes_elsewhere: bool) -> io::Result<Tally> {
    let mut admin = Admin::connect(&server).await?;
    let route = admin.route(TOPIC).await?.ok_or(io::ErrorKind::NotFound)?;
    let addrs = route.brokers.into_iter().flat_map(|broker| broker.addrs);
    let addrs = addrs.map(|(id, addr)| Ok((id, addr.parse().map_err(io::Error::other)?)));
    let addrs = addrs.collect::<io::Result<BTreeMap<i64, SocketAddr>>>()?;
    let began = Instant::now();
    let readers: Vec<_> = admin
        .queues(TOPIC)
        .await?
        .into_iter()
        .map(|queue| spawn_local(read(addrs.clone(), queue.queue, goes_elsewhere)))
        .collect();
    let mut all = Tally::default();
    for reader in readers {
        all.bytes += reader.await.map_err(io::Error::other)??;
    }
    all.took = began.elapsed();
    Ok(all)
}

/// The bytes of one queue's messages.
async fn read(
    addrs: BTreeMap<i64, SocketAddr>,
    queue: u32,
    goes_elsewhere: bool,
) -> io::Result<u64> {
    let leader = *addrs.get(&LEADER_ID).ok_or(io::ErrorKind::NotFound)?;
    let mut reader = Reader::connect(leader, TOPIC, BATCH).await?;
    let first = reader.edge(request::GET_MIN_OFFSET, queue).await?;
    reader.follow(queue, first);
    let (mut bytes, mut at) = (0, LEADER_ID);
    while reader.is_reading() {
        let bodies = reader.next(Duration::ZERO).await?;
        bytes += bodies.iter().map(|body| body.len() as u64).sum::<u64>();
        if let Some((to, offset)) = reader.goes_on_at(queue)
            && goes_elsewhere
            && to != at
            && let Some(addr) = addrs.get(&to)
        {
            reader = reader.moved_to(*addr).await?;
            reader.follow(queue, offset);
            at = to;
        }
    }
    Ok(bytes)
}
