use std::net::IpAddr;

use super::{Ends, HEAD, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, V4_LENGTH, V6_LENGTH, Version};

/// A header. Without ends the connection is the proxy's own.
pub fn write(version: Version, ends: Option<Ends>) -> Vec<u8> {
    match (version, ends) {
        (Version::V1, Some(ends)) => line(ends).into_bytes(),
        (Version::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::V2, Some(ends)) => binary(ends),
        (Version::V2, None) => head(LOCAL, 0, 0),
    }
}

fn line(ends: Ends) -> String {
    let Ends {
        source,
        destination,
    } = ends;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (source, destination) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {source} {destination}\r\n")
}

fn binary(ends: Ends) -> Vec<u8> {
    let mut header = match ends.source.is_ipv4() {
        true => head(PROXY, TCP4, V4_LENGTH as u8),
        false => head(PROXY, TCP6, V6_LENGTH as u8),
    };
    for ip in [ends.source.ip(), ends.destination.ip()] {
        match ip {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend(ends.source.port().to_be_bytes());
    header.extend(ends.destination.port().to_be_bytes());
    header
}

fn head(command: u8, family: u8, length: u8) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD + usize::from(length));
    head.extend(SIGNATURE);
    head.extend([command, family, 0, length]);
    head
}
