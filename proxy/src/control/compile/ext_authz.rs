//! `envoy.filters.http.ext_authz` and `envoy.filters.network.ext_authz`: who is asked, about what.

use ithildin_proto::pb::envoy::{
    config::core::v3::ApiVersion,
    extensions::filters::{
        http::ext_authz::v3::{
            BufferSettings, CheckSettings as SettingsProto, ExtAuthz as HttpProto,
            ExtAuthzPerRoute, ext_authz::Services, ext_authz_per_route::Override,
        },
        network::ext_authz::v3::ExtAuthz as NetworkProto,
    },
    r#type::{matcher::v3::ListStringMatcher, v3::HttpStatus},
};

use super::{
    ext_authz_service::{self as service, names},
    fault, metadata,
};
use crate::{
    config::{
        ext_authz::{
            AuthzService, BodySettings, CheckBody, CheckSettings, ExtAuthz, NameMatches,
            TcpExtAuthz,
        },
        filters::{FilterOverride, Percent},
    },
    control::report::{At, no_effect, refuse},
    stats::Registry,
};

/// Envoy's: a service that cannot be asked lets nobody in.
const DEFAULT_STATUS: u16 = 403;

/// The HTTP filter of a connection manager with this stat prefix.
pub(super) fn http(
    config: &HttpProto,
    stats: &Registry,
    manager: &str,
    at: &At<'_>,
) -> Option<ExtAuthz> {
    let errors = at.errors();
    unsupported(config, at);
    let HttpProto {
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        enable_dynamic_metadata_ingestion,
        max_denied_response_body_bytes,
        services,
        ..
    } = config;
    let service = match services {
        Some(Services::GrpcService(config)) => {
            service::grpc(config, &at.field("grpc_service")).map(AuthzService::Grpc)
        }
        Some(Services::HttpService(config)) => {
            service::http(config, &at.field("http_service")).map(AuthzService::Http)
        }
        None => {
            at.error("one of grpc_service and http_service is required");
            None
        }
    };
    let enabled = match filter_enabled {
        None => Some(Percent::ALL),
        // There is no runtime layer, so the default counts.
        Some(config) => fault::percent(config.default_value.as_ref(), &at.field("filter_enabled")),
    };
    let enabled_metadata = filter_enabled_metadata.as_ref();
    let enabled_metadata =
        enabled_metadata.map(|it| metadata::matcher(it, &at.field("filter_enabled_metadata")));
    let deny_at_disable = deny_at_disable.as_ref().and_then(|it| it.default_value);
    let filter = ExtAuthz {
        service: service?,
        failure_mode_allow: *failure_mode_allow,
        failure_mode_allow_header_add: *failure_mode_allow_header_add,
        status_on_error: status(status_on_error.as_ref(), &at.field("status_on_error")),
        body: body(with_request_body.as_ref(), &at.field("with_request_body")),
        clear_route_cache: *clear_route_cache,
        enabled: enabled?,
        enabled_metadata: enabled_metadata.flatten(),
        deny_at_disable: deny_at_disable.is_some_and(|it| it.value),
        allowed_headers: allowed(config, allowed_headers.as_ref(), at),
        disallowed_headers: names("disallowed_headers", disallowed_headers.as_ref(), at)
            .unwrap_or_default(),
        include_peer_certificate: *include_peer_certificate,
        include_tls_session: *include_tls_session,
        takes_metadata: enable_dynamic_metadata_ingestion.is_none_or(|it| it.value),
        max_denied_body: match max_denied_response_body_bytes {
            0 => None,
            most => Some(*most as usize),
        },
        stats: stats.ext_authz(manager, stat_prefix),
    };
    (at.errors() == errors).then_some(filter)
}

/// The fields that we do not honour.
fn unsupported(config: &HttpProto, at: &At<'_>) {
    let HttpProto {
        transport_api_version,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        bootstrap_metadata_labels_key,
        charge_cluster_response_stats,
        encode_raw_headers,
        decoder_header_mutation_rules,
        filter_metadata,
        emit_filter_state_stats,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span,
        // Read by the caller.
        failure_mode_allow: _,
        failure_mode_allow_header_add: _,
        with_request_body: _,
        clear_route_cache: _,
        status_on_error: _,
        filter_enabled: _,
        filter_enabled_metadata: _,
        deny_at_disable: _,
        include_peer_certificate: _,
        stat_prefix: _,
        allowed_headers: _,
        disallowed_headers: _,
        include_tls_session: _,
        enable_dynamic_metadata_ingestion: _,
        max_denied_response_body_bytes: _,
        services: _,
    } = config;
    // Answers are always validated and bounded; the rest is statistics of clusters, and traces.
    no_effect!(
        validate_mutations,
        enforce_response_header_limits,
        charge_cluster_response_stats,
        emit_client_span,
    );
    api_version(*transport_api_version, at);
    refuse!(
        at;
        metadata_context_namespaces, typed_metadata_context_namespaces,
        route_metadata_context_namespaces, route_typed_metadata_context_namespaces,
        bootstrap_metadata_labels_key, encode_raw_headers, decoder_header_mutation_rules,
        filter_metadata, emit_filter_state_stats, shadow_mode,
    );
}

