use std::time::Duration;

use ithildin_istio_config::Interception;
use ithildin_sys::interfaces::InterfaceAddress;

use super::*;
use crate::proxy::args;

/// The settings of `pilot-agent proxy` with these words and variables.
fn settings(words: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let args = args::tests::parse(words)?;
    on(&Host::default(), &args, variables)
}

fn on(host: &Host, args: &Args, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    Settings::resolve_on(args, &variables.iter().copied().collect(), host)
}

fn good(words: &[&str], variables: &[(&str, &str)]) -> Settings {
    settings(words, variables).unwrap()
}

#[test]
fn defaults_are_istios() {
    let settings = good(&[], &[]);
    let ports = settings.ports;
    assert_eq!(
        (ports.admin, ports.status, ports.health, ports.prometheus),
        (15000, 15020, 15021, 15090)
    );
    assert_eq!(
        settings.node_id,
        "sidecar~127.0.0.1~proxy.default~default.svc.cluster.local"
    );
    assert_eq!(settings.node.trust_domain, "cluster.local");
    assert_eq!(settings.node.interception, Interception::Redirect);
    assert_eq!(settings.node.data_plane, DataPlane::Builtin);
    assert_eq!(settings.source, ConfigSource::Istiod);
    assert!(settings.identity.endpoint.is_none());
    assert_eq!(settings.drain.termination, Duration::from_secs(5));
    assert!(!settings.drain.until_idle);
    assert!(settings.concurrency >= 1);
}

