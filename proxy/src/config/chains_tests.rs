//! The table follows Envoy's documentation of `FilterChainMatch`, and its tests' corner cases.

use std::net::SocketAddr;

use super::*;
use crate::config::listener::Terminal;

fn chain(name: &str, matches: ChainMatch) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        rbac: Vec::new(),
        name: name.into(),
        matches,
        tls: None,
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
    let offered: Vec<Vec<u8>> = offered.iter().map(|&offer| offer.into()).collect();
    let found = chains.find(&ConnectionInfo {
        local,
        remote: "192.0.2.1:1".parse().unwrap(),
        server_name: Some(name).filter(|name| !name.is_empty()),
        tls,
        application_protocols: &offered,
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
