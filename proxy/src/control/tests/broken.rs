//! Broken configurations, each with the error that the user sees.

use ithildin_proto::{from_yaml, pb::envoy::config::bootstrap::v3::Bootstrap};

use crate::control;

const HCM: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
const CLUSTER: &str = "static_resources.clusters[0]";
const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions.";

/// Fields of the connection manager, and the error behind its path.
const MANAGER: &[(&str, &str)] = &[
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.grpc.v3.HttpGrpcAccessLogConfig}}]",
        ".access_log[0].typed_config.common_config: is required",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.grpc.v3.TcpGrpcAccessLogConfig, common_config: {grpc_service: {envoy_grpc: {cluster_name: a}}}}}]",
        ".access_log[0].typed_config.common_config.log_name: is empty",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, transport_api_version: V2, grpc_service: {envoy_grpc: {cluster_name: a}}}}}]",
        ".access_log[0].typed_config.common_config.transport_api_version: must be V3",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, buffer_flush_interval: 0s, grpc_service: {envoy_grpc: {cluster_name: a}}}}}]",
        ".access_log[0].typed_config.common_config.buffer_flush_interval: must be greater than zero",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {log_name: a, grpc_service: {envoy_grpc: {}}}}}]",
        ".access_log[0].typed_config.common_config.grpc_service.envoy_grpc.cluster_name: is empty",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig}}]",
        ".access_log[0].typed_config: one of http_service, grpc_service and common_config is required",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig, grpc_service: {envoy_grpc: {cluster_name: a}}, body: {int_value: 1}}}]",
        ".access_log[0].typed_config.body: must be a string, an array or a list of keys and values",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig, grpc_service: {envoy_grpc: {cluster_name: a}}, attributes: {values: [{key: a, value: {string_value: '%NOPE%'}}]}}}]",
        ".access_log[0].typed_config.attributes.values[0].value.string_value: unknown command operator %NOPE%",
    ),
    (
        "access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig, http_service: {http_uri: {uri: '/here', cluster: a, timeout: 1s}}}}]",
        ".access_log[0].typed_config.http_service.http_uri.uri: \"http:///here\" is not a URI with scheme and host",
    ),
    (
        "tracing: {provider: {name: t}}",
        ".tracing.provider: provider \"t\" has no typed_config",
    ),
    (
        "tracing: {provider: {name: t, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, grpc_service: {}}}}",
        ".tracing.provider.typed_config.grpc_service: envoy_grpc is required",
    ),
    (
        "tracing: {provider: {name: t, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, grpc_service: {envoy_grpc: {cluster_name: c}}, http_service: {http_uri: {uri: h/p, cluster: c}}}}}",
        ".tracing.provider.typed_config: only one of grpc_service and http_service may be set",
    ),
    (
        "tracing: {provider: {name: t, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, http_service: {http_uri: {uri: 'http://h h/', cluster: c, timeout: 1s}}}}}",
        ".tracing.provider.typed_config.http_service.http_uri.uri: \"http://h h/\" is not a URI with scheme and host",
    ),
    (
        "tracing: {provider: {name: t, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_endpoint_version: HTTP_JSON, collector_cluster: c}}}",
        ".tracing.provider.typed_config.collector_endpoint: is empty",
    ),
    (
        "tracing: {operation: '%NONE%'}",
        ".tracing.operation: unknown command operator %NONE%",
    ),
    (
        "tracing: {custom_tags: [{tag: a}]}",
        ".tracing.custom_tags[0]: has no value",
    ),
    (
        "tracing: {custom_tags: [{tag: a, metadata: {kind: {request: {}}}}]}",
        ".tracing.custom_tags[0].metadata.metadata_key: is required",
    ),
    ("codec_type: HTTP3", ".codec_type: HTTP3 is not supported"),
    (
        "scoped_routes: {name: a}",
        ".scoped_routes: is not supported",
    ),
    (
        "add_user_agent: true",
        ".add_user_agent: true is not supported",
    ),
    (
        "local_reply_config: {body_format: {text_format: x}}",
        ".local_reply_config: is not supported",
    ),
    (
        "strip_matching_host_port: true",
        ".strip_matching_host_port: is not supported",
    ),
    (
        "max_request_headers_kb: 8193",
        ".max_request_headers_kb: 8193 is not from 1 to 8192",
    ),
    (
        "stream_idle_timeout: -1s",
        ".stream_idle_timeout: is not a duration of zero or more seconds, up to 10,000 years",
    ),
    (
        "common_http_protocol_options: {max_response_headers_kb: 5}",
        ".common_http_protocol_options.max_response_headers_kb: is not supported",
    ),
    (
        "http_protocol_options: {header_key_format: {}}",
        ".http_protocol_options.header_key_format: one of proper_case_words and stateful_formatter is required",
    ),
    (
        "http_protocol_options: {header_key_format: {stateful_formatter: {name: p, typed_config: {'@type': EXT.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig, forward_reason_phrase: true}}}}",
        ".http_protocol_options.header_key_format.stateful_formatter.typed_config.forward_reason_phrase: is not supported",
    ),
    (
        "http_protocol_options: {default_host_for_http_10: 'a b'}",
        ".http_protocol_options.default_host_for_http_10: \"a b\" is no host",
    ),
    (
        "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.x}]}",
        ".internal_address_config.cidr_ranges[0].address_prefix: \"10.0.0.x\" is not an IP address",
    ),
    (
        "http2_protocol_options: {initial_stream_window_size: 1}",
        ".http2_protocol_options.initial_stream_window_size: 1 is not from 65535 to 2147483647",
    ),
    (
        "http2_protocol_options: {allow_metadata: true}",
        ".http2_protocol_options.allow_metadata: is not supported",
    ),
    (
        "http_protocol_options: {allow_chunked_length: true}",
        ".http_protocol_options.allow_chunked_length: is not supported",
    ),
    (
        "set_current_client_cert_details: {issuer: true}",
        ".set_current_client_cert_details.issuer: is not supported",
    ),
    (
        "upgrade_configs: [{upgrade_type: CONNECT-UDP}]",
        ".upgrade_configs[0].upgrade_type: \"CONNECT-UDP\" is not supported",
    ),
    (
        "upgrade_configs: [{upgrade_type: ''}]",
        ".upgrade_configs[0].upgrade_type: is empty",
    ),
    (
        "rds: {route_config_name: r, config_source: {path: /x}}",
        ".rds.config_source: only ads is supported",
    ),
    (
        "rds: {config_source: {ads: {}}}",
        ".rds.route_config_name: is empty",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.ext_proc.v3.ExternalProcessor}}, ROUTER]",
        ".http_filters[0].typed_config: type envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor is not supported",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz}}, ROUTER]",
        ".http_filters[0].typed_config: one of grpc_service and http_service is required",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {google_grpc: {target_uri: a, stat_prefix: b}}}}, ROUTER]",
        ".http_filters[0].typed_config.grpc_service.google_grpc: is not supported; name a cluster in envoy_grpc",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: ''}}}}, ROUTER]",
        ".http_filters[0].typed_config.grpc_service.envoy_grpc.cluster_name: is empty",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: c}, initial_metadata: [{key: a, value: b}]}}}, ROUTER]",
        ".http_filters[0].typed_config.grpc_service.initial_metadata: is not supported",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: c}}, decoder_header_mutation_rules: {}}}, ROUTER]",
        ".http_filters[0].typed_config.decoder_header_mutation_rules: is not supported",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: c}}, metadata_context_namespaces: [a]}}, ROUTER]",
        ".http_filters[0].typed_config.metadata_context_namespaces: is not supported",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: c}}, with_request_body: {}}}, ROUTER]",
        ".http_filters[0].typed_config.with_request_body.max_request_bytes: must be more than zero",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, grpc_service: {envoy_grpc: {cluster_name: c}}, status_on_error: {code: 100}}}, ROUTER]",
        ".http_filters[0].typed_config.status_on_error.code: is not from 200 to 599",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, http_service: {}}}, ROUTER]",
        ".http_filters[0].typed_config.http_service.server_uri: is required",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, http_service: {server_uri: {uri: u, cluster: c}}}}, ROUTER]",
        ".http_filters[0].typed_config.http_service.server_uri.timeout: is required",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, http_service: {server_uri: {uri: u, cluster: c, timeout: 1s}, path_prefix: x}}}, ROUTER]",
        ".http_filters[0].typed_config.http_service.path_prefix: \"x\" is not a path",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': EXT.filters.http.ext_authz.v3.ExtAuthz, http_service: {server_uri: {uri: u, cluster: c, timeout: 1s}, retry_policy: {}}}}, ROUTER]",
        ".http_filters[0].typed_config.http_service.retry_policy: is not supported",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.rbac.v3.RBAC, rules: {policies: {p: {permissions: [{uri_template: {name: t, typed_config: {'@type': EXT.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/a/**/*'}}}], principals: [{any: true}]}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rules.policies[\"p\"].permissions[0].uri_template.typed_config.path_template: \"/a/**/*\": the segment \"*\" is not supported; a segment is literal, \"*\", or \"**\", which no other star follows",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {http_uri: {uri: x, cluster: c, timeout: 1s}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.http_uri.uri: \"x\" is not a URI with scheme and host",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {http_uri: {uri: 'http://user:pw@x/keys', cluster: c, timeout: 1s}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.http_uri.uri: a user and a password are not supported",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.http_uri: is required",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {http_uri: {uri: 'http://x', timeout: 1s}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.http_uri.cluster: is required",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {http_uri: {uri: 'http://x', cluster: c}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.http_uri.timeout: is required",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {cache_duration: 0s, http_uri: {uri: 'http://x', cluster: c, timeout: 1s}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.cache_duration: must be at least 1 ms",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {remote_jwks: {retry_policy: {num_retries: 1}, http_uri: {uri: 'http://x', cluster: c, timeout: 1s}}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].remote_jwks.retry_policy: is not supported",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"]: one of local_jwks and remote_jwks is required",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {local_jwks: {inline_string: x}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].local_jwks: is not a JSON object in which every name stands once",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {local_jwks: {inline_string: '{\"keys\":[{\"kty\":\"oct\",\"use\":\"enc\"}]}'}}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].local_jwks: has no key that can be used; keys[0]: use is not sig",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {local_jwks: {inline_string: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'}, forward_payload_header: 'a b'}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].forward_payload_header: \"a b\" is not a header name",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, providers: {a: {local_jwks: {inline_string: '{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}'}, claim_to_headers: [{header_name: x}]}}}}, ROUTER]",
        ".http_filters[0].typed_config.providers[\"a\"].claim_to_headers[0]: one of claim_name and claim_path is required",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, rules: [{match: {prefix: /}, requires: {provider_name: b}}]}}, ROUTER]",
        ".http_filters[0].typed_config.rules[0].requires.provider_name: \"b\" is not in providers",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, rules: [{match: {prefix: /}, requirement_name: b}]}}, ROUTER]",
        ".http_filters[0].typed_config.rules[0].requirement_name: \"b\" is not in requirement_map",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, rules: [{match: {prefix: /, grpc: {}}}]}}, ROUTER]",
        ".http_filters[0].typed_config.rules[0].match.grpc: is not supported",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, rules: [{match: {prefix: /}, requires: {extract_only_without_validation: {}}}]}}, ROUTER]",
        ".http_filters[0].typed_config.rules[0].requires.extract_only_without_validation: is not supported",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{allow_missing: {}}]}}}]}}, ROUTER]",
        ".http_filters[0].typed_config.rules[0].requires.requires_any.requirements: has less than two",
    ),
    (
        "http_filters: [{name: j, typed_config: {'@type': EXT.filters.http.jwt_authn.v3.JwtAuthentication, filter_state_rules: {name: a}}}, ROUTER]",
        ".http_filters[0].typed_config.filter_state_rules: is not supported",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.rbac.v3.RBAC, rules: {policies: {p: {permissions: [{any: true}], principals: [{metadata: {filter: f}}]}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rules.policies[\"p\"].principals[0].metadata.path: is empty",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.rbac.v3.RBAC, rules: {policies: {p: {permissions: [{any: true}], principals: [{metadata: {filter: f, path: [{key: a}]}}]}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rules.policies[\"p\"].principals[0].metadata.value: must say what it matches",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.rbac.v3.RBAC, rules: {policies: {p: {permissions: [{any: true}], principals: [{metadata: {filter: f, path: [{key: a}], value: {list_match: {}}}}]}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rules.policies[\"p\"].principals[0].metadata.value.list_match.one_of: must say what it matches",
    ),
    (
        "http_filters: [{name: r, typed_config: {'@type': EXT.filters.http.rbac.v3.RBAC, rules: {policies: {p: {permissions: [{any: true}], principals: [{sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: f}}}]}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rules.policies[\"p\"].principals[0].sourced_metadata.metadata_source: ROUTE is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: ''}}, ROUTER]",
        ".http_filters[0].typed_config.stat_prefix: is empty",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{token_bucket: {max_tokens: 1, fill_interval: 1s}}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[0].entries: is empty",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{entries: [{key: k, value: v}]}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[0].token_bucket: is required",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{entries: [{key: k}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[0].entries[0].value: is empty: a bucket for each value is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{entries: [{value: v}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[0].entries[0].key: is empty",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{entries: [{key: k, value: v}], token_bucket: {max_tokens: 1, fill_interval: 1s}}, {entries: [{key: k, value: v}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[1]: is there twice",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, descriptors: [{entries: [{key: k, value: v}], token_bucket: {max_tokens: 0, fill_interval: 1s}}]}}, ROUTER]",
        ".http_filters[0].typed_config.descriptors[0].token_bucket.max_tokens: must be more than zero",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, stage: 11}}, ROUTER]",
        ".http_filters[0].typed_config.stage: 11 is more than 10",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, rate_limits: [{hits_addend: {number: 1, is_negative_hits: true}, actions: [{remote_address: {}}]}]}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limits: is_negative_hits is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, local_rate_limit_per_downstream_connection: true}}, ROUTER]",
        ".http_filters[0].typed_config.local_rate_limit_per_downstream_connection: is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, token_bucket: {max_tokens: 0, fill_interval: 1s}}}, ROUTER]",
        ".http_filters[0].typed_config.token_bucket.max_tokens: must be more than zero",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, token_bucket: {max_tokens: 1, tokens_per_fill: 0, fill_interval: 1s}}}, ROUTER]",
        ".http_filters[0].typed_config.token_bucket.tokens_per_fill: must be more than zero",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, token_bucket: {max_tokens: 1, fill_interval: 0.01s}}}, ROUTER]",
        ".http_filters[0].typed_config.token_bucket.fill_interval: must be at least 50 ms",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.domain: is empty",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limit_service: is required",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limit_service: {}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limit_service.grpc_service: is required",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limit_service: {grpc_service: {google_grpc: {target_uri: x}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limit_service.grpc_service.google_grpc: is not supported; name a cluster in envoy_grpc",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limit_service: {transport_api_version: V2, grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limit_service.transport_api_version: must be V3",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, stage: 11, rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.stage: 11 is more than 10",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, request_type: some, rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.request_type: \"some\" is none of internal, external and both",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, timeout: -1s, rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.timeout: is not a duration of zero or more seconds, up to 10,000 years",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limits: [{stage: 1, actions: [{remote_address: {}}]}], rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limits[0].stage: is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limits: [{hits_addend: {}, actions: [{remote_address: {}}]}], rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limits[0].hits_addend.number: is required",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limits: [{hits_addend: {format: '%BYTES_RECEIVED%', number: 1}, actions: [{remote_address: {}}]}], rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limits[0].hits_addend.format: is not supported",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.ratelimit.v3.RateLimit, domain: d, rate_limits: [{hits_addend: {number: 1000000001}, actions: [{remote_address: {}}]}], rate_limit_service: {grpc_service: {envoy_grpc: {cluster_name: c}}}}}, ROUTER]",
        ".http_filters[0].typed_config.rate_limits[0].hits_addend.number: 1000000001 is more than 1000000000",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, inline_code: 'function f('}}, ROUTER]",
        ".http_filters[0].typed_config.inline_code: script load error: [string \"function f(\"]:1: <name> or '...' expected near '<eof>'",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, default_source_code: {inline_string: 'local x = nil; x.y = 1'}}}, ROUTER]",
        ".http_filters[0].typed_config.default_source_code: script load error: [string \"local x = nil; x.y = 1\"]:1: attempt to index local 'x' (a nil value)",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, inline_code: 'while true do end'}}, ROUTER]",
        ".http_filters[0].typed_config.inline_code: script load error: the script ran for too long",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, source_codes: {a: {inline_string: 'x y'}}}}, ROUTER]",
        ".http_filters[0].typed_config.source_codes[\"a\"]: script load error: [string \"x y\"]:1: '=' expected near 'y'",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, inline_code: 'x = 1', default_source_code: {inline_string: 'x = 1'}}}, ROUTER]",
        ".http_filters[0].typed_config: only one of inline_code and default_source_code can be set",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, default_source_code: {inline_bytes: '/w=='}}}, ROUTER]",
        ".http_filters[0].typed_config.default_source_code: is not UTF-8",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, inline_code: 'require(1)'}}, ROUTER]",
        ".http_filters[0].typed_config.inline_code: script load error: [string \"require(1)\"]:1: attempt to call global 'require' (a nil value)",
    ),
    (
        "http_filters: [{name: l, typed_config: {'@type': EXT.filters.http.lua.v3.Lua, package_paths: [a]}}, ROUTER]",
        ".http_filters[0].typed_config.package_paths: is not supported",
    ),
    (
        "http_filters: [{name: f, is_optional: true, typed_config: {'@type': EXT.filters.http.buffer.v3.Buffer}}, ROUTER]",
        ".http_filters[0].typed_config: type envoy.extensions.filters.http.buffer.v3.Buffer is not supported",
    ),
    (
        "http_filters: [ROUTER, {name: c, typed_config: {'@type': EXT.filters.http.cors.v3.Cors}}]",
        ".http_filters[0]: the router must be the last filter",
    ),
    (
        "http_filters: [{name: c, typed_config: {'@type': EXT.filters.http.cors.v3.Cors}}]",
        ".http_filters: the last filter must be envoy.filters.http.router",
    ),
    (
        "http_filters: [{name: f, typed_config: {'@type': EXT.filters.http.fault.v3.HTTPFault, \
         abort: {header_abort: {}, percentage: {numerator: 100}}}}, ROUTER]",
        ".http_filters[0].typed_config.abort.header_abort: is not supported",
    ),
    (
        "http_filters: [{name: f, typed_config: {'@type': EXT.filters.http.fault.v3.HTTPFault, \
         max_active_faults: 3}}, ROUTER]",
        ".http_filters[0].typed_config.max_active_faults: is not supported",
    ),
    (
        "http_filters: [{name: a, typed_config: {'@type': \
         type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig, \
         alpn_override: [{alpn_override: ['']}]}}, ROUTER]",
        ".http_filters[0].typed_config.alpn_override[0].alpn_override[0]: a protocol has from 1 to \
         255 bytes",
    ),
    (
        "http_filters: [{name: m, typed_config: {'@type': \
         type.googleapis.com/io.istio.http.peer_metadata.Config, \
         upstream_discovery: [{baggage: {}}]}}, ROUTER]",
        ".http_filters[0].typed_config.upstream_discovery[0].baggage: is not supported",
    ),
    (
        "http_filters: [{name: s, typed_config: {'@type': type.googleapis.com/stats.PluginConfig, \
         definitions: [{name: x}]}}, ROUTER]",
        ".http_filters[0].typed_config.definitions: is not supported",
    ),
    (
        "http_filters: [{name: t, typed_config: {'@type': \
         type.googleapis.com/udpa.type.v1.TypedStruct, \
         type_url: type.googleapis.com/stats.PluginConfig, value: {nonsense: 1}}}, ROUTER]",
        ".http_filters[0].typed_config: nonsense: unknown field",
    ),
    (
        "http_filters: [{name: x}, ROUTER]",
        ".http_filters[0]: filter \"x\" has no typed_config",
    ),
];

