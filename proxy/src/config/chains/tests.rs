//! The table follows Envoy's documentation of `FilterChainMatch`, and its tests' corner cases.

use std::net::SocketAddr;

use ithildin_tls::Protocols as Offered;

use super::*;
use crate::config::listener::{SourceType, Terminal};

fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        peer_exchange: None,
        telemetry: None,
        access: Vec::new(),
        name: name.into(),
        matches,
        tls: None,
        sni_cluster: false,
        sni_forward: None,
        handshake_timeout: None,
        terminal: Terminal::Tcp(Arc::new(crate::testing::tcp_proxy("cluster"))),
    })
}

fn any() -> ChainMatch {
    ChainMatch::default()
}

fn port(port: u16) -> ChainMatch {
    ChainMatch {
        destination_port: Some(port),
        ..any()
    }
}

fn prefix(prefixes: &[(&str, u8)]) -> ChainMatch {
    let parse = |&(address, length): &(&str, u8)| (address.parse().unwrap(), length);
    ChainMatch {
        prefix_ranges: prefixes.iter().map(parse).collect(),
        ..any()
    }
}

fn names(names: &[&str]) -> ChainMatch {
    ChainMatch {
        server_names: names.iter().map(|&name| name.into()).collect(),
        ..any()
    }
}

fn alpn(protocols: &[&str]) -> ChainMatch {
    ChainMatch {
        application_protocols: protocols.iter().map(|&name| name.into()).collect(),
        ..any()
    }
}

fn transport(transport: Transport) -> ChainMatch {
    ChainMatch {
        transport: Some(transport),
        ..any()
    }
}

/// Which chain is found, by name; `-` for none.
fn find(
    chains: &[(&str, ChainMatch)],
    local: &str,
    name: &str,
    tls: bool,
    offered: &[&str],
) -> String {
    let mut default = None;
    let mut list = Vec::new();
    for (name, matches) in chains {
        match *name {
            "default" => default = Some(chain(name, matches.clone())),
            _ => list.push(chain(name, matches.clone())),
        }
    }
    let chains = FilterChains::new(list, default).unwrap();
    let local: SocketAddr = local.parse().unwrap();
    let mut list = Vec::new();
    for offer in offered {
        list.push(u8::try_from(offer.len()).unwrap());
        list.extend_from_slice(offer.as_bytes());
    }
    let found = chains.find(&ConnectionInfo {
        local,
        remote: "192.0.2.1:1".parse().unwrap(),
        direct_remote: "192.0.2.1:1".parse().unwrap(),
        server_name: Some(name).filter(|name| !name.is_empty()),
        tls,
        application_protocols: Offered::from_wire(&list),
    });
    found.map_or("-".into(), |chain| chain.name.to_string())
}

