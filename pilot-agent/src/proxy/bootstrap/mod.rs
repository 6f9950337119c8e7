//! What a data plane starts from: who it is, where its admin listens, and where the rest comes from.
//!
//! Envoy's says what the template of Istio's image says, except where our sockets are elsewhere.

mod addresses;
mod clusters;
mod listeners;
pub(super) mod proxyless;
mod runtime;
mod stats;
#[cfg(test)]
mod tests;
mod tracers;

use std::path::{Path, PathBuf};

use anyhow::Context;
use ithildin_proto::{
    from_value, pack,
    pb::envoy::{
        config::{
            bootstrap::v3::{
                Admin, Bootstrap, ClusterManager,
                bootstrap::{DynamicResources, StaticResources},
            },
            core::v3::{
                Address, AggregatedConfigSource, BuildVersion, ConfigSource, Node, SocketAddress,
                address, config_source::ConfigSourceSpecifier, node::UserAgentVersionType,
                socket_address::PortSpecifier,
            },
            overload::v3::{OverloadManager, ResourceMonitor, resource_monitor::ConfigType},
        },
        extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
        r#type::v3::SemanticVersion,
    },
};
use serde_json::{Map, Value, json};

use self::stats::Statistics;
pub(super) use self::{addresses::Addresses, tracers::ACCESS_TOKEN_FILE};
use super::{args::Kind, settings::Settings};

/// The cluster of the bootstrap that serves xDS.
const XDS_CLUSTER: &str = "xds-grpc";
/// The data plane's own admin, for metrics.
const PROMETHEUS_CLUSTER: &str = "prometheus_stats";
/// Bounds the connections that a data plane takes.
const CONNECTIONS_MONITOR: &str = "envoy.resource_monitors.global_downstream_max_connections";
/// Our status server.
const AGENT_CLUSTER: &str = "agent";
/// Metadata that says that file certificates have a server of their own.
const FILE_CREDENTIAL: &str = "file-credential";
/// Envoy's buffer between two of its own listeners, as Istio sets it.
const INTERNAL_LISTENER_BUFFER_KB: u32 = 64;

/// Sockets that we serve, for the clusters of the bootstrap.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    pub(super) xds: PathBuf,
    /// Secrets of the workload.
    pub(super) sds: PathBuf,
}

/// For the built-in proxy. Its resources and secrets are handed over in process.
///
/// # Errors
/// A limit of connections or buckets of histograms that are no numbers, and collectors that have no address.
#[expect(
    deprecated,
    reason = "Envoy has no other field for the tracer of those that name none"
)]
pub(super) fn builtin(settings: &Settings) -> anyhow::Result<Bootstrap> {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    };
    let addresses = Addresses::of(settings);
    let clusters = clusters::builtin(settings, &addresses)?;
    let has = |name| clusters.iter().any(|it| it["name"] == name);
    let tracer = has(tracers::ZIPKIN).then(|| tracers::tracing(settings));
    let manager = has(clusters::LOCAL).then(|| ClusterManager {
        local_cluster_name: clusters::LOCAL.to_owned(),
        ..Default::default()
    });
    let clusters = clusters.into_iter().map(from_value);
    let listeners = listeners::secured(settings, &addresses);
    let listeners = listeners.into_iter().map(from_value);
    Ok(Bootstrap {
        node: Some(Node {
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(
                own_version(),
            )),
            // With the metadata: what peers and metrics are told of the workload is in it.
            ..settings.xds_node()
        }),
        admin: Some(Admin {
            address: Some(loopback(settings)),
            ..Default::default()
        }),
        dynamic_resources: Some(DynamicResources {
            lds_config: Some(ads.clone()),
            cds_config: Some(ads),
            ..Default::default()
        }),
        static_resources: Some(StaticResources {
            clusters: clusters.collect::<Result<_, _>>()?,
            listeners: listeners.collect::<Result<_, _>>()?,
            ..Default::default()
        }),
        cluster_manager: manager,
        tracing: tracer.flatten().map(from_value).transpose()?,
        stats_config: Some(Statistics::new(settings, false)?.into_message()),
        layered_runtime: Some(runtime::builtin()),
        overload_manager: runtime::asked_connections(settings)?.map(|most| OverloadManager {
            resource_monitors: vec![ResourceMonitor {
                name: CONNECTIONS_MONITOR.to_owned(),
                config_type: Some(ConfigType::TypedConfig(pack(
                    &DownstreamConnectionsConfig {
                        max_active_downstream_connections: most,
                    },
                ))),
            }],
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Load assignments of clusters that stand in [`builtin`], which istiod does not know to be there.
pub(super) fn own_endpoints(settings: &Settings) -> Vec<String> {
    let own = settings.envoy.self_discovery.then_some(clusters::LOCAL);
    own.map(str::to_owned).into_iter().collect()
}

/// As numbers, which is how `istioctl` shows a version.
fn own_version() -> BuildVersion {
    let number = |text: &str| text.parse().expect("cargo checks versions");
    BuildVersion {
        version: Some(SemanticVersion {
            major_number: number(env!("CARGO_PKG_VERSION_MAJOR")),
            minor_number: number(env!("CARGO_PKG_VERSION_MINOR")),
            patch: number(env!("CARGO_PKG_VERSION_PATCH")),
        }),
        metadata: None,
    }
}

fn loopback(settings: &Settings) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: Addresses::of(settings).localhost.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(settings.ports.admin.into())),
            ..Default::default()
        })),
    }
}