#[test]
fn a_pod_is_known_by_its_environment() {
    let settings = good(
        &["router", "--dataPlane", "envoy"],
        &[
            ("POD_NAME", "gw-1"),
            ("POD_NAMESPACE", "istio-system"),
            ("INSTANCE_IP", "10.0.0.7,fd00::7"),
            ("TRUST_DOMAIN", "example.org"),
            ("SERVICE_ACCOUNT", "gw"),
            ("ISTIO_METAJSON_LABELS", r#"{"app":"gateway"}"#),
            ("ISTIO_META_INTERCEPTION_MODE", "NONE"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
            ("ISTIO_META_X", "y"),
            ("ISTIO_META_NAME", "a lie"),
            ("ENVOY_STATUS_PORT", "1"),
            ("ENVOY_PROMETHEUS_PORT", "2"),
            (
                "PROXY_CONFIG",
                "{proxyAdminPort: 3, statusPort: 4, concurrency: 3}",
            ),
        ],
    );
    assert_eq!(
        settings.node_id,
        "router~10.0.0.7~gw-1.istio-system~istio-system.svc.cluster.local"
    );
    assert_eq!(settings.node_cluster, "gateway.istio-system");
    assert_eq!(settings.node.interception, Interception::None);
    assert_eq!(settings.node.ports.reserved, [3, 4, 1, 2]);
    assert_eq!(settings.concurrency, 3);
    let expected = [
        ("NAME", "gw-1"),
        ("NAMESPACE", "istio-system"),
        ("INSTANCE_IPS", "10.0.0.7,fd00::7,127.0.0.1,::1"),
        ("INTERCEPTION_MODE", "NONE"),
        ("CLUSTER_ID", "c1"),
        ("SERVICE_ACCOUNT", "gw"),
        ("X", "y"),
    ];
    for (key, value) in expected {
        assert_eq!(settings.metadata[key], value, "{key}");
    }
    assert_eq!(settings.metadata["LABELS"]["app"], "gateway");
}

#[test]
fn who_wins() {
    let config = ("PROXY_CONFIG", "{binaryPath: /a/envoy, concurrency: 2}");
    let binary = ("ENVOY_BIN", "/b/envoy");
    assert_eq!(
        good(&[], &[config, binary]).envoy.binary,
        PathBuf::from("/a/envoy")
    );
    assert_eq!(good(&[], &[binary]).envoy.binary, PathBuf::from("/b/envoy"));
    assert_eq!(good(&["--concurrency", "7"], &[config]).concurrency, 7);
    assert_eq!(
        good(&[], &[config, ("ISTIO_CPU_LIMIT", "5")]).concurrency,
        2
    );
    assert_eq!(good(&[], &[("ISTIO_CPU_LIMIT", "5")]).concurrency, 5);
    let all = good(&[], &[("PROXY_CONFIG", "concurrency: 0")]).concurrency;
    assert_eq!(all, thread::available_parallelism().unwrap().get());
    let drain = good(
        &[],
        &[
            ("PROXY_CONFIG", "terminationDrainDuration: 30s"),
            ("MINIMUM_DRAIN_DURATION", "7s"),
        ],
    )
    .drain;
    assert_eq!(drain.termination, Duration::from_secs(30));
    assert_eq!(drain.minimum, Duration::from_secs(7));
    let domain = good(&["--domain", "x.test"], &[]).node_id;
    assert!(domain.ends_with("~x.test"), "{domain}");
    let folder = good(&["--configDir", "istio"], &[]).source;
    assert_eq!(folder, ConfigSource::Folder("istio".into()));
}

#[test]
fn mistakes_name_their_variable() {
    for (name, value) in [
        ("SPIFFE_ENDPOINT_SOCKET", "/agent.sock"),
        ("PROXY_CONFIG", "statusPort: x"),
        ("PROXY_CONFIG", "["),
        ("ENVOY_STATUS_PORT", "none"),
        ("ENVOY_PROMETHEUS_PORT", "-1"),
        ("INSTANCE_IP", "localhost"),
        ("ISTIO_META_INTERCEPTION_MODE", "redirect"),
        ("ISTIO_META_HTTP_PROXY_PORT", "x"),
        ("ISTIO_METAJSON_LABELS", "app=web"),
        ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "yes"),
        ("MINIMUM_DRAIN_DURATION", "5"),
        ("ISTIO_CPU_LIMIT", "many"),
        ("ISTIO_DELTA_XDS", "maybe"),
        ("ISTIO_PROMETHEUS_ANNOTATIONS", "{"),
    ] {
        let error = settings(&[], &[(name, value)]).expect_err(value);
        let text = format!("{error:#}");
        assert!(text.starts_with(name), "{value:?}: {text}");
    }
    for words in [
        &["waypoint"][..],
        &["waypoint", "--dataPlane=envoy", "--configDir=x"],
        &["mixer"],
    ] {
        assert!(settings(words, &[]).is_err(), "{words:?}");
    }
    for (name, value, expected) in [
        (
            "PROXY_CONFIG",
            "{proxyAdminPort: 7, statusPort: 7}",
            "statusPort of PROXY_CONFIG and proxyAdminPort of PROXY_CONFIG are both 7",
        ),
        (
            "ENVOY_STATUS_PORT",
            "15090",
            "ENVOY_PROMETHEUS_PORT and ENVOY_STATUS_PORT are both 15090",
        ),
        (
            "PROXY_CONFIG",
            "proxyAdminPort: 0",
            "proxyAdminPort of PROXY_CONFIG 0 is not a port",
        ),
        (
            "PROXY_CONFIG",
            "concurrency: 3000000000",
            "concurrency: must be a whole number from 0 to",
        ),
    ] {
        let error = settings(&[], &[(name, value)]).expect_err(value);
        let text = format!("{error:#}");
        assert!(text.contains(expected), "{value:?}: {text}");
    }
    assert!(settings(&["--no-such-flag"], &[]).is_err());
}

#[test]
fn old_manifests_still_start() {
    let words = [
        "sidecar",
        "--stsPort=0",
        "--profiling",
        "--proxyLogLevel=info",
    ];
    let args = args::tests::parse(&words).unwrap();
    assert!(args.profiling);
    assert!(args.without_effect().is_empty());
    let args = args::tests::parse(&["--stsPort", "15463", "--templateFile=/t"]).unwrap();
    assert_eq!(args.without_effect(), ["--stsPort", "--templateFile"]);
}

/// What the original agent sent, and what it was started with.
#[test]
fn the_node_is_what_istios_agent_sends() {
    for (name, kind, ip, namespace, workload, account, offset) in [
        (
            "router",
            "router",
            "127.0.1.20",
            "istio-system",
            "istio-ingressgateway",
            "istio-ingressgateway-service-account",
            0,
        ),
        (
            "sidecar-productpage",
            "sidecar",
            "127.0.1.10",
            "default",
            "productpage-v1",
            "bookinfo-productpage",
            200,
        ),
        (
            "sidecar-sleep",
            "sidecar",
            "127.0.1.12",
            "default",
            "sleep",
            "sleep",
            200,
        ),
    ] {
        let file = format!("{}/tests/data/node-{name}.json", env!("CARGO_MANIFEST_DIR"));
        let recorded: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let recorded = &recorded["node"];
        let labels = recorded["metadata"]["LABELS"].as_object().unwrap().iter();
        let labels = labels.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()));
        let host = Host {
            labels: Some(labels.collect()),
            ..Host::default()
        };
        let owner =
            format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{workload}");
        let domain = format!("{namespace}.svc.cluster.local");
        let template = "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json";
        let args = [kind, "--domain", &domain, "--templateFile", template];
        let config = format!(
            r#"{{"discoveryAddress": "localhost:25012", "binaryPath": "/usr/local/bin/envoy", "concurrency": 1,
                "proxyAdminPort": {}, "statusPort": {}}}"#,
            15000 + offset,
            15020 + offset
        );
        let variables = [
            ("POD_NAME", &*format!("{workload}-0")),
            ("POD_NAMESPACE", namespace),
            ("INSTANCE_IP", ip),
            ("SERVICE_ACCOUNT", account),
            ("HOST_IP", "127.0.0.1"),
            ("CA_ADDR", "localhost:25012"),
            ("PILOT_CERT_PROVIDER", "istiod"),
            ("TRUST_DOMAIN", "cluster.local"),
            ("ISTIO_CPU_LIMIT", "2"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_NODE_NAME", "node1"),
            ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
            ("ISTIO_META_WORKLOAD_NAME", workload),
            ("ISTIO_META_MESH_ID", "cluster.local"),
            ("ISTIO_META_OWNER", &owner),
            ("ISTIO_META_UNPRIVILEGED_POD", "true"),
            ("ENVOY_STATUS_PORT", &(15021 + offset).to_string()),
            ("ENVOY_PROMETHEUS_PORT", &(15090 + offset).to_string()),
            ("PROXY_CONFIG", &config),
        ];
        let settings = on(&host, &args::tests::parse(&args).unwrap(), &variables).unwrap();
        let mut node = settings.node_json();
        // The recorder told of the Pod's address alone.
        assert_eq!(
            node["metadata"]["INSTANCE_IPS"],
            format!("{ip},127.0.0.1,::1")
        );
        node["metadata"]["INSTANCE_IPS"] = ip.into();
        assert_eq!(sorted(&node), sorted(recorded), "{name}");
        let typed: core::Node = ithildin_proto::from_value(settings.node_json()).unwrap();
        let expected = core::Node {
            user_agent_name: "ithildin".into(),
            ..typed
        };
        assert_eq!(settings.xds_node(), expected, "{name}");
    }
}

