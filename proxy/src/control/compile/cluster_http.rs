//! Upstream HTTP: `HttpProtocolOptions`, and the deprecated fields of a cluster that it replaced.

use std::{collections::HashMap, time::Duration};

use ithildin_proto::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster as ClusterProto, cluster::ClusterProtocolSelection},
            core::v3::{
                Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
                UpstreamHttpProtocolOptions,
            },
        },
        extensions::{
            filters::{
                http::upstream_codec::v3::UpstreamCodec,
                network::http_connection_manager::v3::{HttpFilter, http_filter},
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions,
                    UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
                },
            },
        },
    },
    google::protobuf::Any,
};
use prost::Name;

use super::{
    error_matcher,
    http_options::{header_format, http1_unsupported, http2_options},
};
use crate::{
    config::{
        cluster::{UpstreamHttp, UpstreamProtocol},
        http::{HeaderFormat, Http2Options},
    },
    control::{
        any,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's default for connections without requests.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How HTTP is spoken with a cluster's hosts.
pub(super) struct HttpOptions {
    /// The version that is spoken, and its settings.
    pub(super) protocol: UpstreamProtocol,
    pub(super) http: UpstreamHttp,
    /// Statuses that outlier detection takes for errors, in place of the usual ones.
    pub(super) error_statuses: Option<Box<[u16]>>,
}

pub(super) fn options(config: &ClusterProto, at: &At<'_>) -> Option<HttpOptions> {
    match extension(&config.typed_extension_protocol_options, at) {
        Extension::None => {
            let (protocol, http) = deprecated(config, at);
            Some(HttpOptions {
                protocol,
                http,
                error_statuses: None,
            })
        }
        Extension::Http(options, key) => {
            let at = at.key("typed_extension_protocol_options", key);
            let (protocol, http) = typed(&options, &at);
            let outlier = options.outlier_detection.as_ref();
            Some(HttpOptions {
                protocol,
                http,
                error_statuses: error_matcher::statuses(outlier, &at),
            })
        }
        Extension::Bad => None,
    }
}

enum Extension<'a> {
    None,
    Http(Box<HttpProtocolOptions>, &'a str),
    Bad,
}

fn extension<'a>(configs: &'a HashMap<String, Any>, at: &At<'_>) -> Extension<'a> {
    let mut found = Extension::None;
    for (key, config) in configs {
        let at = at.key("typed_extension_protocol_options", key);
        if !any::is::<HttpProtocolOptions>(config) {
            at.error(format_args!(
                "type {} is not supported; only {} is",
                any::type_name(config),
                HttpProtocolOptions::full_name()
            ));
            return Extension::Bad;
        }
        match any::read(config, &at) {
            Some(options) => found = Extension::Http(Box::new(options), key),
            None => return Extension::Bad,
        }
    }
    found
}

fn typed(config: &HttpProtocolOptions, at: &At<'_>) -> (UpstreamProtocol, UpstreamHttp) {
    let HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection: _,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = config;
    refuse!(
        at;
        header_validation_config, request_mirror_policies, hash_policy, retry_policy,
    );
    for (i, filter) in http_filters.iter().enumerate() {
        upstream_filter(filter, &at.index("http_filters", i));
    }
    let (protocol, versions) = protocol(upstream_protocol_options.as_ref(), at);
    let mut http = settings(common_http_protocol_options.as_ref(), versions, at);
    upstream_options(upstream_http_protocol_options.as_ref(), &mut http, at);
    (protocol, http)
}

fn protocol(config: Option<&UpstreamProtocolOptions>, at: &At<'_>) -> (UpstreamProtocol, Versions) {
    let (name, protocol, http1, http2) = match config {
        None => {
            at.error(
                "one of explicit_http_config, use_downstream_protocol_config and auto_config is \
                 required",
            );
            ("", UpstreamProtocol::Http1, &None, &None)
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config,
        })) => return explicit(protocol_config.as_ref(), &at.field("explicit_http_config")),
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
        })) => {
            let at = at.field("use_downstream_protocol_config");
            refuse!(at; http3_protocol_options);
            let name = "use_downstream_protocol_config";
            let protocol = UpstreamProtocol::Downstream;
            (
                name,
                protocol,
                http_protocol_options,
                http2_protocol_options,
            )
        }
        Some(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            alternate_protocols_cache_options,
        })) => {
            let at = at.field("auto_config");
            refuse!(at; http3_protocol_options, alternate_protocols_cache_options);
            let protocol = UpstreamProtocol::Auto;
            (
                "auto_config",
                protocol,
                http_protocol_options,
                http2_protocol_options,
            )
        }
    };
    let at = at.field(name);
    let format = http1_options(http1.as_ref(), &at);
    let http2 = http2_options(http2.as_ref(), &at.field("http2_protocol_options"));
    (protocol, (format, http2))
}

