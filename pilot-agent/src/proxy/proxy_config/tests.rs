use super::*;

fn merged(text: &str) -> anyhow::Result<ProxyConfig> {
    let mut layers = Layers::new();
    layers.merge(text)?;
    layers.resolve()
}

#[test]
fn fields_are_merged() {
    let mut layers = Layers::new();
    let mesh = "rootNamespace: x\ndefaultConfig:\n  statusPort: 1\n  concurrency: 3\n  \
                proxyMetadata: {N: '0', ISTIO_META_M: m}\n  tracing: {zipkin: {address: 'z:1'}, sampling: 1}\n";
    layers.merge_mesh(mesh).unwrap();
    layers
        .merge(
            r#"{"status_port": 2, "terminationDrainDuration": "1m30s", "concurrency": null,
                "proxyMetadata": {"ISTIO_META_X": "y", "N": 1}, "tracing": {"datadog": {"address": "d:2"}},
                "new": 1, "proxyStatsMatcher": {"inclusionPrefixes": ["a"], "old": []}}"#,
        )
        .unwrap();
    let config = layers.resolve().unwrap();
    assert_eq!((config.status_port, config.concurrency), (2, Some(3)));
    assert_eq!(config.termination_drain_duration, Duration::from_secs(90));
    assert_eq!(config.metadata["ISTIO_META_X"], "y");
    assert_eq!(
        config.metadata["ISTIO_META_M"], "m",
        "metadata is merged by key"
    );
    assert_eq!(config.metadata["N"], "1");
    let tracer = config.tracing.unwrap().tracer;
    assert_eq!(
        tracer,
        Tracer::Datadog {
            address: "d:2".into()
        }
    );
    assert_eq!(
        config.json["tracing"],
        json!({"datadog": {"address": "d:2"}})
    );
    assert_eq!(layers.unknown(), ["new", "proxyStatsMatcher.old"]);
}

#[test]
fn nothing_changes_nothing() {
    for text in ["", "# nothing\n", "{}", "concurrency: null"] {
        assert_eq!(merged(text).unwrap(), ProxyConfig::default(), "{text}");
    }
}

#[test]
fn one_name_of_a_group_is_set() {
    let config = merged("tracing_service_name: 2").unwrap();
    let policy = TracingServiceName::CanonicalNameAndNamespace;
    assert_eq!(config.cluster_name, ClusterName::Tracing(policy));
    assert!(!config.json.contains_key("serviceCluster"));
}

#[test]
fn the_json_is_protobufs() {
    let text = "controlPlaneAuthPolicy: NONE\nstatNameLength: 0\nextraStatTags: []\n\
                holdApplicationUntilProxyStarts: false\nfileFlushInterval: 500ms\n\
                gatewayTopology: {numTrustedProxies: 0, proxyProtocol: {}}\n\
                envoyMetricsService: {address: 'm:1', tcpKeepalive: {probes: '3', time: 10s}}\n\
                proxyHeaders: {preserve_http1_header_case: true}\n";
    let config = merged(text).unwrap();
    let expected = json!({
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "terminationDrainDuration": "5s",
        "proxyAdminPort": 15000,
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "statusPort": 15020,
        "holdApplicationUntilProxyStarts": false,
        "fileFlushInterval": "0.500s",
        "gatewayTopology": {"proxyProtocol": {}},
        "envoyMetricsService": {"address": "m:1", "tcpKeepalive": {"probes": 3, "time": "10s"}},
        "proxyHeaders": {"preserveHttp1HeaderCase": true},
    });
    assert_eq!(Value::Object(config.json), expected);
    assert_eq!(config.control_plane_auth, ControlPlaneAuth::None);
    let keepalive = config.metrics_service.unwrap().tcp_keepalive.unwrap();
    assert_eq!((keepalive.probes, keepalive.interval), (3, None));
}

#[test]
fn mistakes_name_the_field() {
    for (text, field) in [
        ("statusPort: 70000", "statusPort"),
        ("statusPort: -1", "statusPort"),
        ("statusPort: x", "statusPort"),
        ("concurrency: {}", "concurrency"),
        ("concurrency: -1", "concurrency"),
        ("drainDuration: 5", "drainDuration"),
        ("drainDuration: 1.5s", "drainDuration"),
        ("drainDuration: 0s", "drainDuration"),
        ("terminationDrainDuration: soon", "terminationDrainDuration"),
        ("proxyMetadata: []", "proxyMetadata"),
        ("proxyMetadata: {A: []}", "proxyMetadata: A"),
        ("configPath: []", "configPath"),
        ("configPath: ''", "configPath"),
        ("controlPlaneAuthPolicy: TLS", "controlPlaneAuthPolicy"),
        ("discoveryAddress: istiod", "discoveryAddress"),
        ("statsdUdpAddress: x", "statsdUdpAddress"),
        ("extraStatTags: [a, []]", "extraStatTags: [1]"),
        ("tracing: {sampling: much}", "tracing: sampling"),
        ("tracing: {zipkin: {address: z}}", "tracing"),
        (
            "tracing: {lightstep: {address: 'l:1'}}",
            "tracing.lightstep.accessToken",
        ),
        (
            "tracing: {tlsSettings: {mode: TLS}}",
            "tracing: tlsSettings: mode",
        ),
        (
            "envoyMetricsService: {address: m}",
            "envoyMetricsService.address",
        ),
    ] {
        let error = format!("{:#}", merged(text).unwrap_err());
        assert!(error.starts_with(&format!("{field}: ")), "{text}: {error}");
    }
    for text in ["- a", "a: [", "text", "a: b\n---\na: b\n", "[1]: 2"] {
        assert!(merged(text).is_err(), "{text}");
    }
}
