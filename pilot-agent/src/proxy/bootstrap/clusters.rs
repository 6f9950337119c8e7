//! Clusters of the bootstrap: our sockets, and the services that Envoy reports to.

use std::path::Path;

use anyhow::Context;
use ithildin_istio_config::DEFAULT_SDS_CLUSTER;
use serde_json::{Value, json};
use tracing::warn;

use super::{
    AGENT_CLUSTER, Addresses, FILE_CREDENTIAL, PROMETHEUS_CLUSTER, Sockets, XDS_CLUSTER, addresses,
    tracers,
};
use crate::proxy::{
    proxy_config::{RemoteService, TcpKeepalive, TlsMode, TlsSettings},
    settings::{ConfigSource, Settings},
};

/// Our own endpoints, for routing that knows zones.
pub(super) const LOCAL: &str = "local_cluster";
pub(super) const METRICS_SERVICE: &str = "envoy_metrics_service";
const ACCESS_LOG_SERVICE: &str = "envoy_accesslog_service";
/// Where file certificates come from when identities come from elsewhere.
const FILES_CLUSTER: &str = "sds-files-grpc";
/// As good as none: a stream that waits for a connection would keep Envoy from its configuration.
const NO_LIMIT: u32 = 100_000;

/// How a gRPC service is spoken to: HTTP/2.
const HTTP2: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn all(
    settings: &Settings,
    addresses: &Addresses,
    sockets: &Sockets,
) -> anyhow::Result<Vec<Value>> {
    let mut clusters = of_metrics(settings, addresses).to_vec();
    clusters.push(of_socket(DEFAULT_SDS_CLUSTER, &sockets.sds));
    if settings.metadata.contains_key(FILE_CREDENTIAL) {
        clusters.push(of_socket(FILES_CLUSTER, &settings.identity.files_socket));
    }
    clusters.push(xds(&sockets.xds));
    clusters.extend(tracers::cluster(settings, addresses)?);
    if let Some(service) = &settings.proxy_config.metrics_service {
        let cluster = remote(METRICS_SERVICE, service, settings, addresses);
        clusters.push(cluster.context("envoyMetricsService")?);
    }
    clusters.extend(access_log_service(settings, addresses)?);
    if settings.envoy.self_discovery {
        clusters.push(local_endpoints(Some(by_zone())));
    }
    Ok(clusters)
}

/// The data plane's own metrics, and those that we merge.
fn of_metrics(settings: &Settings, addresses: &Addresses) -> [Value; 2] {
    let local = |name, port| of_address(name, &addresses::socket(addresses.localhost, port));
    [
        local(PROMETHEUS_CLUSTER, settings.ports.admin),
        local(AGENT_CLUSTER, settings.ports.status),
    ]
}

/// Who is told of every request, where istiod's `enableEnvoyAccessLogService` asks for it.
fn access_log_service(settings: &Settings, addresses: &Addresses) -> anyhow::Result<Option<Value>> {
    let service = settings.proxy_config.access_log_service.as_ref();
    let cluster = service.map(|it| remote(ACCESS_LOG_SERVICE, it, settings, addresses));
    cluster.transpose().context("envoyAccessLogService")
}

/// Those that the built-in proxy needs: few, since it has no sockets between itself and us.
pub(super) fn builtin(settings: &Settings, addresses: &Addresses) -> anyhow::Result<Vec<Value>> {
    let mut clusters = Vec::new();
    if settings.ports.secure_metrics.is_some() || settings.ports.secure_merged_metrics.is_some() {
        clusters.extend(of_metrics(settings, addresses));
    }
    if settings.source != ConfigSource::Istiod {
        return Ok(clusters);
    }
    // Of the tracers it knows Zipkin's.
    let tracer = tracers::cluster(settings, addresses)?;
    let tracer = tracer.filter(|it| it["name"] == tracers::ZIPKIN);
    let service = access_log_service(settings, addresses)?;
    let told = tracer.into_iter().chain(service);
    clusters.extend(told.filter(is_verified));
    if settings.envoy.self_discovery {
        clusters.push(local_endpoints(None));
    }
    Ok(clusters)
}

/// Whether somebody vouches for who answers there. Where nobody does, Envoy does not start.
fn is_verified(cluster: &Value) -> bool {
    const VOUCHER: &str = "/transport_socket/typed_config/common_tls_context/combined_validation_context/validation_context_sds_secret_config";
    let verified = cluster.get("transport_socket").is_none() || cluster.pointer(VOUCHER).is_some();
    if !verified {
        let field = match cluster["name"] == tracers::ZIPKIN {
            true => "tracing",
            false => "envoyAccessLogService",
        };
        warn!("{field}.tlsSettings has no caCertificates: nobody is told");
    }
    verified
}

fn of_address(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": assignment(name, address),
    })
}

fn of_socket(name: &str, socket: &Path) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "typed_extension_protocol_options": http2(),
        "load_assignment": assignment(name, &json!({"pipe": {"path": socket}})),
    })
}

fn xds(socket: &Path) -> Value {
    let mut cluster = of_socket(XDS_CLUSTER, socket);
    let threshold = |priority: &str| {
        json!({
            "priority": priority,
            "max_connections": NO_LIMIT,
            "max_pending_requests": NO_LIMIT,
            "max_requests": NO_LIMIT,
        })
    };
    cluster["circuit_breakers"] = json!({"thresholds": [threshold("DEFAULT"), threshold("HIGH")]});
    cluster["upstream_connection_options"] = json!({"tcp_keepalive": {"keepalive_time": 300}});
    cluster["max_requests_per_connection"] = 1.into();
    cluster
}

