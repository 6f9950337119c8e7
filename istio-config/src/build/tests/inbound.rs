use super::*;

fn mesh(port_name: &str, mode: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: own}}
spec: {{clusterIP: 10.1.0.1, selector: {{app: own}}, ports: [{{name: {port_name}, port: 80, targetPort: 8080}}]}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: istio-system}}
spec: {{mtls: {{mode: {mode}}}}}
"
    )
}

/// `port transport/alpn -> http|tcp, mTLS or not` of each chain, without the black hole.
fn chains(listener: &Listener) -> Vec<String> {
    let chains = listener
        .filter_chains
        .iter()
        .filter(|chain| !chain.name.ends_with("blackhole"));
    chains
        .map(|chain| {
            let matching = chain.filter_chain_match.as_ref().unwrap();
            let port = matching
                .destination_port
                .as_ref()
                .map_or("*".to_owned(), |port| port.value.to_string());
            let kind = if chain.filters[0].name.ends_with("tcp_proxy") {
                "tcp"
            } else {
                "http"
            };
            let end = if chain.transport_socket.is_some() {
                "mtls"
            } else {
                "as is"
            };
            let alpn = matching.application_protocols.join("+");
            format!(
                "{port} {}/{alpn} -> {kind}, {end}",
                matching.transport_protocol
            )
        })
        .collect()
}

fn filters(listener: &Listener) -> Vec<(&str, bool)> {
    let filters = listener.listener_filters.iter();
    filters
        .map(|filter| {
            (
                filter.name.rsplit('.').next().unwrap(),
                filter.filter_disabled.is_some(),
            )
        })
        .collect()
}

#[test]
fn every_mode_and_protocol_has_istios_chains() {
    const H: &str = "istio-http/1.0+istio-http/1.1+istio-h2";
    let any = format!("istio+{H}");
    let cases = [
        ("http", "STRICT", vec!["tls/ -> http, mtls".to_owned()]),
        ("tcp", "STRICT", vec!["tls/ -> tcp, mtls".to_owned()]),
        (
            "x",
            "STRICT",
            vec![
                format!("tls/{H} -> http, mtls"),
                "tls/ -> tcp, mtls".to_owned(),
            ],
        ),
        (
            "http",
            "PERMISSIVE",
            vec![
                format!("tls/{any} -> http, mtls"),
                "raw_buffer/ -> http, as is".to_owned(),
            ],
        ),
        (
            "tcp",
            "PERMISSIVE",
            vec![
                format!("tls/{any} -> tcp, mtls"),
                "tls/ -> tcp, as is".to_owned(),
                "raw_buffer/ -> tcp, as is".to_owned(),
            ],
        ),
        (
            "x",
            "PERMISSIVE",
            vec![
                format!("tls/{H} -> http, mtls"),
                "raw_buffer/http/1.1+h2c -> http, as is".to_owned(),
                "tls/istio -> tcp, mtls".to_owned(),
                "raw_buffer/ -> tcp, as is".to_owned(),
                "tls/ -> tcp, as is".to_owned(),
            ],
        ),
        (
            "http",
            "DISABLE",
            vec!["raw_buffer/ -> http, as is".to_owned()],
        ),
        (
            "tcp",
            "DISABLE",
            vec!["raw_buffer/ -> tcp, as is".to_owned()],
        ),
        (
            "x",
            "DISABLE",
            vec![
                "raw_buffer/http/1.1+h2c -> http, as is".to_owned(),
                "raw_buffer/ -> tcp, as is".to_owned(),
            ],
        ),
    ];
    for (port, mode, expected) in cases {
        let built = built(&mesh(port, mode), &sidecar(Interception::Redirect));
        let all = chains(listener(&built, "virtualInbound"));
        let own: Vec<_> = all
            .iter()
            .filter_map(|chain| chain.strip_prefix("8080 "))
            .collect();
        assert_eq!(own, expected, "{port} {mode}");
    }
}

#[test]
fn ports_that_nobody_declared_go_on_to_the_workload() {
    let built = built(&mesh("http", "STRICT"), &sidecar(Interception::Redirect));
    let listener = listener(&built, "virtualInbound");
    let other: Vec<_> = chains(listener)
        .into_iter()
        .filter(|chain| chain.starts_with('*'))
        .collect();
    assert_eq!(
        other,
        [
            "* tls/istio-http/1.0+istio-http/1.1+istio-h2 -> http, mtls",
            "* tls/ -> tcp, mtls"
        ]
    );
    assert_eq!(
        filters(listener),
        [("original_dst", false), ("tls_inspector", true)]
    );
    let guard = cluster(&built, "inbound|8080||")
        .upstream_bind_config
        .as_ref()
        .unwrap();
    assert_eq!(guard.source_address.as_ref().unwrap().address, "127.0.0.6");
}

#[test]
fn a_port_may_have_a_mode_of_its_own() {
    let yaml = format!(
        "{}---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: own}}
spec:
  selector: {{matchLabels: {{app: own}}}}
  portLevelMtls: {{8080: {{mode: DISABLE}}, 9999: {{mode: PERMISSIVE}}}}
",
        mesh("http", "STRICT")
    );
    let built = built(&yaml, &sidecar(Interception::Redirect));
    let listener = listener(&built, "virtualInbound");
    let all = chains(listener);
    assert!(
        all.contains(&"8080 raw_buffer/ -> http, as is".to_owned()),
        "{all:?}"
    );
    assert_eq!(
        all.iter()
            .filter(|chain| chain.starts_with("9999 "))
            .count(),
        5,
        "{all:?}"
    );
    assert_eq!(
        filters(listener),
        [
            ("original_dst", false),
            ("tls_inspector", true),
            ("http_inspector", true)
        ]
    );
}

#[test]
fn federated_peers_are_left_to_the_bundles() {
    let built = built(&mesh("http", "STRICT"), &sidecar(Interception::Redirect));
    for chain in &listener(&built, "virtualInbound").filter_chains {
        if chain.transport_socket.is_none() {
            continue;
        }
        let context: DownstreamTlsContext = tls(chain.transport_socket.as_ref());
        assert!(context.require_client_certificate.unwrap().value);
        let Some(ValidationContextType::CombinedValidationContext(combined)) =
            context.common_tls_context.unwrap().validation_context_type
        else {
            panic!("no validation");
        };
        assert_eq!(
            combined.validation_context_sds_secret_config.unwrap().name,
            "ROOTCA"
        );
        #[expect(deprecated, reason = "istiod's field")]
        let sans = combined
            .default_validation_context
            .unwrap()
            .match_subject_alt_names;
        assert!(sans.is_empty());
    }
}

#[test]
fn without_capture_each_port_is_bound_and_goes_to_loopback() {
    let built = built(&mesh("http", "STRICT"), &sidecar(Interception::None));
    let listener = listener(&built, "10.0.0.1_8080");
    assert_eq!(chains(listener), ["* tls/ -> http, mtls"]);
    assert_eq!(filters(listener), [("tls_inspector", false)]);
    assert!(listener.bind_to_port.is_none());
    let cluster = cluster(&built, "inbound|8080||");
    let fixed = ClusterDiscoveryType::Type(DiscoveryType::Static.into());
    assert_eq!(cluster.cluster_discovery_type, Some(fixed));
    let text = format!("{:?}", cluster.load_assignment);
    assert!(
        text.contains("127.0.0.1") && text.contains("8080"),
        "{text}"
    );
    assert!(!built.resources.listeners.contains_key("virtualInbound"));
    assert!(
        !built
            .resources
            .clusters
            .contains_key("InboundPassthroughCluster")
    );
}
