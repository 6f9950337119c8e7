//! HTTP towards a cluster.

use std::collections::HashMap;

use ithildin_proto::{
    pack,
    pb::{
        envoy::{
            config::core::v3::{
                Http1ProtocolOptions, Http2ProtocolOptions,
                HttpProtocolOptions as CommonHttpOptions, UpstreamHttpProtocolOptions,
            },
            extensions::upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                    explicit_http_config::ProtocolConfig,
                },
            },
        },
        google::protobuf::Any,
    },
};

use super::{Target, transport::UpstreamTls};
use crate::{
    build::{
        Build,
        wire::{number, time},
    },
    model::{ClientTlsMode, ClientTlsSettings, ConnectionPool, H2Upgrade},
    node::NodeKind,
    protocol::Protocol,
    registry::Service,
};

/// Key of [`HttpProtocolOptions`] in a cluster.
pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

impl Build<'_> {
    pub(super) fn http_options(
        &self,
        target: &Target<'_>,
        tls: &UpstreamTls<'_>,
    ) -> Option<HttpProtocolOptions> {
        let pool = target.settings.connection_pool;
        let common = pool.and_then(common_http);
        let names = match tls {
            UpstreamTls::Rule(rule) if rule.mode != ClientTlsMode::IstioMutual => {
                automatic_names(rule, target.service)
            }
            _ => None,
        };
        let protocol = self.upstream_protocol(target);
        if common.is_none() && names.is_none() && protocol.is_none() {
            return None;
        }
        Some(HttpProtocolOptions {
            common_http_protocol_options: common,
            upstream_http_protocol_options: names,
            upstream_protocol_options: Some(protocol.unwrap_or_else(|| {
                explicit(ProtocolConfig::HttpProtocolOptions(
                    Http1ProtocolOptions::default(),
                ))
            })),
            ..HttpProtocolOptions::default()
        })
    }

    /// `None`: HTTP/1.1, Envoy's default.
    pub(super) fn upstream_protocol(&self, target: &Target<'_>) -> Option<UpstreamProtocolOptions> {
        let pool = target.settings.connection_pool;
        let sniffed =
            target.port.protocol == Protocol::Unknown && self.node.kind == NodeKind::Sidecar;
        if http2(target) {
            let streams = pool.and_then(|pool| pool.http.max_concurrent_streams);
            return Some(explicit(ProtocolConfig::Http2ProtocolOptions(
                Http2ProtocolOptions {
                    max_concurrent_streams: streams.and_then(number),
                    ..Http2ProtocolOptions::default()
                },
            )));
        }
        let as_client = pool.is_some_and(|pool| pool.http.use_client_protocol);
        (sniffed || as_client).then(downstream_protocol)
    }
}

/// Whether HTTP/2 is spoken whatever the client speaks.
pub(super) fn http2(target: &Target<'_>) -> bool {
    let pool = target.settings.connection_pool;
    let as_client = pool.is_some_and(|pool| pool.http.use_client_protocol);
    let upgrade = pool.is_some_and(|pool| pool.http.h2_upgrade_policy == H2Upgrade::Upgrade);
    let http1 = target.port.protocol == Protocol::Http;
    !as_client && (target.port.protocol.is_http2() || (http1 && upgrade))
}

pub(super) fn common_http(pool: &ConnectionPool) -> Option<CommonHttpOptions> {
    let options = CommonHttpOptions {
        idle_timeout: pool.http.idle_timeout.and_then(|timeout| time(timeout.0)),
        max_requests_per_connection: pool.http.max_requests_per_connection.and_then(number),
        max_connection_duration: pool
            .tcp
            .max_connection_duration
            .and_then(|duration| time(duration.0)),
        ..CommonHttpOptions::default()
    };
    (options != CommonHttpOptions::default()).then_some(options)
}

/// Without a name in the rule, the request's host is the SNI and, without SANs, what the
/// certificate must be for.
pub(super) fn automatic_names(
    rule: &ClientTlsSettings,
    service: &Service,
) -> Option<UpstreamHttpProtocolOptions> {
    let auto_sni = rule.sni.as_deref().unwrap_or_default().is_empty();
    auto_sni.then(|| UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation: file_sans(rule, service).is_empty(),
        ..UpstreamHttpProtocolOptions::default()
    })
}

/// What the rule accepts, else what an external service says of itself.
pub(super) fn file_sans<'a>(rule: &'a ClientTlsSettings, service: &'a Service) -> &'a [String] {
    if rule.subject_alt_names.is_empty() {
        &service.subject_alt_names
    } else {
        &rule.subject_alt_names
    }
}

pub(super) fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}

/// The options of an inbound port: the workload is spoken to as its port declares, or as the
/// client speaks where it declares nothing.
pub(in crate::build) fn http_options_for(protocol: Protocol) -> HashMap<String, Any> {
    let upstream = match protocol {
        Protocol::Http2 | Protocol::Grpc => explicit(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
        Protocol::Unknown => downstream_protocol(),
        _ => return HashMap::new(),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(upstream),
        ..HttpProtocolOptions::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack(&options))].into()
}

pub(super) fn downstream_protocol() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        http3_protocol_options: None,
    })
}
