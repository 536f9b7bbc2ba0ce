//! What people type: messages that are delayed, refused, leased, and half
//! messages, through the shipped binary.

use serde_json::Value;
use stormglass_tests::server::Server;

fn server() -> Server {
    let server = Server::start(&[]);
    server.command(&["topic", "create", "orders", "--queues", "1"]);
    server
}

fn produce(server: &Server, body: &str, more: &[&str]) -> Value {
    let args = [&["produce", "-t", "orders", "-o", "json", "-m", body], more].concat();
    serde_json::from_str(&server.command(&args)).expect("one object")
}

/// Each message's body and which attempt it was.
fn consume(server: &Server, group: &str, count: &str, more: &[&str]) -> Vec<(String, u64)> {
    let args = ["consume", "-t", "orders", "-o", "json", "-g", group, "--count", count];
    let said = server.command(&[&args, more].concat());
    let messages = said.lines().map(|line| serde_json::from_str(line).expect("an object"));
    messages
        .map(|message: Value| {
            assert_eq!(message["topic"], "orders", "also of a retry");
            let body = message["body"].as_str().expect("text").to_owned();
            (body, message["attempts"].as_u64().expect("a number"))
        })
        .collect()
}

fn attempts(body: &str, attempts: u64) -> (String, u64) {
    (body.to_owned(), attempts)
}

#[test]
fn a_delayed_message_comes_behind_what_was_sent_later() {
    let server = server();
    let delayed = produce(&server, "later", &["--delay", "1500ms"]);
    assert!(delayed["recall"].is_string() && delayed["offset"].is_null(), "{delayed}");
    produce(&server, "at once", &["--idempotent"]);
    assert_eq!(consume(&server, "g", "2", &[]), [attempts("at once", 1), attempts("later", 1)]);
}

#[test]
fn only_a_committed_half_is_seen() {
    let server = server();
    for outcome in ["rollback", "unknown", "commit"] {
        let half = produce(&server, outcome, &["--transaction", outcome]);
        assert!(half["half"].is_string(), "{half}");
    }
    produce(&server, "plain", &[]);
    assert_eq!(consume(&server, "g", "2", &[]), [attempts("commit", 1), attempts("plain", 1)]);
    let halves = server.command(&["txn", "list", "-o", "json"]);
    let halves: Value = serde_json::from_str(&halves).unwrap();
    assert_eq!(halves.as_array().map(Vec::len), Some(1), "{halves}");
}

#[test]
fn a_refused_message_comes_again_and_a_dead_one_does_not() {
    let server = server();
    produce(&server, "first", &[]);
    produce(&server, "second", &[]);
    let refuse = ["--nack", "--nack-delay", "1s"];
    assert_eq!(consume(&server, "g", "1", &refuse), [attempts("first", 1)]);
    assert_eq!(consume(&server, "g", "2", &[]), [attempts("second", 1), attempts("first", 2)]);

    assert_eq!(consume(&server, "h", "1", &["--dead-letter"]), [attempts("first", 1)]);
    assert_eq!(consume(&server, "h", "1", &[]), [attempts("second", 1)]);
    assert!(server.command(&["dlq", "show", "h"]).contains("first"));
}

#[test]
fn what_is_not_acknowledged_under_its_lease_comes_again() {
    let server = server();
    produce(&server, "first", &[]);
    let leave = ["--pop", "--lease", "1s", "--nack"];
    assert_eq!(consume(&server, "g", "1", &leave), [attempts("first", 1)]);
    assert_eq!(consume(&server, "g", "1", &["--pop"]), [attempts("first", 2)]);
}
