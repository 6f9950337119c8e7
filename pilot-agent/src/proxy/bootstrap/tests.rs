use std::{fs, process::Command};

use ithildin_sys::interfaces::InterfaceAddress;
use serde_json::{Value, json};

use super::*;
use crate::proxy::{args, settings::Host};

mod of_builtin;

/// One input, and what it changes: paths into the bootstrap and what is there then.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    annotations: &'static [(&'static str, &'static str)],
    /// `null`: nothing is there.
    changes: Vec<(&'static str, Value)>,
    /// Only Istio's build of Envoy has it.
    only_istio: bool,
}

impl Case {
    fn new(name: &'static str, changes: Vec<(&'static str, Value)>) -> Self {
        Self {
            name,
            args: &[],
            env: &[],
            annotations: &[],
            changes,
            only_istio: false,
        }
    }

    fn config(
        name: &'static str,
        env: &'static [(&'static str, &'static str)],
        changes: Vec<(&'static str, Value)>,
    ) -> Self {
        Self {
            env,
            ..Self::new(name, changes)
        }
    }

    fn annotated(
        name: &'static str,
        annotations: &'static [(&'static str, &'static str)],
        changes: Vec<(&'static str, Value)>,
    ) -> Self {
        Self {
            annotations,
            ..Self::new(name, changes)
        }
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let words = ["--dataPlane=envoy"].iter().chain(self.args).copied();
        let mut args = args::tests::parse(&words.collect::<Vec<_>>())?;
        args.log_as_json = self.name == "log as JSON";
        let mut host = Host::default();
        for (name, value) in self.annotations {
            host.annotations.insert((*name).into(), (*value).into());
        }
        let ips = self.env.iter().find(|(name, _)| *name == "INSTANCE_IP");
        let ips = ips.map_or("10.0.0.7", |(_, ips)| ips);
        host.interfaces = ips.split(',').map(interface).collect();
        let pod = [("INSTANCE_IP", ips), ("ISTIO_META_CLUSTER_ID", "c1")];
        let env = pod.iter().chain(self.env).copied().collect();
        Settings::resolve_on(&args, &env, &host)
    }

    fn generate(&self) -> anyhow::Result<Value> {
        let settings = self.settings()?;
        let sockets = Sockets {
            xds: "./etc/istio/proxy/XDS".into(),
            sds: "./var/run/secrets/workload-spiffe-uds/socket".into(),
        };
        envoy(&settings, &sockets)
    }
}

fn interface(ip: &str) -> InterfaceAddress {
    InterfaceAddress {
        interface: "eth0".into(),
        ip: ip.parse().unwrap(),
        up: true,
        loopback: false,
    }
}

const CLUSTERS: &str = "/static_resources/clusters";

fn cases() -> Vec<Case> {
    let mut cases = tracing_and_services();
    cases.extend(statistics());
    cases.extend(runtime_and_limits());
    cases.extend(addresses_and_listeners());
    cases
}

fn tracing_and_services() -> Vec<Case> {
    let address =
        |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
    let endpoint = |cluster: usize| -> &'static str {
        match cluster {
            4 => {
                "/static_resources/clusters/4/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address"
            }
            _ => {
                "/static_resources/clusters/5/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address"
            }
        }
    };
    vec![
        Case::config(
            "zipkin",
            &[(
                "PROXY_CONFIG",
                "tracing: {zipkin: {address: 'zipkin.obs:9411'}}",
            )],
            vec![
                ("/static_resources/clusters/4/name", json!("zipkin")),
                (
                    "/static_resources/clusters/4/dns_refresh_rate",
                    json!("30s"),
                ),
                (endpoint(4), address("zipkin.obs", 9411)),
                ("/tracing/http/name", json!("envoy.tracers.zipkin")),
                (
                    "/tracing/http/typed_config/collector_endpoint",
                    json!("/api/v2/spans"),
                ),
            ],
        ),
        Case::config(
            "datadog on this host",
            &[
                (
                    "PROXY_CONFIG",
                    "tracing: {datadog: {address: '$(HOST_IP):8126'}}",
                ),
                ("HOST_IP", "10.9.9.9"),
            ],
            vec![
                ("/static_resources/clusters/4/name", json!("datadog_agent")),
                (endpoint(4), address("10.9.9.9", 8126)),
                (
                    "/tracing/http/typed_config/service_name",
                    json!("istio-proxy.default"),
                ),
            ],
        ),
        Case {
            // Envoy dropped this tracer; Istio's template still has it.
            only_istio: true,
            ..Case::config(
                "lightstep",
                &[(
                    "PROXY_CONFIG",
                    "tracing: {lightstep: {address: 'l:443', accessToken: t}, tlsSettings: {mode: SIMPLE, caCertificates: /ca.pem, sni: l}}",
                )],
                vec![
                    ("/static_resources/clusters/4/name", json!("lightstep")),
                    (
                        "/static_resources/clusters/4/transport_socket/typed_config/sni",
                        json!("l"),
                    ),
                    (
                        "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/alpn_protocols",
                        json!(["h2"]),
                    ),
                    (
                        "/tracing/http/typed_config/access_token_file",
                        json!("./etc/istio/proxy/lightstep_access_token.txt"),
                    ),
                ],
            )
        },
        Case::config(
            "tracing that istiod configures",
            &[(
                "PROXY_CONFIG",
                "tracing: {openCensusAgent: {address: 'o:1'}}",
            )],
            vec![
                ("/tracing", Value::Null),
                ("/static_resources/clusters/4", Value::Null),
            ],
        ),
        Case::config(
            "tracing over the mesh's TLS",
            &[(
                "PROXY_CONFIG",
                "tracing: {zipkin: {address: 'z:1'}, tlsSettings: {mode: ISTIO_MUTUAL, subjectAltNames: [a, b]}}",
            )],
            vec![
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/sni",
                    json!("tracer"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs/0/name",
                    json!("default"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/combined_validation_context/validation_context_sds_secret_config/name",
                    json!("ROOTCA"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/combined_validation_context/default_validation_context/match_subject_alt_names",
                    json!([{"exact": "a"}, {"exact": "b"}]),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/alpn_protocols",
                    Value::Null,
                ),
                // However late the identity is.
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs/0/sds_config/initial_fetch_timeout",
                    json!("0s"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/combined_validation_context/validation_context_sds_secret_config/sds_config/initial_fetch_timeout",
                    json!("0s"),
                ),
            ],
        ),
        Case::config(
            "metrics service",
            &[(
                "PROXY_CONFIG",
                "envoyMetricsService: {address: 'm.obs:15000', tcpKeepalive: {probes: 3, time: 10s, interval: 11s}}",
            )],
            vec![
                (
                    "/static_resources/clusters/4/name",
                    json!("envoy_metrics_service"),
                ),
                (
                    "/static_resources/clusters/4/upstream_connection_options/tcp_keepalive",
                    json!({"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 11}),
                ),
                (
                    "/stats_sinks/0/name",
                    json!("envoy.stat_sinks.metrics_service"),
                ),
            ],
        ),
        Case::config(
            "access log service with mutual TLS",
            &[(
                "PROXY_CONFIG",
                "envoyAccessLogService: {address: 'als:15000', tlsSettings: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /r.pem, sni: als}}",
            )],
            vec![
                (
                    "/static_resources/clusters/4/name",
                    json!("envoy_accesslog_service"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs/0/name",
                    json!("file-cert:/c.pem~/k.pem"),
                ),
                (
                    "/static_resources/clusters/4/transport_socket/typed_config/common_tls_context/combined_validation_context/validation_context_sds_secret_config/name",
                    json!("file-root:/r.pem"),
                ),
                ("/stats_sinks", Value::Null),
            ],
        ),
        Case::config(
            "metrics and access log services",
            &[(
                "PROXY_CONFIG",
                "{envoyMetricsService: {address: 'm:1'}, envoyAccessLogService: {address: 'a:2'}}",
            )],
            vec![
                (endpoint(4), address("m", 1)),
                (endpoint(5), address("a", 2)),
            ],
        ),
        Case::config(
            "statsd",
            &[("PROXY_CONFIG", "statsdUdpAddress: '10.1.1.1:9125'")],
            vec![
                ("/stats_sinks/0/name", json!("envoy.stat_sinks.statsd")),
                (
                    "/stats_sinks/0/typed_config/address",
                    address("10.1.1.1", 9125),
                ),
            ],
        ),
    ]
}

fn statistics() -> Vec<Case> {
    let patterns = "/stats_config/stats_matcher/inclusion_list/patterns";
    vec![
        Case::config(
            "extra tags",
            &[("PROXY_CONFIG", "extraStatTags: [dlp_status, dlp_error]")],
            vec![
                (
                    "/stats_config/stats_tags/9",
                    json!({"tag_name": "dlp_status", "regex": r"(dlp_status=\.=(.*?);\.;)"}),
                ),
                ("/stats_config/stats_tags/10/tag_name", json!("dlp_error")),
                ("/stats_config/stats_tags/11/tag_name", json!("cache")),
            ],
        ),
        Case {
            env: &[("PROXY_CONFIG", "extraStatTags: [a]")],
            ..Case::annotated(
                "extra tags by annotation",
                &[("sidecar.istio.io/extraStatTags", "a,b")],
                vec![
                    ("/stats_config/stats_tags/9/tag_name", json!("a")),
                    ("/stats_config/stats_tags/10/tag_name", json!("b")),
                    ("/stats_config/stats_tags/11/tag_name", json!("cache")),
                ],
            )
        },
        Case::config(
            "statistics to include",
            &[(
                "PROXY_CONFIG",
                "proxyStatsMatcher: {inclusionPrefixes: ['http.{pod_ip}_'], inclusionSuffixes: [upstream_rq], inclusionRegexps: ['a.*']}",
            )],
            vec![
                (pattern(1), json!({"prefix": "http.10.0.0.7_"})),
                (pattern(2), json!({"prefix": "cluster_manager"})),
                (pattern(7), json!({"suffix": "upstream_rq"})),
                (pattern(12), json!({"safe_regex": {"regex": "a.*"}})),
                (
                    pattern(13),
                    json!({"safe_regex": {"regex": r"vhost\..*\.route\..*"}}),
                ),
            ],
        ),
        Case {
            env: &[(
                "PROXY_CONFIG",
                "proxyStatsMatcher: {inclusionPrefixes: [lost], inclusionSuffixes: [kept]}",
            )],
            ..Case::annotated(
                "annotations in place of the matcher",
                &[("sidecar.istio.io/statsInclusionPrefixes", "a,b")],
                vec![
                    (pattern(1), json!({"prefix": "a"})),
                    (pattern(2), json!({"prefix": "b"})),
                    (pattern(3), json!({"prefix": "cluster_manager"})),
                    (pattern(8), json!({"suffix": "kept"})),
                ],
            )
        },
        Case::annotated(
            "regular expressions by annotation",
            &[(
                "sidecar.istio.io/statsInclusionRegexps",
                "http.[0-9]*\\.[0-9]*",
            )],
            vec![(
                pattern(10),
                json!({"safe_regex": {"regex": r"http.[0-9]*\.[0-9]*"}}),
            )],
        ),
        Case::config(
            "active connections when draining counts them",
            &[("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")],
            vec![
                (pattern(10), json!({"suffix": "downstream_cx_active"})),
                (
                    "/node/metadata/EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
                    json!("true"),
                ),
                (patterns, Value::Bool(true)),
            ],
        ),
        Case::annotated(
            "histogram buckets",
            &[(
                "sidecar.istio.io/statsHistogramBuckets",
                r#"{"istiocustom":[1,5,10],"cluster.xds-grpc":[1,5]}"#,
            )],
            vec![(
                "/stats_config/histogram_bucket_settings",
                json!([
                    {"match": {"prefix": "cluster.xds-grpc"}, "buckets": [1.0, 5.0]},
                    {"match": {"prefix": "istiocustom"}, "buckets": [1.0, 5.0, 10.0]},
                ]),
            )],
        ),
        Case::annotated(
            "flush and eviction",
            &[
                ("sidecar.istio.io/statsFlushInterval", "10s"),
                ("sidecar.istio.io/statsEvictionInterval", "1m"),
            ],
            vec![
                ("/stats_flush_interval", json!("10s")),
                ("/stats_eviction_interval", json!("60s")),
            ],
        ),
        Case::annotated(
            "an eviction that is no multiple",
            &[("sidecar.istio.io/statsEvictionInterval", "7s")],
            vec![("/stats_eviction_interval", Value::Null)],
        ),
        Case::annotated(
            "a flush interval that is none",
            &[("sidecar.istio.io/statsFlushInterval", "often")],
            vec![("/stats_flush_interval", Value::Null)],
        ),
        Case::config(
            "no compression",
            &[("PROXY_CONFIG", "statsCompression: false")],
            vec![(
                "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/name",
                json!("envoy.filters.http.router"),
            )],
        ),
    ]
}

fn pattern(index: usize) -> &'static str {
    const PATTERNS: [&str; 14] = [
        "/stats_config/stats_matcher/inclusion_list/patterns/0",
        "/stats_config/stats_matcher/inclusion_list/patterns/1",
        "/stats_config/stats_matcher/inclusion_list/patterns/2",
        "/stats_config/stats_matcher/inclusion_list/patterns/3",
        "/stats_config/stats_matcher/inclusion_list/patterns/4",
        "/stats_config/stats_matcher/inclusion_list/patterns/5",
        "/stats_config/stats_matcher/inclusion_list/patterns/6",
        "/stats_config/stats_matcher/inclusion_list/patterns/7",
        "/stats_config/stats_matcher/inclusion_list/patterns/8",
        "/stats_config/stats_matcher/inclusion_list/patterns/9",
        "/stats_config/stats_matcher/inclusion_list/patterns/10",
        "/stats_config/stats_matcher/inclusion_list/patterns/11",
        "/stats_config/stats_matcher/inclusion_list/patterns/12",
        "/stats_config/stats_matcher/inclusion_list/patterns/13",
    ];
    PATTERNS[index]
}

fn runtime_and_limits() -> Vec<Case> {
    let limit =
        "/overload_manager/resource_monitors/0/typed_config/max_active_downstream_connections";
    let flags = "/layered_runtime/layers/0/static_layer";
    vec![
        Case::config(
            "runtime values",
            &[(
                "PROXY_CONFIG",
                "runtimeValues: {a: 'true', b: '5', re2.max_program_size.error_level: ''}",
            )],
            vec![(
                flags,
                json!({
                    "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": true,
                    "envoy.reloadable_features.http_reject_path_with_fragment": false,
                    "envoy.reloadable_features.fixed_heap_use_allocated": true,
                    "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": false,
                    "a": true,
                    "b": "5",
                }),
            )],
        ),
        Case::config(
            "FIPS",
            &[("COMPLIANCE_POLICY", "fips-140-2")],
            vec![(
                "/layered_runtime/layers/0/static_layer/envoy.reloadable_features.google_grpc_disable_tls_13",
                json!(true),
            )],
        ),
        Case::config(
            "fragments in paths",
            &[("HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED", "false")],
            vec![(
                "/layered_runtime/layers/0/static_layer/envoy.reloadable_features.http_strip_fragment_from_path_unsafe_if_disabled",
                json!("false"),
            )],
        ),
        Case::config(
            "limit of connections by runtime",
            &[(
                "PROXY_CONFIG",
                "runtimeValues: {overload.global_downstream_max_connections: '100'}",
            )],
            vec![(limit, json!(100))],
        ),
        Case::config(
            "limit of connections by metadata",
            &[(
                "PROXY_CONFIG",
                "{runtimeValues: {overload.global_downstream_max_connections: '100'}, proxyMetadata: {ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS: '200'}}",
            )],
            vec![(limit, json!(200))],
        ),
        Case::config(
            "limit of connections by settings",
            &[(
                "PROXY_CONFIG",
                "{connectionSettings: {globalDownstreamConnectionLimit: 300}, proxyMetadata: {ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS: '200'}}",
            )],
            vec![(limit, json!(300))],
        ),
        Case {
            args: &["--outlierLogPath", "/dev/stdout"],
            ..Case::new(
                "log of ejected endpoints",
                vec![
                    (
                        "/cluster_manager/outlier_detection/event_log_path",
                        json!("/dev/stdout"),
                    ),
                    (
                        "/cluster_manager/enable_deferred_cluster_creation",
                        json!(true),
                    ),
                    ("/node/metadata/OUTLIER_LOG_PATH", json!("/dev/stdout")),
                ],
            )
        },
        Case::config(
            "load reports",
            &[(
                "ISTIO_META_LOAD_STATS_CONFIG_JSON",
                r#"{"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}"#,
            )],
            vec![("/cluster_manager/load_stats_config/api_type", json!("GRPC"))],
        ),
        Case::config(
            "own endpoints",
            &[("ISTIO_META_ENABLE_SELF_DISCOVERY", "true")],
            vec![
                (
                    "/cluster_manager/local_cluster_name",
                    json!("local_cluster"),
                ),
                ("/static_resources/clusters/4/name", json!("local_cluster")),
            ],
        ),
        Case::config(
            "state-of-the-world xDS",
            &[("ISTIO_DELTA_XDS", "false")],
            vec![("/dynamic_resources/ads_config/api_type", json!("GRPC"))],
        ),
        Case {
            only_istio: true,
            ..Case::config(
                "metadata of workloads",
                &[("PEER_METADATA_DISCOVERY", "true")],
                vec![
                    ("/bootstrap_extensions/0/name", json!("metadata_discovery")),
                    (
                        "/bootstrap_extensions/1/name",
                        json!("envoy.bootstrap.internal_listener"),
                    ),
                    (pattern(1), json!({"prefix": "workload_discovery"})),
                ],
            )
        },
        Case::config(
            "metadata of workloads, which old xDS has not",
            &[
                ("PEER_METADATA_DISCOVERY", "true"),
                ("ISTIO_DELTA_XDS", "false"),
            ],
            vec![(
                "/bootstrap_extensions/0/name",
                json!("envoy.bootstrap.internal_listener"),
            )],
        ),
        Case {
            args: &["waypoint"],
            env: &[("ISTIO_DELTA_XDS", "false")],
            only_istio: true,
            ..Case::new(
                "a waypoint",
                vec![
                    (
                        "/dynamic_resources/ads_config/api_type",
                        json!("DELTA_GRPC"),
                    ),
                    ("/bootstrap_extensions/0/name", json!("metadata_discovery")),
                    (
                        "/node/id",
                        json!("waypoint~10.0.0.7~proxy.default~default.svc.cluster.local"),
                    ),
                ],
            )
        },
        Case::new(
            "log as JSON",
            vec![
                (
                    "/application_log_config/log_format/text_format",
                    Value::Null,
                ),
                (
                    "/application_log_config/log_format/json_format/msg",
                    json!("%j"),
                ),
            ],
        ),
    ]
}

fn addresses_and_listeners() -> Vec<Case> {
    let first = "/static_resources/listeners/0/name";
    vec![
        Case::config(
            "other ports",
            &[
                ("PROXY_CONFIG", "{proxyAdminPort: 15001, statusPort: 15002}"),
                ("ENVOY_STATUS_PORT", "15003"),
                ("ENVOY_PROMETHEUS_PORT", "15004"),
            ],
            vec![
                ("/admin/address/socket_address/port_value", json!(15001)),
                (first, json!("0.0.0.0_15004")),
                ("/static_resources/listeners/1/name", json!("0.0.0.0_15003")),
            ],
        ),
        Case::config(
            "version 6 alone",
            &[("INSTANCE_IP", "fd00::7")],
            vec![
                ("/admin/address/socket_address/address", json!("::1")),
                (first, json!("::_15090")),
                (
                    "/static_resources/listeners/1/address/socket_address/address",
                    json!("::"),
                ),
            ],
        ),
        Case::config(
            "dual stack",
            &[
                ("INSTANCE_IP", "10.0.0.7,fd00::7"),
                ("ISTIO_DUAL_STACK", "true"),
            ],
            vec![
                (first, json!("0.0.0.0_15090")),
                (
                    "/static_resources/listeners/0/additional_addresses/0/address/socket_address/address",
                    json!("::"),
                ),
                (
                    "/static_resources/listeners/1/additional_addresses/0/address/socket_address/port_value",
                    json!(15021),
                ),
            ],
        ),
        Case::config(
            "dual stack, version 6 first",
            &[
                ("INSTANCE_IP", "fd00::7,10.0.0.7"),
                ("ISTIO_DUAL_STACK", "true"),
                ("PROXY_CONFIG", "tracing: {zipkin: {address: 'z:1'}}"),
            ],
            vec![
                (first, json!("::_15090")),
                (
                    "/static_resources/listeners/0/additional_addresses/0/address/socket_address/address",
                    json!("0.0.0.0"),
                ),
                (
                    "/static_resources/clusters/4/dns_lookup_family",
                    json!("ALL"),
                ),
            ],
        ),
        Case::config(
            "both versions without dual stack",
            &[("INSTANCE_IP", "fd00::7,10.0.0.7")],
            vec![
                (first, json!("0.0.0.0_15090")),
                (
                    "/static_resources/listeners/0/additional_addresses",
                    Value::Null,
                ),
            ],
        ),
        Case::config(
            "metrics for this host",
            &[("METRICS_LOCALHOST_ACCESS_ONLY", "true")],
            vec![(first, json!("127.0.0.1_15090"))],
        ),
        Case::config(
            "metrics over TLS",
            &[
                ("ENVOY_SECURE_METRICS_PORT", "15091"),
                ("ENVOY_SECURE_MERGED_METRICS_PORT", "15092"),
            ],
            vec![
                ("/static_resources/listeners/1/name", json!("0.0.0.0_15091")),
                ("/static_resources/listeners/2/name", json!("0.0.0.0_15092")),
                (
                    "/static_resources/listeners/2/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/1/route/cluster",
                    json!("agent"),
                ),
                (
                    "/static_resources/listeners/1/filter_chains/0/transport_socket/typed_config/require_client_certificate",
                    json!(true),
                ),
                ("/node/metadata/ENVOY_SECURE_METRICS_PORT", json!(15091)),
            ],
        ),
        Case::config(
            "probes behind the PROXY protocol",
            &[("ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL", "true")],
            vec![(
                "/static_resources/listeners/1/listener_filters/0/name",
                json!("envoy.listener.proxy_protocol"),
            )],
        ),
        Case::config(
            "file certificates beside other identities",
            &[("ISTIO_METAJSON_X", r#"{"file-credential": "true"}"#)],
            vec![
                ("/static_resources/clusters/3/name", json!("sds-files-grpc")),
                ("/static_resources/clusters/4/name", json!("xds-grpc")),
            ],
        ),
    ]
}

#[test]
fn each_input_changes_what_it_says() {
    let default = Case::new("default", vec![]).generate().unwrap();
    for case in cases() {
        let bootstrap = case.generate().unwrap();
        let mut changed = false;
        for (path, expected) in &case.changes {
            let found = bootstrap.pointer(path).unwrap_or(&Value::Null);
            if *expected == Value::Bool(true) && found.is_array() {
                continue;
            }
            assert_eq!(found, expected, "{}: {path}", case.name);
            changed |= default.pointer(path).unwrap_or(&Value::Null) != expected;
        }
        let none = [
            "no multiple",
            "is none",
            "old xDS",
            "that istiod",
            "without dual",
        ];
        let expected = !none.iter().any(|text| case.name.contains(text));
        assert_eq!(changed, expected, "{}: the default says it too", case.name);
    }
}

#[test]
fn there_are_enough_cases_with_names_of_their_own() {
    let cases = cases();
    let names: std::collections::BTreeSet<_> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len());
    assert!(names.len() >= 25, "{}", names.len());
}

/// Beside our sockets, the default is what Istio's template makes of the same node.
#[test]
fn the_default_has_istios_parts() {
    let bootstrap = Case::new("default", vec![]).generate().unwrap();
    let names = |path: &str| {
        let list = bootstrap.pointer(path).and_then(Value::as_array).unwrap();
        list.iter()
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(CLUSTERS),
        ["prometheus_stats", "agent", "sds-grpc", "xds-grpc"]
    );
    assert_eq!(
        names("/static_resources/listeners"),
        ["0.0.0.0_15090", "0.0.0.0_15021"]
    );
    let patterns = bootstrap.pointer("/stats_config/stats_matcher/inclusion_list/patterns");
    assert_eq!(patterns.and_then(Value::as_array).unwrap().len(), 13);
    let tags = bootstrap.pointer("/stats_config/stats_tags");
    assert_eq!(tags.and_then(Value::as_array).unwrap().len(), 16);
    assert_eq!(bootstrap["cluster_manager"], Value::Null);
    assert_eq!(bootstrap["node"]["locality"], json!({}));
}

#[test]
fn mistakes_name_where_they_are() {
    for (env, annotations, expected) in [
        (
            &[("ISTIO_META_LOAD_STATS_CONFIG_JSON", "{")][..],
            &[][..],
            "ISTIO_META_LOAD_STATS_CONFIG_JSON",
        ),
        (
            &[("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", "many")],
            &[],
            "GLOBAL_DOWNSTREAM_MAX_CONNECTIONS",
        ),
        (
            &[],
            &[("sidecar.istio.io/statsHistogramBuckets", "[]")],
            "annotation sidecar.istio.io/statsHistogramBuckets",
        ),
    ] {
        let case = Case {
            env,
            annotations,
            ..Case::new("mistake", vec![])
        };
        let error = format!("{:#}", case.generate().unwrap_err());
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_template_of_the_user_is_refused() {
    let error =
        refuse_template(Path::new("/etc/istio/custom-bootstrap/custom.json.tmpl")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("custom.json.tmpl") && text.contains("customConfigFile"),
        "{text}"
    );
    for default in [
        "./var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
        "/x/envoy_bootstrap.json",
    ] {
        refuse_template(Path::new(default)).unwrap();
    }
}

#[test]
fn envoy_accepts_each() {
    let Some(envoy) = std::env::var_os("ENVOY_BIN") else {
        eprintln!("SKIPPED: envoy_accepts_each needs ENVOY_BIN");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let default = Case::new("default", vec![]);
    for case in std::iter::once(default)
        .chain(cases())
        .filter(|case| !case.only_istio)
    {
        let file = folder.path().join("bootstrap.json");
        fs::write(&file, case.generate().unwrap().to_string()).unwrap();
        let out = Command::new(&envoy)
            .args([
                "--mode",
                "validate",
                "--disable-hot-restart",
                "-l",
                "critical",
                "-c",
            ])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: {text}", case.name);
    }
}
