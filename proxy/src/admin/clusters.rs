//! `/clusters`.

use std::{collections::HashMap, sync::Arc};

use ithildin_proto::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use serde_json::{Value, json};

use super::{AdminState, listeners};
use crate::config::{
    Cluster,
    cluster::{CircuitBreakers, Endpoint, EndpointAddress, Health},
};

/// Envoy's thresholds of the high priority, which nothing here uses.
const HIGH_PRIORITY: CircuitBreakers = CircuitBreakers {
    max_connections: 1024,
    max_pending_requests: 1024,
    max_requests: 1024,
    max_retries: 3,
    retry_budget: None,
};

/// `cluster::host::statistic::value`, one a line.
pub(super) fn text(state: &AdminState, wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let service_names = eds_service_names(state);
    for cluster in &sorted(state, wanted) {
        let name = &cluster.name;
        let mut line = |rest: String| text.push_str(&format!("{name}::{rest}\n"));
        line(format!("observability_name::{}", cluster.stat_name));
        for (priority, limits) in [("default", cluster.limits), ("high", HIGH_PRIORITY)] {
            for (what, limit) in [
                ("max_connections", limits.max_connections),
                ("max_pending_requests", limits.max_pending_requests),
                ("max_requests", limits.max_requests),
                ("max_retries", limits.max_retries),
            ] {
                line(format!("{priority}_priority::{what}::{limit}"));
            }
        }
        if let Some(detector) = &cluster.outlier {
            let rates = detector.rates();
            for (origin, rates) in [("", rates.external), ("local_origin_", rates.local)] {
                let (average, threshold) = rates.unwrap_or((-1.0, -1.0));
                line(format!("outlier::{origin}success_rate_average::{average}"));
                line(format!(
                    "outlier::{origin}success_rate_ejection_threshold::{threshold}"
                ));
            }
        }
        line(format!("added_via_api::{}", added_via_api(state, cluster)));
        if let Some(service) = service_names.get(&*cluster.name) {
            line(format!("eds_service_name::{service}"));
        }
        for (priority, endpoint) in endpoints(cluster) {
            let address = address(&endpoint.address);
            for (what, value) in counts(&endpoint) {
                line(format!("{address}::{what}::{value}"));
            }
            let (region, zone, sub_zone) = locality(&endpoint.locality);
            let rates = success_rates(&endpoint);
            for (what, value) in [
                ("hostname", endpoint.hostname.to_string()),
                ("health_flags", health_flags(&endpoint)),
                ("weight", endpoint.weight.to_string()),
                ("region", region.to_owned()),
                ("zone", zone.to_owned()),
                ("sub_zone", sub_zone.to_owned()),
                ("canary", "false".to_owned()),
                ("priority", priority.to_string()),
                ("success_rate", percent(rates.0).to_string()),
                ("local_origin_success_rate", percent(rates.1).to_string()),
            ] {
                line(format!("{address}::{what}::{value}"));
            }
        }
    }
    text
}

