//! Who authorizes: services of gRPC and of plain HTTP.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use ithildin_proto::pb::envoy::{
    config::core::v3::{
        GrpcService as GrpcProto, HeaderValueOption, HttpUri,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
        header_value_option::HeaderAppendAction,
        http_uri::HttpUpstreamType,
    },
    extensions::filters::http::ext_authz::v3::{
        AuthorizationRequest, AuthorizationResponse, HttpService as ServiceProto,
    },
    r#type::matcher::v3::ListStringMatcher,
};

use super::{headers, matchers};
use crate::{
    config::{
        ext_authz::{CheckPath, GrpcService, HttpService, NameMatches},
        route::HeaderMutations,
    },
    control::report::{At, no_effect, refuse},
};

/// Envoy's for a service of gRPC.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);

/// A list of header names.
pub(super) fn names(
    field: &'static str,
    config: Option<&ListStringMatcher>,
    at: &At<'_>,
) -> Option<NameMatches> {
    let at = at.field(field);
    let patterns = config?.patterns.iter().enumerate();
    let patterns = patterns.map(|(i, it)| matchers::string(it, &at.index("patterns", i)));
    let patterns: Vec<_> = patterns.collect();
    patterns.into_iter().collect::<Option<_>>().map(NameMatches)
}

/// A service of gRPC.
pub(super) fn grpc(config: &GrpcProto, at: &At<'_>) -> Option<GrpcService> {
    let GrpcProto {
        timeout,
        initial_metadata,
        retry_policy,
        target_specifier,
    } = config;
    refuse!(at; initial_metadata, retry_policy);
    let target = match target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            at.field("google_grpc")
                .error("is not supported; name a cluster in envoy_grpc");
            return None;
        }
        None => {
            at.error("envoy_grpc is required");
            return None;
        }
    };
    let timeout = at.limit("timeout", timeout, Some(DEFAULT_TIMEOUT));
    let at = at.field("envoy_grpc");
    let EnvoyGrpc {
        cluster_name,
        authority,
        retry_policy,
        max_receive_message_length,
        skip_envoy_headers,
    } = target;
    // Answers are bounded anyway, and no such headers are sent.
    no_effect!(max_receive_message_length, skip_envoy_headers);
    refuse!(at; retry_policy);
    let cluster = at.text("cluster_name", cluster_name)?;
    let authority = match authority.as_str() {
        "" => cluster_name,
        authority => authority,
    };
    if Authority::try_from(plain_authority(authority)).is_err() {
        at.field("authority")
            .error(format_args!("{authority:?} is not an authority"));
    }
    Some(GrpcService {
        cluster: cluster.into(),
        authority: Bytes::copy_from_slice(plain_authority(authority).as_bytes()),
        timeout,
    })
}

/// A cluster's name stands for the authority where there is none; Istio's hold what no authority may.
pub(super) fn plain_authority(authority: &str) -> &str {
    match authority.rsplit_once('|') {
        Some((_, host)) => host,
        None => authority,
    }
}

/// A service of plain HTTP.
pub(super) fn http(config: &ServiceProto, at: &At<'_>) -> Option<HttpService> {
    let ServiceProto {
        server_uri,
        path_prefix,
        path_override,
        authorization_request,
        authorization_response,
        retry_policy,
    } = config;
    refuse!(at; retry_policy);
    let request = authorization_request.as_ref();
    let added = request.map(|it| headers_to_add(it, &at.field("authorization_request")));
    let none = AuthorizationResponse::default();
    let AuthorizationResponse {
        allowed_upstream_headers,
        allowed_upstream_headers_to_append,
        allowed_client_headers,
        allowed_client_headers_on_success,
        dynamic_metadata_from_headers,
    } = authorization_response.as_ref().unwrap_or(&none);
    let answer = at.field("authorization_response");
    let names = |field, config: &Option<ListStringMatcher>| names(field, config.as_ref(), &answer);
    let path = path(path_prefix, path_override, at);
    let (cluster, timeout) = server(server_uri.as_ref(), &at.field("server_uri"))?;
    Some(HttpService {
        cluster,
        timeout,
        path: path?,
        headers_to_add: added.unwrap_or_default(),
        upstream_headers: names("allowed_upstream_headers", allowed_upstream_headers)
            .unwrap_or_default(),
        upstream_headers_to_append: names(
            "allowed_upstream_headers_to_append",
            allowed_upstream_headers_to_append,
        )
        .unwrap_or_default(),
        client_headers: names("allowed_client_headers", allowed_client_headers)
            .filter(|it| !it.0.is_empty()),
        client_headers_on_success: names(
            "allowed_client_headers_on_success",
            allowed_client_headers_on_success,
        )
        .unwrap_or_default(),
        metadata_headers: names(
            "dynamic_metadata_from_headers",
            dynamic_metadata_from_headers,
        )
        .unwrap_or_default(),
    })
}

fn headers_to_add(config: &AuthorizationRequest, at: &At<'_>) -> HeaderMutations {
    let AuthorizationRequest {
        // Read by the caller.
        allowed_headers: _,
        headers_to_add,
    } = config;
    let options: Vec<_> = headers_to_add
        .iter()
        .map(|header| HeaderValueOption {
            header: Some(header.clone()),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        })
        .collect();
    headers::additions("headers_to_add", &options, at)
}

fn path(prefix: &str, replacement: &str, at: &At<'_>) -> Option<CheckPath> {
    for (field, path) in [("path_prefix", prefix), ("path_override", replacement)] {
        if !path.is_empty() && (!path.starts_with('/') || PathAndQuery::try_from(path).is_err()) {
            at.field(field)
                .error(format_args!("{path:?} is not a path"));
            return None;
        }
    }
    match (prefix, replacement) {
        (prefix, "") => Some(CheckPath::Prefix(prefix.into())),
        ("", path) => Some(CheckPath::Override(Bytes::copy_from_slice(path.as_bytes()))),
        _ => {
            at.error("only one of path_prefix and path_override may be set");
            None
        }
    }
}

/// A cluster that is asked in plain HTTP, and for how long.
pub(super) fn server(
    config: Option<&HttpUri>,
    at: &At<'_>,
) -> Option<(Arc<str>, Option<Duration>)> {
    let Some(HttpUri {
        uri,
        timeout,
        http_upstream_type,
    }) = config
    else {
        at.error("is required");
        return None;
    };
    // Envoy asks for it, and goes by the cluster.
    if uri.is_empty() {
        at.field("uri").error("is empty");
    }
    if timeout.is_none() {
        at.field("timeout").error("is required");
    }
    let Some(HttpUpstreamType::Cluster(name)) = http_upstream_type else {
        at.field("cluster").error("is required");
        return None;
    };
    let timeout = at.limit("timeout", timeout, None);
    Some((at.text("cluster", name)?.into(), timeout))
}
