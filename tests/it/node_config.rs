//! What an operator is told about a configuration: where each value comes from,
//! and where a mistake is and what would be right.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use stormglass_tests::server::binary;

/// Runs a command in this directory, with these variables set; its exit status,
/// and what it said.
fn stormglass(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    let output = command.args(args).envs(variables.iter().copied()).current_dir(dir).output();
    let output = output.expect("the binary runs");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// What `serve` says of this file.
fn refused(file: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node.toml"), file).unwrap();
    let (status, said) = stormglass(dir.path(), &["serve", "--config", "node.toml"], &[]);
    assert_eq!(status, Some(2), "{said}");
    said.trim_end().strip_prefix("stormglass: ").expect("who it is").to_owned()
}

#[test]
fn a_mistake_is_told_with_its_place_and_what_is_allowed() {
    insta::assert_snapshot!(
        refused("[broker]\nflsh = \"sync\""),
        @"node.toml:2: broker.flsh: no such key; allowed here: flush, flush_interval, election_timeout, auto_create_topics, default_queues, segment, snapshot_every, lock_lease, check_after, check_every, check_longest, checks_at_most, retain, retain_for, retain_at_most, retain_or_refuse"
    );
    insta::assert_snapshot!(
        refused("cluster = \"shop\"\n\n[broker]\nflush = \"sometimes\""),
        @"node.toml:4: broker.flush: `sometimes` is not allowed: sync or async"
    );
    insta::assert_snapshot!(
        refused("[broker]\nflush_interval = 500"),
        @"node.toml:2: broker.flush_interval: `500` is not allowed: a time like 500ms, 30s, 5m, 2h or 3d, 1ms to 60s"
    );
    insta::assert_snapshot!(
        refused("cluster = \"shop"),
        @"node.toml:1: invalid basic string, expected `\"`"
    );
    insta::assert_snapshot!(
        refused("secret = \"short\""),
        @"node.toml:1: secret: this is not allowed: at least 16 bytes"
    );
    insta::assert_snapshot!(
        refused("[replica]\nset = \"a\""),
        @"node.toml:2: replica.set: replicas are an array of tables, each of which begins with [[replica]]"
    );
    insta::assert_snapshot!(
        refused("metrics = \"0.0.0.0:9090\""),
        @"node.toml:1: metrics: other machines can reach 0.0.0.0:9090, and the connection is neither encrypted nor authenticated; to accept that, add --insecure-plaintext"
    );
    insta::assert_snapshot!(
        refused("[name_server]\nlisten = \"0.0.0.0:9876\""),
        @"node.toml:2: name_server.listen: other machines can reach 0.0.0.0:9876, and the connection is neither encrypted nor authenticated; to accept that, add --insecure-plaintext"
    );
}

const REPLICA: &str = "
name_servers = ['127.0.0.1:1']
secret = 'a secret that they share'
[[replica]]
set = 'set-1'
id = 1
listen = '127.0.0.1:0'
peers = { 1 = '127.0.0.1:2', 2 = '127.0.0.1:3', 3 = '127.0.0.1:4' }
";

#[test]
fn what_does_not_fit_together_is_told_too() {
    insta::assert_snapshot!(
        refused(&REPLICA.replace("id = 1", "id = 4")),
        @"node.toml:6: replica.1.id: 4 is not among the peers: [1, 2, 3]"
    );
    insta::assert_snapshot!(
        refused(&REPLICA.replace("secret = 'a secret that they share'", "")),
        @"secret or secret_file is missing: replicas of a set prove with it that they belong to it"
    );
    insta::assert_snapshot!(
        refused(&REPLICA.replace("name_servers = ['127.0.0.1:1']", "")),
        @"name_servers is missing"
    );
    insta::assert_snapshot!(
        refused(&format!("listen = '127.0.0.1:0'\n{REPLICA}")),
        @"node.toml:1: listen: is that of a node without [name_server] and [[replica]]; each of these has its own"
    );
    insta::assert_snapshot!(
        refused(&format!("{REPLICA}\n{}", &REPLICA[REPLICA.find("[[").unwrap()..])),
        @"node.toml:11: replica.2.set: another replica of this set is on this node"
    );
}

#[test]
fn each_layer_overrides_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[broker]\nflush = 'async'\ndefault_queues = 8\nretain = '1GiB'";
    fs::write(dir.path().join("node.toml"), file).unwrap();
    let variables =
        [("STORMGLASS_CONFIG", "node.toml"), ("STORMGLASS_BROKER_DEFAULT_QUEUES", "16")];
    let args = ["config", "print", "-o", "json", "--retain", "2048", "--metrics", "localhost:0"];
    let (status, printed) = stormglass(dir.path(), &args, &variables);
    assert_eq!(status, Some(0), "{printed}");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let says = |key: &str| {
        let row = printed.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["from"].as_str().unwrap().to_owned())
    };
    let is = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(says("cluster"), is("DefaultCluster", "default"));
    assert_eq!(says("broker.flush"), is("async", "node.toml:2"));
    assert_eq!(says("broker.default_queues"), is("16", "STORMGLASS_BROKER_DEFAULT_QUEUES"));
    assert_eq!(says("broker.retain"), is("2048MiB", "--retain"));
    assert_eq!(says("metrics"), is("localhost:0", "--metrics"));

    let misspelt = [("STORMGLASS_FLUSH", "async")];
    let (status, said) = stormglass(dir.path(), &["serve"], &misspelt);
    assert_eq!(status, Some(2));
    assert!(said.contains("STORMGLASS_FLUSH: no key of the configuration"), "{said}");
}

#[test]
fn a_set_is_founded_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("node.toml"), REPLICA).unwrap();
    let store = dir.path().join("stormglass-data/set-1/store");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("store"), "a store").unwrap();
    let args = ["serve", "--config", "node.toml", "--found"];
    let (status, said) = stormglass(dir.path(), &args, &[]);
    assert_eq!(status, Some(2));
    assert!(said.contains("replica 1 of set-1 was founded before"), "{said}");
}
