//! Tracers and sinks of statistics that the proxy configuration names.

use std::net::ToSocketAddrs;

use anyhow::Context;
use serde_json::{Value, json};
use tracing::warn;

use super::{Addresses, addresses, clusters};
use crate::proxy::{
    proxy_config::{Tracer, Tracing},
    settings::Settings,
};

/// Where Lightstep's token is written, in `configPath`.
pub(crate) const ACCESS_TOKEN_FILE: &str = "lightstep_access_token.txt";
/// The cluster of Zipkin's collector.
pub(super) const ZIPKIN: &str = "zipkin";
/// How often the collector's name is asked for, whatever its TTL.
const ZIPKIN_DNS_REFRESH: &str = "30s";
/// The name that a collector in the mesh is asked for.
const SNI: &str = "tracer";

/// The collector's cluster.
pub(super) fn cluster(settings: &Settings, to: &Addresses) -> anyhow::Result<Option<Value>> {
    let Some(tracing) = &settings.proxy_config.tracing else {
        return Ok(None);
    };
    let (Some(name), Some(address)) = (name(&tracing.tracer), tracing.address()) else {
        return Ok(None);
    };
    let address = addresses::collector(address, settings).context("tracing")?;
    let mut cluster = clusters::by_dns(name, &address, to);
    let http2 = matches!(tracing.tracer, Tracer::Lightstep { .. });
    match &tracing.tracer {
        Tracer::Zipkin { .. } => cluster["dns_refresh_rate"] = ZIPKIN_DNS_REFRESH.into(),
        Tracer::Lightstep { .. } => {
            cluster["typed_extension_protocol_options"] = clusters::http2();
        }
        _ => {}
    }
    let tls = tracing.tls.as_ref();
    if let Some(socket) = tls.and_then(|tls| clusters::transport_socket(tls, SNI, http2, settings))
    {
        cluster["transport_socket"] = socket;
    }
    Ok(Some(cluster))
}

fn name(tracer: &Tracer) -> Option<&'static str> {
    match tracer {
        Tracer::Zipkin { .. } => Some(ZIPKIN),
        Tracer::Lightstep { .. } => Some("lightstep"),
        Tracer::Datadog { .. } => Some("datadog_agent"),
        Tracer::Other(_) | Tracer::None => None,
    }
}

/// The tracer itself.
pub(super) fn tracing(settings: &Settings) -> Option<Value> {
    let Tracing { tracer, .. } = settings.proxy_config.tracing.as_ref()?;
    let cluster = name(tracer)?;
    let (name, config) = match tracer {
        Tracer::Zipkin { .. } => (
            "zipkin",
            json!({
                "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
                "collector_cluster": cluster,
                "collector_endpoint": "/api/v2/spans",
                "collector_endpoint_version": "HTTP_JSON",
                "trace_id_128bit": true,
                "shared_span_context": false,
            }),
        ),
        Tracer::Lightstep { .. } => (
            "lightstep",
            json!({
                "@type": "type.googleapis.com/envoy.config.trace.v3.LightstepConfig",
                "collector_cluster": cluster,
                "access_token_file": settings.proxy_config.config_path.join(ACCESS_TOKEN_FILE),
            }),
        ),
        _ => (
            "datadog",
            json!({
                "@type": "type.googleapis.com/envoy.config.trace.v3.DatadogConfig",
                "collector_cluster": cluster,
                "service_name": settings.node_cluster,
            }),
        ),
    };
    Some(json!({"http": {"name": format!("envoy.tracers.{name}"), "typed_config": config}}))
}

pub(super) fn sinks(settings: &Settings) -> Option<Value> {
    let mut sinks = Vec::new();
    if settings.proxy_config.metrics_service.is_some() {
        sinks.push(json!({
            "name": "envoy.stat_sinks.metrics_service",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.metrics.v3.MetricsServiceConfig",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": clusters::METRICS_SERVICE}},
            },
        }));
    }
    if let Some(address) = &settings.proxy_config.statsd_udp_address {
        sinks.extend(statsd(address));
    }
    (!sinks.is_empty()).then(|| sinks.into())
}

/// Envoy wants an address here, so a name is resolved once, now.
fn statsd(address: &str) -> Option<Value> {
    let resolved = address.to_socket_addrs().map(|mut all| all.next());
    match resolved {
        Ok(Some(resolved)) => Some(json!({
            "name": "envoy.stat_sinks.statsd",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.metrics.v3.StatsdSink",
                "address": addresses::socket(resolved.ip(), resolved.port()),
            },
        })),
        Ok(None) => None,
        Err(error) => {
            warn!(address, %error, "statsdUdpAddress cannot be resolved: no statistics go there");
            None
        }
    }
}
