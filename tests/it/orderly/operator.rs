//! `stormglass group reset|lag` against a server, across a kill.

use serde_json::Value;
use stormglass_tests::server::Server;

fn rows(server: &Server, args: &[&str]) -> Vec<Value> {
    let printed = server.command(&[args, &["-o", "json"]].concat());
    let rows: Value = serde_json::from_str(&printed).expect("JSON");
    rows.as_array().expect("an array").clone()
}

#[test]
fn an_operator_sets_a_group_back() {
    let mut server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "1"]);
    server.command(&["bench", "produce", "--topic", "orders", "--size", "16", "--count", "20"]);
    let read = ["consume", "--topic", "orders", "--group", "readers", "--count", "20"];
    assert_eq!(server.command(&read).lines().count(), 20);
    let stands = |server: &Server| {
        let queues = rows(server, &["group", "lag", "readers", "--topic", "orders"]);
        (queues[0]["committed"].clone(), queues[0]["lost"].clone())
    };
    assert_eq!(stands(&server), (20.into(), 0.into()));
    let to = ["group", "reset", "readers", "--topic", "orders", "--to"];
    let moved = rows(&server, &[&to[..], &["offset:5", "--queue", "0"]].concat());
    assert_eq!(moved[0]["offset"], 5);
    server.kill();
    server.restart();
    assert_eq!(stands(&server), (5.into(), 0.into()));
    rows(&server, &[&to[..], &["1h"]].concat());
    assert_eq!(stands(&server).0, 0);
    rows(&server, &[&to[..], &["latest", "--only-back"]].concat());
    assert_eq!(stands(&server).0, 0);
    rows(&server, &[&to[..], &["latest"]].concat());
    assert_eq!(stands(&server).0, 20);
}
