//! Clusters: discovery, load balancing, limits and transport.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ithildin_proto::{
    istio::metadata_exchange::MetadataExchange,
    pb::envoy::config::cluster::v3::{
        Cluster as ClusterProto, Filter, cluster::TransportSocketMatch,
    },
};
use parking_lot::Mutex;

use super::{
    Compiler,
    cluster_http::{self, HttpOptions},
    discovery::{self, Discovery, Source},
    endpoints::{self, Placement},
    forward,
    listener::DEFAULT_BUFFER_LIMIT,
    load_balancing::{common_lb, lb_policy},
    network_filters, outlier,
    upstream::{bind, circuit_breakers, keepalive},
};
use crate::{
    config::cluster::{Cluster, Transports},
    control::{
        any,
        report::{At, no_effect, refuse},
        secrets::SecretKey,
    },
    istio::{MeshCluster, PeerExchange},
    outlier::Detector,
};

/// Envoy's defaults.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster, and what it waits for.
#[derive(Debug)]
pub(in crate::control) struct CompiledCluster {
    pub(in crate::control) cluster: Arc<Cluster>,
    pub(in crate::control) secrets: Vec<SecretKey>,
    pub(in crate::control) discovery: Discovery,
    pub(super) placement: Placement,
}

pub(super) fn cluster(
    config: &ClusterProto,
    compiler: &mut Compiler,
    at: &At<'_>,
) -> Option<CompiledCluster> {
    unsupported(config, at);
    if config.name.is_empty() {
        at.field("name").error("is empty");
    }
    let name: Arc<str> = config.name.as_str().into();
    let kind = discovery::kind(config, at);
    let mut protocol = cluster_http::options(config, at);
    let custom = discovery::custom(config, at);
    if let (Some(protocol), Some((custom, at))) = (&mut protocol, &custom) {
        forward::verify(config, custom, &mut protocol.http, at);
    }
    let match_name = protocol
        .as_ref()
        .is_some_and(|it| it.http.auto_san_validation);
    let mut secrets = Vec::new();
    let (transports, mut placement) =
        transports(config, &name, match_name, compiler, &mut secrets, at);
    let outlier = config.outlier_detection.as_ref();
    let outlier = outlier.map(|config| outlier::detection(config, &at.field("outlier_detection")));
    placement.watched = outlier.is_some();
    let source =
        kind.and_then(|kind| discovery::source(config, kind, custom, &placement, compiler, at));
    let lb = lb_policy(config, kind, at);
    let limits = circuit_breakers(config.circuit_breakers.as_ref(), at);
    let bind = bind(config.upstream_bind_config.as_ref(), at);
    let connection = config.upstream_connection_options.as_ref();
    let keepalive = connection.and_then(|config| keepalive(config, at));
    let common_lb = common_lb(
        config.common_lb_config.as_ref(),
        lb.as_ref().map(|lb| lb.policy),
        compiler.local.as_ref(),
        at,
    );
    let stat_name: Arc<str> = match config.alt_stat_name.as_str() {
        "" => Arc::clone(&name),
        other => other.into(),
    };
    let HttpOptions {
        protocol,
        http,
        error_statuses,
    } = protocol?;
    let Source {
        discovery,
        endpoints,
        forward,
    } = source?;
    let transports = transports?;
    let lb = lb?;
    let tls = (0..transports.0.len()).any(|index| transports.tls(index).is_some());
    let stats = compiler.stats.cluster(&stat_name, tls);
    let cluster = Cluster {
        generation: compiler.next_generation(),
        kind: kind?,
        connect_timeout: at
            .limit(
                "connect_timeout",
                &config.connect_timeout,
                Some(DEFAULT_CONNECT_TIMEOUT),
            )
            .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        lb: lb.policy,
        slow_start: lb.slow_start,
        original_dst: lb.original_dst,
        forward,
        endpoints: Arc::new(ArcSwap::from_pointee(
            endpoints.with_tables(lb.policy, common_lb.locality_weighted),
        )),
        publishing: Mutex::default(),
        transport: transports,
        protocol,
        http,
        limits,
        keepalive,
        bind,
        buffer_limit: config
            .per_connection_buffer_limit_bytes
            .map_or(DEFAULT_BUFFER_LIMIT, |value| value.value),
        panic_threshold: common_lb.panic_threshold,
        locality_weighted: common_lb.locality_weighted,
        zone_aware: common_lb.zone_aware,
        local: compiler.local.clone().filter(|local| local.name == name),
        peer_exchange: peer_exchange(&config.filters, compiler, at),
        mesh: MeshCluster::new(config.metadata.as_ref()),
        outlier: outlier.map(|settings| {
            let wake = Arc::clone(&compiler.outliers);
            Arc::new(Detector::new(settings, Arc::clone(&stats), wake))
        }),
        error_statuses,
        stats,
        stat_name,
        name,
    };
    Some(CompiledCluster {
        cluster: Arc::new(cluster),
        secrets,
        discovery,
        placement,
    })
}

