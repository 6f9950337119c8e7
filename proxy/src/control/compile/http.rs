//! The HTTP connection manager.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use ithildin_proto::pb::envoy::{
    config::core::v3::HttpProtocolOptions,
    extensions::{
        filters::network::http_connection_manager::v3::{
            HttpConnectionManager, Rds, RequestIdExtension,
            http_connection_manager::{
                CodecType, ForwardClientCertDetails, InternalAddressConfig,
                PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
                SetCurrentClientCertDetails, StripPortMode, UpgradeConfig,
            },
        },
        request_id::uuid::v3::UuidRequestIdConfig,
    },
};

use super::{
    Compiler, ListenerParts, RouteDependency, access_log, address, http_filters,
    http_options::{
        common_options, downstream_http2, http1_options, max_headers, max_headers_kb, underscores,
    },
    route_action, routes,
    trace::{self, RequestIdUse},
};
use crate::{
    config::http::{
        ClientCertDetails, Codec, EscapedSlashes, ForwardClientCert, HttpManager, HttpTimeouts,
        ServerHeader,
    },
    control::{
        any,
        report::{At, no_effect, refuse},
    },
    rbac::Cidr,
};

/// Envoy's defaults.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DEFAULT_STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_SERVER_NAME: &str = "envoy";
/// Envoy has no limit on the time of a request head unless one is configured; a peer that sends a
/// byte a minute would hold a connection for ever, so we have one.
const DEFAULT_HEADERS_TIMEOUT: Duration = Duration::from_secs(60);

/// Compiles one connection manager.
pub(super) fn manager(
    config: &HttpConnectionManager,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<HttpManager> {
    let errors = at.errors();
    unsupported(config, at);
    let HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        server_name,
        server_header_transformation,
        access_log,
        use_remote_address,
        xff_num_trusted_hops,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        proxy_100_continue,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        append_x_forwarded_port,
        strip_port_mode,
        internal_address_config,
        tracing,
        ..
    } = config;
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    let common = common_http_protocol_options.unwrap_or_default();
    let place = http_filters::Place {
        stat_prefix,
        inbound: parts.inbound,
    };
    let filters = http_filters::filters(http_filters, &place, compiler, at);
    let routes = route_source(config, compiler, parts, at);
    let beside = trace::Beside {
        start_child_span: filters.router.start_child_span,
        request_id: request_id(config, at),
    };
    let tracing = tracing
        .as_ref()
        .map(|config| trace::tracing(config, &beside, compiler, parts, &at.field("tracing")));
    let access_log = access_log::loggers(access_log, compiler, at);
    let manager = HttpManager {
        codec: codec(*codec_type, at)?,
        stat_prefix: stat_prefix.as_str().into(),
        routes: routes?,
        server_name: non_empty(server_name, DEFAULT_SERVER_NAME).into(),
        server_header: server_header(*server_header_transformation, at)?,
        use_remote_address: use_remote_address.is_some_and(|value| value.value),
        internal_addresses: internal_addresses(internal_address_config.as_ref(), at),
        skip_xff_append: *skip_xff_append,
        xff_num_trusted_hops: *xff_num_trusted_hops,
        append_x_forwarded_port: *append_x_forwarded_port,
        generate_request_id: generate_request_id.is_none_or(|value| value.value),
        preserve_external_request_id: *preserve_external_request_id,
        always_set_request_id_in_response: *always_set_request_id_in_response,
        proxy_100_continue: *proxy_100_continue,
        via: (!via.is_empty()).then(|| via.as_str().into()),
        forward_client_cert: forward_client_cert(*forward_client_cert_details, at)?,
        client_cert_details: client_cert_details(set_current_client_cert_details.as_ref(), at),
        normalize_path: normalize_path.is_some_and(|value| value.value),
        merge_slashes: *merge_slashes,
        escaped_slashes: escaped_slashes(*path_with_escaped_slashes_action, at),
        strips_fragment: compiler.strips_fragment,
        strip_any_host_port: matches!(strip_port_mode, Some(StripPortMode::StripAnyHostPort(true))),
        suppress_envoy_headers: filters.router.suppress_envoy_headers,
        filters: filters.chain,
        upgrades: upgrades(upgrade_configs, at),
        timeouts: timeouts(config, &common, at),
        http1: http1_options(http_protocol_options.as_ref(), at),
        http2: downstream_http2(http2_protocol_options.as_ref(), at),
        max_request_headers_kb: max_headers_kb(config, at),
        max_requests_per_connection: common
            .max_requests_per_connection
            .and_then(|value| NonZeroU32::new(value.value)),
        max_headers_count: max_headers(&common, at),
        headers_with_underscores: underscores(&common, at)?,
        access_log: match &tracing {
            Some(tracing) if tracing.tracer.is_some() => access_log.and_spans(tracing.templates()),
            _ => access_log,
        },
        tracing: tracing.map(Box::new),
        stats: compiler.stats.http(stat_prefix, &parts.stat_name),
    };
    common_options(&common, &at.field("common_http_protocol_options"));
    (at.errors() == errors).then_some(manager)
}

