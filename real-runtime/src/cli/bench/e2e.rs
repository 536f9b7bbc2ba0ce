//! Sends and receives in one process, so that one clock measures both ends.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use stormglass_core::wire::request;
use tokio::task::spawn_local;

use super::{
    Load,
    consume::{Reader, by_connection},
    produce::{self, Clock},
    tally::Tally,
    target,
};

/// How long a pull is held, and with it how long the end of a run takes.
const HOLD: Duration = Duration::from_millis(500);
/// Without a message for so long after the last send, the missing ones are lost.
const LAST_WAIT: Duration = Duration::from_secs(10);

pub async fn run(load: &Load) -> io::Result<Tally> {
    let common = &load.common;
    let queues = target::find(common).await?;
    let clock =
        Clock { mark: getrandom::u64().map_err(io::Error::other)?, started: Instant::now() };
    let received = Rc::new(RefCell::new(Tally::default()));
    let stop = Rc::new(Cell::new(false));
    let mut readers = Vec::new();
    for (broker, queues) in by_connection(&queues, common.connections.into()) {
        let mut reader = Reader::connect(broker, &common.topic, 256).await?;
        for queue in queues {
            let max = reader.edge(request::GET_MAX_OFFSET, queue).await?;
            reader.follow(queue, max);
        }
        let (received, stop) = (received.clone(), stop.clone());
        readers.push(spawn_local(async move {
            while !stop.get() {
                let bodies = reader.next(HOLD).await?;
                let now = clock.started.elapsed();
                let mut tally = received.borrow_mut();
                for body in bodies {
                    let word = |at: usize| {
                        Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?))
                    };
                    if word(0) != Some(clock.mark) {
                        continue;
                    }
                    let sent = Duration::from_micros(word(8).unwrap_or_default());
                    tally.messages += 1;
                    tally.bytes += body.len() as u64;
                    tally.latencies.add(now.saturating_sub(sent));
                    tally.took = now;
                }
            }
            Ok::<_, io::Error>(())
        }));
    }
    let sent = produce::run_on(load, &queues, Some(clock)).await?;
    let mut last = (received.borrow().messages, Instant::now());
    let last_wait = LAST_WAIT + Duration::from_millis(load.delay.unwrap_or(0));
    while last.0 < sent.messages && last.1.elapsed() < last_wait {
        if readers.iter().any(|reader| reader.is_finished()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let messages = received.borrow().messages;
        if messages > last.0 {
            last = (messages, Instant::now());
        }
    }
    stop.set(true);
    for reader in readers {
        reader.await.map_err(io::Error::other)??;
    }
    let mut tally = received.take();
    let missing = sent.messages.saturating_sub(tally.messages);
    tally.failed = sent.failed + missing;
    tally.first_failure = sent.first_failure.or_else(|| {
        (missing > 0).then(|| format!("{missing} messages were sent and did not arrive"))
    });
    Ok(tally)
}
