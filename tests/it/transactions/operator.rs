//! `stormglass txn` against a server, across a kill.

use serde_json::Value;
use stormglass_tests::server::Server;

fn rows(server: &Server, args: &[&str]) -> Vec<Value> {
    let printed = server.command(&[args, &["-o", "json"]].concat());
    let rows: Value = serde_json::from_str(&printed).expect("JSON");
    rows.as_array().expect("an array").clone()
}

fn states(server: &Server, ids: &[String]) -> Vec<Value> {
    let state = |id: &String| {
        let fields = rows(server, &["txn", "show", id]);
        fields.into_iter().find(|row| row["field"] == "state").map(|row| row["value"].clone())
    };
    ids.iter().filter_map(state).collect()
}

#[test]
fn an_operator_decides_what_producers_left_open() {
    let mut server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "1"]);
    server.command(&[
        "bench",
        "transact",
        "--topic",
        "orders",
        "--size",
        "16",
        "--leave-open",
        "3",
    ]);
    let listed = rows(&server, &["txn", "list"]);
    let ids: Vec<String> =
        listed.iter().filter_map(|row| row["message_id"].as_str()).map(str::to_owned).collect();
    assert_eq!(ids.len(), 3, "{listed:?}");
    assert!(listed.iter().all(|row| row["state"] == "open" && row["producers"] == 0));

    server.command(&["txn", "commit", &ids[0]]);
    server.command(&["txn", "rollback", &ids[1]]);
    server.kill();
    server.restart();
    server.command(&["txn", "resume", &ids[2]]);
    assert_eq!(states(&server, &ids), ["committed", "rolled-back", "open"]);
    let queues = rows(&server, &["topic", "describe", "orders"]);
    assert_eq!(queues[0]["max_offset"], 1, "one of three is visible: {queues:?}");
    let groups = rows(&server, &["txn", "groups"]);
    assert_eq!((&groups[0]["open"], &groups[0]["producers"]), (&1.into(), &0.into()));
}
