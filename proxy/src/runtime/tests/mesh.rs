//! What TCP proxies of an Istio mesh tell each other before the bytes that they carry, and what
//! they count of it.

use ithildin_proto::{from_yaml, pb::envoy::config::core::v3::Node as NodeProto};
use ithildin_tls::{ClientContext, ServerContext};

use super::*;
use crate::{
    config::{
        Cluster, FilterChain,
        cluster::{Transport, Transports},
    },
    istio::{
        Node, PeerExchange, Service, Telemetry,
        telemetry::{Changes, MeshRegistry, Reporter},
    },
    stats::{Metric, Value},
    testing::Pki,
};

const ALPN: &str = "istio-peer-exchange";
const SERVER: &str = "spiffe://example.org/ns/shop/sa/b";
const CLIENT: &str = "spiffe://example.org/ns/shop/sa/a";

fn node(name: &str) -> Arc<Node> {
    let node: NodeProto = from_yaml(&format!(
        "{{id: {name}, metadata: {{WORKLOAD_NAME: {name}}}}}"
    ))
    .unwrap();
    Arc::new(Node::new(Some(&node)))
}

fn exchange(name: &str) -> Option<Arc<PeerExchange>> {
    Some(Arc::new(PeerExchange::new(&node(name), ALPN, &[])))
}

fn telemetry(name: &str, reporter: Reporter) -> (Arc<Telemetry>, Arc<MeshRegistry>) {
    let registry: Arc<MeshRegistry> = Arc::default();
    let telemetry = Telemetry {
        id: testing::generation(),
        reporter,
        node: node(name),
        host_fallback: false,
        changes: Changes::default(),
        expressions: Vec::new(),
        registry: Arc::clone(&registry),
    };
    (Arc::new(telemetry), registry)
}

/// The server's sidecar, before `address`.
async fn server(pki: &Pki, address: SocketAddr) -> (Proxy, Arc<MeshRegistry>) {
    let mut params = pki.server(SERVER, &["example.org"]);
    params.alpn = [ALPN, "h2"].map(Vec::from).into();
    let (telemetry, registry) = telemetry("b", Reporter::Destination);
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("app")));
    let chain = FilterChain {
        tls: Some(Arc::new(ServerContext::new(params).unwrap())),
        peer_exchange: exchange("b"),
        telemetry: Some(telemetry),
        ..testing::chain("tls", terminal)
    };
    let listener = Arc::new(testing::listener("l", testing::ANY, chain));
    let cluster = testing::cluster("app", &[address]);
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    (proxy, registry)
}

/// The client's sidecar, before `address`.
async fn client(pki: &Pki, address: SocketAddr) -> (Proxy, Arc<MeshRegistry>) {
    let mut params = pki.client(CLIENT, &["example.org"]);
    params.alpn = [ALPN, "istio"].map(Vec::from).into();
    let (telemetry, registry) = telemetry("a", Reporter::Source);
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("server")));
    let chain = FilterChain {
        telemetry: Some(telemetry),
        ..testing::chain("plain", terminal)
    };
    let listener = Arc::new(testing::listener("l", testing::ANY, chain));
    let cluster = Cluster {
        transport: Transports(vec![
            Transport::Tls {
                context: Arc::new(ClientContext::new(params).unwrap()),
                sni: None,
            }
            .into(),
        ]),
        peer_exchange: exchange("a"),
        ..testing::cluster("server", &[address])
    };
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    (proxy, registry)
}

fn find(registry: &MeshRegistry, family: &str) -> Option<Metric> {
    let mut found = None;
    registry.read(&mut |metric| {
        if metric.family == format!("istiocustom.{family}") {
            found = Some(metric);
        }
    });
    found
}

fn label<'m>(metric: &'m Metric, key: &str) -> &'m str {
    let tag = metric.tags.iter().find(|tag| tag.key == key);
    &tag.unwrap().value
}

