//! `stormglass dev`: a cluster on this machine, each node a process of its own,
//! so that one can be killed like on the day when it matters.

mod layout;
mod processes;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use super::admin::{Admin, Server};
use layout::Layout;
use processes::{Processes, TERMINATE};

/// Before a node that died is started again: long enough to see what the others
/// make of it.
const START_AGAIN: Duration = Duration::from_secs(3);
/// How often the name server is asked who leads.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Dev {
    /// Brokers; in replica sets of --replicas [default: 3].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=15))]
    brokers: Option<u64>,
    /// Replicas of a set [default: all brokers].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9))]
    replicas: Option<u64>,
    /// Where configurations and messages are kept. A cluster that is there
    /// goes on as it was.
    #[arg(long, default_value = "./stormglass-dev", value_name = "DIR")]
    data: PathBuf,
    /// The name server's address; the brokers take the ports behind it. Port 0
    /// takes any that are free [default: 127.0.0.1:9876].
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// A key of each node's configuration, like `broker.flush=async`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What happens to the cluster.
enum Event {
    Signal,
    /// A node listens.
    Listens(usize),
    Ended(usize, String),
    StartAgain(usize),
    /// Which node leads which set.
    Leaders(BTreeMap<String, SocketAddr>),
}

impl Dev {
    pub async fn run(self) -> Result<(), Box<dyn Error>> {
        let layout = Layout::open(&self)?;
        let (events, mut happens) = mpsc::channel(64);
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let (mut signals, events) = (signal(kind)?, events.clone());
            tokio::task::spawn_local(async move {
                while signals.recv().await.is_some() && events.send(Event::Signal).await.is_ok() {}
            });
        }
        let mut processes = Processes::new(events.clone(), self.set.clone());
        for (number, member) in layout.members.iter().enumerate() {
            processes.start(number, member, layout.is_founded())?;
        }
        tokio::task::spawn_local(watch(layout.name_server(), events.clone()));
        let ended = self.supervise(&layout, &mut processes, &events, &mut happens).await;
        say("stopping");
        stop(&layout, &mut processes, &mut happens).await;
        ended
    }

    async fn supervise(
        &self,
        layout: &Layout,
        processes: &mut Processes,
        events: &mpsc::Sender<Event>,
        happens: &mut mpsc::Receiver<Event>,
    ) -> Result<(), Box<dyn Error>> {
        let mut silent = layout.members.len();
        let mut leaders = BTreeMap::new();
        let mut is_ready = false;
        while let Some(event) = happens.recv().await {
            match event {
                Event::Signal => return Ok(()),
                Event::Listens(number) => {
                    let member = &layout.members[number];
                    say(format_args!("{}  {member}", processes.shown(number, member)));
                    silent = silent.saturating_sub(1);
                }
                Event::Ended(number, how) if silent > 0 => {
                    return Err(format!("{} {how}", layout.members[number].name).into());
                }
                Event::Ended(number, how) => {
                    processes.ended(number);
                    let name = &layout.members[number].name;
                    say(format_args!("{name} {how}; it starts again in {START_AGAIN:?}"));
                    let events = events.clone();
                    tokio::task::spawn_local(async move {
                        sleep(START_AGAIN).await;
                        let _ = events.send(Event::StartAgain(number)).await;
                    });
                }
                Event::StartAgain(number) => {
                    let is_founded = layout.is_founded();
                    processes.start(number, &layout.members[number], is_founded)?;
                }
                Event::Leaders(found) => {
                    for (set, addr) in &found {
                        if leaders.get(set) != Some(addr) {
                            say(format_args!("{} leads {set}", layout.named(*addr)));
                        }
                    }
                    leaders.extend(found);
                    if !is_ready && silent == 0 && leaders.len() == layout.sets() {
                        is_ready = true;
                        layout.founded()?;
                        say(format_args!(
                            "ready: -n {}; ^C ends it, kill -9 PID shows a fail-over",
                            layout.name_server()
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Brokers first: clients ask the name server where their leaders have gone.
async fn stop(layout: &Layout, processes: &mut Processes, happens: &mut mpsc::Receiver<Event>) {
    for is_broker in [true, false] {
        let numbers = (0..).zip(&layout.members);
        let these: Vec<usize> = numbers
            .filter(|(_, member)| member.is_broker() == is_broker)
            .map(|(number, _)| number)
            .collect();
        these.iter().for_each(|number| processes.signal(*number, TERMINATE));
        while these.iter().any(|number| processes.runs(*number)) {
            match happens.recv().await {
                // Once more means at once: dropping them kills them.
                Some(Event::Signal) | None => return,
                Some(Event::Ended(number, _)) => processes.ended(number),
                Some(_) => {}
            }
        }
    }
}

async fn watch(name_server: SocketAddr, events: mpsc::Sender<Event>) {
    let server = Server { name_server: name_server.to_string(), timeout: 1000 };
    loop {
        if let Ok(mut admin) = Admin::connect(&server).await {
            while let Ok(leaders) = admin.brokers().await {
                if events.send(Event::Leaders(leaders)).await.is_err() {
                    return;
                }
                sleep(LOOK).await;
            }
        }
        sleep(LOOK).await;
    }
}

/// Whoever started us may have closed the pipe: no reason to stop.
fn say(what: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{what}");
}