/// Virtual hosts, and the error behind `route_config`.
const HOSTS: &[(&str, &str)] = &[
    (
        "{name: v, domains: ['*'], request_headers_to_add: [{header: {key: x-client-cert, value: '%DOWNSTREAM_PEER_CERT%'}}], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}",
        ".virtual_hosts[0].request_headers_to_add[0].header.value: operator DOWNSTREAM_PEER_CERT is not supported",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: nowhere}}]}",
        ".virtual_hosts[0].routes[0].route: unknown cluster \"nowhere\"",
    ),
    (
        "{name: v, domains: []}",
        ".virtual_hosts[0].domains: is empty; \"*\" matches every host",
    ),
    (
        "{name: v, domains: [a.b, A.b]}",
        ".virtual_hosts[0].domains[1]: domain \"A.b\" is also in virtual_hosts[0]; domains must be unique",
    ),
    (
        "{name: v, domains: ['a.*.b']}",
        ".virtual_hosts[0].domains[0]: a wildcard may only be the first or the last character",
    ),
    (
        "{name: v, domains: ['*'], require_tls: EXTERNAL_ONLY}",
        ".virtual_hosts[0].require_tls: EXTERNAL_ONLY is not supported; use ALL or NONE",
    ),
    (
        "{name: v, domains: ['*'], routes: [{route: {cluster: c}}]}",
        ".virtual_hosts[0].routes[0].match: is required",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}}]}",
        ".virtual_hosts[0].routes[0]: one of route, redirect and direct_response is required",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {connect_matcher: {}}, route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]}}]}",
        ".virtual_hosts[0].routes[0].route.upgrade_configs[0].connect_config.allow_post: is not supported",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, upgrade_configs: [{upgrade_type: websocket, connect_config: {}}]}}]}",
        ".virtual_hosts[0].routes[0].route.upgrade_configs[0].connect_config: goes with upgrade_type CONNECT alone",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {}, route: {cluster: c}}]}",
        ".virtual_hosts[0].routes[0].match: one of prefix, path, path_separated_prefix, safe_regex and connect_matcher is required",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {safe_regex: {regex: '('}}, route: {cluster: c}}]}",
        ".virtual_hosts[0].routes[0].match.safe_regex.regex: \"(\" is not a supported regular expression: unclosed group",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {safe_regex: {regex: 'a)(b'}}, route: {cluster: c}}]}",
        ".virtual_hosts[0].routes[0].match.safe_regex.regex: \"a)(b\" is not a supported regular expression: unopened group",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /, headers: [{name: x, string_match: {prefix: ''}}]}, route: {cluster: c}}]}",
        ".virtual_hosts[0].routes[0].match.headers[0].string_match.prefix: is empty",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, hash_policy: [{filter_state: {key: x}}]}}]}",
        ".virtual_hosts[0].routes[0].route.hash_policy[0].filter_state: is not supported",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, request_mirror_policies: [{cluster: ''}]}}]}",
        ".virtual_hosts[0].routes[0].route.request_mirror_policies[0].cluster: is empty",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: c, weight: 0}]}}}]}",
        ".virtual_hosts[0].routes[0].route.weighted_clusters: the weights add up to 0; the sum must be from 1 to 4294967295",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: '5xx,sometimes'}}}]}",
        ".virtual_hosts[0].routes[0].route.retry_policy.retry_on: condition \"sometimes\" is not supported",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, regex_rewrite: {pattern: {regex: 'a'}, substitution: '\\1'}}}]}",
        ".virtual_hosts[0].routes[0].route.regex_rewrite.substitution: \\1 names a group that the pattern lacks",
    ),
    (
        r#"{name: v, domains: ['*'], routes: [{match: {prefix: /}, decorator: {operation: "a\r\nevil: 1"}, direct_response: {status: 200}}]}"#,
        ".virtual_hosts[0].routes[0].decorator.operation: failed to parse header value",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, decorator: {}, direct_response: {status: 200}}]}",
        ".virtual_hosts[0].routes[0].decorator.operation: is empty",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, direct_response: {status: 700}}]}",
        ".virtual_hosts[0].routes[0].direct_response.status: 700 is not from 200 to 599",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, redirect: {port_redirect: 65536}}]}",
        ".virtual_hosts[0].routes[0].redirect.port_redirect: 65536 is not a port",
    ),
    (
        "{name: v, domains: ['*'], request_headers_to_remove: [host]}",
        ".virtual_hosts[0].request_headers_to_remove[0]: \"host\" cannot be changed; use a rewrite of the route",
    ),
    (
        "{name: v, domains: ['*'], response_headers_to_add: [{header: {key: ':status', value: x}}]}",
        ".virtual_hosts[0].response_headers_to_add[0].header.key: \":status\" cannot be changed; use a rewrite of the route",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: []}]}",
        ".virtual_hosts[0].rate_limits[0].actions: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{stage: 11, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].stage: 11 is more than 10",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{disable_key: k, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].disable_key: is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{apply_on_stream_done: true, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].apply_on_stream_done: is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{x_ratelimit_option: DRAFT_VERSION_03, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].x_ratelimit_option: is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{limit: {}, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].limit: one of dynamic_metadata and rate_limit is required",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{limit: {dynamic_metadata: {}}, actions: [{remote_address: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].limit.dynamic_metadata.metadata_key: is required",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0]: has no action",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{request_headers: {descriptor_key: k}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].request_headers.header_name: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{query_parameters: {query_parameter_name: q}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].query_parameters.descriptor_key: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{masked_remote_address: {v4_prefix_mask_len: 33}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].masked_remote_address.v4_prefix_mask_len: 33 is more than 32",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{masked_remote_address: {v6_prefix_mask_len: 129}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].masked_remote_address.v6_prefix_mask_len: 129 is more than 128",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{generic_key: {}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].generic_key.descriptor_value: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{header_value_match: {descriptor_value: v}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].header_value_match.headers: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{header_value_match: {descriptor_value: v, headers: [{name: ''}]}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].header_value_match.headers[0].name: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{query_parameter_value_match: {descriptor_value: v}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].query_parameter_value_match.query_parameters: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{metadata: {descriptor_key: k, source: ROUTE_ENTRY, metadata_key: {key: a, path: [{key: b}]}}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].metadata.source: ROUTE_ENTRY is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{metadata: {descriptor_key: k, metadata_key: {key: a, path: [{key: b}, {index: 0}]}}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].metadata.metadata_key.path[1].index: is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{dynamic_metadata: {descriptor_key: k, metadata_key: {key: a}}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].dynamic_metadata.metadata_key.path: is empty",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{remote_address_match: {descriptor_value: v}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].remote_address_match: is not supported",
    ),
    (
        "{name: v, domains: ['*'], rate_limits: [{actions: [{extension: {name: e}}]}]}",
        ".virtual_hosts[0].rate_limits[0].actions[0].extension: is not supported",
    ),
    (
        "{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c, rate_limits: [{disable_key: k, actions: [{remote_address: {}}]}]}}]}",
        ".virtual_hosts[0].routes[0].route.rate_limits[0].disable_key: is not supported",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {l: {'@type': EXT.filters.http.ratelimit.v3.RateLimitPerRoute, rate_limits: [{stage: 1, actions: [{remote_address: {}}]}]}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"l\"].rate_limits[0].stage: is not supported",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {l: {'@type': EXT.filters.http.lua.v3.LuaPerRoute, source_code: {inline_string: 'f('}}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"l\"].source_code: script load error: [string \"f(\"]:1: unexpected symbol near '<eof>'",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {l: {'@type': EXT.filters.http.lua.v3.LuaPerRoute, disabled: false}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"l\"].disabled: must be true",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {l: {'@type': EXT.filters.http.lua.v3.LuaPerRoute, name: ''}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"l\"].name: is empty",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {l: {'@type': EXT.filters.http.buffer.v3.BufferPerRoute}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"l\"]: type \
         envoy.extensions.filters.http.buffer.v3.BufferPerRoute is not supported",
    ),
    (
        "{name: v, domains: ['*'], typed_per_filter_config: {f: {'@type': \
         type.googleapis.com/envoy.config.route.v3.FilterConfig}}}",
        ".virtual_hosts[0].typed_per_filter_config[\"f\"].config: is required where disabled is not set",
    ),
];

/// Fields of a cluster, and the error behind its path.
const CLUSTERS: &[(&str, &str)] = &[
    ("name: ''", ".name: is empty"),
    (
        "type: EDS",
        ".eds_cluster_config: is required with type EDS",
    ),
    ("type: STRICT_DNS", ".load_assignment: is required"),
    (
        "cluster_type: {name: envoy.clusters.dynamic_forward_proxy}",
        ".cluster_type: \"envoy.clusters.dynamic_forward_proxy\" is not supported",
    ),
    (
        "lb_policy: CLUSTER_PROVIDED\nCLUSTER_TYPE sub_clusters_config: {}}}",
        ".cluster_type.typed_config.sub_clusters_config: is not supported",
    ),
    (
        "lb_policy: CLUSTER_PROVIDED\nCLUSTER_TYPE dns_cache_config: {name: a, max_hosts: 0}}}",
        ".cluster_type.typed_config.dns_cache_config.max_hosts: must be greater than 0",
    ),
    (
        "lb_policy: CLUSTER_PROVIDED\nCLUSTER_TYPE dns_cache_config: {name: a, key_value_config: {}}}}",
        ".cluster_type.typed_config.dns_cache_config.key_value_config: is not supported",
    ),
    (
        "lb_policy: CLUSTER_PROVIDED\nupstream_http_protocol_options: {auto_sni: true}\n\
         transport_socket: {name: tls, typed_config: {'@type': EXT.transport_sockets.tls.v3.UpstreamTlsContext}}\n\
         CLUSTER_TYPE dns_cache_config: {name: a}}}",
        ".cluster_type.typed_config: auto_sni and auto_san_validation must be true with TLS, or \
         allow_insecure_cluster_options",
    ),
    (
        "CLUSTER_TYPE dns_cache_config: {name: a}}}",
        ".lb_policy: CLUSTER_PROVIDED goes with type ORIGINAL_DST and dynamic forward proxies, and with no other",
    ),
    (
        "lb_policy: MAGLEV\nmaglev_lb_config: {table_size: 4}",
        ".maglev_lb_config.table_size: 4 is not a prime of at most 5000011",
    ),
    (
        "lb_policy: RING_HASH\nring_hash_lb_config: {minimum_ring_size: 9, maximum_ring_size: 8}",
        ".ring_hash_lb_config.minimum_ring_size: 9 is more than the maximum, 8",
    ),
    (
        "lb_policy: RING_HASH\nring_hash_lb_config: {hash_function: MURMUR_HASH_2}",
        ".ring_hash_lb_config.hash_function: only XX_HASH is supported",
    ),
    (
        "lb_policy: CLUSTER_PROVIDED",
        ".lb_policy: CLUSTER_PROVIDED goes with type ORIGINAL_DST and dynamic forward proxies, and with no other",
    ),
    (
        "outlier_detection: {monitors: [{name: x}]}",
        ".outlier_detection.monitors: is not supported",
    ),
    (
        "outlier_detection: {max_ejection_percent: 101}",
        ".outlier_detection.max_ejection_percent: 101 is not from 0 to 100",
    ),
    (
        "outlier_detection: {interval: 0s}",
        ".outlier_detection.interval: must be more than 0",
    ),
    (
        "health_checks: [{timeout: 1s, interval: 1s, tcp_health_check: {}}]",
        ".health_checks: is not supported",
    ),
    (
        "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 101}}}]}",
        ".circuit_breakers.thresholds[0].retry_budget.budget_percent: 101 is not from 0 to 100",
    ),
    (
        "least_request_lb_config: {choice_count: 1}\nlb_policy: LEAST_REQUEST",
        ".least_request_lb_config.choice_count: 1 is less than 2",
    ),
    (
        "load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: example.org, port_value: 80}}}}]}]}",
        ".load_assignment.endpoints[0].lb_endpoints[0].endpoint: \"example.org\" is not an IP address; names need the cluster type STRICT_DNS or LOGICAL_DNS",
    ),
    (
        "load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, named_port: http}}}}]}]}",
        ".load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.named_port: is not supported",
    ),
    (
        "typed_extension_protocol_options: {x: {'@type': EXT.upstreams.http.v3.HttpProtocolOptions}}",
        ".typed_extension_protocol_options[\"x\"]: one of explicit_http_config, use_downstream_protocol_config and auto_config is required",
    ),
    (
        "transport_socket: {name: tls, typed_config: {'@type': EXT.transport_sockets.alts.v3.Alts}}",
        ".transport_socket.typed_config: type envoy.extensions.transport_sockets.alts.v3.Alts is not supported",
    ),
    (
        "upstream_bind_config: {source_address: {address: here, port_value: 0}}",
        ".upstream_bind_config.source_address.address: \"here\" is not an IP address",
    ),
    (
        "upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}, extra_source_addresses: [{address: {address: 127.0.0.7, port_value: 0}}]}",
        ".upstream_bind_config.extra_source_addresses[0]: is of the same IP version as source_address, or there is none",
    ),
];

/// `common_tls_context` of a cluster, and the error behind it.
const CONTEXTS: &[(&str, &str)] = &[
    (
        "tls_params: {tls_maximum_protocol_version: TLSv1_1}",
        ".tls_params.tls_maximum_protocol_version: TLSv1_0 and TLSv1_1 are not supported; the lowest is TLSv1_2",
    ),
    (
        "tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}",
        ".tls_params.tls_minimum_protocol_version: is higher than tls_maximum_protocol_version",
    ),
    (
        "tls_params: {signature_algorithms: [x]}",
        ".tls_params.signature_algorithms: is not supported",
    ),
    (
        "tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}, {name: b, sds_config: {ads: {}}}]",
        ".tls_certificate_sds_secret_configs: more than one certificate is not supported in a client",
    ),
    (
        "tls_certificate_sds_secret_configs: [{name: a}]",
        ".tls_certificate_sds_secret_configs[0].name: \"a\" is not in static_resources.secrets, and there is no sds_config",
    ),
    (
        "tls_certificates: [{certificate_chain: {filename: /no/such/chain}, private_key: {inline_string: x}}]",
        ".tls_certificates[0].certificate_chain.filename: cannot read \"/no/such/chain\": No such file or directory (os error 2)",
    ),
    (
        "tls_certificates: [{certificate_chain: {filename: /dev/zero}, private_key: {inline_string: x}}]",
        ".tls_certificates[0].certificate_chain.filename: cannot read \"/dev/zero\": is not a regular file",
    ),
    (
        "tls_certificates: [{certificate_chain: {inline_string: x}}]",
        ".tls_certificates[0].private_key: is required",
    ),
    (
        "alpn_protocols: [h2, '']",
        ".alpn_protocols: \"\" is not from 1 to 255 bytes long",
    ),
    ("key_log: {path: /tmp/x}", ".key_log: is not supported"),
    (
        "validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: 'spiffe://a/b'}}]}",
        ".validation_context: names or hashes are demanded of the peer without trusted_ca: anybody could present them; \
      set trusted_ca or custom_validator_config",
    ),
    (
        "validation_context: {match_typed_subject_alt_names: [{san_type: OTHER_NAME, matcher: {exact: a}}]}",
        ".validation_context.match_typed_subject_alt_names[0].san_type: OTHER_NAME is not supported",
    ),
    (
        "validation_context: {verify_certificate_hash: [zz]}",
        ".validation_context.verify_certificate_hash[0]: \"zz\" is not a SHA-256 digest",
    ),
    (
        "validation_context: {trusted_ca: {inline_string: ''}}",
        ".validation_context.trusted_ca: trusted_ca has no certificate",
    ),
    (
        "validation_context: {max_verify_depth: 1}",
        ".validation_context.max_verify_depth: is not supported",
    ),
    (
        "validation_context: {custom_validator_config: {name: x, typed_config: {'@type': EXT.transport_sockets.tls.v3.SPIFFECertValidatorConfig}}}",
        ".validation_context.custom_validator_config.typed_config.trust_domains: is empty: it trusts nobody",
    ),
    (
        "validation_context: {custom_validator_config: {name: x, typed_config: {'@type': EXT.transport_sockets.tls.v3.SPIFFECertValidatorConfig, \
      trust_domains: [{name: a.b}]}}}",
        ".validation_context.custom_validator_config.typed_config.trust_domains[0].trust_bundle: is required",
    ),
    (
        "combined_validation_context: {default_validation_context: {}}",
        ".combined_validation_context.validation_context_sds_secret_config: is required",
    ),
];

/// Whole listeners, and their errors.
const LISTENERS: &[(&str, &str)] = &[
    ("{name: l, filter_chains: [CHAIN]}", ".address: is required"),
    ("{name: l, address: ADDRESS}", ".filter_chains: is empty"),
    (
        "{name: l, address: ADDRESS, filter_chains: [{}]}",
        ".filter_chains[0].filters: is empty",
    ),
    (
        "{name: l, address: {pipe: {path: /tmp/x}}, filter_chains: [CHAIN]}",
        ".address.pipe: is not supported for listeners",
    ),
    (
        "{name: l, address: {socket_address: {address: localhost, port_value: 0}}, filter_chains: [CHAIN]}",
        ".address.socket_address.address: \"localhost\" is not an IP address",
    ),
    (
        "{name: l, address: ADDRESS, enable_mptcp: true, filter_chains: [CHAIN]}",
        ".enable_mptcp: is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [CHAIN], listener_filters: [{name: envoy.filters.listener.tls_inspector, filter_disabled: {or_match: {rules: [{any_match: true}, {not_match: {destination_port_range: {start: 1, end: 65537}}}]}}}]}",
        ".listener_filters[0].filter_disabled.or_match.rules[1].not_match.destination_port_range: 1 to 65537 is no range of ports",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [CHAIN, CHAIN]}",
        ".filter_chains: filter chain \"1\" has the same matching rules as \"0\"",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filter_chain_match: {server_names: ['*x']}, filters: [TCP]}]}",
        ".filter_chains[0].filter_chain_match.server_names[0]: \"*x\" is neither a name nor a wildcard of the form *.example.org",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filter_chain_match: {source_ports: [65536]}, filters: [TCP]}]}",
        ".filter_chains[0].filter_chain_match.source_ports[0]: 65536 is not a port",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [{name: m, typed_config: {'@type': EXT.filters.network.mongo_proxy.v3.MongoProxy, stat_prefix: s, emit_dynamic_metadata: true}}, {name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c}}]}]}",
        ".filter_chains[0].filters[0].typed_config.emit_dynamic_metadata: is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, tunneling_config: {hostname: 'x%STREAM_ID%.test:443'}}}]}]}",
        ".filter_chains[0].filters[0].typed_config.tunneling_config.hostname: operator STREAM_ID is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [{name: m, typed_config: {'@type': EXT.filters.network.mongo_proxy.v3.MongoProxy, stat_prefix: s, delay: {fixed_delay: 1s, percentage: {numerator: 1}}}}, {name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c}}]}]}",
        ".filter_chains[0].filters[0].typed_config.delay: is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, tunneling_config: {hostname: 'a b'}}}]}]}",
        ".filter_chains[0].filters[0].typed_config.tunneling_config.hostname: \"a b\" is not a host and port",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, tunneling_config: {hostname: 'a:1', post_path: /}}}]}]}",
        ".filter_chains[0].filters[0].typed_config.tunneling_config.post_path: may only be set with use_post",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [TCP, TCP]}]}",
        ".filter_chains[0].filters[0]: must be the last filter",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [CHAIN], listener_filters: [{name: o, typed_config: {'@type': EXT.filters.listener.original_src.v3.OriginalSrc, bind_port: true}}]}",
        ".listener_filters[0].typed_config.bind_port: is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [CHAIN], listener_filters: [{name: p, typed_config: {'@type': EXT.filters.listener.proxy_protocol.v3.ProxyProtocol, rules: [{tlv_type: 2, on_tlv_present: {key: a}}]}}]}",
        ".listener_filters[0].typed_config.rules: is not supported",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [TCP], transport_socket: {name: tls, typed_config: {'@type': EXT.transport_sockets.tls.v3.DownstreamTlsContext}}}]}",
        ".filter_chains[0].transport_socket.typed_config.common_tls_context: a server needs one of tls_certificates and tls_certificate_sds_secret_configs",
    ),
    (
        "{name: l, address: ADDRESS, filter_chains: [{filters: [TCP], transport_socket: {name: tls, typed_config: {'@type': EXT.transport_sockets.tls.v3.DownstreamTlsContext, \
      require_client_certificate: true, common_tls_context: {tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}]}}}}]}",
        ".filter_chains[0].transport_socket.typed_config.common_tls_context: require_client_certificate is true, but there is no validation context to verify it with",
    ),
];

