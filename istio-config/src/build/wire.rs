//! Constructors of the messages that every part needs.

use std::time::Duration;

use ithildin_proto::{
    duration,
    pb::{
        envoy::config::core::v3::{
            Address, AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource,
            GrpcService, Metadata, Pipe, SocketAddress, TransportSocket, address,
            api_config_source::ApiType, config_source::ConfigSourceSpecifier, grpc_service,
            socket_address, transport_socket,
        },
        google::protobuf::{Any, BoolValue, Struct, UInt32Value, Value, value::Kind},
    },
};

/// Key of Istio's own metadata on clusters, endpoints and routes.
const ISTIO_METADATA: &str = "istio";

pub(super) fn on(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn time(value: Duration) -> Option<ithildin_proto::pb::google::protobuf::Duration> {
    Some(duration(value))
}

/// An IP address or DNS name with a port.
pub(super) fn socket_address(host: &str, port: u16) -> SocketAddress {
    SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    }
}

/// The same, or `unix:///path`.
pub(super) fn address(host: &str, port: u16) -> Option<Address> {
    let address = match host.strip_prefix("unix://") {
        Some(path) => address::Address::Pipe(Pipe {
            path: path.to_owned(),
            mode: 0,
        }),
        None => address::Address::SocketAddress(socket_address(host, port)),
    };
    Some(Address {
        address: Some(address),
    })
}

/// Over the aggregated stream, for however long it takes.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: time(Duration::ZERO),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// From the gRPC server behind `cluster`, for however long it takes.
pub(super) fn grpc(cluster: &str) -> ConfigSource {
    let service = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                cluster_name: cluster.to_owned(),
                ..grpc_service::EnvoyGrpc::default()
            },
        )),
        ..GrpcService::default()
    };
    let api = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..ApiConfigSource::default()
    };
    ConfigSource {
        initial_fetch_timeout: time(Duration::ZERO),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
        ..ConfigSource::default()
    }
}

pub(super) fn transport_socket(name: &str, config: Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn text(value: impl Into<String>) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

pub(super) fn bool_value(value: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(value)),
    }
}

pub(super) fn structure<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// Metadata for Istio's own filters and dashboards.
pub(super) fn istio_metadata<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    metadata
        .filter_metadata
        .insert(ISTIO_METADATA.to_owned(), structure(fields));
    metadata
}

/// Path of a resource in the API of Kubernetes, as istiod records where a setting came from.
pub(super) fn config_path(kind: &str, namespace: &str, name: &str) -> Value {
    text(format!(
        "/apis/networking.istio.io/v1/namespaces/{namespace}/{kind}/{name}"
    ))
}