/// `envoy.admin.v3.Clusters`.
pub(super) fn json(state: &AdminState, wanted: impl Fn(&str) -> bool) -> Value {
    let service_names = eds_service_names(state);
    let statuses: Vec<_> = sorted(state, wanted)
        .iter()
        .map(|cluster| {
            let hosts: Vec<_> = endpoints(cluster)
                .map(|(priority, endpoint)| host(priority, &endpoint))
                .collect();
            let mut status = json!({
                "name": &*cluster.name,
                "host_statuses": &hosts,
                "circuit_breakers": {"thresholds": [
                    thresholds(&cluster.limits, None),
                    thresholds(&HIGH_PRIORITY, Some("HIGH")),
                ]},
                "observability_name": &*cluster.stat_name,
            });
            // What is empty or false is left out, as protobuf's JSON does.
            if hosts.is_empty() {
                status.as_object_mut().map(|it| it.remove("host_statuses"));
            }
            if added_via_api(state, cluster) {
                status["added_via_api"] = true.into();
            }
            if let Some(service) = service_names.get(&*cluster.name) {
                status["eds_service_name"] = service.as_str().into();
            }
            status
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

fn sorted(state: &AdminState, wanted: impl Fn(&str) -> bool) -> Vec<Arc<Cluster>> {
    let snapshot = state.published.current.load();
    let clusters = snapshot.clusters.values().filter(|it| wanted(&it.name));
    let mut clusters: Vec<_> = clusters.cloned().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

fn endpoints(cluster: &Cluster) -> impl Iterator<Item = (usize, Arc<Endpoint>)> + use<> {
    let set = cluster.endpoints.load_full();
    let hosts: Vec<_> = set
        .priorities
        .iter()
        .enumerate()
        .flat_map(|(priority, hosts)| hosts.iter().map(move |host| (priority, Arc::clone(host))))
        .collect();
    hosts.into_iter()
}

/// Whether it is not of the bootstrap file.
fn added_via_api(state: &AdminState, cluster: &Cluster) -> bool {
    let resources = state.resources.borrow();
    resources.clusters.contains_key(&cluster.name)
}

/// By the names of the clusters whose endpoints are asked for by another name, or expressly by this.
fn eds_service_names(state: &AdminState) -> HashMap<String, String> {
    let named = |cluster: &ClusterProto| {
        let service = &cluster.eds_cluster_config.as_ref()?.service_name;
        (!service.is_empty()).then(|| (cluster.name.clone(), service.clone()))
    };
    let statics = state.bootstrap.read().static_resources.unwrap_or_default();
    let resources = state.resources.borrow();
    let dynamic = resources.clusters.values().map(|it| &**it);
    statics
        .clusters
        .iter()
        .chain(dynamic)
        .filter_map(named)
        .collect()
}

fn counts(endpoint: &Endpoint) -> [(&'static str, u64); 9] {
    let stats = &endpoint.stats;
    [
        ("cx_active", stats.gauge(|it| it.cx_active.get())),
        ("cx_connect_fail", stats.sum(|it| it.cx_connect_fail.get())),
        ("cx_total", stats.sum(|it| it.cx_total.get())),
        ("rq_active", stats.gauge(|it| it.rq_active.get())),
        ("rq_error", stats.sum(|it| it.rq_error.get())),
        // Requests that wait do so for a cluster, not yet for a host.
        ("rq_pending_active", 0),
        ("rq_success", stats.sum(|it| it.rq_success.get())),
        ("rq_timeout", stats.sum(|it| it.rq_timeout.get())),
        ("rq_total", stats.sum(|it| it.rq_total.get())),
    ]
}

fn host(priority: usize, endpoint: &Endpoint) -> Value {
    let mut stats: Vec<Value> = Vec::new();
    for (name, value) in counts(endpoint) {
        let gauge = name.ends_with("_active");
        let mut stat = serde_json::Map::new();
        if gauge {
            stat.insert("type".into(), "GAUGE".into());
        }
        if value != 0 {
            stat.insert("value".into(), value.to_string().into());
        }
        stat.insert("name".into(), name.into());
        stats.push(stat.into());
    }
    // Counters come first.
    stats.sort_by_key(|stat| stat.get("type").is_some());
    let address = match &endpoint.address {
        EndpointAddress::Socket(address) => listeners::socket(address),
        EndpointAddress::Pipe(path) => json!({"pipe": {"path": path.to_string_lossy()}}),
    };
    let (region, zone, sub_zone) = locality(&endpoint.locality);
    let parts = [("region", region), ("zone", zone), ("sub_zone", sub_zone)];
    let locality: serde_json::Map<_, Value> = parts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let mut health_status = json!({"eds_health_status": eds_health(endpoint.health)});
    if is_ejected(endpoint) {
        health_status["failed_outlier_check"] = true.into();
    }
    let mut host = json!({
        "address": address,
        "stats": stats,
        "health_status": health_status,
        "weight": endpoint.weight,
        "locality": locality,
    });
    if !endpoint.hostname.is_empty() {
        host["hostname"] = (*endpoint.hostname).into();
    }
    if priority > 0 {
        host["priority"] = priority.into();
    }
    let (external, local) = success_rates(endpoint);
    for (name, rate) in [
        ("success_rate", external),
        ("local_origin_success_rate", local),
    ] {
        if let Some(rate) = rate {
            host[name] = json!({ "value": rate });
        }
    }
    host
}

fn thresholds(limits: &CircuitBreakers, priority: Option<&str>) -> Value {
    let mut value = serde_json::Map::new();
    if let Some(priority) = priority {
        value.insert("priority".into(), priority.into());
    }
    value.insert("max_connections".into(), limits.max_connections.into());
    value.insert(
        "max_pending_requests".into(),
        limits.max_pending_requests.into(),
    );
    value.insert("max_requests".into(), limits.max_requests.into());
    value.insert("max_retries".into(), limits.max_retries.into());
    value.into()
}

fn address(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Socket(address) => address.to_string(),
        EndpointAddress::Pipe(path) => path.to_string_lossy().into_owned(),
    }
}

/// `region/zone/sub_zone`.
fn locality(text: &str) -> (&str, &str, &str) {
    let mut parts = text.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

fn health_flags(endpoint: &Endpoint) -> String {
    let ejected = match is_ejected(endpoint) {
        true => "/failed_outlier_check",
        false => "",
    };
    let of_eds = match endpoint.health {
        Health::Healthy if ejected.is_empty() => "healthy",
        Health::Healthy => "",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
        Health::Draining => "/eds_status_draining",
    };
    format!("{ejected}{of_eds}")
}

fn is_ejected(endpoint: &Endpoint) -> bool {
    let monitor = endpoint.monitor.as_ref();
    monitor.is_some_and(|monitor| monitor.is_ejected())
}

/// Percent, of responses and of connections; `None`: not known.
fn success_rates(endpoint: &Endpoint) -> (Option<f64>, Option<f64>) {
    let monitor = endpoint.monitor.as_ref();
    monitor.map_or((None, None), |monitor| monitor.success_rates())
}

fn percent(rate: Option<f64>) -> f64 {
    rate.unwrap_or(-1.0)
}

fn eds_health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    }
}
