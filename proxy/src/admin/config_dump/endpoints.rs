//! Load assignments as they are served: with the defaults filled in, and each host's health.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ithildin_proto::pb::{
    envoy::config::{
        cluster::v3::{
            Cluster as ClusterProto,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::{Address, HealthStatus, SocketAddress, address, socket_address::PortSpecifier},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as EndpointProto, LbEndpoint,
            cluster_load_assignment::Policy, lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf::UInt32Value,
};

use crate::{
    config::{
        Cluster, Snapshot,
        cluster::{EndpointAddress, Health},
    },
    control::Held,
};

/// Envoy's default, in percent.
const OVERPROVISIONING_FACTOR: u32 = 140;

/// The cluster that follows the load assignment `name`.
pub(super) fn cluster_of(
    name: &str,
    held: &[Held<ClusterProto>],
    snapshot: &Snapshot,
) -> Option<Arc<Cluster>> {
    let follows = |config: &ClusterProto| {
        let eds = config.eds_cluster_config.as_ref();
        let service = eds.map_or("", |eds| &*eds.service_name);
        service == name || (service.is_empty() && config.name == name)
    };
    let found = held.iter().find(|held| {
        let message = held.active.as_ref().and_then(|it| it.message.as_ref());
        message.is_some_and(|message| follows(message))
    })?;
    snapshot.clusters.get(&*found.name).cloned()
}

/// What a cluster serves whose endpoints stand in itself: names have become the addresses that were resolved.
/// `None` of EDS.
pub(super) fn without_eds(config: &ClusterProto, live: &Cluster) -> Option<ClusterLoadAssignment> {
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
    if config.cluster_discovery_type == Some(eds) {
        return None;
    }
    let mut assignment = config.load_assignment.clone().unwrap_or_default();
    assignment.cluster_name.clone_from(&config.name);
    for group in &mut assignment.endpoints {
        let configured = std::mem::take(&mut group.lb_endpoints);
        group.lb_endpoints = configured
            .into_iter()
            .flat_map(|host| resolved(host, live))
            .collect();
    }
    Some(as_served(&assignment, Some(live)))
}

/// The hosts that a name stands for; an address stands for itself.
fn resolved(host: LbEndpoint, live: &Cluster) -> Vec<LbEndpoint> {
    let Some((name, port)) = name_of(&host) else {
        return vec![host];
    };
    let set = live.endpoints.load();
    let hosts = set.priorities.iter().flatten();
    let known = hosts.filter_map(|known| match &known.address {
        EndpointAddress::Socket(address) => Some((&*known.hostname, *address)),
        EndpointAddress::Pipe(_) => None,
    });
    known
        .filter(|(of, address)| *of == name && u32::from(address.port()) == port)
        .map(|(_, address)| with_address(&host, &name, address))
        .collect()
}

/// The name and port of a host that is to be resolved.
fn name_of(host: &LbEndpoint) -> Option<(String, u32)> {
    let socket = socket_of(host)?;
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    if socket.address.parse::<IpAddr>().is_ok() {
        return None;
    }
    let name = match endpoint_of(host) {
        Some(endpoint) if !endpoint.hostname.is_empty() => &endpoint.hostname,
        _ => &socket.address,
    };
    Some((name.clone(), port))
}

fn with_address(host: &LbEndpoint, name: &str, address: SocketAddr) -> LbEndpoint {
    let mut host = host.clone();
    if let Some(HostIdentifier::Endpoint(endpoint)) = &mut host.host_identifier {
        name.clone_into(&mut endpoint.hostname);
        if let Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }) = &mut endpoint.address
        {
            socket.address = address.ip().to_string();
        }
    }
    host
}

pub(super) fn as_served(
    assignment: &ClusterLoadAssignment,
    cluster: Option<&Cluster>,
) -> ClusterLoadAssignment {
    let mut assignment = assignment.clone();
    let set = cluster.map(|cluster| cluster.endpoints.load_full());
    let hosts = set.iter().flat_map(|set| set.priorities.iter().flatten());
    let health: HashMap<String, Health> = hosts
        .map(|host| (host.address.to_string(), host.current_health()))
        .collect();
    let groups = assignment.endpoints.iter_mut();
    for host in groups.flat_map(|group| &mut group.lb_endpoints) {
        host.load_balancing_weight
            .get_or_insert(UInt32Value { value: 1 });
        if let Some(HostIdentifier::Endpoint(endpoint)) = &mut host.host_identifier {
            endpoint.health_check_config.get_or_insert_default();
        }
        let known = address_of(host).and_then(|address| health.get(&address));
        if let Some(health) = known {
            host.health_status = status(*health) as i32;
        }
    }
    // Nothing is known of it where hosts come as they are asked for.
    let factor = set.map_or(0, |set| set.overprovisioning_factor);
    let factor = match factor {
        0 => OVERPROVISIONING_FACTOR,
        known => known,
    };
    let policy = assignment.policy.get_or_insert_with(Policy::default);
    policy
        .overprovisioning_factor
        .get_or_insert(UInt32Value { value: factor });
    assignment
}

fn address_of(host: &LbEndpoint) -> Option<String> {
    if let Some(socket) = socket_of(host) {
        let PortSpecifier::PortValue(port) = socket.port_specifier.as_ref()? else {
            return None;
        };
        let ip: IpAddr = socket.address.parse().ok()?;
        let port = u16::try_from(*port).ok()?;
        return Some(SocketAddr::new(ip, port).to_string());
    }
    match endpoint_of(host)?.address.as_ref()?.address.as_ref()? {
        address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        _ => None,
    }
}

fn socket_of(host: &LbEndpoint) -> Option<&SocketAddress> {
    match endpoint_of(host)?.address.as_ref()?.address.as_ref()? {
        address::Address::SocketAddress(socket) => Some(socket),
        _ => None,
    }
}

fn endpoint_of(host: &LbEndpoint) -> Option<&EndpointProto> {
    match host.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => Some(endpoint),
        HostIdentifier::EndpointName(_) => None,
    }
}

fn status(health: Health) -> HealthStatus {
    match health {
        Health::Healthy => HealthStatus::Healthy,
        Health::Degraded => HealthStatus::Degraded,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
    }
}
