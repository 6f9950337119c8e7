use std::time::Duration;

use super::*;
use crate::proxy::args;

/// The settings of `pilot-agent proxy` with these words and variables.
fn settings(words: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let args = args::tests::parse(words)?;
    Settings::resolve(&args, &variables.iter().copied().collect())
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
    assert_eq!(settings.node.ips.len(), 2);
    assert_eq!(settings.node.interception, Interception::None);
    assert_eq!(settings.node.ports.reserved, [3, 4, 1, 2]);
    assert_eq!(settings.concurrency, 3);
    let expected = [
        ("NAME", "gw-1"),
        ("NAMESPACE", "istio-system"),
        ("INSTANCE_IPS", "10.0.0.7,fd00::7"),
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
    assert!(settings(&["waypoint"], &[]).is_err());
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
            "concurrency 3000000000 is more than 1024",
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
    assert_eq!(args.without_effect.given(), ["--stsPort"]);
}
