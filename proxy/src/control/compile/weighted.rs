//! Requests distributed over clusters by weight.

use ithildin_proto::pb::envoy::config::route::v3::{
    WeightedCluster as WeightedClusterProto,
    weighted_cluster::{ClusterWeight, cluster_weight},
};

use super::{filter_overrides, headers};
use crate::{
    config::route::{Clusters, WeightedCluster},
    control::report::{At, no_effect, refuse},
};

pub(super) fn clusters(config: &WeightedClusterProto, at: &At<'_>) -> Option<Clusters> {
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
        .filter_map(|(i, config)| cluster(config, &at.index("clusters", i)))
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

fn cluster(config: &ClusterWeight, at: &At<'_>) -> Option<WeightedCluster> {
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
    if name.is_empty() {
        at.field("name").error("is empty");
        return None;
    }
    let host_rewrite = match host_rewrite_specifier {
        None => None,
        Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(headers::value(host, &at.field("host_rewrite_literal"))?)
        }
    };
    Some(WeightedCluster {
        name: name.as_str().into(),
        weight: weight.map_or(0, |weight| weight.value),
        host_rewrite,
        request_headers: headers::request(request_headers_to_add, request_headers_to_remove, at),
        response_headers: headers::response(
            response_headers_to_add,
            response_headers_to_remove,
            at,
        ),
        filters: filter_overrides::overrides(typed_per_filter_config, at),
    })
}
