//! The PROXY protocol: what a proxy says first on a connection, so that the next one knows whose it
//! is. Source: HAProxy's `proxy-protocol.txt`, versions 1 (a line of text) and 2 (bytes).
//!
//! Without I/O. What is read is judged as Envoy's listener filter judges it; what is written is
//! what its upstream transport socket writes.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use read::{Found, ProxyProtocolError, read, version};
pub use write::write;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    V1,
    V2,
}

/// The ends of a connection, as its client sees it. Of one family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// What a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub v1: bool,
    pub v2: bool,
    /// Whether a connection may begin without a header.
    pub optional: bool,
}

impl Ends {
    /// Both as IPv4 addresses, or both as IPv6 addresses.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let plain = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
        let (source, destination) = (plain(source), plain(destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Self {
                source,
                destination,
            };
        }
        let wide = |it: SocketAddr| match it.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), it.port()),
            IpAddr::V6(_) => it,
        };
        Self {
            source: wide(source),
            destination: wide(destination),
        }
    }
}

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// First bytes of version 1.
const PREFIX: &[u8; 6] = b"PROXY ";

/// Bytes of version 2 before the addresses: signature, version and command, family, length.
const HEAD: usize = 16;

/// Bytes of the addresses in version 2, ports included.
const V4_LENGTH: usize = 12;
const V6_LENGTH: usize = 36;

/// Version and command: on behalf of a client, and of the proxy itself.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;

/// Family and transport: TCP over IPv4 and IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The same with datagrams: for a connection that stands for some.
const UDP4: u8 = 0x12;
const UDP6: u8 = 0x22;
