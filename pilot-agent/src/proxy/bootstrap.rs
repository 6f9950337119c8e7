//! What a data plane starts from: who it is, where its admin listens, and where the rest comes from.

use std::{net::Ipv4Addr, path::Path};

use ithildin_istio_config::DEFAULT_SDS_CLUSTER;
use ithildin_proto::pb::envoy::config::{
    bootstrap::v3::{Admin, Bootstrap, bootstrap::DynamicResources},
    core::v3::{
        Address, AggregatedConfigSource, ConfigSource, Node, SocketAddress, address,
        config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
    },
};
use serde_json::{Value, json};

use super::settings::Settings;

/// The cluster of the bootstrap that serves xDS.
const XDS_CLUSTER: &str = "xds-grpc";
const PROMETHEUS: &str = "prometheus_stats";

/// For the built-in proxy. Its resources and secrets are handed over in process.
pub(super) fn builtin(settings: &Settings) -> Bootstrap {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    };
    Bootstrap {
        node: Some(Node {
            id: settings.node_id.clone(),
            cluster: settings.node_cluster.clone(),
            ..Default::default()
        }),
        admin: Some(Admin {
            address: Some(loopback(settings.ports.admin)),
            ..Default::default()
        }),
        dynamic_resources: Some(DynamicResources {
            lds_config: Some(ads.clone()),
            cds_config: Some(ads),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// For Envoy, as JSON: xDS and SDS from us over Unix sockets.
pub(super) fn envoy(settings: &Settings, xds: &Path, sds: &Path) -> Value {
    let ports = &settings.ports;
    let from_ads = json!({
        "ads": {},
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
    });
    json!({
        "node": {
            "id": settings.node_id,
            "cluster": settings.node_cluster,
            "metadata": settings.metadata,
        },
        "admin": {"address": socket_address("127.0.0.1", ports.admin)},
        "dynamic_resources": {
            "lds_config": from_ads,
            "cds_config": from_ads,
            "ads_config": {
                "api_type": if settings.istiod.delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": PROMETHEUS,
                    "type": "STATIC",
                    "connect_timeout": "0.250s",
                    "load_assignment": assignment(
                        PROMETHEUS,
                        &socket_address("127.0.0.1", ports.admin),
                    ),
                },
                grpc_cluster(DEFAULT_SDS_CLUSTER, sds),
                grpc_cluster(XDS_CLUSTER, xds),
            ],
            "listeners": [prometheus_listener(ports.prometheus)],
        },
    })
}

fn grpc_cluster(name: &str, socket: &Path) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "load_assignment": assignment(name, &json!({"pipe": {"path": socket}})),
    })
}

fn assignment(cluster: &str, address: &Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}

/// Metrics to the outside, and nothing else of the admin.
fn prometheus_listener(port: u16) -> Value {
    let route = json!({
        "match": {"path": "/stats/prometheus"},
        "route": {"cluster": PROMETHEUS},
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "route_config": {
            "virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            },
        }],
    });
    json!({
        "name": "prometheus",
        "stat_prefix": "prometheus",
        "address": socket_address("0.0.0.0", port),
        "ignore_global_conn_limit": true,
        "filter_chains": [{
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }],
        }],
    })
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn loopback(port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: Ipv4Addr::LOCALHOST.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}
