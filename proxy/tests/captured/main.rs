//! Captured connections, as real packets in network namespaces: each must come to the listener and
//! the filter chain that Envoy's rules name. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod net;

use std::net::SocketAddr;

use net::{APP, Inside, Namespace};

const ROOT: u32 = 0;
const POD: [&str; 2] = ["10.78.0.2", "[fd78::2]"];
const OUTSIDE: [&str; 2] = ["10.78.0.1", "[fd78::1]"];
/// Further addresses of the world, which the Pod reaches by its default routes.
const SERVER: [&str; 2] = ["192.0.2.10", "[2001:db8::10]"];
const OTHER: [&str; 2] = ["192.0.2.11", "[2001:db8::11]"];
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn redirected_connections_meet_their_chains() {
    let Some((pod, outside)) = namespaces("redirected_connections_meet_their_chains") else {
        return;
    };
    for tables in ["iptables", "ip6tables"] {
        let nat = format!("{tables} -w -t nat -A");
        pod.run(&format!(
            "{nat} OUTPUT -p tcp -m owner --uid-owner {APP} -j REDIRECT --to-ports 15001"
        ));
        pod.run(&format!(
            "{nat} PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports 15006"
        ));
    }
    let _proxy = Inside::start(&pod, configuration(false));
    serve_outside(&outside);
    serve_inside(&pod);
    for family in [0, 1] {
        outbound(&pod, family);
        let own = ["127.0.0.6", "fd78::2"][family];
        inbound(&outside, family, own);
    }
    // Those who are not redirected are nobody's.
    assert_eq!(pod.ask(ROOT, at(POD[0], 15001), b"x"), "");
    let local = at("127.0.0.1", 15001);
    assert_eq!(pod.ask(APP, local, b"x"), "", "no circle through ourselves");
}

#[test]
fn transparent_connections_keep_their_destination() {
    let Some((pod, outside)) = namespaces("transparent_connections_keep_their_destination") else {
        return;
    };
    for (tables, ip, every) in [
        ("iptables", "ip", "0.0.0.0/0"),
        ("ip6tables", "ip -6", "::/0"),
    ] {
        pod.run(&format!(
            "{tables} -w -t mangle -A PREROUTING -i eth0 -p tcp --dport 1:20000 -j TPROXY --on-port 15006 \
             --tproxy-mark 1337"
        ));
        pod.run(&format!("{ip} rule add fwmark 1337 lookup 133"));
        pod.run(&format!("{ip} route add local {every} dev lo table 133"));
    }
    let _proxy = Inside::start(&pod, configuration(true));
    serve_outside(&outside);
    serve_inside(&pod);
    for family in [0, 1] {
        let own = ["127.0.0.6", "fd78::2"][family];
        inbound(&outside, family, own);
    }
}

#[test]
fn the_application_sees_its_client() {
    const MARK: &str = "1337";
    let Some((pod, outside)) = namespaces("the_application_sees_its_client") else {
        return;
    };
    for (tables, ip, every) in [
        ("iptables", "ip", "0.0.0.0/0"),
        ("ip6tables", "ip -6", "::/0"),
    ] {
        let mangle = format!("{tables} -w -t mangle -A");
        pod.run(&format!(
            "{mangle} PREROUTING -i eth0 -p tcp --dport 1:20000 -j TPROXY --on-port 15006 \
             --tproxy-mark {MARK}"
        ));
        // What the application answers finds its way back to the proxy by the connection's mark.
        pod.run(&format!(
            "{mangle} PREROUTING -i lo -p tcp -m mark --mark {MARK} -j CONNMARK --save-mark"
        ));
        pod.run(&format!(
            "{mangle} OUTPUT -p tcp -m connmark --mark {MARK} -j CONNMARK --restore-mark"
        ));
        pod.run(&format!("{ip} rule add fwmark {MARK} lookup 133"));
        pod.run(&format!("{ip} route add local {every} dev lo table 133"));
    }
    let filter = "    - name: envoy.filters.listener.original_dst\n";
    let original_src = format!(
        "    - {{name: original_src, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, \
         mark: {MARK}}}}}\n"
    );
    let yaml = configuration(true).replace(filter, &(filter.to_owned() + &original_src));
    let _proxy = Inside::start(&pod, yaml);
    for address in POD {
        pod.serve_http(at(address, 8080));
        pod.serve(at(address, 9999), "other");
    }
    let get = b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for family in [0, 1] {
        for client in [OUTSIDE[family], SERVER[family], OUTSIDE[family]] {
            let ask = |port, sent| outside.ask_from(at(client, 0), at(POD[family], port), sent);
            let client = client.trim_matches(['[', ']']);
            let answer = ask(8080, get);
            assert!(
                answer.ends_with(&format!("\r\n\r\nhttp {client}")),
                "{answer}"
            );
            assert_eq!(ask(9999, b"d"), format!("other {client} 64"));
        }
    }
}