#[test]
fn each_criterion_takes_the_most_specific_bucket() {
    let with_port = |port, matches: ChainMatch| ChainMatch {
        destination_port: Some(port),
        ..matches
    };
    let tls_with = |matches: ChainMatch| ChainMatch {
        transport: Some(Transport::Tls),
        ..matches
    };
    let ports = vec![("80", port(80)), ("any", any()), ("default", any())];
    let nets = vec![
        ("ten", prefix(&[("10.0.0.0", 8)])),
        ("host", prefix(&[("10.1.2.3", 32), ("fd00::1", 128)])),
        ("v6", prefix(&[("fd00::", 8)])),
    ];
    let sni = vec![
        ("exact", names(&["a.example.org"])),
        ("near", names(&["*.b.example.org"])),
        ("far", names(&["*.example.org"])),
        ("none", any()),
    ];
    // The permissive inbound set that Istio sends.
    let permissive = vec![
        ("mtls", tls_with(alpn(&["istio-http/1.1", "istio"]))),
        ("passthrough", transport(Transport::Tls)),
        ("plain", transport(Transport::RawBuffer)),
    ];
    let stuck = vec![
        ("80-a", with_port(80, names(&["a.example.org"]))),
        ("b", names(&["b.example.org"])),
        ("default", any()),
    ];
    let alpns = vec![("h2", alpn(&["h2"])), ("h1", alpn(&["http/1.1"]))];
    type Row<'a> = (
        &'a [(&'a str, ChainMatch)],
        &'a str,
        &'a str,
        bool,
        &'a [&'a str],
        &'a str,
    );
    let table: &[Row<'_>] = &[
        (&ports, "10.0.0.1:80", "", false, &[], "80"),
        (&ports, "10.0.0.1:81", "", false, &[], "any"),
        (&nets, "10.9.9.9:1", "", false, &[], "ten"),
        (&nets, "10.1.2.3:1", "", false, &[], "host"),
        (&nets, "[::ffff:10.1.2.3]:1", "", false, &[], "host"),
        (&nets, "[fd00::1]:1", "", false, &[], "host"),
        (&nets, "[fd00::2]:1", "", false, &[], "v6"),
        (&nets, "11.0.0.1:1", "", false, &[], "-"),
        (&sni, "10.0.0.1:1", "a.example.org", true, &[], "exact"),
        (&sni, "10.0.0.1:1", "x.b.example.org", true, &[], "near"),
        (&sni, "10.0.0.1:1", "y.x.b.example.org", true, &[], "near"),
        (&sni, "10.0.0.1:1", "b.example.org", true, &[], "far"),
        (&sni, "10.0.0.1:1", "example.org", true, &[], "none"),
        (&sni, "10.0.0.1:1", ".example.org", true, &[], "none"),
        (&sni, "10.0.0.1:1", "", true, &[], "none"),
        (
            &permissive,
            "10.0.0.1:1",
            "",
            true,
            &["istio", "h2"],
            "mtls",
        ),
        (&permissive, "10.0.0.1:1", "", true, &["h2"], "passthrough"),
        (&permissive, "10.0.0.1:1", "", false, &[], "plain"),
        // Port 80 has a bucket: the search ends there, and only the default is left.
        (&stuck, "10.0.0.1:80", "b.example.org", true, &[], "default"),
        (&stuck, "10.0.0.1:81", "b.example.org", true, &[], "b"),
        (&stuck, "10.0.0.1:80", "a.example.org", true, &[], "80-a"),
        // The client's order decides.
        (&alpns, "10.0.0.1:1", "", true, &["http/1.1", "h2"], "h1"),
        (&alpns, "10.0.0.1:1", "", true, &["h2", "http/1.1"], "h2"),
        (&alpns, "10.0.0.1:1", "", true, &["spdy"], "-"),
        (&[], "10.0.0.1:1", "", false, &[], "-"),
    ];
    for (chains, local, name, tls, offered, expected) in table {
        let found = find(chains, local, name, *tls, offered);
        assert_eq!(&found, expected, "{local} {name} {tls} {offered:?}");
    }
}

#[test]
fn overlapping_chains_are_refused_by_name() {
    let overlap = |first: ChainMatch, second: ChainMatch| {
        let chains = vec![chain("one", first), chain("two", second)];
        FilterChains::new(chains, None).err().map(|e| e.to_string())
    };
    let message = r#"filter chain "two" has the same matching rules as "one""#;
    for (first, second) in [
        (any(), any()),
        (port(1), port(1)),
        (names(&["a", "b"]), names(&["c", "b"])),
        (alpn(&["h2"]), alpn(&["h2", "http/1.1"])),
        (prefix(&[("10.0.0.1", 8)]), prefix(&[("10.0.0.2", 8)])),
    ] {
        assert_eq!(overlap(first, second).as_deref(), Some(message));
    }
    assert_eq!(overlap(port(1), port(2)), None);
    assert_eq!(overlap(any(), names(&["a"])), None);
    // One chain may repeat itself.
    assert_eq!(overlap(names(&["a", "a"]), any()), None);
}

/// Which chain is found for a connection from `remote` through `direct` to 10.0.0.1:80.
fn from(chains: &[(&str, ChainMatch)], remote: &str, direct: &str) -> String {
    let chains = chains
        .iter()
        .map(|(name, matches)| chain(name, matches.clone()));
    let chains = FilterChains::new(chains.collect(), None).unwrap();
    let found = chains.find(&ConnectionInfo {
        local: "10.0.0.1:80".parse().unwrap(),
        remote: remote.parse().unwrap(),
        direct_remote: direct.parse().unwrap(),
        server_name: None,
        tls: false,
        application_protocols: Offered::default(),
    });
    found.map_or("-".into(), |chain| chain.name.to_string())
}

