//! The fields of Istio's `ProxyConfig` (`istio.mesh.v1alpha1`), and how protobuf's JSON writes them.
//!
//! A table in place of generated code: nothing here is ever sent as protobuf, and a table can name the
//! field that is wrong.

/// What a field holds.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    Bool,
    /// A whole number within bounds.
    Number(i64, i64),
    Double,
    /// `google.protobuf.Duration`, also as Go writes it (`1m30s`).
    Duration,
    /// Values by number, from 0; `""` where there is none.
    Enum(&'static [&'static str]),
    Message(&'static [Field]),
    List(&'static Self),
    Map(&'static Self),
}

#[derive(Debug)]
pub(super) struct Field {
    /// As in the `.proto` file; `snake_case`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Its default value says something else than its absence (wrappers and messages).
    pub(super) explicit: bool,
    /// Of fields with one group, one is set.
    pub(super) oneof: Option<&'static str>,
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        explicit: false,
        oneof: None,
    }
}

/// A wrapper, such as `google.protobuf.BoolValue`.
const fn wrapped(name: &'static str, kind: Kind) -> Field {
    Field {
        explicit: true,
        ..field(name, kind)
    }
}

const fn one_of(group: &'static str, name: &'static str, kind: Kind) -> Field {
    Field {
        explicit: true,
        oneof: Some(group),
        ..field(name, kind)
    }
}

impl Field {
    /// The name in JSON: `lowerCamelCase`.
    pub(super) fn json_name(&self) -> String {
        let mut name = String::with_capacity(self.name.len());
        let mut upper = false;
        for c in self.name.chars() {
            match c {
                '_' => upper = true,
                c if upper => {
                    name.push(c.to_ascii_uppercase());
                    upper = false;
                }
                c => name.push(c),
            }
        }
        name
    }
}

const INT32: Kind = Kind::Number(i32::MIN as i64, i32::MAX as i64);
const UINT32: Kind = Kind::Number(0, u32::MAX as i64);
const INT64: Kind = Kind::Number(i64::MIN, i64::MAX);
/// Istio's type is wider, but nothing else makes sense.
const PORT: Kind = Kind::Number(0, u16::MAX as i64);
const COUNT: Kind = Kind::Number(0, i32::MAX as i64);
const TEXTS: Kind = Kind::List(&Kind::Text);

const DISABLED: Kind = Kind::Message(&[wrapped("disabled", Kind::Bool)]);
const ENABLED: Kind = Kind::Message(&[wrapped("enabled", Kind::Bool)]);
const ADDRESS: Kind = Kind::Message(&[field("address", Kind::Text)]);
const NAME_AND_DEFAULT: Kind = Kind::Message(&[
    field("name", Kind::Text),
    field("default_value", Kind::Text),
]);
const POLLED: Kind = Kind::Message(&[
    field("poll_delay", Kind::Duration),
    wrapped("fallback", Kind::Bool),
]);

const FORWARD_CLIENT_CERT: Kind = Kind::Enum(&[
    "UNDEFINED",
    "SANITIZE",
    "FORWARD_ONLY",
    "APPEND_FORWARD",
    "SANITIZE_SET",
    "ALWAYS_FORWARD_ONLY",
]);

const TLS_SETTINGS: Kind = Kind::Message(&[
    field(
        "mode",
        Kind::Enum(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
    ),
    field("client_certificate", Kind::Text),
    field("private_key", Kind::Text),
    field("ca_certificates", Kind::Text),
    field("credential_name", Kind::Text),
    field("subject_alt_names", TEXTS),
    field("sni", Kind::Text),
    wrapped("insecure_skip_verify", Kind::Bool),
    field("ca_crl", Kind::Text),
]);

const REMOTE_SERVICE: Kind = Kind::Message(&[
    field("address", Kind::Text),
    wrapped("tls_settings", TLS_SETTINGS),
    wrapped(
        "tcp_keepalive",
        Kind::Message(&[
            field("probes", UINT32),
            field("time", Kind::Duration),
            field("interval", Kind::Duration),
        ]),
    ),
]);

const TRACING: Kind = Kind::Message(&[
    one_of("tracer", "zipkin", ADDRESS),
    one_of(
        "tracer",
        "lightstep",
        Kind::Message(&[
            field("address", Kind::Text),
            field("access_token", Kind::Text),
        ]),
    ),
    one_of("tracer", "datadog", ADDRESS),
    one_of(
        "tracer",
        "stackdriver",
        Kind::Message(&[
            field("debug", Kind::Bool),
            wrapped("max_number_of_attributes", INT64),
            wrapped("max_number_of_annotations", INT64),
            wrapped("max_number_of_message_events", INT64),
        ]),
    ),
    one_of(
        "tracer",
        "open_census_agent",
        Kind::Message(&[
            field("address", Kind::Text),
            field(
                "context",
                Kind::List(&Kind::Enum(&[
                    "UNSPECIFIED",
                    "W3C_TRACE_CONTEXT",
                    "GRPC_BIN",
                    "CLOUD_TRACE_CONTEXT",
                    "B3",
                ])),
            ),
        ]),
    ),
    field(
        "custom_tags",
        Kind::Map(&Kind::Message(&[
            one_of(
                "type",
                "literal",
                Kind::Message(&[field("value", Kind::Text)]),
            ),
            one_of("type", "environment", NAME_AND_DEFAULT),
            one_of("type", "header", NAME_AND_DEFAULT),
        ])),
    ),
    field("max_path_tag_length", UINT32),
    field("sampling", Kind::Double),
    wrapped("tls_settings", TLS_SETTINGS),
    wrapped("enable_istio_tags", Kind::Bool),
]);

const READINESS_PROBE: Kind = Kind::Message(&[
    field("initial_delay_seconds", COUNT),
    field("timeout_seconds", COUNT),
    field("period_seconds", COUNT),
    field("success_threshold", COUNT),
    field("failure_threshold", COUNT),
    one_of(
        "health_check_method",
        "http_get",
        Kind::Message(&[
            field("path", Kind::Text),
            field("port", PORT),
            field("host", Kind::Text),
            field("scheme", Kind::Text),
            field(
                "http_headers",
                Kind::List(&Kind::Message(&[
                    field("name", Kind::Text),
                    field("value", Kind::Text),
                ])),
            ),
        ]),
    ),
    one_of(
        "health_check_method",
        "tcp_socket",
        Kind::Message(&[field("host", Kind::Text), field("port", PORT)]),
    ),
    one_of(
        "health_check_method",
        "exec",
        Kind::Message(&[field("command", TEXTS)]),
    ),
    one_of(
        "health_check_method",
        "grpc",
        Kind::Message(&[field("port", PORT), field("service", Kind::Text)]),
    ),
]);

const PROXY_HEADERS: Kind = Kind::Message(&[
    field("forwarded_client_cert", FORWARD_CLIENT_CERT),
    wrapped(
        "set_current_client_cert_details",
        Kind::Message(&[
            wrapped("subject", Kind::Bool),
            wrapped("cert", Kind::Bool),
            wrapped("chain", Kind::Bool),
            wrapped("dns", Kind::Bool),
            wrapped("uri", Kind::Bool),
        ]),
    ),
    wrapped("request_id", DISABLED),
    wrapped(
        "server",
        Kind::Message(&[wrapped("disabled", Kind::Bool), field("value", Kind::Text)]),
    ),
    wrapped("attempt_count", DISABLED),
    wrapped("envoy_debug_headers", DISABLED),
    wrapped(
        "metadata_exchange_headers",
        Kind::Message(&[field("mode", Kind::Enum(&["UNDEFINED", "IN_MESH"]))]),
    ),
    wrapped("preserve_http1_header_case", Kind::Bool),
    wrapped("x_forwarded_host", ENABLED),
    wrapped("x_forwarded_port", ENABLED),
]);

const CONNECTION_SETTINGS: Kind = Kind::Message(&[
    field("profile", Kind::Enum(&["SIDECAR", "EDGE"])),
    wrapped("listener_per_connection_buffer_limit_bytes", INT32),
    wrapped("cluster_per_connection_buffer_limit_bytes", INT32),
    field("http_idle_timeout", Kind::Duration),
    field("http_max_connection_duration", Kind::Duration),
    field("http_drain_timeout", Kind::Duration),
    field("http_request_timeout", Kind::Duration),
    field("http_request_headers_timeout", Kind::Duration),
    field("http_stream_idle_timeout", Kind::Duration),
    field("http_max_stream_duration", Kind::Duration),
    wrapped("http_max_concurrent_streams", INT32),
    wrapped("http2_initial_stream_window_size", INT32),
    wrapped("http2_initial_connection_window_size", INT32),
    field(
        "http_headers_with_underscores_action",
        Kind::Enum(&[
            "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
            "HEADERS_WITH_UNDERSCORES_ALLOW",
            "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
            "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
        ]),
    ),
    wrapped("http_merge_slashes", Kind::Bool),
    field(
        "http_path_with_escaped_slashes_action",
        Kind::Enum(&[
            "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
        ]),
    ),
    wrapped("listener_connection_limit", INT32),
    wrapped("global_downstream_connection_limit", COUNT),
]);

pub(super) const PROXY_CONFIG: &[Field] = &[
    field("config_path", Kind::Text),
    field("binary_path", Kind::Text),
    one_of("cluster_name", "service_cluster", Kind::Text),
    one_of(
        "cluster_name",
        "tracing_service_name",
        Kind::Enum(&[
            "APP_LABEL_AND_NAMESPACE",
            "CANONICAL_NAME_ONLY",
            "CANONICAL_NAME_AND_NAMESPACE",
        ]),
    ),
    field("drain_duration", Kind::Duration),
    field("discovery_address", Kind::Text),
    field("discovery_refresh_delay", Kind::Duration),
    field("zipkin_address", Kind::Text),
    field("statsd_udp_address", Kind::Text),
    field("envoy_metrics_service_address", Kind::Text),
    field("proxy_admin_port", PORT),
    field("availability_zone", Kind::Text),
    field(
        "control_plane_auth_policy",
        Kind::Enum(&["NONE", "MUTUAL_TLS"]),
    ),
    field("custom_config_file", Kind::Text),
    field("stat_name_length", COUNT),
    wrapped("concurrency", COUNT),
    field("proxy_bootstrap_template_path", Kind::Text),
    field(
        "interception_mode",
        Kind::Enum(&["REDIRECT", "TPROXY", "NONE"]),
    ),
    wrapped("tracing", TRACING),
    wrapped(
        "sds",
        Kind::Message(&[
            field("enabled", Kind::Bool),
            field("k8s_sa_jwt_path", Kind::Text),
        ]),
    ),
    wrapped("envoy_access_log_service", REMOTE_SERVICE),
    wrapped("envoy_metrics_service", REMOTE_SERVICE),
    field("proxy_metadata", Kind::Map(&Kind::Text)),
    field("runtime_values", Kind::Map(&Kind::Text)),
    field("status_port", PORT),
    field("extra_stat_tags", TEXTS),
    wrapped(
        "gateway_topology",
        Kind::Message(&[
            field("num_trusted_proxies", UINT32),
            field("forward_client_cert_details", FORWARD_CLIENT_CERT),
            wrapped("proxy_protocol", Kind::Message(&[])),
        ]),
    ),
    field("termination_drain_duration", Kind::Duration),
    field("mesh_id", Kind::Text),
    wrapped("readiness_probe", READINESS_PROBE),
    wrapped(
        "proxy_stats_matcher",
        Kind::Message(&[
            field("inclusion_prefixes", TEXTS),
            field("inclusion_suffixes", TEXTS),
            field("inclusion_regexps", TEXTS),
        ]),
    ),
    wrapped("hold_application_until_proxy_starts", Kind::Bool),
    field("ca_certificates_pem", TEXTS),
    wrapped("image", Kind::Message(&[field("image_type", Kind::Text)])),
    wrapped(
        "private_key_provider",
        Kind::Message(&[
            one_of("provider", "cryptomb", POLLED),
            one_of("provider", "qat", POLLED),
        ]),
    ),
    wrapped("proxy_headers", PROXY_HEADERS),
    field("file_flush_interval", Kind::Duration),
    field("file_flush_min_size_kb", UINT32),
    wrapped("stats_compression", Kind::Bool),
    wrapped("connection_settings", CONNECTION_SETTINGS),
];
