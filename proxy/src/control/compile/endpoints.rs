//! Load assignments: endpoints with priority, weight, health and the transport that they need.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ithildin_proto::pb::{
    envoy::config::{
        core::v3::{HealthStatus, Locality, Metadata},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as EndpointProto, LbEndpoint, LocalityLbEndpoints,
            cluster_load_assignment::Policy, lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf::{Struct, Value, value::Kind},
};

use super::address::{self, Place};
use crate::{
    config::{
        Map,
        cluster::{Endpoint, EndpointAddress, EndpointSet, Health},
    },
    control::report::{At, no_effect, refuse},
    istio::Workload,
    outlier::Monitor,
    stats::EndpointStats,
};

/// Envoy's default, in percent.
const DEFAULT_OVERPROVISIONING: u32 = 140;
/// Highest priority number; Envoy's.
const MAX_PRIORITY: u32 = 128;
/// Endpoint metadata that transport sockets are matched on.
const TRANSPORT_MATCH: &str = "envoy.transport_socket_match";

/// How a cluster chooses the transport of an endpoint: `transport_socket_matches` in order.
#[derive(Debug, Default)]
pub(in crate::control) struct Placement {
    pub(super) matches: Vec<BTreeMap<String, String>>,
    /// The cluster has outlier detection.
    pub(super) watched: bool,
}

impl Placement {
    /// Index into [`Transports`](crate::config::cluster::Transports): the first entry that the
    /// endpoint's own metadata meets, else its locality's, else the cluster's `transport_socket`.
    fn transport(&self, own: Option<&Metadata>, locality: Option<&Metadata>) -> usize {
        let find = |metadata: Option<&Metadata>| {
            let fields = metadata.and_then(|it| it.filter_metadata.get(TRANSPORT_MATCH));
            let fits = |wanted: &BTreeMap<String, String>| {
                wanted.iter().all(|(key, value)| {
                    let found = fields.and_then(|fields| fields.fields.get(key));
                    found.is_some_and(|found| has_text(found, value))
                })
            };
            self.matches.iter().position(fits)
        };
        let found = find(own).or_else(|| find(locality));
        found.map_or(0, |index| index + 1)
    }
}

/// The text values of a `transport_socket_matches` entry.
pub(super) fn match_criteria(config: &Struct, at: &At<'_>) -> BTreeMap<String, String> {
    let fields = config.fields.iter();
    fields
        .filter_map(|(key, value)| {
            let value = text(value);
            if value.is_none() {
                at.key("match", key).error("only text values are supported");
            }
            Some((key.clone(), value?.clone()))
        })
        .collect()
}

/// Whether a value is `wanted`, or a list that has it.
fn has_text(found: &Value, wanted: &String) -> bool {
    match &found.kind {
        Some(Kind::ListValue(list)) => list.values.iter().any(|it| text(it) == Some(wanted)),
        _ => text(found) == Some(wanted),
    }
}

fn text(value: &Value) -> Option<&String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// A name that is resolved, and what is known of its endpoints beforehand.
#[derive(Clone, Debug)]
pub(in crate::control) struct DnsTarget {
    pub(in crate::control) host: Arc<str>,
    pub(in crate::control) port: u16,
    traits: Traits,
    overprovisioning_factor: u32,
}

/// Everything about an endpoint but its address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Traits {
    hostname: Arc<str>,
    priority: usize,
    weight: u32,
    health: Health,
    locality: Arc<str>,
    locality_weight: u32,
    transport: usize,
    workload: Option<Arc<Workload>>,
    /// Where it is, too.
    more: Box<[SocketAddr]>,
    /// The cluster has outlier detection.
    watched: bool,
}

/// Endpoints with addresses, as EDS and STATIC clusters have them.
pub(super) fn fixed(
    config: &ClusterLoadAssignment,
    placement: &Placement,
    workers: usize,
    previous: &EndpointSet,
    at: &At<'_>,
) -> Option<EndpointSet> {
    let errors = at.errors();
    let overprovisioning = policy(config, at);
    let mut builder = Builder::new(workers, previous, overprovisioning);
    each(config, placement, at, |place, traits, at| {
        let address = match place {
            Place::Pipe(path) => EndpointAddress::Pipe(path),
            Place::Host(host, port) => {
                let Ok(ip) = host.parse::<IpAddr>() else {
                    at.error(format_args!(
                        "{host:?} is not an IP address; names need the cluster type STRICT_DNS or \
                         LOGICAL_DNS"
                    ));
                    return;
                };
                EndpointAddress::Socket(SocketAddr::new(ip, port))
            }
        };
        builder.add(address, &traits);
    });
    (at.errors() == errors).then(|| builder.finish())
}

