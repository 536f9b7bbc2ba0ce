//! Three replicas on real sockets and disks, in one process: the one that leads
//! is dropped with everything it runs, twice, while a client goes on.

use std::{cell::Cell, net::SocketAddr, path::PathBuf, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use stormglass::{
    Client, ConsumerConfig, Message, StartAt,
    disk::RealDisk,
    on_tokio::{OnTokio, block_on},
};
use stormglass_core::{
    broker::BrokerConfig,
    ids::NodeId,
    log::LogConfig,
    replication::ReplicaSet,
    runtime::Runtime,
    shell::{
        node::{Node, NodeConfig},
        peers::PeerConfig,
    },
    wire::{Fields, Frame, body::ClusterStatus, frame, request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{Instant, sleep, timeout},
};

struct Replica {
    config: NodeConfig,
    data: PathBuf,
    running: Option<JoinHandle<()>>,
}

impl Replica {
    /// Runs the node in a task that takes everything with it when it is aborted.
    fn start(&mut self, number: usize, leader: Rc<Cell<Option<usize>>>) {
        let (config, data) = (self.config.clone(), self.data.clone());
        let all_of_it = LocalSet::new();
        self.running = Some(spawn_local(async move {
            let serve = async move {
                let runtime = OnTokio::new();
                let addr = config.broker.as_ref().unwrap().host;
                let listener = runtime.listen(addr).await.unwrap();
                let disk = RealDisk::open(&data).unwrap();
                let node = Node::open(runtime, config, disk).unwrap();
                node.serve(listener, || leader.set(Some(number))).await.unwrap();
            };
            all_of_it.run_until(serve).await;
        }));
    }

    async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }
}

fn free_ports(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

fn replicas(names: SocketAddr, secret: &str, dir: &std::path::Path) -> Vec<Replica> {
    let ports = free_ports(6);
    let (serves, peers) = ports.split_at(3);
    let replica = |number: usize| {
        let set = ReplicaSet {
            id: NodeId(number as u64 + 1),
            peers: (1..).map(NodeId).zip(peers.iter().copied()).collect(),
            election_timeout: Duration::from_millis(300),
            founding: true,
        };
        let broker = BrokerConfig {
            name_servers: vec![names],
            replica_set: Some(set),
            log: LogConfig { segment_bytes: 1 << 20, ..LogConfig::default() },
            ..BrokerConfig::new(serves[number])
        };
        let secret = secret.as_bytes().to_vec();
        let config = NodeConfig {
            peers: Some(PeerConfig { listen: peers[number], secret }),
            ..NodeConfig::broker(broker)
        };
        Replica { config, data: dir.join(number.to_string()), running: None }
    };
    (0..3).map(replica).collect()
}

async fn somebody_leads(leader: &Cell<Option<usize>>) {
    let until = Instant::now() + Duration::from_secs(30);
    while leader.get().is_none() {
        assert!(Instant::now() < until, "nobody leads");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn send_until_taken(client: &Client, text: String) {
    let until = Instant::now() + Duration::from_secs(30);
    while let Err(error) = client.send(Message::new("orders", text.clone())).await {
        assert!(Instant::now() < until, "{text}: {error}");
        sleep(Duration::from_millis(20)).await;
    }
}

struct Running {
    replicas: Vec<Replica>,
    leader: Rc<Cell<Option<usize>>>,
    client: Client,
}

/// A name server, a set of three that has a leader, a client and its topic.
async fn running(dir: &std::path::Path) -> Running {
    let names = free_ports(1)[0];
    let runtime = OnTokio::new();
    let listener = runtime.listen(names).await.unwrap();
    let disk = RealDisk::open(&dir.join("names")).unwrap();
    let name_server = Node::open(runtime, NodeConfig::name_server(), disk).unwrap();
    spawn_local(async move { name_server.serve(listener, || ()).await.unwrap() });
    let leader = Rc::new(Cell::new(None));
    let mut replicas = replicas(names, "a secret that they share", dir);
    for (number, replica) in replicas.iter_mut().enumerate() {
        replica.start(number, leader.clone());
        if let Some(broker) = &mut replica.config.broker {
            broker.replica_set.as_mut().unwrap().founding = false;
        }
    }
    somebody_leads(&leader).await;
    let client = Client::builder().name_server(names.to_string()).group("shop");
    let client = client.build().await.unwrap();
    // The leader may not have told the name server of itself yet.
    while client.create_topic("DefaultCluster", "orders", 4).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    Running { replicas, leader, client }
}

/// What a replica says of itself.
async fn status(addr: SocketAddr) -> std::io::Result<ClusterStatus> {
    let mut stream = TcpStream::connect(addr).await?;
    let ask = Frame::request(request::CLUSTER_STATUS, 1, Fields::default(), Bytes::new());
    stream.write_all(&ask.encode().to_bytes()).await?;
    let mut buffer = BytesMut::new();
    loop {
        if let Some(answer) = frame::decode(&mut buffer, frame::MAX_FRAME).expect("a frame") {
            return Ok(ClusterStatus::parse(&answer.body).expect("a status"));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A replica that lost its disk has everything again, and says how fast.
#[test]
fn an_empty_replica_catches_up_while_others_serve() {
    const SENDERS: usize = 64;
    const EACH: usize = 250;
    let dir = tempfile::tempdir().unwrap();
    let all = async {
        let Running { mut replicas, leader, client } = running(dir.path()).await;
        let leads = leader.get().expect("somebody leads");
        let senders = (0..SENDERS).map(|sender| {
            let client = client.clone();
            spawn_local(async move {
                for number in 0..EACH {
                    let text = format!("{sender}-{number}-{}", "x".repeat(1000));
                    send_until_taken(&client, text).await;
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        let lost = (leads + 1) % 3;
        replicas[lost].kill().await;
        std::fs::remove_dir_all(&replicas[lost].data).unwrap();
        let began = Instant::now();
        replicas[lost].start(lost, leader.clone());
        let serves = |number: usize| replicas[number].config.broker.as_ref().unwrap().host;
        let whole = status(serves(leads)).await.unwrap().own;
        let mut sent = 0;
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "it never catches up");
            if let Ok(found) = status(serves(lost)).await
                && found.own.trusted
                && found.own.applied >= whole.committed
            {
                assert_eq!(found.own.start, whole.start, "with all that is kept");
                break;
            }
            send_until_taken(&client, format!("meanwhile {sent}")).await;
            sent += 1;
        }
        let (took, bytes) = (began.elapsed().as_secs_f64(), whole.committed - whole.start);
        let messages = (SENDERS * EACH) as f64;
        println!(
            "{:.1} MB, {messages} messages in {took:.2} s: {:.1} MB/s, {:.0} messages/s",
            bytes as f64 / 1e6,
            bytes as f64 / 1e6 / took,
            messages / took
        );
        client.close().await;
        for replica in &mut replicas {
            replica.kill().await;
        }
    };
    block_on(all).unwrap();
}

#[test]
fn clients_go_on_while_leaders_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let all = async {
        let Running { mut replicas, leader, client } = running(dir.path()).await;
        a_stranger_is_refused(replicas[0].config.peers.as_ref().unwrap().listen).await;
        let mut sent = 0;
        for _ in 0..3 {
            for _ in 0..40 {
                send_until_taken(&client, format!("order {sent}")).await;
                sent += 1;
            }
            let victim = leader.take().expect("somebody took them");
            let killed = Instant::now();
            replicas[victim].kill().await;
            send_until_taken(&client, format!("order {sent}")).await;
            sent += 1;
            println!("killed, and the next one took a message after {:?}", killed.elapsed());
            replicas[victim].start(victim, leader.clone());
            somebody_leads(&leader).await;
        }
        let config = ConsumerConfig::new("billing").topic("orders", "*").start_at(StartAt::First);
        let mut consumer = client.subscribe(config).await.unwrap();
        let mut missing: std::collections::BTreeSet<String> =
            (0..sent).map(|number| format!("order {number}")).collect();
        while !missing.is_empty() {
            let next = timeout(Duration::from_secs(30), consumer.next()).await;
            let message = next.expect("they all come").expect("the consumer is open");
            missing.remove(std::str::from_utf8(message.body()).unwrap());
            message.ack();
        }
        consumer.close().await;
        client.close().await;
        for replica in &mut replicas {
            replica.kill().await;
        }
    };
    block_on(all).unwrap();
}

/// The port where replicas listen closes on whoever is none (L6).
async fn a_stranger_is_refused(addr: SocketAddr) {
    let mut stranger = TcpStream::connect(addr).await.unwrap();
    stranger.write_all(&[0xff; 8]).await.unwrap();
    let mut said = Vec::new();
    let read = timeout(Duration::from_secs(5), stranger.read_to_end(&mut said)).await;
    assert!(read.expect("it is closed at once").is_err() || said.is_empty());
}
