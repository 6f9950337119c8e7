use proptest::prelude::*;

use super::*;

const ALL: Accepted = Accepted {
    v1: true,
    v2: true,
    optional: false,
};

fn ends(source: &str, destination: &str) -> Ends {
    Ends::new(source.parse().unwrap(), destination.parse().unwrap())
}

fn header(length: usize, ends: Ends) -> Result<Found, ProxyProtocolError> {
    let ends = Some(ends);
    Ok(Found::Header { length, ends })
}

#[test]
fn lines_are_judged_like_envoys() {
    use ProxyProtocolError as Error;
    let v4 = ends("1.2.3.4:5", "6.7.8.9:10");
    let own = Found::Header {
        length: 15,
        ends: None,
    };
    let cases = [
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\nGET", header(33, v4)),
        ("PROXY UNKNOWN\r\nGET", Ok(own)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r", Ok(Found::Incomplete)),
        ("PRO", Ok(Found::Incomplete)),
        ("", Ok(Found::Incomplete)),
        ("GET / HTTP/1.1\r\n", Err(Error::Missing)),
        ("PROXY\r\n", Err(Error::Missing)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5\r\n", Err(Error::Line)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5 10 11\r\n", Err(Error::Line)),
        ("PROXY TCP4 1.2.3.4  6.7.8.9 5 10\r\n", Err(Error::Line)),
        ("PROXY TCP4 ::1 ::2 5 10\r\n", Err(Error::Line)),
        ("PROXY TCP6 1.2.3.4 6.7.8.9 5 10\r\n", Err(Error::Line)),
        ("PROXY UDP4 1.2.3.4 6.7.8.9 5 10\r\n", Err(Error::Line)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5 65536\r\n", Err(Error::Line)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 +5 10\r\n", Err(Error::Line)),
        ("PROXY TCP4 1.2.3.4 6.7.8.9 5 \r\n", Err(Error::Line)),
        ("PROXY TCP4 0.0.0.0 6.7.8.9 5 10\r\n", Err(Error::Address)),
        ("PROXY TCP4 1.2.3.4 224.0.0.1 5 10\r\n", Err(Error::Address)),
        ("PROXY TCP6 ff02::1 ::1 5 10\r\n", Err(Error::Address)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(bytes.as_bytes(), ALL), expected, "{bytes:?}");
    }
    let long = "x".repeat(108);
    assert_eq!(read(long.as_bytes(), ALL), Err(Error::Long));
}

#[test]
fn a_listener_may_do_without() {
    let optional = Accepted {
        optional: true,
        ..ALL
    };
    let only = |v1, v2| Accepted { v1, v2, ..optional };
    let v1 = b"PROXY UNKNOWN\r\n";
    let v2 = write(Version::V2, None);
    let found = |length| Ok(Found::Header { length, ends: None });
    for (bytes, accepted, expected) in [
        (&b"GET"[..], optional, Ok(Found::Absent)),
        (b"PROX", optional, Ok(Found::Incomplete)),
        (b"\r\n\r\n", optional, Ok(Found::Incomplete)),
        (b"PROXY", only(false, true), Ok(Found::Absent)),
        (v1, only(true, false), found(15)),
        (v1, only(false, true), Ok(Found::Absent)),
        (&v2, only(true, false), Ok(Found::Absent)),
        (&v2, only(false, true), found(16)),
    ] {
        assert_eq!(read(bytes, accepted), expected, "{bytes:?} {accepted:?}");
    }
}

#[test]
fn versions_that_are_not_allowed_are_refused() {
    let v2 = write(Version::V2, None);
    let without = |v1, v2| Accepted { v1, v2, ..ALL };
    let refused = |version| Err(ProxyProtocolError::Disallowed(version));
    assert_eq!(read(&v2, without(true, false)), refused(2));
    assert_eq!(read(b"PROXY UNKNOWN\r\n", without(false, true)), refused(1));
}

#[test]
fn what_follows_the_addresses_is_skipped() {
    let between = ends("1.2.3.4:5", "6.7.8.9:10");
    let mut bytes = write(Version::V2, Some(between));
    bytes[15] += 4;
    assert_eq!(read(&bytes, ALL), Ok(Found::Incomplete));
    bytes.extend(b"\x04\0\x01xGET");
    assert_eq!(read(&bytes, ALL), header(32, between));
    // A header of the proxy's own may hold anything.
    let mut bytes = write(Version::V2, None);
    bytes[15] = 3;
    bytes.extend(b"abcGET");
    let own = Found::Header {
        length: 19,
        ends: None,
    };
    assert_eq!(read(&bytes, ALL), Ok(own));
}

#[test]
fn unknown_kinds_are_refused() {
    let between = ends("1.2.3.4:5", "6.7.8.9:10");
    let sound = write(Version::V2, Some(between));
    // Version 1, an unknown command, no family, no transport, Unix, too short.
    for (at, value) in [
        (12, 0x11),
        (12, 0x22),
        (13, 0x00),
        (13, 0x10),
        (13, 0x31),
        (15, 11),
    ] {
        let mut bytes = sound.clone();
        bytes[at] = value;
        let found = read(&bytes, ALL);
        assert_eq!(found, Err(ProxyProtocolError::Kind), "{at} {value}");
    }
}

#[test]
fn ends_of_two_families_are_told_as_ipv6() {
    let mixed = ends("1.2.3.4:5", "[::9]:10");
    assert_eq!(mixed, ends("[::ffff:1.2.3.4]:5", "[::9]:10"));
    let mapped = ends("[::ffff:1.2.3.4]:5", "6.7.8.9:10");
    assert_eq!(mapped, ends("1.2.3.4:5", "6.7.8.9:10"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        v4 in any::<bool>(), a in 1u128.., b in 1u128.., from: u16, to: u16, v2: bool,
    ) {
        let ip = |bits: u128| match v4 {
            true => IpAddr::from((bits as u32 & 0x3fff_ffff | 1).to_be_bytes()),
            false => IpAddr::from((bits & (u128::MAX >> 1)).to_be_bytes()),
        };
        let between = Ends::new(SocketAddr::new(ip(a), from), SocketAddr::new(ip(b), to));
        let version = if v2 { Version::V2 } else { Version::V1 };
        let bytes = write(version, Some(between));
        for end in 0..bytes.len() {
            prop_assert_eq!(read(&bytes[..end], ALL), Ok(Found::Incomplete));
        }
        if !between.source.ip().is_unspecified() && !between.destination.ip().is_unspecified() {
            prop_assert_eq!(read(&bytes, ALL), header(bytes.len(), between));
        }
    }

    #[test]
    fn broken_headers_never_panic(mut tail: Vec<u8>, signed: bool) {
        let mut bytes = if signed { SIGNATURE.to_vec() } else { b"PROXY ".to_vec() };
        bytes.append(&mut tail);
        let _ = read(&bytes, ALL);
    }
}