#[tokio::test]
async fn managers() {
    for (fields, error) in MANAGER {
        let routes = match fields.starts_with("rds") || fields.starts_with("scoped") {
            true => "",
            false => "route_config: {name: r}",
        };
        let filters = match fields.starts_with("http_filters") {
            true => "",
            false => "http_filters: [ROUTER]",
        };
        check(
            &manager(&[fields, routes, filters]),
            &format!("{HCM}{error}"),
        );
    }
}

#[tokio::test]
async fn virtual_hosts() {
    for (host, error) in HOSTS {
        let routes = format!("route_config: {{name: r, virtual_hosts: [{host}]}}");
        let yaml = manager(&[&routes, "http_filters: [ROUTER]"]);
        check(&yaml, &format!("{HCM}.route_config{error}"));
    }
}

#[tokio::test]
async fn clusters() {
    for (fields, error) in CLUSTERS {
        let name = if fields.starts_with("name:") {
            ""
        } else {
            "name: x"
        };
        check(&cluster(&[name, fields]), &format!("{CLUSTER}{error}"));
    }
}

#[tokio::test]
async fn tls_contexts() {
    for (context, error) in CONTEXTS {
        let socket = format!(
            "transport_socket: {{name: tls, typed_config: {{'@type': \
             EXT.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{context}}}}}}}"
        );
        let path = "transport_socket.typed_config.common_tls_context";
        check(
            &cluster(&["name: x", &socket]),
            &format!("{CLUSTER}.{path}{error}"),
        );
    }
}