/// Refuses or passes over each field that [`manager`] does not read; the pattern names every field,
/// so that a new one does not compile.
fn unsupported(config: &HttpConnectionManager, at: &At<'_>) {
    #[rustfmt::skip]
    let HttpConnectionManager {
        codec_type: _, stat_prefix: _, http_filters: _, common_http_protocol_options: _,
        http_protocol_options: _, http2_protocol_options: _, server_name: _,
        server_header_transformation: _, max_request_headers_kb: _, stream_idle_timeout: _,
        request_timeout: _, request_headers_timeout: _, drain_timeout: _, delayed_close_timeout: _,
        access_log: _, use_remote_address: _, xff_num_trusted_hops: _, skip_xff_append: _, via: _,
        generate_request_id: _, preserve_external_request_id: _,
        always_set_request_id_in_response: _, forward_client_cert_details: _,
        set_current_client_cert_details: _, proxy_100_continue: _, upgrade_configs: _,
        normalize_path: _, merge_slashes: _, append_x_forwarded_port: _, route_specifier: _,
        strip_port_mode: _, tracing: _, request_id_extension: _,
        add_user_agent, http1_safe_max_connection_duration, http3_protocol_options,
        scheme_header_transformation, stream_flush_timeout, drain_timeout_jitter,
        access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
        original_ip_detection_extensions, early_header_mutation_extensions,
        internal_address_config: _, forward_client_cert_matcher,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, path_with_escaped_slashes_action: _,
        local_reply_config, strip_matching_host_port,
        stream_error_on_invalid_http_message, path_normalization_options, strip_trailing_host_dot,
        proxy_status_config, typed_header_validation_config, append_local_overload,
        add_proxy_protocol_connection_state, forward_proto_config,
    } = config;
    // HTTP/3 options without an HTTP/3 codec.
    no_effect!(http3_protocol_options, add_proxy_protocol_connection_state);
    refuse!(
        at;
        scheme_header_transformation, stream_flush_timeout, drain_timeout_jitter,
        http1_safe_max_connection_duration, access_log_flush_interval,
        flush_access_log_on_new_request, access_log_options, original_ip_detection_extensions,
        early_header_mutation_extensions, forward_client_cert_matcher,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, local_reply_config,
        strip_matching_host_port, path_normalization_options, strip_trailing_host_dot,
        proxy_status_config, typed_header_validation_config, append_local_overload,
        forward_proto_config,
    );
    at.not_true("add_user_agent", add_user_agent);
    at.not_true(
        "stream_error_on_invalid_http_message",
        stream_error_on_invalid_http_message,
    );
}

fn route_source(
    manager: &HttpConnectionManager,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Arc<ArcSwapOption<crate::config::RouteTable>>> {
    match &manager.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            let at = at.field("route_config");
            let table = Arc::new(routes::table(config, &at));
            if config.validate_clusters.is_none_or(|value| value.value) {
                parts.cluster_references.extend(
                    routes::cluster_references(&table)
                        .map(|(path, name)| (format!("{at}.{path}"), Arc::clone(name))),
                );
            }
            Some(Arc::new(ArcSwapOption::from(Some(table))))
        }
        Some(RouteSpecifier::Rds(rds)) => {
            let at = at.field("rds");
            rds_slot(rds, &manager.stat_prefix, compiler, parts, &at)
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            at.field("scoped_routes").error("is not supported");
            None
        }
        None => {
            at.error("one of route_config and rds is required");
            None
        }
    }
}

fn rds_slot(
    rds: &Rds,
    stat_prefix: &str,
    compiler: &mut Compiler,
    parts: &mut ListenerParts,
    at: &At<'_>,
) -> Option<Arc<ArcSwapOption<crate::config::RouteTable>>> {
    let Rds {
        config_source,
        route_config_name,
    } = rds;
    let timeout = super::ads_source(config_source.as_ref(), &at.field("config_source"))?;
    if route_config_name.is_empty() {
        at.field("route_config_name").error("is empty");
        return None;
    }
    let name: Arc<str> = route_config_name.as_str().into();
    let slot = compiler.route_slot(&name);
    let scope = format!("http.{stat_prefix}.rds.{name}");
    let stats = compiler.stats.subscription(&scope);
    parts.routes.push(RouteDependency {
        name,
        timeout,
        stats,
    });
    Some(slot)
}

fn internal_addresses(config: Option<&InternalAddressConfig>, at: &At<'_>) -> Box<[Cidr]> {
    let Some(InternalAddressConfig {
        unix_sockets,
        cidr_ranges,
    }) = config
    else {
        return Box::default();
    };
    // No client of ours comes by a Unix socket.
    no_effect!(unix_sockets);
    let at = at.field("internal_address_config");
    let ranges = cidr_ranges.iter().enumerate();
    ranges
        .filter_map(|(i, range)| {
            let (address, prefix) = address::cidr(range, &at.index("cidr_ranges", i))?;
            Some(Cidr { address, prefix })
        })
        .collect()
}

