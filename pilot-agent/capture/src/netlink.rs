//! The few changes of routes and addresses that capture needs, by netlink, because images often lack `ip`.
//!
//! Source: rtnetlink(7), `linux/rtnetlink.h`, `linux/fib_rules.h`.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use socket2::{Domain, Protocol, Socket, Type};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;

/// Usable at once, without asking the link for duplicates.
const IFA_F_NODAD: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const FR_ACT_TO_TBL: u8 = 1;

/// The kernel gives loopback the first index of each namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Larger than any datagram of a dump, which the kernel limits to 32 KiB.
const BUFFER: usize = 64 * 1024;

const EEXIST: i32 = 17;
/// What removing says of something that is not there, or of a kernel without IPv6: ENOENT, ESRCH, EOPNOTSUPP,
/// EAFNOSUPPORT, EADDRNOTAVAIL.
const ABSENT: [i32; 5] = [2, 3, 95, 97, 99];

/// Something that can be added to the namespace and taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Packets with this mark are routed by this table.
    Rule { ipv6: bool, mark: u32, table: u32 },
    /// All that this table routes is local.
    LocalRoute { ipv6: bool, table: u32 },
    /// An address of loopback.
    LoopbackAddress(Ipv6Addr),
}

impl Entry {
    /// Adds it, unless it is there.
    pub(crate) fn add(self) -> io::Result<()> {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        ignore(self.request(Change::Add, create), &[EEXIST])
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(self) -> io::Result<()> {
        ignore(self.request(Change::Remove, 0), &ABSENT)
    }

    fn request(self, change: Change, flags: u16) -> io::Result<()> {
        let kind = match (self, change) {
            (Self::Rule { .. }, Change::Add) => RTM_NEWRULE,
            (Self::Rule { .. }, Change::Remove) => RTM_DELRULE,
            (Self::LocalRoute { .. }, Change::Add) => RTM_NEWROUTE,
            (Self::LocalRoute { .. }, Change::Remove) => RTM_DELROUTE,
            (Self::LoopbackAddress(_), Change::Add) => RTM_NEWADDR,
            (Self::LoopbackAddress(_), Change::Remove) => RTM_DELADDR,
        };
        let mut socket = socket()?;
        socket.write_all(&message(
            kind,
            NLM_F_REQUEST | NLM_F_ACK | flags,
            &self.body(),
        ))?;
        let mut buffer = vec![0; BUFFER];
        let length = socket.read(&mut buffer)?;
        match messages(&buffer[..length]).next() {
            Some((NLMSG_ERROR, body)) => acknowledged(body),
            _ => Err(unexpected()),
        }
    }

    fn body(self) -> Vec<u8> {
        match self {
            Self::Rule { ipv6, mark, table } => {
                let mut body = vec![family(ipv6), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
                attribute(&mut body, FRA_FWMARK, &mark.to_ne_bytes());
                attribute(&mut body, FRA_TABLE, &table.to_ne_bytes());
                body
            }
            Self::LocalRoute { ipv6, table } => {
                let mut body = vec![family(ipv6), 0, 0, 0, 0];
                body.extend([RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0]);
                attribute(&mut body, RTA_TABLE, &table.to_ne_bytes());
                attribute(&mut body, RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
                body
            }
            Self::LoopbackAddress(address) => {
                let mut body = vec![AF_INET6, 128, IFA_F_NODAD, 0];
                body.extend(LOOPBACK_INDEX.to_ne_bytes());
                attribute(&mut body, IFA_LOCAL, &address.octets());
                attribute(&mut body, IFA_ADDRESS, &address.octets());
                body
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |ipv6: &bool| if *ipv6 { "IPv6" } else { "IPv4" };
        match self {
            Self::Rule { ipv6, mark, table } => write!(
                f,
                "the rule of {} that routes mark {mark} by table {table}",
                version(ipv6)
            ),
            Self::LocalRoute { ipv6, table } => {
                write!(f, "the local route of {} in table {table}", version(ipv6))
            }
            Self::LoopbackAddress(address) => write!(f, "the address {address} of loopback"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Add,
    Remove,
}

/// All addresses of this network namespace, those of IPv4 first.
pub(crate) fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut socket = socket()?;
    socket.write_all(&message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8]))?;
    let mut buffer = vec![0; BUFFER];
    let mut addresses = Vec::new();
    loop {
        let length = socket.read(&mut buffer)?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(addresses),
                NLMSG_ERROR => acknowledged(body)?,
                _ => addresses.extend(address(body)),
            }
        }
    }
}

/// The address of an `ifaddrmsg` with its attributes: the local end, where the link has two.
fn address(body: &[u8]) -> Option<IpAddr> {
    let mut rest = body.get(8..)?;
    let mut found = None;
    while let Some((header, _)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = ip(rest.get(4..length)?);
        match kind {
            IFA_LOCAL => return value,
            IFA_ADDRESS => found = value,
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn socket() -> io::Result<Socket> {
    Socket::new(
        Domain::from(AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_ROUTE)),
    )
}

fn family(ipv6: bool) -> u8 {
    match ipv6 {
        true => AF_INET6,
        false => AF_INET,
    }
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).expect("our messages are short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: one request is under way at a time, and the kernel fills in the port.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Appends an attribute whose value has a multiple of four octets, so that it needs no padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("our attributes are short");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// Kinds and bodies of the messages of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = datagram.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).ok()?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, body))
    })
}

/// The error of an `nlmsgerr`; none where it says 0.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk::<4>().ok_or_else(unexpected)?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn ignore(result: io::Result<()>, codes: &[i32]) -> io::Result<()> {
    match result {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| codes.contains(&code)) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn unexpected() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the kernel's answer is not one of rtnetlink",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_addresses_are_listed() {
        let addresses = addresses().unwrap();
        assert!(
            addresses.contains(&Ipv4Addr::LOCALHOST.into()),
            "{addresses:?}"
        );
    }

    #[test]
    fn broken_answers_are_no_panic() {
        for length in 0..40 {
            let bytes: Vec<u8> = (0..length).map(|i: u8| i.wrapping_mul(7)).collect();
            let _ = messages(&bytes).count();
            let _ = address(&bytes);
            let _ = acknowledged(&bytes);
        }
        // A message that says to be shorter than its own header ends the datagram.
        assert_eq!(messages(&[0; 32]).count(), 0);
        let mut endless = vec![0; 8];
        endless.extend([0, 0, 1, 0]);
        assert_eq!(address(&endless), None);
    }
}
