//! What a route does: forward, redirect or answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use ithildin_proto::pb::envoy::{
    config::route::v3::{
        DirectResponseAction, RedirectAction, RouteAction as RouteActionProto,
        WeightedCluster as WeightedClusterProto,
        redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
        route_action::{
            ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
            UpgradeConfig,
        },
        weighted_cluster::{ClusterWeight, cluster_weight},
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use regex::bytes::Regex;

pub(super) use super::retry::retry_policy;
use super::{
    headers::{Kind, mutations},
    matchers,
    routes::per_filter_config,
};
use crate::{
    config::route::{Clusters, Forward, Redirect, RedirectPath, RouteAction, WeightedCluster},
    control::{
        data_source,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's default of `timeout`.
const DEFAULT_ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// What a route inherits.
pub(super) struct Level<'a> {
    pub(super) retry_policy: Option<&'a ithildin_proto::pb::envoy::config::route::v3::RetryPolicy>,
    /// In bytes.
    pub(super) max_direct_response_body: u32,
}

pub(super) fn forward(
    config: &RouteActionProto,
    level: &Level<'_>,
    at: &At<'_>,
) -> Option<RouteAction> {
    let RouteActionProto {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy: own_retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = config;
    // Rate limits of the virtual host are refused there; early data does not exist over TCP here.
    no_effect!(include_vh_rate_limits, early_data_policy);
    refuse!(
        at;
        metadata_match, path_rewrite_policy, path_rewrite, flush_timeout,
        retry_policy_typed_config, request_mirror_policies, priority, rate_limits, hash_policy,
        cors, grpc_timeout_offset, internal_redirect_policy, internal_redirect_action,
        max_internal_redirects, hedge_policy,
    );
    let retry = match (own_retry_policy, level.retry_policy) {
        (Some(own), _) => Some(retry_policy(own, &at.field("retry_policy"))?),
        // Its errors are reported where it stands.
        (None, Some(inherited)) => retry_policy(inherited, &at.field("retry_policy")),
        (None, None) => None,
    };
    // The newer field takes the older one's place, as in Envoy.
    let max_grpc_timeout = match max_stream_duration {
        Some(_) => None,
        None => at.duration("max_grpc_timeout", max_grpc_timeout),
    };
    // And that of `timeout`.
    let timeout = match max_stream_duration {
        Some(_) => None,
        None => at.limit("timeout", timeout, Some(DEFAULT_ROUTE_TIMEOUT)),
    };
    let (max_stream_duration, grpc_timeout_max) =
        stream_durations(max_stream_duration.as_ref(), at);
    let (prefix_rewrite, regex_rewrite) = path_rewrites(prefix_rewrite, regex_rewrite, at)?;
    let (host_rewrite, auto_host_rewrite) = host_rewrite(host_rewrite_specifier.as_ref(), at)?;
    Some(RouteAction::Forward(Box::new(Forward {
        clusters: clusters(cluster_specifier.as_ref(), at)?,
        cluster_not_found: cluster_not_found(*cluster_not_found_response_code, at)?,
        timeout,
        idle_timeout: at.duration("idle_timeout", idle_timeout),
        max_stream_duration,
        prefix_rewrite,
        regex_rewrite,
        host_rewrite,
        auto_host_rewrite,
        append_x_forwarded_host: *append_x_forwarded_host,
        retry,
        upgrades: upgrades(upgrade_configs, at),
        grpc_timeout_max,
        max_grpc_timeout,
    })))
}

/// The clusters that an action names.
pub(super) fn cluster_names(action: &RouteAction) -> Box<dyn Iterator<Item = &Arc<str>> + '_> {
    match action {
        RouteAction::Forward(forward) => match &forward.clusters {
            Clusters::One(name) => Box::new(std::iter::once(name)),
            Clusters::Weighted { entries, .. } => Box::new(entries.iter().map(|entry| &entry.name)),
            Clusters::Header(_) => Box::new(std::iter::empty()),
        },
        RouteAction::Redirect(_) | RouteAction::Direct { .. } => Box::new(std::iter::empty()),
    }
}

fn cluster_not_found(code: i32, at: &At<'_>) -> Option<StatusCode> {
    Some(
        match at.enumeration("cluster_not_found_response_code", code)? {
            ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
            ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
    )
}

fn stream_durations(
    config: Option<&MaxStreamDuration>,
    at: &At<'_>,
) -> (Option<Duration>, Option<Duration>) {
    let Some(MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    }) = config
    else {
        return (None, None);
    };
    let at = at.field("max_stream_duration");
    refuse!(at; grpc_timeout_header_offset);
    (
        at.limit("max_stream_duration", max_stream_duration, None),
        at.duration("grpc_timeout_header_max", grpc_timeout_header_max),
    )
}

type PathRewrites = (Option<Box<str>>, Option<(Regex, Box<str>)>);

fn path_rewrites(
    prefix: &str,
    regex: &Option<RegexMatchAndSubstitute>,
    at: &At<'_>,
) -> Option<PathRewrites> {
    if !prefix.is_empty() && regex.is_some() {
        at.field("regex_rewrite")
            .error("only one of prefix_rewrite and regex_rewrite may be set");
        return None;
    }
    let regex = match regex {
        Some(rewrite) => Some(matchers::substitution(rewrite, &at.field("regex_rewrite"))?),
        None => None,
    };
    Some(((!prefix.is_empty()).then(|| prefix.into()), regex))
}

fn host_rewrite(
    specifier: Option<&HostRewriteSpecifier>,
    at: &At<'_>,
) -> Option<(Option<Bytes>, bool)> {
    match specifier {
        None => Some((None, false)),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            let host = header_value(host, &at.field("host_rewrite_literal"))?;
            Some((Some(host), false))
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => {
            at.field("host_rewrite")
                .error("is not supported; use host_rewrite_literal");
            None
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => Some((None, auto.value)),
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => {
            at.field("host_rewrite_header").error("is not supported");
            None
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            at.field("host_rewrite_path_regex")
                .error("is not supported");
            None
        }
    }
}

fn header_value(text: &str, at: &At<'_>) -> Option<Bytes> {
    if HeaderValue::from_str(text).is_err() {
        at.error(format_args!("{text:?} is not a header value"));
        return None;
    }
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

fn clusters(specifier: Option<&ClusterSpecifier>, at: &At<'_>) -> Option<Clusters> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Some(Clusters::One(name.as_str().into()))
        }
        Some(ClusterSpecifier::ClusterHeader(name)) => match HeaderName::try_from(name) {
            Ok(name) => Some(Clusters::Header(name)),
            Err(_) => {
                at.field("cluster_header")
                    .error(format_args!("{name:?} is not a header name"));
                None
            }
        },
        Some(ClusterSpecifier::WeightedClusters(config)) => {
            weighted(config, &at.field("weighted_clusters"))
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            at.field("cluster_specifier_plugin")
                .error("is not supported");
            None
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            at.field("inline_cluster_specifier_plugin")
                .error("is not supported");
            None
        }
        Some(ClusterSpecifier::Cluster(_)) | None => {
            at.error("one of cluster, weighted_clusters and cluster_header is required");
            None
        }
    }
}

fn weighted(config: &WeightedClusterProto, at: &At<'_>) -> Option<Clusters> {
    let WeightedClusterProto {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = config;
    // There is no runtime layer, so its keys keep their defaults.
    no_effect!(runtime_key_prefix);
    refuse!(at; random_value_specifier);
    let errors = at.errors();
    let entries: Vec<_> = clusters
        .iter()
        .enumerate()
        .filter_map(|(i, config)| weighted_cluster(config, &at.index("clusters", i)))
        .collect();
    if at.errors() > errors {
        return None;
    }
    let sum: u64 = entries.iter().map(|entry| u64::from(entry.weight)).sum();
    let total = u32::try_from(sum).ok().filter(|total| *total > 0);
    if total.is_none() {
        at.error(format_args!(
            "the weights add up to {sum}; the sum must be from 1 to {}",
            u32::MAX
        ));
    }
    if let Some(declared) = total_weight
        && u64::from(declared.value) != sum
    {
        at.field("total_weight").error(format_args!(
            "is {}, but the weights add up to {sum}",
            declared.value
        ));
    }
    Some(Clusters::Weighted {
        total: total?,
        entries,
    })
}

fn weighted_cluster(config: &ClusterWeight, at: &At<'_>) -> Option<WeightedCluster> {
    let ClusterWeight {
        name,
        cluster_header,
        weight,
        metadata_match,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        typed_per_filter_config,
        host_rewrite_specifier,
    } = config;
    refuse!(at; cluster_header, metadata_match);
    per_filter_config(typed_per_filter_config, at);
    if name.is_empty() {
        at.field("name").error("is empty");
        return None;
    }
    let host_rewrite = match host_rewrite_specifier {
        None => None,
        Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(header_value(host, &at.field("host_rewrite_literal"))?)
        }
    };
    Some(WeightedCluster {
        name: name.as_str().into(),
        weight: weight.map_or(0, |weight| weight.value),
        host_rewrite,
        request_headers: mutations(
            Kind::Request,
            request_headers_to_add,
            request_headers_to_remove,
            at,
        ),
        response_headers: mutations(
            Kind::Response,
            response_headers_to_add,
            response_headers_to_remove,
            at,
        ),
    })
}

fn upgrades(configs: &[UpgradeConfig], at: &At<'_>) -> Vec<(Arc<str>, bool)> {
    let configs = configs.iter().enumerate();
    configs
        .map(|(i, config)| {
            let UpgradeConfig {
                upgrade_type,
                enabled,
                connect_config,
            } = config;
            let at = at.index("upgrade_configs", i);
            refuse!(at; connect_config);
            upgrade_type_is_known(upgrade_type, &at);
            (
                upgrade_type.to_ascii_lowercase().into(),
                enabled.is_none_or(|enabled| enabled.value),
            )
        })
        .collect()
}

/// What becomes of CONNECT is not an upgrade of a connection, and is not supported.
pub(super) fn upgrade_type_is_known(upgrade_type: &str, at: &At<'_>) {
    let at = at.field("upgrade_type");
    if upgrade_type.is_empty() {
        at.error("is empty");
    } else if ["connect", "connect-udp"].contains(&&*upgrade_type.to_ascii_lowercase()) {
        at.error(format_args!("{upgrade_type:?} is not supported"));
    }
}

pub(super) fn redirect(config: &RedirectAction, at: &At<'_>) -> Option<RouteAction> {
    let RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = config;
    let status = match at.enumeration("response_code", *response_code)? {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let (https, scheme) = match scheme_rewrite_specifier {
        None => (false, None),
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (*https, None),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            (false, Some(scheme.as_str().into()))
        }
    };
    let port = u16::try_from(*port_redirect).ok();
    if port.is_none() {
        at.field("port_redirect")
            .error(format_args!("{port_redirect} is not a port"));
    }
    let path = match path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            RedirectPath::Replace(path.as_str().into())
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Prefix(prefix.as_str().into())
        }
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (regex, text) = matchers::substitution(rewrite, &at.field("regex_rewrite"))?;
            RedirectPath::Regex(regex, text)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            at.field("path_rewrite").error("is not supported");
            return None;
        }
    };
    Some(RouteAction::Redirect(Box::new(Redirect {
        status,
        https,
        scheme,
        host: (!host_redirect.is_empty()).then(|| host_redirect.as_str().into()),
        port: port.filter(|port| *port != 0),
        path,
        strip_query: *strip_query,
    })))
}

pub(super) fn direct(
    config: &DirectResponseAction,
    level: &Level<'_>,
    at: &At<'_>,
) -> Option<RouteAction> {
    let DirectResponseAction {
        status,
        body,
        body_format,
    } = config;
    refuse!(at; body_format);
    let code = u16::try_from(*status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok());
    if code.is_none() {
        at.field("status")
            .error(format_args!("{status} is not from 200 to 599"));
    }
    let body = match body {
        Some(source) => data_source::read(source, &at.field("body"))?,
        None => Vec::new(),
    };
    if body.len() > level.max_direct_response_body as usize {
        at.field("body").error(format_args!(
            "has {} bytes, more than max_direct_response_body_size_bytes, which is {}",
            body.len(),
            level.max_direct_response_body
        ));
    }
    Some(RouteAction::Direct {
        status: code?,
        body: body.into(),
    })
}