/// What an application in the Pod gets.
fn outbound(pod: &Namespace, family: usize) {
    let peer = ["10.78.0.2", "fd78::2"][family];
    let ask = |address, port, sent| pod.ask(APP, at(address, port), sent);
    // Those two have IPv4 endpoints alone.
    let vip = ask(SERVER[family], 80, b"a");
    assert_eq!(vip, "vip 10.78.0.2 61", "the listener at the address");
    let wild = ask(OTHER[family], 80, b"b");
    assert_eq!(wild, "wild 10.78.0.2 62", "the one at the port");
    let http = ask(SERVER[family], 82, GET);
    assert!(http.ends_with("\r\n\r\noutbound http"), "{http}");
    let get = b"GET /passthrough HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let http = ask(SERVER[family], 82, get);
    assert!(
        http.starts_with("HTTP/1.1 5"),
        "it is no HTTP server: {http}"
    );
    for (port, sent) in [(82, &b"\x01"[..]), (82, b"\x16\x03\x01"), (83, b"c")] {
        let expected = format!("server {peer} {:02x}", sent[0]);
        assert_eq!(ask(SERVER[family], port, sent), expected, "passed through");
    }
}

/// What the world gets of the Pod; the application sees connections from `own`.
fn inbound(outside: &Namespace, family: usize, own: &str) {
    let ask = |port, sent| outside.ask(ROOT, at(POD[family], port), sent);
    let http = ask(8080, GET);
    assert!(http.ends_with("\r\n\r\ninbound http"), "{http}");
    assert_eq!(ask(8080, b"\x01"), format!("app {own} 01"));
    let hello = client_hello();
    assert_eq!(ask(8080, &hello), "tls 10.78.0.2 16", "not terminated");
    assert_eq!(ask(9999, b"d"), format!("other {own} 64"));
    assert_eq!(ask(8081, b""), format!("hello from {own}"));
    assert_eq!(ask(15006, b"x"), "", "nobody's");
}

fn serve_outside(outside: &Namespace) {
    outside.serve(at(OUTSIDE[0], 9001), "vip");
    outside.serve(at(OUTSIDE[0], 9002), "wild");
    outside.serve(at(OUTSIDE[0], 9003), "tls");
    for address in SERVER {
        outside.serve(at(address, 82), "server");
        outside.serve(at(address, 83), "server");
    }
}

fn serve_inside(pod: &Namespace) {
    for address in POD {
        pod.serve(at(address, 8080), "app");
        pod.serve(at(address, 9999), "other");
        pod.greet(at(address, 8081), "hello from");
    }
}

/// A Pod and the world, or nothing without root.
fn namespaces(test: &str) -> Option<(Namespace, Namespace)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: network namespaces need root");
        return None;
    }
    let (pod, outside) = (Namespace::new(), Namespace::new());
    let peer = outside.pid();
    pod.run(&format!(
        "ip link add eth0 type veth peer name eth0 netns {peer}"
    ));
    for (namespace, addresses) in [(&pod, POD), (&outside, OUTSIDE)] {
        let [v4, v6] = addresses.map(|it| it.trim_matches(['[', ']']));
        namespace.run(&format!("ip addr add {v4}/24 dev eth0"));
        namespace.run(&format!("ip addr add {v6}/64 dev eth0 nodad"));
        namespace.run("ip link set eth0 up");
    }
    for [v4, v6] in [SERVER, OTHER] {
        outside.run(&format!("ip addr add {v4}/32 dev lo"));
        let v6 = v6.trim_matches(['[', ']']);
        outside.run(&format!("ip addr add {v6}/128 dev lo nodad"));
    }
    for gateway in OUTSIDE {
        let gateway = gateway.trim_matches(['[', ']']);
        pod.run(&format!("ip route add default via {gateway}"));
    }
    Some((pod, outside))
}

fn configuration(transparent: bool) -> String {
    const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
    include_str!("sidecar.yaml")
        .replace("TRANSPARENT", &transparent.to_string())
        .replace("TCP,", &format!("{NETWORK}.tcp_proxy.v3.TcpProxy,"))
        .replace(
            "HCM,",
            &format!("{NETWORK}.http_connection_manager.v3.HttpConnectionManager,"),
        )
        .replace(
            "ROUTER",
            "{name: router, typed_config: {\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
        )
}

fn at(address: &str, port: u16) -> SocketAddr {
    format!("{address}:{port}").parse().unwrap()
}

/// A small ClientHello without extensions.
fn client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, one cipher suite, no compression.
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}
