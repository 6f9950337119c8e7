//! How a cluster chooses among its endpoints.

use std::sync::Arc;

use http::HeaderName;
use ithildin_proto::pb::{
    envoy::{
        config::cluster::v3::{
            Cluster as ClusterProto, LoadBalancingPolicy,
            cluster::{
                CommonLbConfig, LbConfig, LbPolicy as LbPolicyProto, MaglevLbConfig,
                OriginalDstLbConfig, RingHashLbConfig, SlowStartConfig,
                common_lb_config::{LocalityConfigSpecifier, ZoneAwareLbConfig},
                ring_hash_lb_config::HashFunction,
            },
        },
        extensions::load_balancing_policies::{
            least_request::v3::LeastRequest, random::v3::Random, round_robin::v3::RoundRobin,
        },
    },
    google::protobuf::UInt64Value,
};

use crate::{
    config::{
        LocalCluster,
        cluster::{ClusterKind, LbPolicy, OriginalDst, SlowStart, ZoneAware},
    },
    control::{
        any,
        report::{At, no_effect, refuse},
    },
};

/// Envoy's defaults.
const DEFAULT_PANIC_THRESHOLD: f64 = 50.0;
const DEFAULT_CHOICE_COUNT: u32 = 2;
const DEFAULT_MIN_RING: u64 = 1024;
const DEFAULT_MAGLEV: u32 = 65_537;
/// Percent.
const DEFAULT_MIN_WEIGHT: f64 = 10.0;
const DEFAULT_MIN_CLUSTER_SIZE: u64 = 6;
const ORIGINAL_DST_HEADER: &str = "x-envoy-original-dst-host";
/// Envoy's limits.
const MAX_RING: u64 = 8 << 20;
const MAX_MAGLEV: u32 = 5_000_011;

/// How hosts are chosen.
pub(super) struct Lb {
    pub(super) policy: LbPolicy,
    pub(super) slow_start: Option<SlowStart>,
    pub(super) original_dst: OriginalDst,
}

impl Lb {
    fn of(policy: LbPolicy) -> Self {
        Self {
            policy,
            slow_start: None,
            original_dst: OriginalDst::default(),
        }
    }
}

pub(super) fn lb_policy(
    config: &ClusterProto,
    kind: Option<ClusterKind>,
    at: &At<'_>,
) -> Option<Lb> {
    if let Some(policy) = &config.load_balancing_policy {
        return typed_lb_policy(policy, &at.field("load_balancing_policy")).map(Lb::of);
    }
    let policy = match at.enumeration("lb_policy", config.lb_policy)? {
        LbPolicyProto::RoundRobin => LbPolicy::RoundRobin,
        LbPolicyProto::LeastRequest => LbPolicy::LeastRequest(DEFAULT_CHOICE_COUNT),
        LbPolicyProto::Random => LbPolicy::Random,
        LbPolicyProto::ClusterProvided => LbPolicy::ClusterProvided,
        LbPolicyProto::RingHash => LbPolicy::RingHash {
            min: DEFAULT_MIN_RING,
            max: MAX_RING,
        },
        LbPolicyProto::Maglev => LbPolicy::Maglev(DEFAULT_MAGLEV),
        other => {
            at.field("lb_policy")
                .error(format_args!("{} is not supported", other.as_str_name()));
            return None;
        }
    };
    let provided = matches!(kind, Some(ClusterKind::OriginalDst | ClusterKind::Forward));
    if provided != (policy == LbPolicy::ClusterProvided) && kind.is_some() {
        at.field("lb_policy")
            .error("CLUSTER_PROVIDED goes with type ORIGINAL_DST and dynamic forward proxies, and with no other");
    }
    lb_config(config.lb_config.as_ref(), policy, at)
}

fn lb_config(config: Option<&LbConfig>, policy: LbPolicy, at: &At<'_>) -> Option<Lb> {
    let mut lb = Lb::of(policy);
    match config {
        None => {}
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            let at = at.field("least_request_lb_config");
            at.unset("active_request_bias", &config.active_request_bias);
            let count = config.choice_count.map(|value| value.value);
            lb.policy = choices(policy, count, &at)?;
            lb.slow_start = slow_start(config.slow_start_config.as_ref(), &at)
                .filter(|_| matches!(policy, LbPolicy::LeastRequest(_)));
        }
        Some(LbConfig::RoundRobinLbConfig(config)) => {
            let at = at.field("round_robin_lb_config");
            lb.slow_start = slow_start(config.slow_start_config.as_ref(), &at)
                .filter(|_| policy == LbPolicy::RoundRobin);
        }
        Some(LbConfig::OriginalDstLbConfig(config)) => {
            lb.original_dst = original_dst(config, &at.field("original_dst_lb_config"))?;
        }
        Some(LbConfig::RingHashLbConfig(config)) => {
            let at = at.field("ring_hash_lb_config");
            lb.policy = ring_hash(policy, config, &at);
        }
        Some(LbConfig::MaglevLbConfig(config)) => {
            lb.policy = maglev(policy, config, &at.field("maglev_lb_config"))?;
        }
    }
    Some(lb)
}