/// The same with the keys of all objects in order, for a readable difference.
fn sorted(value: &Value) -> String {
    let map: BTreeMap<String, Value> = serde_json::from_value(value.clone()).unwrap();
    let metadata: BTreeMap<String, Value> =
        serde_json::from_value(map["metadata"].clone()).unwrap();
    let lines = metadata.iter().map(|(key, value)| match value {
        Value::Object(object) => {
            let object: BTreeMap<_, _> = object.iter().collect();
            format!("{key}: {object:?}\n")
        }
        other => format!("{key}: {other}\n"),
    });
    let lines: String = lines.collect();
    format!(
        "{} {} {}\n{lines}",
        map["id"], map["cluster"], map["locality"]
    )
}

#[test]
fn annotations_have_the_last_word() {
    let mut host = Host::default();
    for (name, value) in [
        (
            "proxy.istio.io/config",
            "concurrency: 9\nstatusPort: 15030\nproxyMetadata: {ISTIO_META_B: b}",
        ),
        ("sidecar.istio.io/discoveryAddress", "istiod.test:15012"),
        ("status.sidecar.istio.io/port", "15040"),
    ] {
        host.annotations.insert(name.into(), value.into());
    }
    let args = args::tests::parse(&[]).unwrap();
    let config = (
        "PROXY_CONFIG",
        "{concurrency: 2, proxyMetadata: {ISTIO_META_A: a}}",
    );
    let settings = on(&host, &args, &[config]).unwrap();
    assert_eq!((settings.concurrency, settings.ports.status), (9, 15040));
    assert_eq!(settings.istiod.address.to_string(), "istiod.test:15012");
    assert_eq!(settings.metadata["A"], "a");
    assert_eq!(settings.metadata["B"], "b");
    assert_eq!(settings.metadata["PILOT_SAN"], json!(["istiod.test"]));
    assert_eq!(
        settings.metadata["ANNOTATIONS"]["status.sidecar.istio.io/port"],
        "15040"
    );
    host.annotations
        .insert("status.sidecar.istio.io/port".into(), "http".into());
    let error = format!("{:#}", on(&host, &args, &[]).unwrap_err());
    assert!(
        error.starts_with("annotation status.sidecar.istio.io/port"),
        "{error}"
    );
}

