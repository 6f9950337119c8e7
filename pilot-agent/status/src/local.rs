//! Whether a request is from a program on this host that means us.
//!
//! The address of the socket decides, and nothing that a client sends can make it better; what it sends
//! can only make it worse: a browser that was lured here says so in `Origin` or by a foreign name in
//! `Host`, and a proxy that carries the request of somebody else says so in `X-Forwarded-For`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{
    Request,
    header::{FORWARDED, HOST, HeaderName, ORIGIN, VIA},
    uri::Authority,
};

/// What a sidecar's proxy dials from when it passes a neighbour's connection on to this Pod.
const PASSTHROUGH: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// Each says that the request began elsewhere.
const FROM_ELSEWHERE: [HeaderName; 4] = [
    ORIGIN,
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
];

/// See the module.
pub(crate) fn is_local<B>(peer: SocketAddr, request: &Request<B>) -> bool {
    let ip = peer.ip().to_canonical();
    let headers = request.headers();
    ip.is_loopback()
        && ip != IpAddr::V4(PASSTHROUGH)
        && !FROM_ELSEWHERE.iter().any(|name| headers.contains_key(name))
        && request.uri().authority().is_none_or(names_this_host)
        && headers.get_all(HOST).iter().all(|host| {
            host.is_empty()
                || Authority::try_from(host.as_bytes()).is_ok_and(|host| names_this_host(&host))
        })
}

/// `localhost`, or an address: a name could be anybody's that resolves to us today.
fn names_this_host(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost") || bare.unwrap_or(host).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, target: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::post(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_local(peer.parse().unwrap(), &request.body(()).unwrap())
    }

    #[test]
    fn the_address_decides() {
        for (peer, local) in [
            ("127.0.0.1:4", true),
            ("127.5.5.5:4", true),
            ("[::1]:4", true),
            ("[::ffff:127.0.0.1]:4", true),
            ("127.0.0.6:4", false),
            ("[::ffff:127.0.0.6]:4", false),
            ("[::6]:4", false),
            ("10.0.0.1:4", false),
            ("[::ffff:10.0.0.1]:4", false),
            ("[fe80::1]:4", false),
            ("0.0.0.0:4", false),
        ] {
            assert_eq!(asked(peer, "/quitquitquit", &[]), local, "{peer}");
        }
    }

    #[test]
    fn no_header_makes_a_neighbour_local() {
        let headers = [
            ("host", "localhost:15020"),
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-envoy-external-address", "127.0.0.1"),
        ];
        for count in 0..=headers.len() {
            assert!(!asked("10.0.0.1:4", "/", &headers[..count]));
        }
        assert!(!asked("10.0.0.1:4", "http://127.0.0.1:15020/", &[]));
    }

    #[test]
    fn who_was_lured_or_carried_here_is_not_local() {
        for (target, header, local) in [
            ("/", ("host", "localhost:15020"), true),
            ("/", ("host", "LOCALHOST"), true),
            ("/", ("host", "127.0.0.1:15020"), true),
            ("/", ("host", "[::1]:15020"), true),
            ("/", ("host", ""), true),
            ("/", ("host", "rebound.example.com:15020"), false),
            ("/", ("host", "localhost.example.com"), false),
            ("/", ("host", "127.0.0.1.example.com"), false),
            ("/", ("host", "a b"), false),
            ("/", ("origin", "http://localhost:15020"), false),
            ("/", ("origin", "null"), false),
            ("/", ("x-forwarded-for", "10.0.0.1"), false),
            ("/", ("forwarded", "for=10.0.0.1"), false),
            ("/", ("via", "1.1 proxy"), false),
            ("http://localhost:15020/", ("host", "localhost"), true),
            ("http://evil.example.com/", ("host", "localhost"), false),
            ("http://localhost/", ("host", "evil.example.com"), false),
        ] {
            assert_eq!(
                asked("127.0.0.1:4", target, &[header]),
                local,
                "{target} {header:?}"
            );
        }
        let twice = [("host", "localhost"), ("host", "evil.example.com")];
        assert!(!asked("127.0.0.1:4", "/", &twice));
    }
}
