//! Copies of requests (`request_mirror_policies`).

use ithildin_proto::pb::envoy::config::{
    core::v3::RuntimeFractionalPercent, route::v3::route_action::RequestMirrorPolicy,
};

use super::fault;
use crate::{
    config::{filters::Percent, route::Mirror},
    control::report::{At, no_effect, refuse},
};

pub(super) fn mirrors(configs: &[RequestMirrorPolicy], at: &At<'_>) -> Option<Vec<Mirror>> {
    let configs = configs.iter().enumerate();
    configs
        .map(|(i, config)| mirror(config, &at.index("request_mirror_policies", i)))
        .collect()
}

fn mirror(config: &RequestMirrorPolicy, at: &At<'_>) -> Option<Mirror> {
    let RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = config;
    refuse!(at; cluster_header, request_headers_mutations, host_rewrite_literal);
    if cluster.is_empty() {
        at.field("cluster").error("is empty");
        return None;
    }
    let percent = match runtime_fraction {
        None => Percent::ALL,
        Some(RuntimeFractionalPercent {
            default_value,
            runtime_key,
        }) => {
            // There is no runtime layer, so the default counts.
            no_effect!(runtime_key);
            fault::percent(default_value.as_ref(), &at.field("runtime_fraction"))?
        }
    };
    Some(Mirror {
        cluster: cluster.as_str().into(),
        percent,
        adds_suffix: !disable_shadow_host_suffix_append,
        trace_sampled: trace_sampled.map(|value| value.value),
    })
}