/// For Envoy, as JSON.
///
/// # Errors
/// An annotation or a key of the metadata that says something that cannot be said in a bootstrap.
pub(super) fn envoy(settings: &Settings, sockets: &Sockets) -> anyhow::Result<Value> {
    let addresses = Addresses::of(settings);
    let delta = settings.istiod.delta || settings.kind == Kind::Waypoint;
    let discovery = discovers_metadata(settings, delta);
    let mut bootstrap = json!({
        "application_log_config": {"log_format": log_format(settings.envoy.log_as_json)},
        "node": settings.node_json(),
        "layered_runtime": {"layers": [
            {"name": runtime::GLOBAL_LAYER, "static_layer": runtime::flags(settings)},
            {"name": "admin", "admin_layer": {}},
        ]},
        "bootstrap_extensions": extensions(discovery),
        "stats_config": Statistics::new(settings, discovery)?.to_json(),
        "admin": admin(settings, &addresses),
        "dynamic_resources": dynamic_resources(delta),
        "static_resources": {
            "clusters": clusters::all(settings, &addresses, sockets)?,
            "listeners": listeners::all(settings, &addresses),
        },
        "overload_manager": {"resource_monitors": [{
            "name": CONNECTIONS_MONITOR,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": runtime::max_connections(settings)?,
            },
        }]},
        "deferred_stat_options": {"enable_deferred_creation_stats": true},
    });
    let optional = [
        ("tracing", tracers::tracing(settings)),
        ("stats_sinks", tracers::sinks(settings)),
        ("cluster_manager", cluster_manager(settings)?),
    ];
    let intervals = stats::intervals(settings);
    if let Value::Object(fields) = &mut bootstrap {
        let present = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        fields.extend(
            present
                .chain(intervals)
                .map(|(name, value)| (name.to_owned(), value)),
        );
    }
    Ok(bootstrap)
}

/// Envoy asks for the metadata of workloads if that is wanted; state-of-the-world xDS cannot.
fn discovers_metadata(settings: &Settings, delta: bool) -> bool {
    let wanted = settings.metadata.get("METADATA_DISCOVERY");
    let wanted = wanted.and_then(Value::as_str) == Some("true");
    delta && (wanted || settings.kind == Kind::Waypoint)
}

fn log_format(json: bool) -> Value {
    match json {
        true => json!({"json_format": {
            "time": "%Y-%m-%dT%T.%fZ",
            "level": "%l",
            "scope": "envoy %n",
            "msg": "%j",
            "caller": "%g:%#",
            "thread": "%t",
        }}),
        false => json!({"text_format": "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t"}),
    }
}

fn extensions(discovery: bool) -> Vec<Value> {
    let typed = |name: &str, type_name: &str, value: Value| {
        json!({"name": name, "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": format!("type.googleapis.com/{type_name}"),
            "value": value,
        }})
    };
    let mut extensions = Vec::new();
    if discovery {
        extensions.push(typed(
            "metadata_discovery",
            "istio.workload.BootstrapExtension",
            json!({"config_source": {"ads": {}}}),
        ));
    }
    extensions.push(typed(
        "envoy.bootstrap.internal_listener",
        "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        json!({"buffer_size_kb": INTERNAL_LISTENER_BUFFER_KB}),
    ));
    extensions
}

fn admin(settings: &Settings, addresses: &Addresses) -> Value {
    json!({
        "access_log": [{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
            },
        }],
        "profile_path": "/var/lib/istio/data/envoy.prof",
        "address": addresses::socket(addresses.localhost, settings.ports.admin),
    })
}

fn dynamic_resources(delta: bool) -> Value {
    let from_ads = json!({
        "ads": {},
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
    });
    json!({
        "lds_config": from_ads,
        "cds_config": from_ads,
        "ads_config": {
            "api_type": if delta { "DELTA_GRPC" } else { "GRPC" },
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
        },
    })
}

fn cluster_manager(settings: &Settings) -> anyhow::Result<Option<Value>> {
    const LOAD_STATS: &str = "LOAD_STATS_CONFIG_JSON";
    let mut manager = Map::new();
    if settings.envoy.self_discovery {
        manager.insert("local_cluster_name".into(), clusters::LOCAL.into());
    }
    if let Some(path) = &settings.envoy.outlier_log {
        manager.insert("outlier_detection".into(), json!({"event_log_path": path}));
    }
    if let Some(text) = settings.metadata.get(LOAD_STATS).and_then(Value::as_str) {
        let config: Value =
            serde_json::from_str(text).context(format!("ISTIO_META_{LOAD_STATS}"))?;
        manager.insert("load_stats_config".into(), config);
    }
    if manager.is_empty() {
        return Ok(None);
    }
    manager.insert("enable_deferred_cluster_creation".into(), true.into());
    Ok(Some(manager.into()))
}

/// The user's own template, which nobody here can execute.
///
/// # Errors
/// Always, unless it is the file that the image of Istio has for its default.
pub(super) fn refuse_template(template: &Path) -> anyhow::Result<()> {
    /// What we generate has its content.
    const DEFAULT: &str = "envoy_bootstrap_tmpl.json";
    const DEFAULT_IN_SOURCE: &str = "envoy_bootstrap.json";
    let name = template.file_name().and_then(|name| name.to_str());
    if matches!(name, Some(DEFAULT | DEFAULT_IN_SOURCE)) {
        return Ok(());
    }
    anyhow::bail!(
        "the bootstrap template {} is a Go template, which cannot be executed here; give a finished \
         bootstrap with customConfigFile, or what differs with ISTIO_BOOTSTRAP_OVERRIDE",
        template.display()
    )
}