/// What is set for each version of HTTP.
type Versions = (HeaderFormat, Http2Options);

fn explicit(config: Option<&ProtocolConfig>, at: &At<'_>) -> (UpstreamProtocol, Versions) {
    let http2 = |config| http2_options(config, &at.field("http2_protocol_options"));
    let lower = HeaderFormat::Lower;
    match config {
        Some(ProtocolConfig::Http2ProtocolOptions(config)) => {
            (UpstreamProtocol::Http2, (lower, http2(Some(config))))
        }
        Some(ProtocolConfig::HttpProtocolOptions(config)) => {
            let format = http1_options(Some(config), at);
            (UpstreamProtocol::Http1, (format, http2(None)))
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            at.field("http3_protocol_options").error("is not supported");
            (UpstreamProtocol::Http1, (lower, http2(None)))
        }
        None => {
            at.error("one of http_protocol_options and http2_protocol_options is required");
            (UpstreamProtocol::Http1, (lower, http2(None)))
        }
    }
}

/// The fields of the cluster itself, from before `HttpProtocolOptions`.
fn deprecated(config: &ClusterProto, at: &At<'_>) -> (UpstreamProtocol, UpstreamHttp) {
    let http2: Option<&Http2ProtocolOptions> = config.http2_protocol_options.as_ref();
    let downstream = ClusterProtocolSelection::UseDownstreamProtocol as i32;
    let protocol = match (config.protocol_selection == downstream, http2) {
        (true, _) => UpstreamProtocol::Downstream,
        (false, Some(_)) => UpstreamProtocol::Http2,
        (false, None) => UpstreamProtocol::Http1,
    };
    let format = http1_options(config.http_protocol_options.as_ref(), at);
    let http2 = http2_options(http2, &at.field("http2_protocol_options"));
    let common = config.common_http_protocol_options.as_ref();
    let mut http = settings(common, (format, http2), at);
    upstream_options(
        config.upstream_http_protocol_options.as_ref(),
        &mut http,
        at,
    );
    if let Some(max) = config.max_requests_per_connection {
        http.max_requests_per_connection = max.value;
    }
    (protocol, http)
}

fn http1_options(config: Option<&Http1ProtocolOptions>, at: &At<'_>) -> HeaderFormat {
    let Some(config) = config else {
        return HeaderFormat::Lower;
    };
    let at = at.field("http_protocol_options");
    // `allow_absolute_url` and HTTP/1.0 are of servers; trailers are passed on either way.
    http1_unsupported(config, &at);
    header_format(config.header_key_format.as_ref(), &at)
}

fn settings(
    config: Option<&CommonOptions>,
    (header_format, http2): Versions,
    at: &At<'_>,
) -> UpstreamHttp {
    let at = at.field("common_http_protocol_options");
    let config = config.copied().unwrap_or_default();
    let CommonOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = &config;
    // Of servers only.
    no_effect!(headers_with_underscores_action);
    refuse!(
        at;
        max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
        max_stream_duration,
    );
    UpstreamHttp {
        header_format,
        idle_timeout: at.limit("idle_timeout", idle_timeout, Some(DEFAULT_IDLE_TIMEOUT)),
        max_connection_duration: at.limit("max_connection_duration", max_connection_duration, None),
        max_requests_per_connection: max_requests_per_connection.map_or(0, |value| value.value),
        auto_sni: false,
        auto_san_validation: false,
        max_concurrent_streams: http2.max_concurrent_streams,
        initial_stream_window: http2.initial_stream_window,
        initial_connection_window: http2.initial_connection_window,
        http2_keepalive: http2.keepalive,
    }
}

fn upstream_options(
    config: Option<&UpstreamHttpProtocolOptions>,
    http: &mut UpstreamHttp,
    at: &At<'_>,
) {
    let Some(UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    }) = config
    else {
        return;
    };
    let at = at.field("upstream_http_protocol_options");
    refuse!(at; override_auto_sni_header);
    http.auto_sni = *auto_sni;
    http.auto_san_validation = *auto_san_validation;
}

fn upstream_filter(filter: &HttpFilter, at: &At<'_>) {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(config)) if any::is::<UpstreamCodec>(config) => {}
        Some(http_filter::ConfigType::TypedConfig(config)) => any::unsupported(config, at),
        Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
            at.field("config_discovery").error("is not supported");
        }
        None => at.error(format_args!("filter {:?} has no typed_config", filter.name)),
    }
}