/// The network filter.
pub(super) fn network(config: &NetworkProto, stats: &Registry, at: &At<'_>) -> Option<TcpExtAuthz> {
    let NetworkProto {
        stat_prefix,
        grpc_service,
        failure_mode_allow,
        include_peer_certificate,
        transport_api_version,
        filter_enabled_metadata,
        bootstrap_metadata_labels_key,
        include_tls_session,
        send_tls_alert_on_denial,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        shadow_mode,
    } = config;
    let errors = at.errors();
    api_version(*transport_api_version, at);
    refuse!(
        at;
        bootstrap_metadata_labels_key, send_tls_alert_on_denial, metadata_context_namespaces,
        typed_metadata_context_namespaces, shadow_mode,
    );
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    let at_service = at.field("grpc_service");
    let service = match grpc_service {
        Some(config) => service::grpc(config, &at_service),
        None => {
            at_service.error("is required");
            None
        }
    };
    let enabled_metadata = filter_enabled_metadata.as_ref();
    let enabled_metadata =
        enabled_metadata.map(|it| metadata::matcher(it, &at.field("filter_enabled_metadata")));
    let filter = TcpExtAuthz {
        service: service?,
        failure_mode_allow: *failure_mode_allow,
        enabled_metadata: enabled_metadata.flatten(),
        include_peer_certificate: *include_peer_certificate,
        include_tls_session: *include_tls_session,
        stats: stats.tcp_ext_authz(stat_prefix),
    };
    (at.errors() == errors).then_some(filter)
}

/// What a route says.
pub(super) fn per_route(config: &ExtAuthzPerRoute, at: &At<'_>) -> Option<FilterOverride> {
    match &config.r#override {
        Some(Override::Disabled(true)) => Some(FilterOverride::Disabled),
        Some(Override::Disabled(false)) => Some(FilterOverride::Enabled),
        Some(Override::CheckSettings(config)) => {
            settings(config, &at.field("check_settings")).map(FilterOverride::ExtAuthz)
        }
        None => {
            at.error("one of disabled and check_settings is required");
            None
        }
    }
}

fn settings(config: &SettingsProto, at: &At<'_>) -> Option<CheckSettings> {
    let SettingsProto {
        context_extensions,
        disable_request_body_buffering,
        with_request_body,
        emit_client_span,
        service_override,
    } = config;
    no_effect!(emit_client_span);
    if service_override.is_some() {
        at.field("service_override").error("is not supported");
        return None;
    }
    let body = match (disable_request_body_buffering, with_request_body) {
        (true, Some(_)) => {
            at.error("only one of disable_request_body_buffering and with_request_body may be set");
            return None;
        }
        (true, None) => BodySettings::None,
        (false, None) => BodySettings::OfFilter,
        (false, Some(config)) => {
            BodySettings::Own(body(Some(config), &at.field("with_request_body"))?)
        }
    };
    let extensions = context_extensions.iter();
    let extensions = extensions.map(|(key, value)| (key.clone(), value.clone()));
    Some(CheckSettings {
        context_extensions: extensions.collect(),
        body,
    })
}

fn api_version(version: i32, at: &At<'_>) {
    match at.enumeration("transport_api_version", version) {
        // There is one version left: 3.
        Some(ApiVersion::Auto | ApiVersion::V3) | None => {}
        Some(ApiVersion::V2) => at.field("transport_api_version").error("must be V3"),
    }
}

fn status(config: Option<&HttpStatus>, at: &At<'_>) -> u16 {
    let Some(HttpStatus { code }) = config else {
        return DEFAULT_STATUS;
    };
    let code = u16::try_from(*code).ok();
    code.filter(|it| (200..600).contains(it))
        .unwrap_or_else(|| {
            at.field("code").error("is not from 200 to 599");
            DEFAULT_STATUS
        })
}

fn body(config: Option<&BufferSettings>, at: &At<'_>) -> Option<CheckBody> {
    let BufferSettings {
        max_request_bytes,
        allow_partial_message,
        pack_as_bytes,
    } = config?;
    if *max_request_bytes == 0 {
        at.field("max_request_bytes")
            .error("must be more than zero");
    }
    Some(CheckBody {
        max_bytes: *max_request_bytes as usize,
        allow_partial: *allow_partial_message,
        pack_as_bytes: *pack_as_bytes,
    })
}

/// The filter's list, or the one at its older place.
fn allowed(
    config: &HttpProto,
    own: Option<&ListStringMatcher>,
    at: &At<'_>,
) -> Option<NameMatches> {
    let older = match &config.services {
        Some(Services::HttpService(service)) => service.authorization_request.as_ref(),
        _ => None,
    };
    match (own, older.and_then(|it| it.allowed_headers.as_ref())) {
        (Some(own), None) => names("allowed_headers", Some(own), at),
        (None, older) => {
            let at = at.field("http_service");
            names("allowed_headers", older, &at.field("authorization_request"))
        }
        (Some(_), Some(_)) => {
            let at = at.field("http_service");
            at.field("authorization_request")
                .field("allowed_headers")
                .error("is set, and so is allowed_headers of the filter");
            None
        }
    }
}