fn codec(value: i32, at: &At<'_>) -> Option<Codec> {
    match at.enumeration("codec_type", value)? {
        CodecType::Auto => Some(Codec::Auto),
        CodecType::Http1 => Some(Codec::Http1),
        CodecType::Http2 => Some(Codec::Http2),
        CodecType::Http3 => {
            at.field("codec_type").error("HTTP3 is not supported");
            None
        }
    }
}

fn server_header(value: i32, at: &At<'_>) -> Option<ServerHeader> {
    Some(
        match at.enumeration("server_header_transformation", value)? {
            ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite,
            ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
    )
}

fn forward_client_cert(value: i32, at: &At<'_>) -> Option<ForwardClientCert> {
    Some(
        match at.enumeration("forward_client_cert_details", value)? {
            ForwardClientCertDetails::Sanitize => ForwardClientCert::Sanitize,
            ForwardClientCertDetails::ForwardOnly => ForwardClientCert::ForwardOnly,
            ForwardClientCertDetails::AppendForward => ForwardClientCert::AppendForward,
            ForwardClientCertDetails::SanitizeSet => ForwardClientCert::SanitizeSet,
            ForwardClientCertDetails::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
        },
    )
}

fn client_cert_details(
    config: Option<&SetCurrentClientCertDetails>,
    at: &At<'_>,
) -> ClientCertDetails {
    let Some(SetCurrentClientCertDetails {
        subject,
        cert,
        chain,
        dns,
        uri,
        issuer,
        format,
    }) = config
    else {
        return ClientCertDetails::default();
    };
    let at = at.field("set_current_client_cert_details");
    refuse!(at; issuer, format);
    ClientCertDetails {
        subject: subject.is_some_and(|value| value.value),
        cert: *cert,
        chain: *chain,
        dns: *dns,
        uri: *uri,
    }
}

fn upgrades(configs: &[UpgradeConfig], at: &At<'_>) -> Vec<Arc<str>> {
    let configs = configs.iter().enumerate();
    configs
        .filter_map(|(i, config)| {
            let UpgradeConfig {
                upgrade_type,
                filters,
                enabled,
            } = config;
            let at = at.index("upgrade_configs", i);
            refuse!(at; filters);
            route_action::upgrade_type_is_known(upgrade_type, &at);
            let on = enabled.is_none_or(|value| value.value);
            on.then(|| upgrade_type.to_ascii_lowercase().into())
        })
        .collect()
}

fn timeouts(
    config: &HttpConnectionManager,
    common: &HttpProtocolOptions,
    at: &At<'_>,
) -> HttpTimeouts {
    let common_at = at.field("common_http_protocol_options");
    HttpTimeouts {
        idle: common_at.limit(
            "idle_timeout",
            &common.idle_timeout,
            Some(DEFAULT_IDLE_TIMEOUT),
        ),
        max_connection_duration: common_at.limit(
            "max_connection_duration",
            &common.max_connection_duration,
            None,
        ),
        max_stream_duration: common_at.limit(
            "max_stream_duration",
            &common.max_stream_duration,
            None,
        ),
        stream_idle: at.limit(
            "stream_idle_timeout",
            &config.stream_idle_timeout,
            Some(DEFAULT_STREAM_IDLE_TIMEOUT),
        ),
        request: at.limit("request_timeout", &config.request_timeout, None),
        request_headers: at.limit(
            "request_headers_timeout",
            &config.request_headers_timeout,
            Some(DEFAULT_HEADERS_TIMEOUT),
        ),
        drain: at
            .duration("drain_timeout", &config.drain_timeout)
            .unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        delayed_close: at.limit(
            "delayed_close_timeout",
            &config.delayed_close_timeout,
            Some(DEFAULT_DELAYED_CLOSE_TIMEOUT),
        ),
    }
}

fn escaped_slashes(value: i32, at: &At<'_>) -> EscapedSlashes {
    use PathWithEscapedSlashesAction as Action;
    let action = at.enumeration("path_with_escaped_slashes_action", value);
    match action.unwrap_or(Action::KeepUnchanged) {
        Action::ImplementationSpecificDefault | Action::KeepUnchanged => EscapedSlashes::Keep,
        Action::RejectRequest => EscapedSlashes::Reject,
        Action::UnescapeAndRedirect => EscapedSlashes::Redirect,
        Action::UnescapeAndForward => EscapedSlashes::Unescape,
    }
}

/// What `x-request-id` has to do with spans.
fn request_id(config: &HttpConnectionManager, at: &At<'_>) -> RequestIdUse {
    let extension = config.request_id_extension.as_ref();
    let Some(RequestIdExtension {
        typed_config: Some(config),
    }) = extension
    else {
        return RequestIdUse::default();
    };
    let at = at.field("request_id_extension");
    if !any::is::<UuidRequestIdConfig>(config) {
        any::unsupported(config, &at);
        return RequestIdUse::default();
    }
    let read = any::read(config, &at);
    let UuidRequestIdConfig {
        pack_trace_reason,
        use_request_id_for_trace_sampling,
    } = read.unwrap_or_default();
    RequestIdUse {
        packs_reason: pack_trace_reason.is_none_or(|value| value.value),
        samples: use_request_id_for_trace_sampling.is_none_or(|value| value.value),
    }
}

fn non_empty<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}
