//! The bootstrap: its static resources, and the fields that we cannot honour.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::report::{At, ConfigErrors, Report, no_effect, refuse};
use ithildin_proto::pb::envoy::config::{
    bootstrap::v3::{
        Admin, Bootstrap, ClusterManager,
        bootstrap::{DynamicResources, StaticResources},
    },
    cluster::v3::Cluster,
    listener::v3::Listener,
    trace::v3::{Tracing, tracing::Http as HttpTracer},
};
use ithildin_xds::SecretMessage;

/// What stands in the file.
#[derive(Default)]
pub(super) struct Statics {
    /// Each with its place: `static_resources.listeners[0]`.
    pub(super) listeners: Vec<(String, Listener)>,
    pub(super) clusters: Vec<(String, Cluster)>,
    pub(super) secrets: BTreeMap<String, Arc<SecretMessage>>,
    /// The cluster that we belong to.
    pub(super) local_cluster: Option<String>,
    /// Who is told of spans where a connection manager names nobody.
    pub(super) tracer: Option<HttpTracer>,
    /// Listeners and clusters also come from a control plane.
    pub(super) dynamic: bool,
}

/// Reads the bootstrap; the resources themselves are compiled later. What can be read is there even
/// beside errors, so that everything is reported at once.
pub(super) fn statics(config: Bootstrap) -> (Statics, Result<(), ConfigErrors>) {
    let report = Report::default();
    let mut statics = Statics::default();
    check(&config, &report);
    let manager = config.cluster_manager.as_ref();
    let name = manager.map(|manager| manager.local_cluster_name.clone());
    statics.local_cluster = name.filter(|name| !name.is_empty());
    statics.tracer = tracer(&config);
    if let Some(config) = &config.dynamic_resources {
        let DynamicResources {
            lds_config,
            lds_resources_locator,
            cds_config,
            cds_resources_locator,
            ads_config,
        } = config;
        let at = report.root("dynamic_resources");
        refuse!(at; lds_resources_locator, cds_resources_locator);
        // Read by the client of the control plane.
        no_effect!(ads_config);
        statics.dynamic = lds_config.is_some() || cds_config.is_some();
    }
    if let Some(resources) = config.static_resources {
        let at = report.root("static_resources");
        take(resources, &mut statics, &at);
    }
    (statics, report.finish(Some(())))
}

#[allow(deprecated)]
fn tracer(config: &Bootstrap) -> Option<HttpTracer> {
    let Tracing { http } = config.tracing.as_ref()?;
    http.clone()
}

fn take(resources: StaticResources, statics: &mut Statics, at: &At<'_>) {
    let StaticResources {
        mut listeners,
        clusters,
        secrets,
    } = resources;
    for (i, listener) in listeners.iter_mut().enumerate() {
        if listener.name.is_empty() {
            // Envoy makes a name up too; ours is stable.
            listener.name = format!("listener_{i}");
        }
    }
    statics.listeners = placed("listeners", listeners, |it| &it.name, at);
    statics.clusters = placed("clusters", clusters, |it| &it.name, at);
    let secrets = placed("secrets", secrets, |it| &it.name, at).into_iter();
    statics.secrets = secrets
        .map(|(_, secret)| (secret.name.clone(), Arc::new(secret.into())))
        .collect();
}

/// Each resource with its place; two of one name are an error.
fn placed<T>(kind: &str, all: Vec<T>, name: fn(&T) -> &str, at: &At<'_>) -> Vec<(String, T)> {
    let mut names = BTreeSet::new();
    for (i, resource) in all.iter().enumerate() {
        let name = name(resource);
        if !names.insert(name) {
            let kind_of = kind.trim_end_matches('s');
            at.index(kind, i)
                .field("name")
                .error(format_args!("{name:?} is the name of another {kind_of}"));
        }
    }
    let places = (0..all.len()).map(|i| at.index(kind, i).to_string());
    places.zip(all).collect()
}