#[tokio::test]
async fn peers_tell_each_other_and_their_bytes_pass_untouched() {
    let pki = Pki::new(&["example.org"]);
    let (b, at_server) = server(&pki, echo_server().await).await;
    let (a, at_client) = client(&pki, b.address("l")).await;
    let stream = connect_and_echo(a.address("l")).await.unwrap();
    // While the session lives.
    for registry in [&at_server, &at_client] {
        eventually("opened", || {
            find(registry, "istio_tcp_connections_opened_total").is_some()
        })
        .await;
    }
    drop(stream);
    for (registry, reporter) in [(&at_server, "destination"), (&at_client, "source")] {
        eventually("closed", || {
            find(registry, "istio_tcp_connections_closed_total").is_some()
        })
        .await;
        for family in [
            "istio_tcp_sent_bytes_total",
            "istio_tcp_received_bytes_total",
        ] {
            let metric = find(registry, family).unwrap();
            assert_eq!(metric.value, Value::Counter(5), "{reporter} {family}");
            for (key, value) in [
                ("reporter", reporter),
                ("source_workload", "a"),
                ("source_principal", CLIENT),
                ("destination_workload", "b"),
                ("destination_principal", SERVER),
                ("request_protocol", "tcp"),
                ("response_flags", "-"),
            ] {
                assert_eq!(label(&metric, key), value, "{reporter} {key}");
            }
            let policy = label(&metric, "connection_security_policy");
            let known = reporter == "destination";
            assert_eq!(policy, if known { "mutual_tls" } else { "unknown" });
        }
    }
    let metric = find(&at_server, "istio_tcp_connections_opened_total").unwrap();
    assert_eq!(label(&metric, "source_workload_namespace"), "shop");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let listener = TcpListener::bind(testing::ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"220 ready\r\n").await.unwrap();
        }
    });
    let pki = Pki::new(&["example.org"]);
    let (b, _) = server(&pki, address).await;
    let (a, _) = client(&pki, b.address("l")).await;
    let mut stream = TcpStream::connect(a.address("l")).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "220 ready\r\n");
}

#[tokio::test]
async fn a_connection_that_is_denied_is_counted() {
    let address = echo_server().await;
    let (telemetry, registry) = telemetry("b", Reporter::Destination);
    let nobody = RuleSet {
        action: Action::Allow,
        policies: Vec::new(),
    };
    let rbac = Rbac {
        rules: Some(nobody),
        shadow_rules: None,
        shadow_keys: Default::default(),
        stats: None,
    };
    let terminal = Terminal::Tcp(Arc::new(testing::tcp_proxy("app")));
    let chain = FilterChain {
        access: vec![AccessFilter::Rbac(rbac)],
        telemetry: Some(telemetry),
        ..testing::chain("plain", terminal)
    };
    let listener = Arc::new(testing::listener("l", testing::ANY, chain));
    let mut cluster = testing::cluster("app", &[address]);
    cluster.mesh.service = Some(Service {
        host: "app.default.svc".into(),
        name: "app".into(),
        namespace: "default".into(),
    });
    let proxy = Proxy::start(1, snapshot(vec![listener], vec![cluster])).await;
    let mut stream = TcpStream::connect(proxy.address("l")).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer));
    // A reset will do, too.
    let _ = read.await.unwrap();
    assert!(answer.is_empty());
    eventually("closed", || {
        find(&registry, "istio_tcp_connections_closed_total").is_some()
    })
    .await;
    let metric = find(&registry, "istio_tcp_connections_opened_total").unwrap();
    assert_eq!(metric.value, Value::Counter(1));
    assert_eq!(label(&metric, "destination_service"), "app.default.svc");
}

/// Who agreed on the protocol and does not speak it gets its bytes through; a frame that is too
/// long ends the session.
#[tokio::test]
async fn odd_peers_are_let_through_or_cut_off() {
    let pki = Pki::new(&["example.org"]);
    let (b, registry) = server(&pki, echo_server().await).await;
    for (sent, passes) in [
        (&b"hello"[..], true),
        (b"=#\x04\x67\xff\xff\xff\xff", false),
    ] {
        let context = ClientContext::new(pki.client(CLIENT, &["example.org"])).unwrap();
        let socket = TcpStream::connect(b.address("l")).await.unwrap();
        let offer = [ALPN.as_bytes()];
        let mut stream = context.connect(socket, None, Some(&offer)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(&header[..4], b"=#\x04\x67");
        let [_, _, _, _, length @ ..] = header;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).await.unwrap();
        let mut answer = vec![0; sent.len()];
        let read = tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await;
        assert_eq!(read.unwrap().is_ok(), passes, "{sent:?}");
        assert_eq!(answer == sent, passes, "{sent:?}");
    }
    eventually("closed", || {
        let closed = find(&registry, "istio_tcp_connections_closed_total");
        closed.is_some_and(|it| it.value == Value::Counter(2))
    })
    .await;
    let metric = find(&registry, "istio_tcp_connections_opened_total").unwrap();
    assert_eq!(label(&metric, "source_workload"), "unknown");
}
