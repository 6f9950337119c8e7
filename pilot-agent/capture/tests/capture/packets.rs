//! Real packets between a Pod and the world outside, under the rules.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use ithildin_capture::{apply, run_with};
use socket2::SockRef;

use crate::{
    common::{args, settings},
    net::{APP, Id, Link, OUTSIDE, OUTSIDE_V6, POD, POD_V6, PROXY, ROOT, accepted, talk},
    tools::{Tool, capture, with_each},
};

const ALL: &str = "-i * -b *";

#[test]
fn outbound_connections_reach_the_proxy() {
    with_each("outbound capture", |tool, link| {
        capture(link, tool, &format!("{ALL} -o 25 -x 192.0.2.128/25")).unwrap();
        let case = Case::new(link, "0.0.0.0");
        // By whom, to what, and who gets it.
        let cases = [
            (APP, "192.0.2.10", 80, "outbound"),
            (APP, "192.0.2.10", 25, "world:25"),
            (APP, "192.0.2.130", 80, "world:80"),
            (APP, POD, 8080, "application"),
            (APP, "127.0.0.1", 8080, "application"),
            (APP, "127.0.0.2", 8080, "application"),
            (PROXY, "192.0.2.10", 80, "world:80"),
            (Id(1000, 1337), "192.0.2.10", 80, "world:80"),
            (Id(1337, 1000), "192.0.2.10", 80, "world:80"),
            // To the own Pod by its address: that is inbound.
            (PROXY, POD, 8080, "inbound"),
            (PROXY, "127.0.0.1", 8080, "application"),
            (PROXY, POD, 15008, "hbone"),
        ];
        for (id, address, port, expected) in cases {
            case.expect(
                tool,
                link.pod.connect(id, address, port),
                address,
                port,
                expected,
            );
        }
        let looped = link.pod.connect_from(PROXY, "127.0.0.6", POD, 8080);
        case.expect(tool, looped, POD, 8080, "application");
    });
}

#[test]
fn only_chosen_destinations_and_groups_are_captured() {
    with_each("outbound inclusions", |tool, link| {
        let flags = "-i 192.0.2.0/25 -q 25";
        let groups =
            |name: &str| (name == "ISTIO_OUTBOUND_OWNER_GROUPS").then(|| "1000,1001".to_owned());
        let flags = format!("{flags} {}", tool.flags);
        link.pod.enter(|| run_with(&args(&flags), &groups)).unwrap();
        let case = Case::new(link, "0.0.0.0");
        for (id, address, port, expected) in [
            (APP, "192.0.2.10", 80, "outbound"),
            (Id(1000, 1001), "192.0.2.10", 80, "outbound"),
            (Id(1000, 1002), "192.0.2.10", 80, "world:80"),
            (APP, "198.51.100.1", 80, "world:80"),
            (APP, "198.51.100.1", 25, "outbound"),
        ] {
            case.expect(
                tool,
                link.pod.connect(id, address, port),
                address,
                port,
                expected,
            );
        }
        // No inbound ports were named.
        case.expect(
            tool,
            link.outside.connect(APP, POD, 8080),
            POD,
            8080,
            "application",
        );
    });
}

#[test]
fn inbound_connections_reach_the_proxy() {
    with_each("inbound capture", |tool, link| {
        capture(link, tool, &format!("{ALL} -d 15090,15021")).unwrap();
        let case = Case::new(link, "0.0.0.0");
        for (port, expected) in [
            (8080, "inbound"),
            (9, "inbound"),
            (15090, "telemetry"),
            (15008, "hbone"),
        ] {
            case.expect(
                tool,
                link.outside.connect(APP, POD, port),
                POD,
                port,
                expected,
            );
        }
    });
}

#[test]
fn interfaces_are_excluded_and_rerouted() {
    with_each("interfaces", |tool, link| {
        capture(link, tool, &format!("{ALL} -c eth0")).unwrap();
        let case = Case::new(link, "0.0.0.0");
        case.expect(
            tool,
            link.outside.connect(APP, POD, 8080),
            POD,
            8080,
            "application",
        );
        case.expect(
            tool,
            link.pod.connect(APP, "192.0.2.10", 80),
            "192.0.2.10",
            80,
            "world:80",
        );

        capture(link, tool, &format!("{ALL} -k eth0 --reconcile")).unwrap();
        case.expect(
            tool,
            link.outside.connect(APP, POD, 8080),
            POD,
            8080,
            "outbound",
        );
    });
}

