use super::*;

const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.1.0.1, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {clusterIP: 10.1.0.2, ports: [{name: http, port: 8000}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {clusterIP: 10.1.0.3, selector: {app: own}, ports: [{name: http, port: 7000}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app}
spec:
  hosts: [app.example.org]
  ports: [{number: 8000, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls}
spec:
  hosts: [tls.example.org]
  ports: [{number: 8443, name: tls, protocol: TLS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none}
spec:
  hosts: [none.example.org]
  ports: [{number: 8001, name: http, protocol: HTTP}]
";

#[test]
fn captured_connections_are_told_apart_by_host_or_address() {
    let built = built(MESH, &sidecar(Interception::Redirect));
    assert_eq!(
        names(&built.resources.listeners),
        [
            "0.0.0.0_7000",
            "0.0.0.0_8000",
            "0.0.0.0_8001",
            "0.0.0.0_8443",
            "10.1.0.1_9000",
            "10.1.0.2_9000",
            "virtualInbound",
            "virtualOutbound",
        ]
    );
    assert_eq!(
        hosts(routes(&built, "8000")),
        [
            "app.example.org:8000 app.example.org,app.example.org. -> outbound|8000||app.example.org",
            "far.other.svc.cluster.local:8000 far.other.svc.cluster.local,far.other.svc.cluster.local.,far.other,far.other.svc,10.1.0.2 -> outbound|8000||far.other.svc.cluster.local",
            "web.default.svc.cluster.local:8000 web.default.svc.cluster.local,web.default.svc.cluster.local.,web,web.default.svc,web.default,10.1.0.1 -> outbound|8000||web.default.svc.cluster.local",
            "allow_any * -> PassthroughCluster",
        ]
    );
    let tls = listener(&built, "0.0.0.0_8443");
    let matching = tls.filter_chains[0].filter_chain_match.as_ref().unwrap();
    assert_eq!(matching.server_names, ["tls.example.org"]);
    assert_eq!(
        tls.default_filter_chain.as_ref().unwrap().name,
        "PassthroughFilterChain"
    );
    let none = cluster(&built, "outbound|8001||none.example.org");
    let original = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into());
    assert_eq!(none.cluster_discovery_type, Some(original));
}

#[test]
fn a_closed_registry_blocks_unknown_hosts() {
    let mesh = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}
";
    let built = built(&format!("{MESH}{mesh}"), &sidecar(Interception::Redirect));
    let last = hosts(routes(&built, "8000")).pop();
    assert_eq!(last.as_deref(), Some("block_all * -> 502"));
    let other = listener(&built, "0.0.0.0_8000")
        .default_filter_chain
        .as_ref()
        .unwrap();
    let text = format!("{other:?}");
    assert!(!text.contains("PassthroughCluster"), "{text}");
}

#[test]
fn without_capture_listeners_are_bound_to_loopback() {
    let built = built(MESH, &sidecar(Interception::None));
    // 7000 is the workload's own port.
    assert_eq!(
        names(&built.resources.listeners),
        [
            "10.0.0.1_7000",
            "127.0.0.1_8000",
            "127.0.0.1_8443",
            "127.0.0.1_9000"
        ]
    );
    let http = listener(&built, "127.0.0.1_8000");
    assert!(http.bind_to_port.is_none() && http.listener_filters.is_empty());
    assert!(http.default_filter_chain.is_none());
    assert_eq!(http.filter_chains.len(), 1);
    assert_eq!(
        manager(&http.filter_chains[0]).stat_prefix,
        "outbound_127.0.0.1_8000;"
    );
    let last = hosts(routes(&built, "8000")).pop();
    assert_eq!(last.as_deref(), Some("block_all * -> 502"));
    assert!(!built.resources.clusters.contains_key("PassthroughCluster"));
    assert_eq!(
        warnings(&built),
        [
            "none.example.org: resolution NONE needs traffic capture, the host is not reachable",
            "web.default.svc.cluster.local: port 9000 has no address of its own, and far.other.svc.cluster.local has it already",
            "no outbound listener on port 7000: the workload itself listens there",
        ]
    );
}

#[test]
fn an_http_proxy_port_takes_every_host_with_its_port() {
    let mut node = sidecar(Interception::None);
    node.ports.http_proxy = Some(15007);
    let built = built(MESH, &node);
    let listener = listener(&built, "127.0.0.1_15007");
    let options = manager(&listener.filter_chains[0])
        .http_protocol_options
        .unwrap();
    assert!(options.allow_absolute_url.unwrap().value);
    let routes = routes(&built, "http_proxy");
    assert!(!routes.ignore_port_in_host_matching);
    let app = routes
        .virtual_hosts
        .iter()
        .find(|host| host.name == "app.example.org:8000")
        .unwrap();
    assert_eq!(
        app.domains,
        ["app.example.org:8000", "app.example.org.:8000"]
    );
}

#[test]
fn the_most_specific_virtual_service_routes_a_service() {
    let virtual_service = |name: &str, host: &str, to: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: ['{host}']
  http: [{{route: [{{destination: {{host: {to}}}}}]}}]
"
        )
    };
    let yaml = [
        MESH.to_owned(),
        virtual_service("a-wide", "*.example.org", "web"),
        virtual_service("b-first", "app.example.org", "far.other.svc.cluster.local"),
        virtual_service("c-second", "app.example.org", "web"),
        virtual_service("d-new", "new.example.org", "web"),
    ]
    .concat();
    let built = built(&yaml, &sidecar(Interception::Redirect));
    let app = hosts(routes(&built, "8000")).remove(0);
    assert!(
        app.ends_with("outbound|8000||far.other.svc.cluster.local"),
        "{app}"
    );
    // Hosts that no service has are for port 80 only, and nothing listens there here.
    assert!(!built.resources.routes.contains_key("80"));
}

#[test]
fn headless_services_have_a_listener_for_each_endpoint() {
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db, security.istio.io/tlsMode: istio}}
status: {podIP: 10.0.0.7}
";
    let built = built(yaml, &sidecar(Interception::Redirect));
    assert!(built.resources.listeners.contains_key("10.0.0.7_5432"));
    let cluster = cluster(&built, "outbound|5432||db.default.svc.cluster.local");
    assert!(cluster.transport_socket.is_some() && cluster.transport_socket_matches.is_empty());
}