pub(super) fn assignment(cluster: &str, address: &Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}

pub(super) fn http2() -> Value {
    json!({HTTP2: {
        "@type": format!("type.googleapis.com/{HTTP2}"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }})
}

fn remote(
    name: &str,
    service: &RemoteService,
    settings: &Settings,
    addresses: &Addresses,
) -> anyhow::Result<Value> {
    let address = addresses::collector(&service.address, settings)?;
    let mut cluster = by_dns(name, &address, addresses);
    cluster["typed_extension_protocol_options"] = http2();
    let tls = service.tls_settings.as_ref();
    if let Some(socket) = tls.and_then(|tls| transport_socket(tls, name, true, settings)) {
        cluster["transport_socket"] = socket;
    }
    if let Some(keepalive) = &service.tcp_keepalive {
        cluster["upstream_connection_options"] = json!({"tcp_keepalive": tcp_keepalive(keepalive)});
    }
    Ok(cluster)
}

pub(super) fn by_dns(name: &str, address: &Value, addresses: &Addresses) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STRICT_DNS",
        "respect_dns_ttl": true,
        "dns_lookup_family": addresses.dns_lookup_family,
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": assignment(name, address),
    })
}

fn tcp_keepalive(keepalive: &TcpKeepalive) -> Value {
    let mut options = json!({});
    let seconds = |duration: Option<std::time::Duration>| {
        let seconds = duration.map_or(0, |duration| duration.as_secs());
        (seconds > 0).then_some(seconds)
    };
    let set = [
        (
            "keepalive_probes",
            Some(u64::from(keepalive.probes)).filter(|it| *it > 0),
        ),
        ("keepalive_time", seconds(keepalive.time)),
        ("keepalive_interval", seconds(keepalive.interval)),
    ];
    for (name, value) in set {
        if let Some(value) = value {
            options[name] = value.into();
        }
    }
    options
}

/// TLS to a collector; `None` without. `host` is the name that is asked for in the mesh.
pub(super) fn transport_socket(
    tls: &TlsSettings,
    host: &str,
    http2: bool,
    settings: &Settings,
) -> Option<Value> {
    let client = settings.ca.files.client.as_ref();
    let of_metadata = |path: Option<&std::path::PathBuf>, own: &str| {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        path.map_or_else(|| own.to_owned(), |path| path.display().to_string())
    };
    let chain = of_metadata(client.map(|it| &it.chain), &tls.client_certificate);
    let key = of_metadata(client.map(|it| &it.key), &tls.private_key);
    let root = of_metadata(client.map(|it| &it.root), &tls.ca_certificates);
    let (certificate, root) = match tls.mode {
        TlsMode::Disable => return None,
        TlsMode::Simple => (None, format!("file-root:{root}")),
        TlsMode::Mutual => (
            Some(format!("file-cert:{chain}~{key}"))
                .filter(|_| !chain.is_empty() && !key.is_empty()),
            format!("file-root:{root}"),
        ),
        TlsMode::IstioMutual => (Some("default".to_owned()), "ROOTCA".to_owned()),
    };
    let secret = match tls.mode {
        TlsMode::IstioMutual => secret_however_late,
        _ => secret,
    };
    let names = tls.subject_alt_names.iter();
    let names = names.filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(|name| json!({"exact": name})).collect();
    let mut validation = json!({"default_validation_context": {}});
    if !names.is_empty() {
        validation["default_validation_context"]["match_subject_alt_names"] = names.into();
    }
    if root != "file-root:" {
        validation["validation_context_sds_secret_config"] = secret(&root);
    }
    let mut context = json!({"combined_validation_context": validation});
    if let Some(certificate) = certificate {
        context["tls_certificate_sds_secret_configs"] = vec![secret(&certificate)].into();
    }
    if http2 {
        context["alpn_protocols"] = match tls.mode {
            TlsMode::IstioMutual => json!(["istio", "h2"]),
            _ => json!(["h2"]),
        };
    }
    let sni = match (tls.mode, tls.sni.as_str()) {
        (TlsMode::IstioMutual, "") => host,
        (_, sni) => sni,
    };
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": context,
    });
    if !sni.is_empty() {
        config["sni"] = sni.into();
    }
    Some(json!({"name": "envoy.transport_sockets.tls", "typed_config": config}))
}

/// A secret that we serve.
pub(super) fn secret(name: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": DEFAULT_SDS_CLUSTER}}],
            },
        },
    })
}

/// One of the workload's identity. The service waits for it: what Envoy went on without after its 15 s would be refused.
fn secret_however_late(name: &str) -> Value {
    let mut secret = secret(name);
    secret["sds_config"]["initial_fetch_timeout"] = "0s".into();
    secret
}

/// Nothing is sent there; a policy is what Istio's own bootstrap gives it.
fn local_endpoints(policy: Option<Value>) -> Value {
    let mut cluster = json!({
        "name": LOCAL,
        "alt_stat_name": format!("{LOCAL};"),
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
            "service_name": LOCAL,
        },
    });
    if let Some(policy) = policy {
        cluster["load_balancing_policy"] = policy;
    }
    cluster
}

fn by_zone() -> Value {
    json!({"policies": [{"typed_extension_config": {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
            "locality_lb_config": {"zone_aware_lb_config": {"min_cluster_size": "1"}},
        },
    }}]})
}
