//! Listeners of the bootstrap: metrics and readiness, for Prometheus and the kubelet.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{AGENT_CLUSTER, Addresses, PROMETHEUS_CLUSTER, addresses, clusters};
use crate::proxy::settings::Settings;

/// What is worth compressing.
const METRICS_TYPES: [&str; 4] = [
    "text/plain",
    "application/vnd.google.protobuf",
    "application/openmetrics-text",
    "application/openmetrics-protobuf",
];

pub(super) fn all(settings: &Settings, addresses: &Addresses) -> Vec<Value> {
    let mut listeners = vec![prometheus(settings, addresses)];
    listeners.extend(secured(settings, addresses));
    listeners.push(health(settings, addresses));
    listeners
}

/// Those that ask for a certificate; the built-in proxy has them, too.
pub(super) fn secured(settings: &Settings, addresses: &Addresses) -> Vec<Value> {
    let ports = &settings.ports;
    let mut listeners = Vec::new();
    if let Some(port) = ports.secure_metrics {
        let routes = [("/stats/prometheus", PROMETHEUS_CLUSTER)];
        listeners.push(secure(port, "secure_stats", &routes, addresses));
    }
    if let Some(port) = ports.secure_merged_metrics {
        let routes = [
            ("/stats/prometheus", AGENT_CLUSTER),
            ("/metrics", AGENT_CLUSTER),
        ];
        listeners.push(secure(port, "secure_merged_stats", &routes, addresses));
    }
    listeners
}

/// The data plane's metrics, and nothing else of its admin.
fn prometheus(settings: &Settings, addresses: &Addresses) -> Value {
    let port = settings.ports.prometheus;
    let (ip, additional) = match settings.status.metrics_localhost_only {
        true => (addresses.localhost, addresses.additional.map(|it| it.0)),
        false => (addresses.wildcard, addresses.additional.map(|it| it.1)),
    };
    let routes = [("/stats/prometheus", PROMETHEUS_CLUSTER)];
    let filters = match settings.proxy_config.stats_compression {
        true => ["brotli", "zstd", "gzip"].map(compressor).to_vec(),
        false => Vec::new(),
    };
    let mut listener = listener(ip, additional, port);
    listener["filter_chains"] = json!([{"filters": [manager("stats", &routes, filters)]}]);
    listener
}

fn health(settings: &Settings, addresses: &Addresses) -> Value {
    let additional = addresses.additional.map(|it| it.1);
    let routes = [("/healthz/ready", AGENT_CLUSTER)];
    let mut listener = listener(addresses.wildcard, additional, settings.ports.health);
    if settings.envoy.health_proxy_protocol {
        listener["listener_filters"] = json!([{
            "name": "envoy.listener.proxy_protocol",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
                "allow_requests_without_proxy_protocol": true,
            },
        }]);
    }
    listener["filter_chains"] = json!([{"filters": [manager("agent", &routes, Vec::new())]}]);
    listener
}

/// Metrics for whoever has a certificate of the mesh.
fn secure(port: u16, prefix: &str, routes: &[(&str, &str)], addresses: &Addresses) -> Value {
    let mut listener = listener(addresses.wildcard, None, port);
    listener["listener_filters"] = json!([{
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        },
    }]);
    listener["filter_chains"] = json!([{
        "filter_chain_match": {"transport_protocol": "tls"},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [clusters::secret("default")],
                    "combined_validation_context": {
                        "default_validation_context": {},
                        "validation_context_sds_secret_config": clusters::secret("ROOTCA"),
                    },
                },
            },
        },
        "filters": [manager(prefix, routes, Vec::new())],
    }]);
    listener
}

/// It neither counts as traffic nor is it refused under load.
fn listener(ip: IpAddr, additional: Option<IpAddr>, port: u16) -> Value {
    let mut listener = json!({
        "name": format!("{ip}_{port}"),
        "address": addresses::socket(ip, port),
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
    });
    if let Some(ip) = additional {
        listener["additional_addresses"] = json!([{"address": addresses::socket(ip, port)}]);
    }
    listener
}

fn manager(prefix: &str, routes: &[(&str, &str)], mut filters: Vec<Value>) -> Value {
    let routes = routes
        .iter()
        .map(|(path, cluster)| json!({"match": {"prefix": path}, "route": {"cluster": cluster}}));
    let routes: Vec<_> = routes.collect();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "AUTO",
            "stat_prefix": prefix,
            "route_config": {
                "virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": routes}],
            },
            "http_filters": filters,
        },
    })
}

fn compressor(kind: &str) -> Value {
    let mut message = kind.to_owned();
    message[..1].make_ascii_uppercase();
    json!({
        "name": format!("envoy.filters.http.compressor.{kind}"),
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
            "compressor_library": {
                "name": format!("stats_{kind}"),
                "typed_config": {
                    "@type": format!("type.googleapis.com/envoy.extensions.compression.{kind}.compressor.v3.{message}"),
                },
            },
            "response_direction_config": {"common_config": {"content_type": METRICS_TYPES}},
        },
    })
}