#[test]
fn tproxy_keeps_the_source_address() {
    with_each("TPROXY", |tool, link| {
        capture(link, tool, &format!("{ALL} -m TPROXY -d 15090")).unwrap();
        tproxy(tool, link, OUTSIDE, POD);
    });
}

#[test]
fn tproxy_keeps_the_source_address_of_ipv6() {
    with_each("TPROXY and IPv6", |tool, link| {
        capture(
            link,
            tool,
            &format!("{ALL} -m TPROXY -d 15090 --dual-stack"),
        )
        .unwrap();
        tproxy(tool, link, OUTSIDE_V6, POD_V6);
    });
}

/// A client's connection to the proxy, and the proxy's to the application with the client's address.
fn tproxy(tool: Tool, link: &Link, client_address: &str, pod: &str) {
    let any = if pod.contains(':') { "::" } else { "0.0.0.0" };
    // With TPROXY, the proxy runs as root with the group of the proxy.
    let proxy = Id(0, 1337);
    let inbound = link.pod.listen_transparent(any, 15006);
    let application = link.pod.listen(any, 8080);
    let telemetry = link.pod.listen(any, 15090);
    let world = link.outside.listen(any, 80);
    let listeners = [
        ("inbound", &inbound),
        ("application", &application),
        ("telemetry", &telemetry),
        ("world", &world),
    ];

    let mut client = link.outside.connect(APP, pod, 8080).unwrap();
    let (name, mut taken) = accepted(&listeners);
    assert_eq!(name, "inbound", "{tool:?}");
    assert_eq!(
        taken.local_addr().unwrap(),
        client.peer_addr().unwrap(),
        "{tool:?}"
    );
    assert_eq!(
        taken.peer_addr().unwrap(),
        client.local_addr().unwrap(),
        "{tool:?}"
    );
    talk(&mut client, &mut taken);

    let source = client_address.parse().unwrap();
    let mut upstream = link
        .pod
        .connect_transparent(proxy, 1337, source, pod, 8080)
        .unwrap();
    let (name, mut served) = accepted(&listeners);
    assert_eq!(name, "application", "{tool:?}");
    assert_eq!(served.peer_addr().unwrap().ip(), source, "{tool:?}");
    talk(&mut upstream, &mut served);

    link.outside.connect(APP, pod, 15090).unwrap();
    assert_eq!(accepted(&listeners).0, "telemetry", "{tool:?}");
    // Within the Pod, and from the proxy outwards, nothing is taken.
    link.pod.connect(APP, pod, 8080).unwrap();
    assert_eq!(accepted(&listeners).0, "application", "{tool:?}");
    link.pod.connect(proxy, client_address, 80).unwrap();
    assert_eq!(accepted(&listeners).0, "world", "{tool:?}");
}

#[test]
fn both_families_are_captured() {
    with_each("dual stack", |tool, link| {
        capture(
            link,
            tool,
            &format!("{ALL} --dual-stack -x 198.51.100.0/24"),
        )
        .unwrap();
        let case = Case::new(link, "::");
        let server = "2001:db8::10";
        for (id, address, port, expected) in [
            (APP, server, 80, "outbound"),
            (PROXY, server, 80, "world:80"),
            (PROXY, POD_V6, 8080, "inbound"),
            (APP, "::1", 8080, "application"),
        ] {
            case.expect(
                tool,
                link.pod.connect(id, address, port),
                address,
                port,
                expected,
            );
        }
        let looped = link.pod.connect_from(PROXY, "::6", POD_V6, 8080);
        case.expect(tool, looped, POD_V6, 8080, "application");
        case.expect(
            tool,
            link.outside.connect(APP, POD_V6, 8080),
            POD_V6,
            8080,
            "inbound",
        );
    });
}

#[test]
fn ipv6_is_left_alone_unless_it_is_asked_for() {
    with_each("IPv6 without dual stack", |tool, link| {
        capture(link, tool, ALL).unwrap();
        let case = Case::new(link, "::");
        let server = "2001:db8::10";
        case.expect(
            tool,
            link.pod.connect(APP, server, 80),
            server,
            80,
            "world:80",
        );
        case.expect(
            tool,
            link.outside.connect(APP, POD_V6, 8080),
            POD_V6,
            8080,
            "application",
        );
    });
}