#[tokio::test]
async fn listeners() {
    for (listener, error) in LISTENERS {
        let yaml = format!("static_resources: {{listeners: [{listener}]}}");
        check(&yaml, &format!("static_resources.listeners[0]{error}"));
    }
}

#[tokio::test]
async fn top_level() {
    for (yaml, error) in [
        (
            "default_regex_engine: {name: x}",
            "default_regex_engine: is not supported",
        ),
        (
            "hds_config: {api_type: GRPC}",
            "hds_config: is not supported",
        ),
        (
            "static_resources: {clusters: [{name: a}, {name: a}]}",
            "static_resources.clusters[1].name: \"a\" is the name of another cluster",
        ),
    ] {
        check(yaml, error);
    }
}

#[tokio::test]
async fn everything_is_reported_at_once() {
    let yaml = "static_resources: {clusters: [{name: a, lb_policy: CLUSTER_PROVIDED, lb_subset_config: {}}, \
                {name: b, health_checks: [{timeout: 1s, interval: 1s, tcp_health_check: {}}]}]}";
    let bootstrap = from_yaml::<Bootstrap>(yaml).expect("well-formed");
    let errors = control::validate(bootstrap).expect_err("three errors");
    assert_eq!(
        errors.to_string(),
        "static_resources.clusters[0].lb_subset_config: is not supported\n\
         static_resources.clusters[0].lb_policy: CLUSTER_PROVIDED goes with type ORIGINAL_DST and dynamic forward proxies, and with no other\n\
         static_resources.clusters[1].health_checks: is not supported"
    );
}

