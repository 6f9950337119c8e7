//! What this agent reads of a proxy configuration, as Rust has it.

use std::{collections::BTreeMap, time::Duration};

use ithildin_status::WorkloadProbe;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::ProxyConfig;
use crate::proxy::duration;

/// Where `node.cluster` comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterName {
    /// `serviceCluster`.
    Service(String),
    Tracing(TracingServiceName),
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TracingServiceName {
    AppLabelAndNamespace,
    CanonicalNameOnly,
    CanonicalNameAndNamespace,
}

/// Whether istiod is spoken to over TLS.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ControlPlaneAuth {
    MutualTls,
    None,
}

/// Where Envoy sends traces, as far as the bootstrap says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tracing {
    pub(crate) tracer: Tracer,
    pub(crate) tls: Option<TlsSettings>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tracer {
    Zipkin {
        address: String,
    },
    Lightstep {
        address: String,
        access_token: String,
    },
    Datadog {
        address: String,
    },
    /// Not in Istio's bootstrap: istiod configures it, or nobody. The name of its field.
    Other(&'static str),
    None,
}

impl Tracing {
    /// `host:port` of the collector.
    pub(crate) fn address(&self) -> Option<&str> {
        match &self.tracer {
            Tracer::Zipkin { address }
            | Tracer::Lightstep { address, .. }
            | Tracer::Datadog { address } => Some(address),
            Tracer::Other(_) | Tracer::None => None,
        }
    }
}

/// A gRPC service that Envoy reports to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RemoteService {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) tls_settings: Option<TlsSettings>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
}

/// How we are a TLS client of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsSettings {
    pub(crate) mode: TlsMode,
    pub(crate) client_certificate: String,
    pub(crate) private_key: String,
    pub(crate) ca_certificates: String,
    pub(crate) subject_alt_names: Vec<String>,
    pub(crate) sni: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpKeepalive {
    pub(crate) probes: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) time: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) interval: Option<Duration>,
}