#[test]
fn dns_reaches_the_agent() {
    with_each("DNS to named servers", |tool, link| {
        let host = format!("{POD}/{OUTSIDE}");
        let flags = format!("{ALL} --redirect-dns {}", tool.flags);
        let (config, operation) = settings(&host, &[], &flags).unwrap();
        link.pod.enter(|| apply(&config, &operation, None)).unwrap();
        dns(tool, link);
        // Another server is not the agent's.
        let world = link.outside.udp(ROOT, "192.0.2.10", 53);
        let client = link.pod.enter_as(APP, || query("192.0.2.10"));
        answer(&world, "world");
        assert_eq!(receive(&client), "world", "{tool:?}");
    });
}

#[test]
fn all_dns_reaches_the_agent() {
    with_each("DNS to any server", |tool, link| {
        capture(
            link,
            tool,
            &format!("{ALL} --redirect-dns --capture-all-dns"),
        )
        .unwrap();
        dns(tool, link);
    });
}

/// The application asks the agent, which asks a server, by UDP from one port and at the same time; and by TCP.
fn dns(tool: Tool, link: &Link) {
    // On loopback, where redirected packets arrive; elsewhere, its answers would have the wrong source.
    let agent = link.pod.udp(PROXY, "127.0.0.1", 15053);
    let server = link.outside.udp(ROOT, OUTSIDE, 53);
    let client = link.pod.enter_as(APP, || query(OUTSIDE));
    let upstream = link.pod.enter_as(PROXY, || query(OUTSIDE));
    answer(&agent, "agent");
    answer(&server, "server");
    // The answers come from whom they asked.
    assert_eq!(receive(&client), "agent", "{tool:?}");
    assert_eq!(receive(&upstream), "server", "{tool:?}");
    let tracked = link
        .pod
        .enter(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    let tracked = tracked.unwrap();
    for zone in ["zone=1", "zone=2"] {
        assert!(tracked.contains(zone), "{tool:?}: {tracked}");
    }

    let agent = link.pod.listen("127.0.0.1", 15053);
    let server = link.outside.listen("0.0.0.0", 53);
    for (id, expected) in [(APP, "agent"), (PROXY, "server")] {
        let mut client = link.pod.connect(id, OUTSIDE, 53).unwrap();
        let (name, mut taken) = accepted(&[("agent", &agent), ("server", &server)]);
        assert_eq!(name, expected, "{tool:?}");
        talk(&mut client, &mut taken);
    }
}

fn query(server: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.connect((server, 53)).unwrap();
    socket.send(b"?").unwrap();
    socket
}

fn answer(socket: &UdpSocket, text: &str) {
    let mut buffer = [0; 16];
    let (_, client) = socket.recv_from(&mut buffer).unwrap();
    socket.send_to(text.as_bytes(), client).unwrap();
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// What may take a connection, in the Pod and in the world.
struct Case {
    listeners: Vec<(&'static str, TcpListener)>,
}

impl Case {
    fn new(link: &Link, any: &str) -> Self {
        let pod = [
            ("outbound", 15001),
            ("inbound", 15006),
            ("hbone", 15008),
            ("application", 8080),
            ("telemetry", 15090),
        ];
        let pod = pod.map(|(name, port)| (name, link.pod.listen(any, port)));
        let world = [("world:80", 80), ("world:25", 25)];
        let world = world.map(|(name, port)| (name, link.outside.listen(any, port)));
        Self {
            listeners: pod.into_iter().chain(world).collect(),
        }
    }

    /// Checks who takes the connection, and that the proxy can tell where it was meant to go.
    fn expect(
        &self,
        tool: Tool,
        client: std::io::Result<TcpStream>,
        address: &str,
        port: u16,
        expected: &str,
    ) {
        let what = format!("{} to {address} port {port}", tool.name);
        let mut client = client.unwrap_or_else(|error| panic!("{what}: {error}"));
        let listeners = self
            .listeners
            .iter()
            .map(|(name, listener)| (*name, listener));
        let (name, mut taken) = accepted(&listeners.collect::<Vec<_>>());
        assert_eq!(name, expected, "{what}");
        if ["outbound", "inbound"].contains(&name) {
            let meant = match address.contains(':') {
                false => SockRef::from(&taken).original_dst_v4(),
                true => SockRef::from(&taken).original_dst_v6(),
            };
            let meant = meant.unwrap().as_socket();
            assert_eq!(
                meant,
                Some(SocketAddr::new(address.parse().unwrap(), port)),
                "{what}"
            );
        }
        talk(&mut client, &mut taken);
    }
}
