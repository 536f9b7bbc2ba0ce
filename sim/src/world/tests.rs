//! Both worlds under the smallest program there is: a broker that echoes and a
//! client that asks it every 50 ms and gives up after 200.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, pin::pin, rc::Rc, task::Poll};

use stormglass_core::{
    ids::Name,
    runtime::{Listener, Runtime},
    time::Time,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    clock::WALL_AT_START,
    disk::{DiskConfig, Drive},
    fault::{Fault, Processes, apply},
};

type Log = Rc<RefCell<Vec<String>>>;
type Script = [(u64, Fault)];

const PORT: u16 = 10_911;

async fn echo<R: Runtime>(rt: R) -> Stop {
    let mut listener = rt.listen(SocketAddr::new(MachineNo(0).ip(), PORT)).await.unwrap();
    while let Ok((mut reader, mut writer, _)) = listener.accept().await {
        rt.spawn(async move {
            let mut question = [0; 8];
            while reader.read_exact(&mut question).await.is_ok() {
                if writer.write_all(&question).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
        });
    }
    Stop::GaveUp
}

async fn ask<R: Runtime>(rt: R, log: Log) -> Stop {
    let note = |what: String| {
        log.borrow_mut().push(format!(
            "{:?} {} {what}",
            rt.now().mono,
            rt.now().wall - WALL_AT_START
        ));
    };
    let mut stream: Option<(R::Reader, R::Writer)> = None;
    loop {
        let n = rt.now().mono.0 / 50_000 + 1;
        rt.sleep_until(Time(n * 50_000)).await;
        let deadline = Time(rt.now().mono.0 + 200_000);
        if stream.is_none() {
            match before(&rt, deadline, rt.dial(SocketAddr::new(MachineNo(0).ip(), PORT))).await {
                Some(Ok(halves)) => stream = Some(halves),
                Some(Err(error)) => note(format!("{n} no connection: {:?}", error.kind())),
                None => note(format!("{n} no connection in time")),
            }
        }
        let Some((reader, writer)) = &mut stream else { continue };
        let mut answer = [0; 8];
        let asked = async {
            writer.write_all(&n.to_be_bytes()).await?;
            writer.flush().await?;
            reader.read_exact(&mut answer).await?;
            io::Result::Ok(())
        };
        let outcome = before(&rt, deadline, asked).await;
        match &outcome {
            Some(Ok(())) if answer == n.to_be_bytes() => note(format!("{n} ok")),
            Some(Ok(())) => note(format!("{n} answered with {answer:?}")),
            Some(Err(error)) => note(format!("{n} {:?}", error.kind())),
            None => note(format!("{n} silence")),
        }
        if !matches!(outcome, Some(Ok(()))) {
            stream = None;
        }
    }
}

async fn before<R: Runtime, T>(rt: &R, until: Time, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut late) = (pin!(work), pin!(rt.sleep_until(until)));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => late.as_mut().poll(cx).map(|()| None),
    })
    .await
}

struct Unwatched;

impl Watch for Unwatched {
    fn started(&self, _life: u32) {}
    fn stopped(&self, _why: Stop, _drive: &Drive) {}
}

struct NoProcesses;

impl Processes for NoProcesses {
    fn stall(&self, _node: &Name, _for_ms: u64) {}
    fn slow(&self, _node: &Name, _handling_ms: u64) {}
    fn stop(&self, _node: &Name) {}
    fn is_stopping(&self, _node: &Name) -> bool {
        false
    }
}

async fn conduct<W: World>(world: W, script: &Script, run_ms: u64) -> Vec<String> {
    let mut cluster = Cluster::new(world, 7);
    let log = Log::default();
    let seen = log.clone();
    add(&mut cluster, "broker-1", Rc::new(|rt, _disk| Box::pin(echo(rt))));
    add(&mut cluster, "client-1", Rc::new(move |rt, _disk| Box::pin(ask(rt, seen.clone()))));
    for (at_ms, fault) in script {
        cluster.world.advance_to(at_ms * 1000).await;
        apply(&mut cluster, &NoProcesses, fault).unwrap();
    }
    cluster.world.advance_to(run_ms * 1000).await;
    log.take()
}

