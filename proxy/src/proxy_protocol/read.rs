use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Accepted, Ends, HEAD, LOCAL, PREFIX, PROXY, SIGNATURE, TCP4, TCP6, UDP4, UDP6, V4_LENGTH,
    V6_LENGTH, Version,
};

/// The longest line of version 1, in bytes; Envoy's limit.
const MAX_LINE: usize = 108;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// More are needed to tell.
    Incomplete,
    /// No header, where none is needed.
    Absent,
    Header {
        /// Bytes of it, with what it holds besides addresses.
        length: usize,
        /// `None`: the connection's own ends count.
        ends: Option<Ends>,
    },
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyProtocolError {
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("version {0} of the PROXY protocol is not allowed here")]
    Disallowed(u8),
    #[error("the PROXY protocol line is longer than {MAX_LINE} bytes")]
    Long,
    #[error("the PROXY protocol line is malformed")]
    Line,
    #[error("the PROXY protocol header has an unknown version, command, family or length")]
    Kind,
    #[error("the PROXY protocol header has an address that no TCP connection has")]
    Address,
}

/// Looks for a header at the start of `bytes`, which are all that came so far.
///
/// # Errors
/// The connection is to be closed.
pub fn read(bytes: &[u8], accepted: Accepted) -> Result<Found, ProxyProtocolError> {
    if accepted.optional {
        let may_be = |wanted: bool, start: &[u8]| {
            let known = bytes.len().min(start.len());
            wanted && bytes[..known] == start[..known]
        };
        if !may_be(accepted.v1, PREFIX) && !may_be(accepted.v2, SIGNATURE) {
            return Ok(Found::Absent);
        }
    }
    let known = bytes.len().min(SIGNATURE.len());
    match bytes.first_chunk() {
        // A part of the signature is no line.
        None if bytes[..known] == SIGNATURE[..known] => Ok(Found::Incomplete),
        Some(head) if head.starts_with(SIGNATURE) => version_2(head, bytes, accepted),
        _ => version_1(bytes, accepted),
    }
}

/// Of which version a header is, if these are the first bytes of one.
pub fn version(bytes: &[u8]) -> Option<Version> {
    match bytes {
        _ if bytes.starts_with(SIGNATURE) => Some(Version::V2),
        _ if bytes.starts_with(PREFIX) => Some(Version::V1),
        _ => None,
    }
}

fn version_2(
    head: &[u8; HEAD],
    bytes: &[u8],
    accepted: Accepted,
) -> Result<Found, ProxyProtocolError> {
    if !accepted.v2 {
        return Err(ProxyProtocolError::Disallowed(2));
    }
    let [.., command, family, high, low] = *head;
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let addresses = match (command, family) {
        // Whatever follows is not looked at.
        (LOCAL, _) => 0,
        (PROXY, TCP4 | UDP4) => V4_LENGTH,
        (PROXY, TCP6 | UDP6) => V6_LENGTH,
        _ => return Err(ProxyProtocolError::Kind),
    };
    if rest < addresses {
        return Err(ProxyProtocolError::Kind);
    }
    let length = HEAD + rest;
    let Some(body) = bytes.get(HEAD..length) else {
        return Ok(Found::Incomplete);
    };
    let ends = match addresses {
        V4_LENGTH => Some(binary_ends::<4>(body, |ip| Ipv4Addr::from(ip).into())?),
        V6_LENGTH => Some(binary_ends::<16>(body, |ip| Ipv6Addr::from(ip).into())?),
        _ => None,
    };
    Ok(Found::Header { length, ends })
}

/// Both addresses, then both ports.
fn binary_ends<const SIZE: usize>(
    body: &[u8],
    ip: impl Fn([u8; SIZE]) -> IpAddr,
) -> Result<Ends, ProxyProtocolError> {
    let split = || {
        let (source, rest) = body.split_first_chunk::<SIZE>()?;
        let (destination, rest) = rest.split_first_chunk::<SIZE>()?;
        let ports = rest.first_chunk::<4>()?;
        Some((*source, *destination, *ports))
    };
    let (source, destination, [a, b, c, d]) = split().ok_or(ProxyProtocolError::Kind)?;
    possible(Ends {
        source: SocketAddr::new(ip(source), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(ip(destination), u16::from_be_bytes([c, d])),
    })
}

fn version_1(bytes: &[u8], accepted: Accepted) -> Result<Found, ProxyProtocolError> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n").map(|at| at + 2) else {
        return match bytes.len() >= MAX_LINE {
            true => Err(ProxyProtocolError::Long),
            false => Ok(Found::Incomplete),
        };
    };
    if end > MAX_LINE {
        return Err(ProxyProtocolError::Long);
    }
    let line = bytes.get(..end).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| ProxyProtocolError::Line)?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let ["PROXY", family, rest @ ..] = &words[..] else {
        return Err(ProxyProtocolError::Missing);
    };
    if !accepted.v1 {
        return Err(ProxyProtocolError::Disallowed(1));
    }
    if *family == "UNKNOWN" {
        let ends = None;
        return Ok(Found::Header { length: end, ends });
    }
    let [source, destination, source_port, destination_port] = rest else {
        return Err(ProxyProtocolError::Line);
    };
    let end_of = |ip: &str, port: &str| text_end(family, ip, port).ok_or(ProxyProtocolError::Line);
    let ends = possible(Ends {
        source: end_of(source, source_port)?,
        destination: end_of(destination, destination_port)?,
    })?;
    let ends = Some(ends);
    Ok(Found::Header { length: end, ends })
}

fn text_end(family: &str, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = match family {
        "TCP4" => ip.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => ip.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    // A sign would be taken for none.
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = is_number.then(|| port.parse().ok())??;
    Some(SocketAddr::new(ip, port))
}

/// Whether a TCP connection can have these ends.
fn possible(ends: Ends) -> Result<Ends, ProxyProtocolError> {
    let is_one = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    match is_one(ends.source.ip()) && is_one(ends.destination.ip()) {
        true => Ok(ends),
        false => Err(ProxyProtocolError::Address),
    }
}
