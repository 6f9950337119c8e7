//! Ports for programs that must be told theirs before they start, as demonstrations and tests do.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use socket2::{Domain, Socket, Type};

/// Below Linux' default ephemeral range (32768 to 60999): a port from there may become the local end of
/// somebody's outgoing connection before the program that it was chosen for listens on it.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;
/// Processes with adjacent pids start this far apart, so that tests that run side by side do not meet.
const STRIDE: u32 = 32;
/// So many in a row that are taken mean that something else is wrong.
const MAX_TRIES: usize = 512;

/// A TCP port that nobody listens on now. No two calls in one process get the same, until all have been given.
///
/// # Errors
/// There is none among those that were tried.
pub fn unused() -> io::Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let start = process::id().wrapping_mul(STRIDE) % u32::from(COUNT);
    for _ in 0..MAX_TRIES {
        let given = u32::from(GIVEN.fetch_add(1, Ordering::Relaxed));
        let offset = (start + given) % u32::from(COUNT);
        let port = FIRST + offset as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("{MAX_TRIES} ports in a row are taken"),
    ))
}

/// An address of loopback that refuses connections for as long as the process lives. Its port is held by a socket
/// that never listens: one that was only given back may soon be another program's.
///
/// # Errors
/// Those of `socket` and `bind`.
pub fn refusing() -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?;
    let _held = socket.into_raw_fd();
    address
        .as_socket()
        .ok_or_else(|| io::Error::other("a bound socket has no address"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_that_refuses_is_nobody_elses() {
        let address = refusing().unwrap();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let taken = TcpListener::bind(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ports_differ_and_none_is_taken_or_ephemeral() {
        let mut held = Vec::new();
        for _ in 0..50 {
            let port = unused().unwrap();
            assert!((FIRST..FIRST + COUNT).contains(&port), "{port}");
            held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        }
    }
}