/// The names of a DNS cluster.
pub(super) fn dns_targets(
    config: &ClusterLoadAssignment,
    placement: &Placement,
    at: &At<'_>,
) -> Vec<DnsTarget> {
    let overprovisioning_factor = policy(config, at);
    let mut targets = Vec::new();
    each(config, placement, at, |place, mut traits, at| match place {
        Place::Host(..) if !traits.more.is_empty() => {
            at.field("additional_addresses").error(
                "is not supported where names are resolved; use the cluster type EDS or STATIC",
            );
        }
        Place::Host(host, port) => {
            if traits.hostname.is_empty() {
                traits.hostname = host.as_str().into();
            }
            targets.push(DnsTarget {
                host: host.into(),
                port,
                traits,
                overprovisioning_factor,
            })
        }
        Place::Pipe(_) => at.error("a pipe cannot be resolved; use the cluster type STATIC"),
    });
    targets
}

/// Endpoints of names, each with the addresses that it has now.
pub(super) fn resolved<'t>(
    targets: impl Iterator<Item = (&'t DnsTarget, &'t [IpAddr])>,
    workers: usize,
    previous: &EndpointSet,
) -> EndpointSet {
    let mut targets = targets.peekable();
    let overprovisioning = targets
        .peek()
        .map_or(DEFAULT_OVERPROVISIONING, |(target, _)| {
            target.overprovisioning_factor
        });
    let mut builder = Builder::new(workers, previous, overprovisioning);
    for (target, addresses) in targets {
        for ip in addresses {
            let address = EndpointAddress::Socket(SocketAddr::new(*ip, target.port));
            builder.add(address, &target.traits);
        }
    }
    builder.finish()
}

struct Builder {
    workers: usize,
    known: Map<EndpointAddress, Arc<Endpoint>>,
    /// By priority: what is in it.
    taken: Vec<HashSet<EndpointAddress>>,
    set: EndpointSet,
}

impl Builder {
    fn new(workers: usize, previous: &EndpointSet, overprovisioning_factor: u32) -> Self {
        let known = previous.priorities.iter().flatten();
        Self {
            workers,
            known: known
                .map(|endpoint| (endpoint.address.clone(), Arc::clone(endpoint)))
                .collect(),
            set: EndpointSet {
                version: previous.version + 1,
                priorities: Vec::new(),
                overprovisioning_factor,
                tables: Box::default(),
            },
            taken: Vec::new(),
        }
    }

    /// Adds an endpoint, the one that is known if nothing about it changed. The same address twice
    /// in one priority is one endpoint, as in Envoy.
    fn add(&mut self, address: EndpointAddress, traits: &Traits) {
        if self.set.priorities.len() <= traits.priority {
            self.set
                .priorities
                .resize_with(traits.priority + 1, Vec::new);
        }
        self.taken
            .resize_with(self.set.priorities.len(), HashSet::new);
        let taken = self.taken.get_mut(traits.priority);
        if !taken.is_some_and(|taken| taken.insert(address.clone())) {
            return;
        }
        let known = self.known.get(&address);
        let same = known.filter(|endpoint| {
            endpoint.hostname == traits.hostname
                && endpoint.weight == traits.weight
                && endpoint.health == traits.health
                && endpoint.locality == traits.locality
                && endpoint.locality_weight == traits.locality_weight
                && endpoint.transport == traits.transport
                && endpoint.workload == traits.workload
                && endpoint.more == traits.more
        });
        let endpoint = match (same, known) {
            (Some(same), _) => Arc::clone(same),
            (None, known) => Arc::new(Endpoint {
                address,
                more: traits.more.clone(),
                hostname: Arc::clone(&traits.hostname),
                weight: traits.weight,
                health: traits.health,
                healthy_since: match known {
                    Some(known) if known.health == Health::Healthy => known.healthy_since,
                    _ => Instant::now(),
                },
                locality: Arc::clone(&traits.locality),
                locality_weight: traits.locality_weight,
                transport: traits.transport,
                workload: traits.workload.clone(),
                stats: match known {
                    Some(known) => Arc::clone(&known.stats),
                    None => Arc::new(EndpointStats::new(self.workers)),
                },
                monitor: traits.watched.then(|| {
                    let monitor = known.and_then(|known| known.monitor.clone());
                    monitor.unwrap_or_else(|| Arc::new(Monitor::new(self.workers)))
                }),
            }),
        };
        if let Some(endpoints) = self.set.priorities.get_mut(traits.priority) {
            endpoints.push(endpoint);
        }
    }

    fn finish(self) -> EndpointSet {
        self.set
    }
}

