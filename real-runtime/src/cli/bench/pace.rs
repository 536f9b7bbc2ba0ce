//! Messages at a fixed rate, whether or not the broker keeps up: a send that had
//! to wait for its turn counts the wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// Sends that may wait for a free place in flight before the pace stands still.
const MAX_WAITING: usize = 1 << 16;

/// Starts one pace for each connection, `per_second` in all, for so long. Each
/// item is the time at which a message was due.
///
/// A thread of its own keeps time: tokio's timers round up to a millisecond.
pub fn start(per_second: f64, connections: usize, lasts: Duration) -> Vec<mpsc::Receiver<Instant>> {
    let (senders, receivers): (Vec<_>, _) =
        (0..connections).map(|_| mpsc::channel(MAX_WAITING)).unzip();
    thread::spawn(move || {
        let began = Instant::now();
        let mut turns = senders.iter().cycle();
        for n in 0u64.. {
            let offset = Duration::from_secs_f64(n as f64 / per_second);
            if offset >= lasts {
                return;
            }
            let due = began + offset;
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait);
            }
            // Not the moment before the sleep: how late a sleep ends is not the
            // broker's doing. A late predecessor is.
            let now = Instant::now();
            let late = now.duration_since(due) > Duration::from_millis(1);
            let sent = turns.next().map(|turn| turn.blocking_send(if late { due } else { now }));
            if !matches!(sent, Some(Ok(()))) {
                return;
            }
        }
    });
    receivers
}