fn slow_start(config: Option<&SlowStartConfig>, at: &At<'_>) -> Option<SlowStart> {
    let SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = config?;
    let at = at.field("slow_start_config");
    let Some(window) = at.limit("slow_start_window", slow_start_window, None) else {
        at.field("slow_start_window")
            .error("is required, and must be more than 0");
        return None;
    };
    // Its runtime key is a name that nothing sets here.
    let aggression = aggression.as_ref().map_or(1.0, |value| value.default_value);
    if aggression.is_nan() || aggression <= 0.0 {
        at.field("aggression")
            .error(format_args!("{aggression} is not more than 0"));
    }
    let percent = min_weight_percent.map_or(DEFAULT_MIN_WEIGHT, |value| value.value);
    if !(0.0..=100.0).contains(&percent) {
        at.field("min_weight_percent")
            .error(format_args!("{percent} is not from 0 to 100"));
    }
    Some(SlowStart {
        window,
        aggression,
        min_weight: percent.clamp(0.0, 100.0) / 100.0,
    })
}

fn original_dst(config: &OriginalDstLbConfig, at: &At<'_>) -> Option<OriginalDst> {
    let OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = config;
    refuse!(at; metadata_key);
    let name = match http_header_name.as_str() {
        "" => ORIGINAL_DST_HEADER,
        name => name,
    };
    let header = at
        .field("http_header_name")
        .check(HeaderName::try_from(name))?;
    let port = match upstream_port_override {
        Some(port) => {
            let at = at.field("upstream_port_override");
            let found = u16::try_from(port.value).ok();
            if found.is_none() {
                at.error(format_args!("{} is not a port", port.value));
            }
            found
        }
        None => None,
    };
    Some(OriginalDst {
        header: use_http_header.then_some(header),
        port,
    })
}

fn ring_hash(policy: LbPolicy, config: &RingHashLbConfig, at: &At<'_>) -> LbPolicy {
    let RingHashLbConfig {
        minimum_ring_size,
        hash_function,
        maximum_ring_size,
    } = config;
    if *hash_function != HashFunction::XxHash as i32 {
        at.field("hash_function").error("only XX_HASH is supported");
    }
    let size = |value: &Option<UInt64Value>, default| value.map_or(default, |it| it.value);
    let min = size(minimum_ring_size, DEFAULT_MIN_RING);
    let max = size(maximum_ring_size, MAX_RING);
    if max > MAX_RING {
        at.field("maximum_ring_size")
            .error(format_args!("{max} is more than {MAX_RING}"));
    }
    if min > max {
        at.field("minimum_ring_size")
            .error(format_args!("{min} is more than the maximum, {max}"));
    }
    match policy {
        LbPolicy::RingHash { .. } => LbPolicy::RingHash { min, max },
        other => other,
    }
}

fn maglev(policy: LbPolicy, config: &MaglevLbConfig, at: &At<'_>) -> Option<LbPolicy> {
    let MaglevLbConfig { table_size } = config;
    let size = table_size.map_or(u64::from(DEFAULT_MAGLEV), |size| size.value);
    let at = at.field("table_size");
    let found = u32::try_from(size).ok().filter(|size| *size <= MAX_MAGLEV);
    let Some(size) = found.filter(|size| is_prime(*size)) else {
        at.error(format_args!(
            "{size} is not a prime of at most {MAX_MAGLEV}"
        ));
        return None;
    };
    Some(match policy {
        LbPolicy::Maglev(_) => LbPolicy::Maglev(size),
        other => other,
    })
}

