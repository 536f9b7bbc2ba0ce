//! HTTP as far as metrics need it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// What takes longer has failed: the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The status and the body of a GET, from a server that closes after it.
pub fn get(addr: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}