/// With somebody's socket in the Pod, istiod gets gateways their `sds://` credentials from there.
#[test]
fn somebodys_credentials_are_told() {
    let args = args::tests::parse(&[]).unwrap();
    for (credential_socket, expected) in [(true, Some("true")), (false, None)] {
        let host = Host {
            credential_socket,
            ..Host::default()
        };
        let metadata = on(&host, &args, &[]).unwrap().metadata;
        let told = metadata.get("credential").and_then(Value::as_str);
        assert_eq!(told, expected);
        // Certificates in files come from our own socket.
        assert!(!metadata.contains_key("file-credential"));
    }
}

#[test]
fn addresses_and_names() {
    let address = |ip: &str| InterfaceAddress {
        interface: "eth0".into(),
        ip: ip.parse().unwrap(),
        up: true,
        loopback: false,
    };
    let host = Host {
        interfaces: vec![address("10.0.0.1"), address("fd00::1")],
        ..Host::default()
    };
    let args = args::tests::parse(&[]).unwrap();
    let of = |variables: &[(&str, &str)]| on(&host, &args, variables).unwrap();
    let ips = of(&[("INSTANCE_IP", "fd00::1")]).metadata["INSTANCE_IPS"].clone();
    assert_eq!(ips, "fd00::1,10.0.0.1", "the Pod's own comes first");
    assert_eq!(of(&[]).metadata["INSTANCE_IPS"], "10.0.0.1,fd00::1");
    let workload = ("ISTIO_META_WORKLOAD_NAME", "web-v1");
    for (config, labels, expected) in [
        ("", "{}", "web-v1.default"),
        ("", r#"{"app": "web"}"#, "web.default"),
        ("serviceCluster: shop", "{}", "shop"),
        (
            "tracingServiceName: CANONICAL_NAME_ONLY",
            r#"{"app": "web"}"#,
            "web",
        ),
        (
            "tracingServiceName: CANONICAL_NAME_AND_NAMESPACE",
            r#"{"app": "web", "service.istio.io/canonical-name": "shop"}"#,
            "shop.default",
        ),
        (
            "tracingServiceName: APP_LABEL_AND_NAMESPACE",
            "{}",
            "web-v1.default",
        ),
    ] {
        let settings = of(&[
            workload,
            ("PROXY_CONFIG", config),
            ("ISTIO_METAJSON_LABELS", labels),
        ]);
        assert_eq!(settings.node_cluster, expected, "{config} {labels}");
    }
}

#[test]
fn what_has_no_effect_is_named() {
    let config = "{sds: {}, statNameLength: 200, tracing: {stackdriver: {}}, extra: 1, runtimeValues: {a: b}}";
    let variables = [
        ("PROXY_CONFIG", config),
        ("XDS_AUTH_PROVIDER", "gcp"),
        ("WASM_MODULE_EXPIRY", "1h"),
    ];
    let envoy = good(&["--dataPlane=envoy"], &variables).without_effect;
    let expected = [
        "XDS_AUTH_PROVIDER",
        "sds of the proxy configuration",
        "statNameLength of the proxy configuration",
        "tracing.stackdriver of the proxy configuration",
        "extra of the proxy configuration (unknown)",
    ];
    assert_eq!(envoy, expected);
    let builtin = good(&[], &variables).without_effect;
    assert!(builtin.contains(&"runtimeValues of the proxy configuration".to_owned()));
    assert!(builtin.contains(&"WASM_MODULE_EXPIRY".to_owned()));
    assert!(good(&[], &[]).without_effect.is_empty());
    for (tracer, expected) in [
        ("zipkin: {address: 'z:1'}", vec![]),
        (
            "datadog: {address: 'd:1'}",
            vec!["tracing.datadog of the proxy configuration"],
        ),
    ] {
        let config = format!("tracing: {{{tracer}}}");
        let settings = good(&[], &[("PROXY_CONFIG", &config)]);
        assert_eq!(settings.without_effect, expected, "{tracer}");
    }
    // Nobody but istiod asks for what they would be told.
    let config = [("PROXY_CONFIG", "tracing: {zipkin: {address: 'z:1'}}")];
    let settings = good(&["--configDir=/x"], &config);
    let expected = ["tracing of the proxy configuration"];
    assert_eq!(settings.without_effect, expected);
}