/// What is counted beside what Istio needs (`proxyStatsMatcher`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StatsMatcher {
    pub(crate) inclusion_prefixes: Vec<String>,
    pub(crate) inclusion_suffixes: Vec<String>,
    pub(crate) inclusion_regexps: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Fields {
    config_path: String,
    binary_path: String,
    service_cluster: Option<String>,
    tracing_service_name: Option<TracingServiceName>,
    discovery_address: String,
    control_plane_auth_policy: ControlPlaneAuth,
    proxy_admin_port: u16,
    status_port: u16,
    concurrency: Option<u32>,
    #[serde(deserialize_with = "optional_duration")]
    drain_duration: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    termination_drain_duration: Option<Duration>,
    proxy_metadata: BTreeMap<String, String>,
    custom_config_file: String,
    proxy_bootstrap_template_path: String,
    statsd_udp_address: String,
    envoy_metrics_service_address: String,
    tracing: Option<TracingFields>,
    envoy_metrics_service: RemoteService,
    envoy_access_log_service: RemoteService,
    runtime_values: BTreeMap<String, String>,
    extra_stat_tags: Vec<String>,
    proxy_stats_matcher: StatsMatcher,
    stats_compression: Option<bool>,
    #[serde(deserialize_with = "optional_duration")]
    file_flush_interval: Option<Duration>,
    file_flush_min_size_kb: u32,
    connection_settings: ConnectionFields,
    readiness_probe: Option<Value>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            config_path: String::new(),
            binary_path: String::new(),
            service_cluster: None,
            tracing_service_name: None,
            discovery_address: String::new(),
            control_plane_auth_policy: ControlPlaneAuth::None,
            proxy_admin_port: 0,
            status_port: 0,
            concurrency: None,
            drain_duration: None,
            termination_drain_duration: None,
            proxy_metadata: BTreeMap::new(),
            custom_config_file: String::new(),
            proxy_bootstrap_template_path: String::new(),
            statsd_udp_address: String::new(),
            envoy_metrics_service_address: String::new(),
            tracing: None,
            envoy_metrics_service: RemoteService::default(),
            envoy_access_log_service: RemoteService::default(),
            runtime_values: BTreeMap::new(),
            extra_stat_tags: Vec::new(),
            proxy_stats_matcher: StatsMatcher::default(),
            stats_compression: None,
            file_flush_interval: None,
            file_flush_min_size_kb: 0,
            connection_settings: ConnectionFields::default(),
            readiness_probe: None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConnectionFields {
    global_downstream_connection_limit: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TracingFields {
    zipkin: Option<CollectorFields>,
    lightstep: Option<CollectorFields>,
    datadog: Option<CollectorFields>,
    stackdriver: Option<Value>,
    open_census_agent: Option<Value>,
    tls_settings: Option<TlsSettings>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CollectorFields {
    address: String,
    access_token: String,
}

impl From<TracingFields> for Tracing {
    fn from(fields: TracingFields) -> Self {
        let tracer = if let Some(CollectorFields { address, .. }) = fields.zipkin {
            Tracer::Zipkin { address }
        } else if let Some(CollectorFields {
            address,
            access_token,
        }) = fields.lightstep
        {
            Tracer::Lightstep {
                address,
                access_token,
            }
        } else if let Some(CollectorFields { address, .. }) = fields.datadog {
            Tracer::Datadog { address }
        } else if fields.stackdriver.is_some() {
            Tracer::Other("stackdriver")
        } else if fields.open_census_agent.is_some() {
            Tracer::Other("openCensusAgent")
        } else {
            Tracer::None
        };
        Self {
            tracer,
            tls: fields.tls_settings,
        }
    }
}

/// Reads the fields, which are in their normal form.
pub(super) fn resolve(fields: &Map<String, Value>) -> anyhow::Result<ProxyConfig> {
    let fields: Fields = serde_json::from_value(Value::Object(fields.clone()))?;
    let set = |text: String| Some(text).filter(|text| !text.is_empty());
    let named = |service: RemoteService| Some(service).filter(|it| !it.address.is_empty());
    let old_metrics_service =
        set(fields.envoy_metrics_service_address).map(|address| RemoteService {
            address,
            ..RemoteService::default()
        });
    Ok(ProxyConfig {
        config_path: fields.config_path.into(),
        binary_path: fields.binary_path.into(),
        cluster_name: match fields.tracing_service_name {
            Some(policy) => ClusterName::Tracing(policy),
            None => ClusterName::Service(fields.service_cluster.unwrap_or_default()),
        },
        discovery_address: fields.discovery_address,
        control_plane_auth: fields.control_plane_auth_policy,
        proxy_admin_port: fields.proxy_admin_port,
        status_port: fields.status_port,
        concurrency: fields.concurrency,
        drain_duration: fields.drain_duration.unwrap_or_default(),
        termination_drain_duration: fields.termination_drain_duration.unwrap_or_default(),
        metadata: fields.proxy_metadata,
        custom_config_file: set(fields.custom_config_file).map(Into::into),
        template: set(fields.proxy_bootstrap_template_path).map(Into::into),
        statsd_udp_address: set(fields.statsd_udp_address),
        tracing: fields.tracing.map(Into::into),
        metrics_service: named(fields.envoy_metrics_service).or(old_metrics_service),
        access_log_service: named(fields.envoy_access_log_service),
        runtime_values: fields.runtime_values,
        extra_stat_tags: fields.extra_stat_tags,
        stats_matcher: fields.proxy_stats_matcher,
        stats_compression: fields.stats_compression.unwrap_or(true),
        file_flush_interval: fields.file_flush_interval,
        file_flush_min_size_kb: fields.file_flush_min_size_kb,
        connection_limit: fields
            .connection_settings
            .global_downstream_connection_limit
            .filter(|limit| *limit != 0),
        readiness_probe: fields
            .readiness_probe
            .as_ref()
            .map(WorkloadProbe::parse)
            .transpose()?,
        json: Map::new(),
    })
}

fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| duration::parse(&text).map_err(serde::de::Error::custom))
        .transpose()
}
