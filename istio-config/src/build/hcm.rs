//! HTTP connection managers and TCP proxies: the filters that end a chain.

use std::time::Duration;

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::{
                core::v3::Http1ProtocolOptions,
                listener::v3::{Filter, filter},
                route::v3::RouteConfiguration,
            },
            extensions::{
                filters::{
                    http::{
                        cors::v3::Cors,
                        fault::v3::HttpFault,
                        grpc_stats::v3::{FilterConfig as GrpcStats, filter_config},
                        router::v3::Router,
                    },
                    network::{
                        http_connection_manager::v3::{
                            HttpConnectionManager, HttpFilter, Rds, RequestIdExtension,
                            http_connection_manager::{
                                ForwardClientCertDetails, PathWithEscapedSlashesAction,
                                RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
                            },
                            http_filter,
                        },
                        tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
                    },
                },
                request_id::uuid::v3::UuidRequestIdConfig,
            },
        },
        google::protobuf::Any,
    },
};

use super::{
    access_log,
    wire::{ads, on, time},
};
use crate::model::MeshConfig;

/// Value of the `server` header.
const SERVER_NAME: &str = "istio-envoy";

/// On which side of the mesh a connection manager stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Requests from outside the mesh.
    Gateway,
    /// Requests of the own workload.
    Outbound,
    /// The same as an explicit HTTP proxy.
    Proxy,
    /// Requests for the own workload.
    Inbound,
}

/// A chain's filter that routes by the RDS resource `routes`.
pub(super) fn by_rds(mesh: &MeshConfig, side: Side, stat_prefix: &str, routes: &str) -> Filter {
    let specifier = RouteSpecifier::Rds(Rds {
        config_source: Some(ads()),
        route_config_name: routes.to_owned(),
    });
    manager(mesh, side, stat_prefix, specifier)
}

/// A chain's filter with its routes inside.
pub(super) fn inline(
    mesh: &MeshConfig,
    side: Side,
    stat_prefix: &str,
    routes: RouteConfiguration,
) -> Filter {
    manager(mesh, side, stat_prefix, RouteSpecifier::RouteConfig(routes))
}

/// A chain's filter that forwards bytes. Without `logged`, nobody hears of the connection.
pub(super) fn tcp_proxy(mesh: &MeshConfig, cluster: &str, logged: bool) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        access_log: if logged {
            access_log::of_traffic(mesh)
        } else {
            Vec::new()
        },
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))
}

fn manager(mesh: &MeshConfig, side: Side, stat_prefix: &str, routes: RouteSpecifier) -> Filter {
    let server = matches!(side, Side::Gateway | Side::Inbound);
    let (forward, details) = client_certificate(side);
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: http_filters(),
        http_protocol_options: http1_options(side),
        server_name: if server { SERVER_NAME } else { "" }.to_owned(),
        stream_idle_timeout: time(Duration::ZERO),
        access_log: access_log::of_traffic(mesh),
        use_remote_address: on(side == Side::Gateway),
        forward_client_cert_details: forward.into(),
        set_current_client_cert_details: details,
        proxy_100_continue: true,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        normalize_path: on(true),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        request_id_extension: Some(RequestIdExtension {
            typed_config: Some(pack(&UuidRequestIdConfig {
                use_request_id_for_trace_sampling: on(true),
                ..UuidRequestIdConfig::default()
            })),
        }),
        ..HttpConnectionManager::default()
    };
    network_filter(
        "envoy.filters.network.http_connection_manager",
        pack(&manager),
    )
}

/// `x-forwarded-client-cert`: a gateway writes it anew, a sidecar adds its caller, and nobody
/// touches it on the way out.
fn client_certificate(
    side: Side,
) -> (
    ForwardClientCertDetails,
    Option<SetCurrentClientCertDetails>,
) {
    let details = |cert| {
        Some(SetCurrentClientCertDetails {
            subject: on(true),
            cert,
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        })
    };
    match side {
        Side::Gateway => (ForwardClientCertDetails::SanitizeSet, details(true)),
        Side::Inbound => (ForwardClientCertDetails::AppendForward, details(false)),
        Side::Outbound | Side::Proxy => (ForwardClientCertDetails::Sanitize, None),
    }
}

fn http1_options(side: Side) -> Option<Http1ProtocolOptions> {
    match side {
        Side::Gateway => Some(Http1ProtocolOptions::default()),
        Side::Proxy => Some(Http1ProtocolOptions {
            allow_absolute_url: on(true),
            ..Http1ProtocolOptions::default()
        }),
        Side::Outbound | Side::Inbound => None,
    }
}

/// Those of istiod that both data planes know. None of them decides who may pass.
fn http_filters() -> Vec<HttpFilter> {
    let stats = GrpcStats {
        emit_filter_state: true,
        per_method_stat_specifier: Some(filter_config::PerMethodStatSpecifier::StatsForAllMethods(
            ithildin_proto::pb::google::protobuf::BoolValue { value: false },
        )),
        ..GrpcStats::default()
    };
    vec![
        http_filter("envoy.filters.http.grpc_stats", pack(&stats)),
        http_filter("envoy.filters.http.fault", pack(&HttpFault::default())),
        http_filter("envoy.filters.http.cors", pack(&Cors::default())),
        http_filter("envoy.filters.http.router", pack(&Router::default())),
    ]
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}