/// Calls `visit` for each endpoint that is sound.
fn each(
    config: &ClusterLoadAssignment,
    placement: &Placement,
    at: &At<'_>,
    mut visit: impl FnMut(Place, Traits, &At<'_>),
) {
    for (i, group) in config.endpoints.iter().enumerate() {
        let at = at.index("endpoints", i);
        let LocalityLbEndpoints {
            locality,
            metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity,
            lb_config,
        } = group;
        no_effect!(proximity);
        refuse!(at; lb_config);
        if *priority > MAX_PRIORITY {
            at.field("priority")
                .error(format_args!("{priority} is not from 0 to {MAX_PRIORITY}"));
            continue;
        }
        let locality = locality_text(locality.as_ref());
        for (j, endpoint) in lb_endpoints.iter().enumerate() {
            let at = at.index("lb_endpoints", j);
            let found = lb_endpoint(endpoint, placement, metadata.as_ref(), &at);
            let Some((place, mut traits)) = found else {
                continue;
            };
            traits.priority = *priority as usize;
            traits.locality = Arc::clone(&locality);
            traits.locality_weight = load_balancing_weight.map_or(0, |weight| weight.value);
            visit(place, traits, &at.field("endpoint"));
        }
    }
}

fn lb_endpoint(
    config: &LbEndpoint,
    placement: &Placement,
    of_locality: Option<&Metadata>,
    at: &At<'_>,
) -> Option<(Place, Traits)> {
    let LbEndpoint {
        health_status,
        metadata,
        load_balancing_weight,
        host_identifier,
    } = config;
    let endpoint = match host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => {
            at.field("endpoint_name").error("is not supported");
            return None;
        }
        None => {
            at.field("endpoint").error("is required");
            return None;
        }
    };
    let weight = load_balancing_weight.map_or(1, |weight| weight.value);
    if weight == 0 {
        at.field("load_balancing_weight")
            .error("is 0; it must be at least 1");
    }
    let health = match at.enumeration("health_status", *health_status)? {
        HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unhealthy,
        HealthStatus::Draining => Health::Draining,
        HealthStatus::Degraded => Health::Degraded,
    };
    let at = at.field("endpoint");
    let EndpointProto {
        address,
        health_check_config,
        hostname,
        additional_addresses,
        observability_name,
    } = endpoint;
    // Of active health checks, which are refused, and of statistics.
    no_effect!(health_check_config, observability_name);
    let more = additional_addresses.iter().enumerate();
    let more = more.filter_map(|(i, additional)| {
        let at = at.index("additional_addresses", i);
        address::socket(additional.address.as_ref(), &at.field("address"))
    });
    let more = more.collect();
    let place = address::place(address.as_ref(), &at.field("address"))?;
    let traits = Traits {
        hostname: hostname.as_str().into(),
        priority: 0,
        weight,
        health,
        locality: "".into(),
        locality_weight: 0,
        workload: workload(metadata.as_ref()),
        more,
        transport: placement.transport(metadata.as_ref(), of_locality),
        watched: placement.watched,
    };
    Some((place, traits))
}

/// What istiod says of the workload at an endpoint (`istio.workload`).
fn workload(metadata: Option<&Metadata>) -> Option<Arc<Workload>> {
    let istio = metadata?.filter_metadata.get("istio")?;
    let told = Workload::of_endpoint(text(istio.fields.get("workload")?)?)?;
    Some(Arc::new(told))
}

fn policy(config: &ClusterLoadAssignment, at: &At<'_>) -> u32 {
    let ClusterLoadAssignment {
        cluster_name,
        endpoints,
        named_endpoints,
        policy,
    } = config;
    // The name is often that of another cluster; Envoy does not mind, and the caller reads the rest.
    no_effect!(cluster_name, endpoints);
    refuse!(at; named_endpoints);
    let Some(Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    }) = policy
    else {
        return DEFAULT_OVERPROVISIONING;
    };
    let at = at.field("policy");
    refuse!(at; drop_overloads, endpoint_stale_after, weighted_priority_health);
    overprovisioning_factor.map_or(DEFAULT_OVERPROVISIONING, |value| value.value)
}

/// `region/zone/sub_zone`, without empty parts at the end.
pub(super) fn locality_text(locality: Option<&Locality>) -> Arc<str> {
    let Some(Locality {
        region,
        zone,
        sub_zone,
    }) = locality
    else {
        return "".into();
    };
    let parts = [region, zone, sub_zone];
    let used = parts.iter().rposition(|part| !part.is_empty());
    let used = used.map_or(0, |last| last + 1);
    let parts: Vec<&str> = parts.iter().take(used).map(|part| part.as_str()).collect();
    parts.join("/").into()
}
