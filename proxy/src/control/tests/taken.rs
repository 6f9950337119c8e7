//! What we lack and traffic can do without: it is left out with a warning, and the rest of its resource serves.

use super::broken::bootstrap;
use crate::control;

/// Network filters of a listener.
const FILTERS: &[&str] = &[
    // Istio puts it before each port that is named after MongoDB.
    "{name: m, typed_config: {'@type': EXT.filters.network.mongo_proxy.v3.MongoProxy, stat_prefix: s}}, TCP",
    "{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.stream.v3.StdoutAccessLog, log_format: {text_format_source: {inline_string: '%STREAM_ID% %CEL(duration(1))%'}}}}]}}",
    "{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, access_log: [{name: a, typed_config: {'@type': EXT.access_loggers.stream.v3.StdoutAccessLog, log_format: {json_format: {a: {b: ['%UNIQUE_ID%']}}}}}]}}",
    "{name: t, typed_config: {'@type': EXT.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, access_log: [{name: a, filter: {extension_filter: {name: f, typed_config: {'@type': EXT.access_loggers.filters.cel.v3.ExpressionFilter, expression: 'response.grpc_status > 0'}}}, typed_config: {'@type': EXT.access_loggers.stream.v3.StdoutAccessLog}}]}}",
];

/// Fields of a cluster.
const CLUSTERS: &[&str] = &[
    "circuit_breakers: {thresholds: [{retry_budget: {budget_interval: 10s}}]}",
    "transport_socket: {name: t, typed_config: {'@type': EXT.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {tls_params: {tls_minimum_protocol_version: TLSv1_0}, validation_context_sds_secret_config: {name: ca, sds_config: {ads: {}}}}}}",
];

#[tokio::test]
async fn what_traffic_can_do_without_is_left_out() {
    for filters in FILTERS {
        taken(&format!(
            "static_resources: {{listeners: [{{name: l, address: ADDRESS, filter_chains: [{{filters: \
             [{filters}]}}]}}], clusters: [{{name: c}}]}}"
        ));
    }
    for fields in CLUSTERS {
        taken(&format!(
            "static_resources: {{clusters: [{{name: c, {fields}}}]}}"
        ));
    }
}

fn taken(yaml: &str) {
    if let Err(errors) = control::validate(bootstrap(yaml)) {
        panic!("{yaml}\n{errors}");
    }
}
