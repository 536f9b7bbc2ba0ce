//! Which process dials: servers cannot say it themselves, but the kernel knows
//! who has the other end of a connection.

use std::{fs, net::SocketAddr};

/// Which of these processes has the socket with this local address.
pub fn owner(local: SocketAddr, pids: impl Iterator<Item = u32>) -> Option<u32> {
    let SocketAddr::V4(local) = local else { return None };
    let ip = u32::from_ne_bytes(local.ip().octets());
    let local = format!("{ip:08X}:{:04X}", local.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    // Number, local and remote address, state, queues, timer, retransmissions,
    // user, timeout, inode.
    let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|socket| socket.get(1) == Some(&local.as_str()))?;
    let link = format!("socket:[{}]", socket.get(9)?);
    let has_it = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|found| found.as_os_str() == link.as_str())
    };
    let mut pids = pids;
    pids.find(has_it)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_has_an_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let local = dialled.local_addr().unwrap();
        let own = std::process::id();
        assert_eq!(owner(local, [1, own].into_iter()), Some(own));
        drop(dialled);
        assert_eq!(owner(local, [own].into_iter()), None);
    }
}
