//! Load assignments as they are served: with the defaults filled in, and each host's health.

use std::{collections::HashMap, sync::Arc};

use ithildin_proto::pb::{
    envoy::config::{
        cluster::v3::Cluster as ClusterProto,
        core::v3::{Address, HealthStatus, address, socket_address::PortSpecifier},
        endpoint::v3::{
            ClusterLoadAssignment, LbEndpoint, cluster_load_assignment::Policy,
            lb_endpoint::HostIdentifier,
        },
    },
    google::protobuf::UInt32Value,
};

use crate::{
    config::{Cluster, Snapshot, cluster::Health},
    control::Held,
};

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
        let known = address_of(host).and_then(|address| health.get(&address));
        if let Some(health) = known {
            host.health_status = status(*health) as i32;
        }
    }
    let factor = set.map_or(140, |set| set.overprovisioning_factor);
    let policy = assignment.policy.get_or_insert_with(Policy::default);
    policy
        .overprovisioning_factor
        .get_or_insert(UInt32Value { value: factor });
    assignment
}

fn address_of(host: &LbEndpoint) -> Option<String> {
    let HostIdentifier::Endpoint(endpoint) = host.host_identifier.as_ref()? else {
        return None;
    };
    match endpoint.address.as_ref()? {
        Address {
            address: Some(address::Address::SocketAddress(socket)),
        } => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => {
                let ip: std::net::IpAddr = socket.address.parse().ok()?;
                let port = u16::try_from(*port).ok()?;
                Some(std::net::SocketAddr::new(ip, port).to_string())
            }
            PortSpecifier::NamedPort(_) => None,
        },
        Address {
            address: Some(address::Address::Pipe(pipe)),
        } => Some(pipe.path.clone()),
        _ => None,
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