fn is_prime(n: u32) -> bool {
    n > 1
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

fn choices(policy: LbPolicy, count: Option<u32>, at: &At<'_>) -> Option<LbPolicy> {
    match (policy, count) {
        (LbPolicy::LeastRequest(_), Some(count)) if count < 2 => {
            at.field("choice_count")
                .error(format_args!("{count} is less than 2"));
            None
        }
        (LbPolicy::LeastRequest(_), Some(count)) => Some(LbPolicy::LeastRequest(count)),
        _ => Some(policy),
    }
}

/// The first policy of the list that is known, as Envoy takes it.
fn typed_lb_policy(config: &LoadBalancingPolicy, at: &At<'_>) -> Option<LbPolicy> {
    for (i, policy) in config.policies.iter().enumerate() {
        let at = at.index("policies", i);
        let Some(extension) = policy.typed_extension_config.as_ref() else {
            continue;
        };
        let at = at.field("typed_extension_config");
        let Some(config) = &extension.typed_config else {
            continue;
        };
        let at_config = at.field("typed_config");
        if any::is::<RoundRobin>(config) {
            let config: RoundRobin = any::read(config, &at_config)?;
            at_config.unset("slow_start_config", &config.slow_start_config);
            at_config.unset("locality_lb_config", &config.locality_lb_config);
            return Some(LbPolicy::RoundRobin);
        }
        if any::is::<Random>(config) {
            let config: Random = any::read(config, &at_config)?;
            at_config.unset("locality_lb_config", &config.locality_lb_config);
            return Some(LbPolicy::Random);
        }
        if any::is::<LeastRequest>(config) {
            let config: LeastRequest = any::read(config, &at_config)?;
            at_config.unset("active_request_bias", &config.active_request_bias);
            at_config.unset("slow_start_config", &config.slow_start_config);
            at_config.unset("locality_lb_config", &config.locality_lb_config);
            at_config.not_true("enable_full_scan", &config.enable_full_scan);
            at_config.unset("selection_method", &config.selection_method);
            let policy = LbPolicy::LeastRequest(DEFAULT_CHOICE_COUNT);
            return choices(
                policy,
                config.choice_count.map(|value| value.value),
                &at_config,
            );
        }
        any::unsupported(config, &at);
        return None;
    }
    at.field("policies").error("has no policy");
    None
}

/// `common_lb_config`.
pub(super) struct CommonLb {
    /// Percent.
    pub(super) panic_threshold: u32,
    pub(super) locality_weighted: bool,
    pub(super) zone_aware: Option<ZoneAware>,
}

/// `local` is the cluster that we belong to, if the bootstrap names one.
pub(super) fn common_lb(
    config: Option<&CommonLbConfig>,
    policy: Option<LbPolicy>,
    local: Option<&Arc<LocalCluster>>,
    at: &At<'_>,
) -> CommonLb {
    let config = config.cloned().unwrap_or_default();
    let CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = &config;
    let at = at.field("common_lb_config");
    // Batching of updates; and of health checks, which are refused.
    no_effect!(update_merge_window, ignore_new_hosts_until_first_hc);
    refuse!(
        at;
        close_connections_on_host_set_change, override_host_status, consistent_hashing_lb_config,
    );
    let (locality_weighted, zones) = match locality_config_specifier {
        None => (false, Some(ZoneAwareLbConfig::default())),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => (true, None),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => (false, Some(*config)),
    };
    let zone_aware = zones.and_then(|config| {
        let (routing_enabled, min_cluster_size) =
            zone_aware(&config, &at.field("zone_aware_lb_config"));
        let uses_zones = matches!(
            policy?,
            LbPolicy::RoundRobin | LbPolicy::LeastRequest(_) | LbPolicy::Random
        );
        Some(ZoneAware {
            routing_enabled,
            min_cluster_size,
            local: Arc::clone(local.filter(|_| uses_zones)?),
        })
    });
    let percent = healthy_panic_threshold.map_or(DEFAULT_PANIC_THRESHOLD, |value| value.value);
    if !(0.0..=100.0).contains(&percent) {
        at.field("healthy_panic_threshold")
            .error(format_args!("{percent} is not from 0 to 100"));
    }
    CommonLb {
        // The comparison is of whole percents in Envoy too.
        panic_threshold: percent as u32,
        locality_weighted,
        zone_aware,
    }
}

fn zone_aware(config: &ZoneAwareLbConfig, at: &At<'_>) -> (f64, u64) {
    let ZoneAwareLbConfig {
        routing_enabled,
        min_cluster_size,
        fail_traffic_on_panic,
    } = config;
    refuse!(at; fail_traffic_on_panic);
    let percent = routing_enabled.map_or(100.0, |value| value.value);
    if !(0.0..=100.0).contains(&percent) {
        at.field("routing_enabled")
            .error(format_args!("{percent} is not from 0 to 100"));
    }
    let size = min_cluster_size.map_or(DEFAULT_MIN_CLUSTER_SIZE, |value| value.value);
    (percent, size)
}