/// Refuses or passes over each field that [`cluster`] does not read.
fn unsupported(config: &ClusterProto, at: &At<'_>) {
    #[rustfmt::skip]
    let ClusterProto {
        transport_socket_matches: _, name: _, alt_stat_name: _, eds_cluster_config: _,
        connect_timeout: _, per_connection_buffer_limit_bytes: _, lb_policy: _, load_assignment: _,
        max_requests_per_connection: _, circuit_breakers: _, upstream_http_protocol_options: _,
        common_http_protocol_options: _, http_protocol_options: _, http2_protocol_options: _,
        typed_extension_protocol_options: _, dns_refresh_rate: _, dns_jitter: _,
        dns_failure_refresh_rate: _, respect_dns_ttl: _, dns_lookup_family: _, dns_resolvers: _,
        use_tcp_for_dns_lookups: _, dns_resolution_config: _, typed_dns_resolver_config: _,
        upstream_bind_config: _, common_lb_config: _, transport_socket: _, protocol_selection: _,
        upstream_connection_options: _, load_balancing_policy: _, cluster_discovery_type: _,
        lb_config: _, metadata: _, filters: _, outlier_detection: _,
        transport_socket_matcher, stats_matcher, per_connection_buffer_high_watermark_timeout,
        health_checks, wait_for_warm_on_init, cleanup_interval,
        lb_subset_config, close_connections_on_host_health_failure,
        ignore_health_on_host_removal, lrs_server, lrs_report_endpoint_metrics,
        track_timeout_budgets, upstream_config, track_cluster_stats, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies,
    } = config;
    // Statistics and load reports; settings of health checks, which are refused; and how long an
    // unused original destination is remembered, which is not at all.
    no_effect!(
        stats_matcher,
        wait_for_warm_on_init,
        cleanup_interval,
        ignore_health_on_host_removal,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        track_cluster_stats,
    );
    refuse!(
        at;
        transport_socket_matcher, per_connection_buffer_high_watermark_timeout, health_checks,
        lb_subset_config, close_connections_on_host_health_failure,
        upstream_config, preconnect_policy, connection_pool_per_downstream_connection,
        queuing_policies,
    );
}

/// Network filters of upstream connections: Istio's is the only one.
fn peer_exchange(
    filters: &[Filter],
    compiler: &Compiler,
    at: &At<'_>,
) -> Option<Arc<PeerExchange>> {
    let mut exchange = None;
    for (i, filter) in filters.iter().enumerate() {
        let at = at.index("filters", i);
        let Filter {
            name,
            typed_config,
            config_discovery,
        } = filter;
        refuse!(at; config_discovery);
        let Some(config) = typed_config else {
            at.error(format_args!("filter {name:?} has no typed_config"));
            continue;
        };
        let inner = at.field("typed_config");
        let Some(config) = any::resolve(config, &inner) else {
            continue;
        };
        if any::is::<MetadataExchange>(&config) {
            let config = any::read(&config, &inner)?;
            exchange = network_filters::peer_exchange(&config, compiler, &inner);
        } else {
            any::unsupported(&config, &at);
        }
    }
    exchange
}

fn transports(
    config: &ClusterProto,
    name: &Arc<str>,
    match_name: bool,
    compiler: &mut Compiler,
    secrets: &mut Vec<SecretKey>,
    at: &At<'_>,
) -> (Option<Transports>, Placement) {
    let label: Arc<str> = format!("cluster {name:?}").into();
    let mut placement = Placement::default();
    let mut all = Vec::with_capacity(1 + config.transport_socket_matches.len());
    let mut add = |socket: Option<&_>, at: &At<'_>| {
        let made = compiler
            .tls
            .client(&label, socket, match_name, &mut compiler.secrets, at);
        made.map(|(transport, keys)| {
            secrets.extend(keys);
            all.push(transport);
        })
    };
    let mut sound = add(
        config.transport_socket.as_ref(),
        &at.field("transport_socket"),
    );
    for (i, entry) in config.transport_socket_matches.iter().enumerate() {
        let TransportSocketMatch {
            name,
            r#match,
            transport_socket,
        } = entry;
        no_effect!(name);
        let at = at.index("transport_socket_matches", i);
        let criteria = r#match.clone().unwrap_or_default();
        placement
            .matches
            .push(endpoints::match_criteria(&criteria, &at));
        let added = add(transport_socket.as_ref(), &at.field("transport_socket"));
        sound = sound.and(added);
    }
    secrets.sort();
    secrets.dedup();
    (sound.map(|()| Transports(all)), placement)
}
