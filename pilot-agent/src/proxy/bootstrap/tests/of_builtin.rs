//! What the built-in proxy starts from.

use std::{sync::Arc, time::Duration};

use ithildin_proxy::{Proxy, ProxyOptions};
use ithildin_xds::{SecretRef, SecretState, SecretSubscriber};
use tokio::sync::watch;

use super::*;

#[test]
fn the_builtin_proxy_knows_its_workload_and_version() {
    let case = Case {
        env: &[("ISTIO_META_WORKLOAD_NAME", "web"), ("POD_NAME", "web-1")],
        ..Case::new("workload", vec![])
    };
    let settings = case.settings().unwrap();
    let node = builtin(&settings).unwrap().node.unwrap();
    assert!(node.user_agent_version_type.is_some());
    let node = Node {
        user_agent_version_type: None,
        ..node
    };
    assert_eq!(node, settings.xds_node());
    let metadata = node.metadata.unwrap().fields;
    assert!(metadata.contains_key("WORKLOAD_NAME") && metadata.contains_key("ISTIO_VERSION"));
}

/// Nobody's identity: what waits for it is not asked for here.
struct NoSecrets;

impl SecretSubscriber for NoSecrets {
    fn subscribe(&self, _: &SecretRef) -> watch::Receiver<SecretState> {
        watch::channel(SecretState::Pending("test".into())).1
    }
}

#[tokio::test]
async fn the_builtin_proxy_takes_the_collectors_that_it_can_tell() {
    for (config, expected) in [
        ("{}", vec![]),
        ("tracing: {datadog: {address: 'd:1'}}", vec![]),
        (
            "tracing: {lightstep: {address: 'l:1', accessToken: t}}",
            vec![],
        ),
        ("envoyMetricsService: {address: 'm:1'}", vec![]),
        ("tracing: {zipkin: {address: 'z:1'}}", vec!["zipkin"]),
        (
            "tracing: {zipkin: {address: 'z:1'}, tlsSettings: {mode: ISTIO_MUTUAL}}",
            vec!["zipkin"],
        ),
        (
            "tracing: {zipkin: {address: 'z:1'}, tlsSettings: {mode: SIMPLE, caCertificates: /ca.pem, sni: z}}",
            vec!["zipkin"],
        ),
        (
            "tracing: {zipkin: {address: '$(HOST_IP):1'}, tlsSettings: {mode: ISTIO_MUTUAL, subjectAltNames: ['', spiffe://td/z]}}",
            vec!["zipkin"],
        ),
        // Nobody vouches for who answers.
        (
            "tracing: {zipkin: {address: 'z:1'}, tlsSettings: {mode: SIMPLE}}",
            vec![],
        ),
        (
            "tracing: {zipkin: {address: 'z:1'}, tlsSettings: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}}",
            vec!["zipkin"],
        ),
        (
            "{tracing: {zipkin: {address: 'z:1'}}, envoyAccessLogService: {address: 'a:1', tcpKeepalive: {probes: 3}, tlsSettings: {mode: ISTIO_MUTUAL}}}",
            vec!["zipkin", "envoy_accesslog_service"],
        ),
    ] {
        let bootstrap = started(vec![("PROXY_CONFIG", config)]).await;
        assert_eq!(clusters(&bootstrap), expected, "{config}");
        #[expect(deprecated, reason = "Envoy has no other field for it")]
        let has_tracer = bootstrap.tracing.is_some();
        assert_eq!(has_tracer, expected.contains(&"zipkin"), "{config}");
    }
}

#[tokio::test]
async fn the_builtin_proxy_finds_its_own_endpoints() {
    let bootstrap = started(vec![("ISTIO_META_ENABLE_SELF_DISCOVERY", "true")]).await;
    assert_eq!(clusters(&bootstrap), ["local_cluster"]);
    let manager = bootstrap.cluster_manager.expect("it names its cluster");
    assert_eq!(manager.local_cluster_name, "local_cluster");
}

#[tokio::test]
async fn the_builtin_proxy_serves_metrics_over_tls() {
    let port = || ithildin_sys::port::unused().unwrap().to_string().leak();
    let variables = vec![
        ("ENVOY_SECURE_METRICS_PORT", &*port()),
        ("ENVOY_SECURE_MERGED_METRICS_PORT", &*port()),
    ];
    let bootstrap = started(variables).await;
    assert_eq!(clusters(&bootstrap), ["prometheus_stats", "agent"]);
    assert_eq!(bootstrap.static_resources.unwrap().listeners.len(), 2);
}

/// What it starts from with these variables, after it did.
async fn started(variables: Vec<(&'static str, &'static str)>) -> Bootstrap {
    let case = Case::config("builtin", variables.leak(), vec![]);
    let mut bootstrap = builtin(&case.settings().unwrap()).unwrap();
    // Its port may be another's.
    bootstrap.admin = None;
    let proxy = Proxy::start(ProxyOptions {
        bootstrap: bootstrap.clone(),
        resources: watch::channel(Arc::default()).1,
        secrets: Arc::new(NoSecrets),
        concurrency: 1,
        drain_time: Duration::ZERO,
    });
    let proxy = proxy
        .await
        .unwrap_or_else(|error| panic!("{:?}: {error}", case.env));
    proxy.shutdown(Duration::ZERO).await;
    bootstrap
}

fn clusters(bootstrap: &Bootstrap) -> Vec<&str> {
    let resources = bootstrap.static_resources.as_ref().unwrap();
    resources
        .clusters
        .iter()
        .map(|it| it.name.as_str())
        .collect()
}
