//! What a server tells over HTTP, scraped as Prometheus would.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use stormglass_tests::{
    http::get,
    server::{Server, binary},
};

/// What takes longer has failed: the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_scrape_shows_what_was_sent_read_and_left() {
    let server = Server::start(&["--metrics", "127.0.0.1:0"]);
    assert_eq!(get(server.metrics(), "/livez"), (200, "the process runs\n".to_owned()));
    assert_eq!(get(server.metrics(), "/readyz"), (200, "broker broker-a: serves\n".to_owned()));

    server.command(&["topic", "create", "orders", "--queues", "1"]);
    for body in ["first", "second", "third"] {
        server.command(&["produce", "-t", "orders", "-m", body]);
    }
    server.command(&["consume", "-t", "orders", "-g", "billing", "--count", "1"]);
    let leave = ["--pop", "--lease", "10m", "--nack", "--count", "1"];
    server.command(&[&["consume", "-t", "orders", "-g", "thumbnails"], &leave[..]].concat());

    let (status, text) = get(server.metrics(), "/metrics");
    assert_eq!(status, 200);
    let origin = r#"cluster="DefaultCluster",node_type="broker",node_id="broker-a""#;
    for line in [
        r#"rocketmq_messages_in_total{_,topic="orders"} 3"#,
        r#"rocketmq_consumer_lag_messages{_,consumer_group="billing",topic="orders"} 2"#,
        r#"stormglass_queue_lag_messages{_,consumer_group="billing",topic="orders",queue_id="0"} 2"#,
        r#"rocketmq_consumer_inflight_messages{_,consumer_group="thumbnails",topic="orders"} 1"#,
        // Nobody is connected any more, and whoever wakes the broker for this is
        // not counted.
        "stormglass_connections{_} 0",
        "stormglass_node_up{_} 1",
    ] {
        let line = line.replacen("{_", &format!("{{{origin}"), 1);
        assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
    }
}

#[test]
fn an_address_that_is_taken_is_told_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--metrics", &addr]);
    let output = command.current_dir(dir.path()).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot serve metrics on {addr}: Address")), "{said}");
    assert!(output.stdout.is_empty() && !dir.path().join("stormglass-data").exists());
}

/// A node of a set of two, and where it serves metrics.
struct Replica {
    process: Child,
    metrics: String,
}

impl Replica {
    fn start(dir: &Path, id: usize, peers: &[String]) -> Replica {
        let config = dir.join(format!("node-{id}.toml"));
        let text = format!(
            "name_servers = ['127.0.0.1:1']\nsecret = 'a secret that they share'\n\
             metrics = '127.0.0.1:0'\ndata = '{}'\n[[replica]]\nset = 'set-1'\nid = {id}\n\
             listen = '127.0.0.1:0'\npeers = {{ 1 = '{}', 2 = '{}' }}\n",
            dir.join(format!("data-{id}")).display(),
            peers[0],
            peers[1]
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--found", "--config"]).arg(config);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let metrics = line.trim_end().split_once("metrics on ").expect("it says where");
        Replica { process, metrics: metrics.1.to_owned() }
    }

    fn waits_to_be_ready(&self) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let (status, said) = get(&self.metrics, "/readyz");
            if status == 200 {
                return said;
            }
            assert!(Instant::now() < until, "{said}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn replicas_are_ready_once_one_leads_and_the_other_follows() {
    let dir = tempfile::tempdir().unwrap();
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let peers = free.map(|listener| listener.local_addr().unwrap().to_string());
    let first = Replica::start(dir.path(), 1, &peers);
    // Of two, one alone is no majority.
    let unready = (503, "broker set-1: knows no leader of its set\n".to_owned());
    assert_eq!(get(&first.metrics, "/readyz"), unready);
    assert_eq!(get(&first.metrics, "/livez").0, 200);

    let second = Replica::start(dir.path(), 2, &peers);
    let said = [first.waits_to_be_ready(), second.waits_to_be_ready()].concat();
    let (leads, follows) = ("broker set-1: serves\n", "broker set-1: follows replica ");
    assert!(said.contains(leads) && said.contains(follows), "{said}");
    let role = r#"stormglass_replica_role{cluster="DefaultCluster",node_type="broker",node_id="set-1",role="leader"}"#;
    let told = [&first, &second].map(|replica| get(&replica.metrics, "/metrics").1);
    let leaders = told.iter().filter(|text| text.contains(&format!("{role} 1")));
    assert_eq!(leaders.count(), 1, "{told:#?}");
    // What they share is told once.
    let telling = told.iter().filter(|text| text.contains("rocketmq_topic_number"));
    assert_eq!(telling.count(), 1, "{told:#?}");
}