fn add<W: World>(cluster: &mut Cluster<W>, name: &str, program: Program<W::Runtime>) {
    let no = cluster.add(name.into(), DiskConfig::default(), Rc::new(Unwatched), program);
    cluster.start(no);
}

const NET: NetConfig = NetConfig { latency_us: 1_000..=3_000 };

/// The log of the run on each world.
fn on_both(seed: u64, script: &Script, run_ms: u64) -> [(&'static str, Vec<String>); 2] {
    [
        ("madsim", on_madsim::run(seed, &NET, async |world| conduct(world, script, run_ms).await)),
        (
            "turmoil",
            on_turmoil::run(seed, &NET, async |world| conduct(world, script, run_ms).await),
        ),
    ]
}

fn node(name: &str) -> Name {
    name.into()
}

/// What questions were answered with, those asked between two times.
fn outcomes(log: &[String], from_ms: u64, to_ms: u64) -> Vec<&str> {
    let asked = |line: &&String| {
        let n: u64 = line.split(' ').nth(2).unwrap().parse().unwrap();
        (from_ms..to_ms).contains(&(n * 50))
    };
    log.iter().filter(asked).map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect()
}

#[test]
fn the_same_seed_gives_the_same_log_and_another_seed_another() {
    let script = [
        (500, Fault::Kill { node: node("broker-1") }),
        (700, Fault::Restart { node: node("broker-1") }),
        (900, Fault::ClockDrift { node: node("client-1"), ppm: 50_000 }),
    ];
    let first = on_both(1, &script, 2_000);
    let other = on_both(2, &script, 2_000);
    let again = on_both(1, &script, 2_000);
    assert_eq!(first, again);
    for ((world, first), (_, other)) in first.iter().zip(&other) {
        assert_ne!(first, other, "{world} ignores its seed");
        assert!(first.len() > 30, "{world}: {first:#?}");
    }
}

#[test]
fn a_killed_process_is_noticed_and_refuses_until_it_is_restarted() {
    let script = [
        (500, Fault::Kill { node: node("broker-1") }),
        (1_000, Fault::Restart { node: node("broker-1") }),
    ];
    for (world, log) in on_both(3, &script, 2_000) {
        assert!(outcomes(&log, 0, 450).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
        let down = outcomes(&log, 500, 1_000);
        assert!(!down.contains(&"silence") && !down.contains(&"ok"), "{world}: {log:#?}");
        assert!(down.contains(&"no connection: ConnectionRefused"), "{world}: {log:#?}");
        assert!(outcomes(&log, 1_050, 1_950).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
    }
}

#[test]
fn a_machine_without_power_is_silent() {
    let script = [
        (500, Fault::PowerLoss { node: node("broker-1"), unsynced: Default::default() }),
        (1_500, Fault::Restart { node: node("broker-1") }),
    ];
    for (world, log) in on_both(4, &script, 4_000) {
        let down = outcomes(&log, 500, 1_300);
        assert!(
            down.iter().all(|o| ["silence", "no connection in time"].contains(o)),
            "{world}: {log:#?}"
        );
        assert!(down.contains(&"silence"), "{world}: {log:#?}");
        assert!(outcomes(&log, 2_000, 3_900).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
    }
}

#[test]
fn a_partition_is_silence_both_ways_and_one_way() {
    let sides = || (vec![node("broker-1")], vec![node("client-1")]);
    for one_way in [false, true] {
        let (a, b) = sides();
        let cut = Fault::Partition { a, b, one_way };
        let (a, b) = sides();
        let script = [(500, cut), (1_500, Fault::Heal { a, b, one_way })];
        for (world, log) in on_both(5, &script, 4_000) {
            let down = outcomes(&log, 500, 1_200);
            assert!(!down.is_empty(), "{world}: {log:#?}");
            assert!(
                down.iter().all(|o| ["silence", "no connection in time"].contains(o)),
                "{world}: {log:#?}"
            );
            assert!(outcomes(&log, 2_500, 3_900).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
        }
    }
}

#[test]
fn a_paused_process_answers_when_it_goes_on() {
    let script = [
        (510, Fault::Pause { node: node("broker-1") }),
        (640, Fault::Resume { node: node("broker-1") }),
    ];
    for (world, log) in on_both(6, &script, 1_000) {
        assert!(outcomes(&log, 0, 900).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
        let late = log.iter().find(|line| line.contains(" 11 ok")).unwrap();
        assert!(late.as_str() > "0.640000s", "{world}: {log:#?}");
    }
}

#[test]
fn extra_latency_and_reset_connections_are_felt_and_pass() {
    let sides = || (vec![node("broker-1")], vec![node("client-1")]);
    let latency = |extra_ms| {
        let (a, b) = sides();
        Fault::Latency { a, b, extra_ms }
    };
    let (a, b) = sides();
    let script = [
        (510, latency(40)),
        (1_010, latency(300)),
        (1_410, latency(0)),
        (2_500, Fault::DropConnections { a, b }),
    ];
    for (world, log) in on_both(8, &script, 3_000) {
        let slow = log.iter().find(|line| line.contains(" 13 ok")).unwrap();
        assert!(slow.as_str() > "0.730000s", "{world}: {log:#?}");
        assert!(outcomes(&log, 1_050, 1_300).contains(&"silence"), "{world}: {log:#?}");
        let reset = outcomes(&log, 2_400, 2_900);
        assert!(reset.iter().filter(|o| **o != "ok").count() <= 1, "{world}: {log:#?}");
        assert_eq!(outcomes(&log, 2_700, 2_900), ["ok"; 4], "{world}: {log:#?}");
    }
}

#[test]
fn a_stepped_clock_moves_the_wall_and_no_deadline() {
    let script = [(500, Fault::ClockJump { node: node("client-1"), by_ms: -3_000 })];
    for (world, log) in on_both(9, &script, 1_000) {
        assert!(outcomes(&log, 0, 900).iter().all(|o| *o == "ok"), "{world}: {log:#?}");
        let wall = |n: &str| -> i64 {
            let line = log.iter().find(|line| line.contains(&format!(" {n} ok"))).unwrap();
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!((wall("15") - wall("5") - 500 + 3_000).abs() < 20, "{world}: {log:#?}");
    }
}

#[test]
fn a_program_that_ends_closes_its_connections() {
    async fn go<W: World>(world: W) -> Vec<String> {
        let mut cluster = Cluster::new(world, 7);
        let log = Log::default();
        let short: Program<W::Runtime> = Rc::new(|rt: W::Runtime, _disk| {
            Box::pin(async move {
                let echo = echo(rt.clone());
                rt.spawn(async {
                    echo.await;
                });
                rt.sleep_until(Time(500_000)).await;
                Stop::Graceful
            })
        });
        let seen = log.clone();
        add(&mut cluster, "broker-1", short);
        add(&mut cluster, "client-1", Rc::new(move |rt, _| Box::pin(ask(rt, seen.clone()))));
        cluster.world.advance_to(1_000_000).await;
        assert_eq!(cluster.machine(MachineNo(0)).state(), State::NoProcess);
        log.take()
    }
    for log in [on_madsim::run(1, &NET, go), on_turmoil::run(1, &NET, go)] {
        assert_eq!(outcomes(&log, 0, 450), ["ok"; 8]);
        let after = outcomes(&log, 550, 950);
        assert!(
            after.len() > 5 && after.iter().all(|o| *o == "no connection: ConnectionRefused"),
            "{log:#?}"
        );
    }
}