#[test]
fn sources_come_last_and_in_order() {
    let ranges = |ranges: &[(&str, u8)]| prefix(ranges).prefix_ranges;
    let direct = |list: &[(&str, u8)]| ChainMatch {
        direct_source_prefix_ranges: ranges(list),
        ..any()
    };
    let source = |list: &[(&str, u8)]| ChainMatch {
        source_prefix_ranges: ranges(list),
        ..any()
    };
    let kind = |source_type| ChainMatch {
        source_type,
        ..any()
    };
    let ports = |ports: &[u16]| ChainMatch {
        source_ports: ports.to_vec(),
        ..any()
    };
    let directs = [
        ("wide", direct(&[("10.0.0.0", 8)])),
        ("narrow", direct(&[("10.9.0.0", 16)])),
    ];
    let kinds = [
        ("local", kind(SourceType::SameIpOrLoopback)),
        ("external", kind(SourceType::External)),
    ];
    let stuck = [
        (
            "local",
            ChainMatch {
                source_ports: vec![7],
                ..kind(SourceType::SameIpOrLoopback)
            },
        ),
        ("any", any()),
    ];
    let sources = [
        ("net", source(&[("192.0.2.0", 24)])),
        ("every", any()),
        ("v6", source(&[("2001:db8::", 32)])),
    ];
    let by_port = [("seven", ports(&[7, 8])), ("other", any())];
    for (chains, remote, through, expected) in [
        (&directs[..], "1.1.1.1:1", "10.9.1.1:1", "narrow"),
        (&directs, "1.1.1.1:1", "10.8.1.1:1", "wide"),
        (&directs, "10.9.1.1:1", "1.1.1.1:1", "-"),
        (&kinds, "127.0.0.1:1", "127.0.0.1:1", "local"),
        (&kinds, "[::ffff:127.0.0.1]:1", "1.1.1.1:1", "local"),
        (&kinds, "[::1]:1", "[::1]:1", "local"),
        // Envoy knows one loopback address of each family.
        (&kinds, "127.0.0.6:1", "127.0.0.6:1", "external"),
        (&kinds, "10.0.0.1:1", "10.0.0.1:1", "local"),
        (&kinds, "10.0.0.2:1", "10.0.0.2:1", "external"),
        // The bucket of local sources is there, and nothing in it fits.
        (&stuck, "127.0.0.1:9", "127.0.0.1:9", "-"),
        (&stuck, "127.0.0.1:7", "127.0.0.1:7", "local"),
        (&stuck, "10.0.0.2:9", "10.0.0.2:9", "any"),
        (&sources, "192.0.2.9:1", "192.0.2.9:1", "net"),
        (&sources, "192.0.3.9:1", "192.0.3.9:1", "every"),
        (&sources, "[2001:db8::1]:1", "[::1]:1", "v6"),
        (&sources, "[2001:db9::1]:1", "[::1]:1", "every"),
        (&by_port, "1.1.1.1:8", "1.1.1.1:8", "seven"),
        (&by_port, "1.1.1.1:9", "1.1.1.1:9", "other"),
    ] {
        assert_eq!(
            from(chains, remote, through),
            expected,
            "{remote} {through}"
        );
    }
}

#[test]
fn chains_that_differ_in_their_sources_do_not_overlap() {
    let with = |name: &str, source_ports: &[u16]| {
        chain(
            name,
            ChainMatch {
                source_ports: source_ports.to_vec(),
                ..any()
            },
        )
    };
    FilterChains::new(
        vec![with("a", &[1, 2, 2]), with("b", &[3]), with("c", &[])],
        None,
    )
    .unwrap();
    let error = FilterChains::new(vec![with("a", &[1, 2]), with("b", &[3, 2])], None).unwrap_err();
    assert_eq!((&*error.first, &*error.second), ("a", "b"));
}
