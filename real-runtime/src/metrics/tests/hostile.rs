//! Peers that do not speak HTTP, or not to the end: each costs little, for a
//! short time. Time here passes when nobody has anything to do.

use std::{net::SocketAddr, time::Duration};

use stormglass::on_tokio::block_on;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::{Instant, pause},
};

use crate::metrics::{
    Origin, about,
    http::{CONNECTIONS, HEAD_BYTES, HEAD_WITHIN, accept},
};

const GET: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Gives what it is given the address of an endpoint whose only node, a name
/// server, is ready.
fn with_endpoint(test: impl AsyncFnOnce(SocketAddr)) {
    block_on(async {
        pause();
        let origin = Origin { cluster: "c".into(), node_type: "nameserver", node_id: "n".into() };
        let (asker, asked) = about(origin, false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        asked.opened(addr);
        spawn_local(accept(listener, vec![asker]));
        test(addr).await;
    })
    .unwrap();
}

async fn connect(addr: SocketAddr, say: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // What is refused half way need not be taken to its end.
    let _ = stream.write_all(say).await;
    stream
}

/// All that comes until the connection is closed.
async fn hear(mut stream: TcpStream) -> String {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    String::from_utf8(heard).unwrap()
}

async fn ask(addr: SocketAddr, say: &[u8]) -> String {
    hear(connect(addr, say).await).await
}

#[test]
fn one_request_is_answered_and_the_connection_closed() {
    with_endpoint(async |addr| {
        let heard = ask(addr, &[GET, GET].concat()).await;
        assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
        assert!(heard.ends_with("\r\n\r\nnameserver n: serves\n"), "{heard}");
        assert!(heard.contains("connection: close"), "{heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    });
}

#[test]
fn what_is_not_served_is_told() {
    with_endpoint(async |addr| {
        let heard = ask(addr, b"GET /metric HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 404 "), "{heard}");
        let heard = ask(addr, b"POST /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 405 "), "{heard}");
        assert!(heard.contains("allow: GET, HEAD"), "{heard}");
        let heard = ask(addr, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("\r\n\r\n"), "{heard}");
    });
}

#[test]
fn garbage_and_endless_heads_are_refused() {
    with_endpoint(async |addr| {
        let heard = ask(addr, b"\x00\x01\xff garbage\r\n\r\n").await;
        assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
        let endless = [b"GET /livez HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 2 * HEAD_BYTES]].concat();
        let heard = ask(addr, &endless).await;
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 431 "), "{heard}");
        assert!(ask(addr, GET).await.starts_with("HTTP/1.1 200 "), "it goes on");
    });
}

#[test]
fn a_head_has_its_time() {
    with_endpoint(async |addr| {
        for begun in [b"".as_slice(), b"GET /livez HTTP/1.1\r\nHost: x\r\n"] {
            let began = Instant::now();
            let heard = ask(addr, begun).await;
            assert!(!heard.contains(" 200 "), "{heard}");
            let took = began.elapsed();
            assert!(took >= HEAD_WITHIN && took < HEAD_WITHIN + Duration::from_secs(1), "{took:?}");
        }
    });
}

#[test]
fn more_connections_wait_until_others_end() {
    with_endpoint(async |addr| {
        let began = Instant::now();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(connect(addr, b"GET ").await);
        }
        assert!(ask(addr, GET).await.starts_with("HTTP/1.1 200 "));
        assert!(began.elapsed() >= HEAD_WITHIN, "{:?}", began.elapsed());
    });
}