fn manager(fields: &[&str]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .filter(|field| !field.is_empty())
        .copied()
        .collect();
    format!(
        "static_resources: {{listeners: [{{name: l, address: ADDRESS, filter_chains: [{{filters: \
         [{{name: http, typed_config: {{'@type': EXT.filters.network.http_connection_manager.v3.\
         HttpConnectionManager, stat_prefix: s, {}}}}}]}}]}}], clusters: [{{name: c}}]}}",
        fields.join(", ")
    )
}

fn cluster(fields: &[&str]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .flat_map(|field| field.split('\n'))
        .filter(|field| !field.is_empty())
        .collect();
    format!(
        "static_resources: {{clusters: [{{{}}}]}}",
        fields.join(", ")
    )
}

/// `yaml` is refused with exactly `error`.
fn check(yaml: &str, error: &str) {
    let errors = control::validate(bootstrap(yaml)).expect_err(yaml);
    let errors = errors.to_string();
    assert!(
        errors.lines().any(|line| line == error),
        "{yaml}\nexpected: {error}\nfound: {errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{yaml}\nfound: {errors}");
}

/// The file that `yaml` is short for.
pub(super) fn bootstrap(yaml: &str) -> Bootstrap {
    let yaml = yaml
        .replace("CHAIN", "{filters: [TCP]}")
        .replace(
            "TCP",
            "{name: tcp, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, \
             stat_prefix: s, cluster: c}}",
        )
        .replace(
            "ROUTER",
            "{name: router, typed_config: {'@type': EXT.filters.http.router.v3.Router}}",
        )
        .replace(
            "ADDRESS",
            "{socket_address: {address: 127.0.0.1, port_value: 0}}",
        )
        .replace(
            "CLUSTER_TYPE",
            "cluster_type: {name: f, typed_config: {'@type': EXT.clusters.dynamic_forward_proxy.v3.ClusterConfig,",
        )
        .replace("EXT.", EXTENSIONS);
    match from_yaml(&yaml) {
        Ok(bootstrap) => bootstrap,
        Err(error) => panic!("{yaml}\n{error}"),
    }
}

#[tokio::test]
async fn two_listeners_at_one_address_are_told_by_name() {
    let tcp = "'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let listener = |name: &str, address: &str| {
        format!(
            "{{name: {name}, address: {{socket_address: {{address: {address}, port_value: 8080}}}}, \
             filter_chains: [{{filters: [{{name: t, typed_config: {{{tcp}, stat_prefix: s, cluster: c}}}}]}}]}}"
        )
    };
    let (one, other) = (listener("one", "10.0.0.1"), listener("other", "10.0.0.2"));
    let again = listener("again", "10.0.0.1");
    let yaml = format!("static_resources: {{listeners: [{one}, {other}, {again}]}}");
    let bootstrap = from_yaml::<Bootstrap>(&yaml).expect("well-formed");
    let errors = control::validate(bootstrap).expect_err("two have one address");
    assert_eq!(
        errors.to_string(),
        "static_resources.listeners[2].address: 10.0.0.1:8080 is the address of listener \"one\" already"
    );
}
