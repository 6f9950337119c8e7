//! The TCP proxy filter.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ithildin_http1::{check_target, is_authority};
use ithildin_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy as TcpProxyProto,
    tcp_proxy::{
        ClusterSpecifier, TunnelingConfig, WeightedCluster, weighted_cluster::ClusterWeight,
    },
};
use ithildin_proto::pb::envoy::r#type::v3::{HashPolicy, hash_policy::PolicySpecifier};

use super::{Compiler, access_log, headers};
use crate::{
    config::listener::{TcpProxy, Tunneling},
    control::report::{At, no_effect, refuse},
};

/// Envoy's default.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn proxy(
    config: &TcpProxyProto,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Option<TcpProxy> {
    let TcpProxyProto {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = config;
    // How the TLVs, which are refused, would be merged.
    no_effect!(proxy_protocol_tlv_merge_policy);
    refuse!(
        at;
        on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout,
        backoff_options,
        max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
        flush_access_log_on_connected, access_log_options, proxy_protocol_tlvs,
        upstream_connect_mode, max_early_data_bytes, check_drain_close,
    );
    if stat_prefix.is_empty() {
        at.field("stat_prefix").error("is empty");
    }
    let attempts = max_connect_attempts.map_or(1, |value| value.value);
    if attempts == 0 {
        at.field("max_connect_attempts")
            .error("is 0; it must be at least 1");
    }
    Some(TcpProxy {
        stat_prefix: stat_prefix.as_str().into(),
        stats: compiler.stats.tcp(stat_prefix),
        clusters: clusters(cluster_specifier.as_ref(), at)?,
        idle_timeout: at.limit("idle_timeout", idle_timeout, Some(DEFAULT_IDLE_TIMEOUT)),
        max_connection_duration: at.limit(
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
            None,
        ),
        max_connect_attempts: attempts,
        hash_source_ip: hashes_source_ip(hash_policy, at),
        tunneling: match tunneling_config {
            Some(config) => Some(tunneling(config, &at.field("tunneling_config"))?),
            None => None,
        },
        access_log: access_log::loggers(access_log, compiler, at),
    })
}

/// Whether sessions are told apart by their client's address; Envoy takes one policy at most.
fn hashes_source_ip(policies: &[HashPolicy], at: &At<'_>) -> bool {
    let mut source_ip = false;
    for (i, HashPolicy { policy_specifier }) in policies.iter().enumerate() {
        let at = at.index("hash_policy", i);
        match policy_specifier {
            _ if i > 0 => at.error("there may be one policy at most"),
            Some(PolicySpecifier::SourceIp(_)) => source_ip = true,
            Some(PolicySpecifier::FilterState(_)) => {
                at.field("filter_state").error("is not supported");
            }
            None => at.error("has no policy"),
        }
    }
    source_ip
}

fn tunneling(config: &TunnelingConfig, at: &At<'_>) -> Option<Tunneling> {
    let TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters,
    } = config;
    // What is propagated, only internal listeners see, which are refused.
    no_effect!(propagate_response_headers, propagate_response_trailers);
    refuse!(
        at;
        request_id_extension, request_id_header, request_id_metadata_key, formatters,
    );
    let at_hostname = at.field("hostname");
    let hostname = access_log::whole_template(hostname, &at_hostname)?;
    let literal = hostname.as_literal();
    if literal.is_some_and(|text| !is_authority(text)) {
        at_hostname.error(format_args!("{:?} is not a host and port", config.hostname));
    }
    let at_path = at.field("post_path");
    if !post_path.is_empty() && !use_post {
        at_path.error("may only be set with use_post");
    }
    let path = match post_path.as_str() {
        "" => "/",
        path => path,
    };
    if !path.starts_with('/') || check_target(path.as_bytes()).is_err() {
        at_path.error(format_args!("{path:?} is not a path"));
    }
    Some(Tunneling {
        hostname,
        post_path: use_post.then(|| Bytes::copy_from_slice(path.as_bytes())),
        headers: headers::additions("headers_to_add", headers_to_add, at),
    })
}

fn clusters(specifier: Option<&ClusterSpecifier>, at: &At<'_>) -> Option<Vec<(Arc<str>, u32)>> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
            Some(vec![(name.as_str().into(), 1)])
        }
        Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })) => {
            let at = at.field("weighted_clusters");
            if clusters.is_empty() {
                at.field("clusters").error("is empty");
            }
            let clusters = clusters.iter().enumerate();
            Some(
                clusters
                    .map(|(i, c)| weighted(c, &at.index("clusters", i)))
                    .collect(),
            )
        }
        Some(ClusterSpecifier::Cluster(_)) | None => {
            at.error("one of cluster and weighted_clusters is required");
            None
        }
    }
}

fn weighted(config: &ClusterWeight, at: &At<'_>) -> (Arc<str>, u32) {
    let ClusterWeight {
        name,
        weight,
        metadata_match,
    } = config;
    refuse!(at; metadata_match);
    if name.is_empty() {
        at.field("name").error("is empty");
    }
    if *weight == 0 {
        at.field("weight").error("is 0; it must be at least 1");
    }
    (name.as_str().into(), *weight)
}