#[allow(deprecated)]
fn check(config: &Bootstrap, report: &Report) {
    #[rustfmt::skip]
    let Bootstrap {
        static_resources: _, dynamic_resources: _,
        node, node_context_params, cluster_manager, hds_config, flags_path, stats_sinks,
        deferred_stat_options, stats_config, stats_flush_interval, watchdog, watchdogs, tracing,
        layered_runtime, admin, overload_manager: _, enable_dispatcher_stats, header_prefix,
        stats_server_version_override, use_tcp_for_dns_lookups, dns_resolution_config,
        typed_dns_resolver_config, bootstrap_extensions, fatal_actions, config_sources,
        default_config_source, default_socket_interface, certificate_provider_instances,
        inline_headers, perf_tracing_file_path, default_regex_engine, xds_delegate_extension,
        xds_config_tracker_extension, listener_manager, application_log_config,
        grpc_async_client_manager_config, memory_allocator_manager, enable_worker_cpu_affinity,
        stats_flush, stats_eviction,
    } = config;
    // Who we are; Envoy's own memory, threads, watchdogs and traces; its runtime flags, which say how
    // Envoy's code behaves and not ours; and statistics, which `statistics` reads.
    no_effect!(
        node,
        node_context_params,
        flags_path,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        layered_runtime,
        enable_dispatcher_stats,
        stats_server_version_override,
        fatal_actions,
        inline_headers,
        perf_tracing_file_path,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    );
    // Read by `statics`.
    no_effect!(tracing);
    let at = Top(report);
    if let Some(config) = cluster_manager {
        cluster_manager_fields(config, &report.root("cluster_manager"));
    }
    at.refuse("hds_config", hds_config);
    at.refuse("header_prefix", header_prefix);
    at.refuse("use_tcp_for_dns_lookups", use_tcp_for_dns_lookups);
    at.refuse("dns_resolution_config", dns_resolution_config);
    at.refuse("config_sources", config_sources);
    at.refuse("default_config_source", default_config_source);
    at.refuse("default_socket_interface", default_socket_interface);
    at.refuse(
        "certificate_provider_instances",
        certificate_provider_instances,
    );
    at.refuse("default_regex_engine", default_regex_engine);
    at.refuse("xds_delegate_extension", xds_delegate_extension);
    at.refuse("xds_config_tracker_extension", xds_config_tracker_extension);
    at.refuse("listener_manager", listener_manager);
    at.skip("stats_sinks", stats_sinks);
    at.skip("bootstrap_extensions", bootstrap_extensions);
    at.skip("typed_dns_resolver_config", typed_dns_resolver_config);
    if let Some(admin) = admin {
        admin_fields(admin, &report.root("admin"));
    }
}

/// Only which cluster is our own matters.
fn cluster_manager_fields(config: &ClusterManager, at: &At<'_>) {
    let ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = config;
    // The name is read by `statics`; the others are of logs, of load reports, and of when clusters
    // are made.
    no_effect!(
        local_cluster_name,
        load_stats_config,
        enable_deferred_cluster_creation
    );
    refuse!(at; outlier_detection, upstream_bind_config);
}

#[allow(deprecated)]
fn admin_fields(config: &Admin, at: &At<'_>) {
    let Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options,
        ignore_global_conn_limit,
        allow_paths,
    } = config;
    no_effect!(profile_path, address, ignore_global_conn_limit);
    refuse!(at; socket_options, allow_paths);
    if !access_log.is_empty() || !access_log_path.is_empty() {
        at.field("access_log")
            .warn("is not supported; requests to the admin server are not logged");
    }
}

/// The top of the file, whose fields have no parent.
struct Top<'a>(&'a Report);

impl Top<'_> {
    fn refuse<T: Default + PartialEq>(&self, name: &str, value: &T) {
        if *value != T::default() {
            self.0.root(name).error("is not supported");
        }
    }

    /// Leaves out what changes no traffic.
    fn skip<T: Default + PartialEq>(&self, name: &str, value: &T) {
        if *value != T::default() {
            self.0.root(name).warn("is not supported; it is left out");
        }
    }
}
