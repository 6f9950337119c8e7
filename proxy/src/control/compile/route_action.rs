//! Routes that forward. Those that answer themselves: `route_answer`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use ithildin_proto::pb::envoy::{
    config::route::v3::{
        RouteAction as RouteActionProto,
        route_action::{
            ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
            UpgradeConfig, upgrade_config::ConnectConfig,
        },
    },
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use regex::bytes::Regex;

pub(super) use super::retry::retry_policy;
use super::{hash_policy, headers, limit_rules, matchers, mirror, weighted};
use crate::{
    config::route::{Clusters, Forward, RouteAction},
    control::report::{At, no_effect, refuse},
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
    // Early data does not exist over TCP here.
    no_effect!(early_data_policy);
    refuse!(
        at;
        metadata_match, path_rewrite_policy, path_rewrite, flush_timeout,
        retry_policy_typed_config, priority, cors,
        grpc_timeout_offset, internal_redirect_policy, internal_redirect_action,
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
    let (upgrades, terminates_connect) = upgrades(upgrade_configs, at);
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
        hash: hash_policy::policies(hash_policy, at),
        limits: limit_rules::of_route(rate_limits, at),
        includes_host_limits: include_vh_rate_limits.is_some_and(|it| it.value),
        mirrors: mirror::mirrors(request_mirror_policies, at)?,
        upgrades,
        terminates_connect,
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
        at.duration("max_stream_duration", max_stream_duration),
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
            let host = headers::value(host, &at.field("host_rewrite_literal"))?;
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
            weighted::clusters(config, &at.field("weighted_clusters"))
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

/// Which protocols may be changed to, and whether CONNECT ends here.
fn upgrades(configs: &[UpgradeConfig], at: &At<'_>) -> (Vec<(Arc<str>, bool)>, bool) {
    let mut terminates = false;
    let configs = configs.iter().enumerate();
    let upgrades = configs.map(|(i, config)| {
        let UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = config;
        let at = at.index("upgrade_configs", i);
        upgrade_type_is_known(upgrade_type, &at);
        let name = upgrade_type.to_ascii_lowercase();
        let enabled = enabled.is_none_or(|enabled| enabled.value);
        if let Some(ConnectConfig {
            proxy_protocol_config,
            allow_post,
        }) = connect_config
        {
            let at = at.field("connect_config");
            refuse!(at; proxy_protocol_config, allow_post);
            if name != "connect" {
                at.error("goes with upgrade_type CONNECT alone");
            }
            terminates |= enabled;
        }
        (name.into(), enabled)
    });
    let upgrades = upgrades.collect();
    (upgrades, terminates)
}

/// Refuses what is known to be something else than an upgrade of a connection.
pub(super) fn upgrade_type_is_known(upgrade_type: &str, at: &At<'_>) {
    let at = at.field("upgrade_type");
    if upgrade_type.is_empty() {
        at.error("is empty");
    } else if upgrade_type.eq_ignore_ascii_case("connect-udp") {
        at.error(format_args!("{upgrade_type:?} is not supported"));
    }
}
