//! Kubernetes Services and the Pods behind them.

use std::collections::BTreeMap;

use super::{Discovery, Endpoint, Port, Service, endpoints};
use crate::{
    model::{self, Object, PortRef, selects},
    protocol::Protocol,
    resources::Resources,
};

/// Label that ties an EndpointSlice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn service(
    object: &Object<model::Service>,
    resources: &Resources,
    cluster_domain: &str,
) -> Service {
    let spec = &object.spec;
    let addresses = spec.cluster_ips.iter().chain(
        spec.cluster_ip
            .iter()
            .filter(|_| spec.cluster_ips.is_empty()),
    );
    let headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.first().is_some_and(|ip| ip == "None");
    Service {
        host: format!(
            "{}.{}.svc.{cluster_domain}",
            object.name(),
            object.namespace()
        ),
        name: object.name().to_owned(),
        namespace: object.namespace().to_owned(),
        ports: spec.ports.iter().map(port).collect(),
        addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
        discovery: Discovery::Endpoints,
        external: false,
        headless,
        export_to: Vec::new(),
        subject_alt_names: Vec::new(),
        endpoints: service_endpoints(object, resources),
        selector: spec.selector.clone(),
        target_ports: spec
            .ports
            .iter()
            .map(|port| (port.port, target_port(port, None)))
            .collect(),
    }
}

fn port(port: &model::ServicePort) -> Port {
    Port {
        name: port.name.clone(),
        number: port.port,
        protocol: Protocol::of_service_port(
            port.protocol.as_deref(),
            port.app_protocol.as_deref(),
            &port.name,
            port.port,
        ),
    }
}

/// From EndpointSlices, else from Endpoints, else from the Pods that the selector matches;
/// WorkloadEntries that it matches come on top.
fn service_endpoints(object: &Object<model::Service>, resources: &Resources) -> Vec<Endpoint> {
    let mut found = from_slices(object, resources)
        .or_else(|| from_endpoints(object, resources))
        .unwrap_or_else(|| from_pods(object, resources));
    if !object.spec.selector.is_empty() {
        let entries = resources.workload_entries.iter().filter(|entry| {
            entry.namespace() == object.namespace()
                && selects(&object.spec.selector, &entry.spec.labels)
        });
        found.extend(entries.map(|entry| {
            let ports = object.spec.ports.iter().map(|port| {
                let own = entry.spec.ports.get(&port.name).copied();
                (port.port, own.unwrap_or_else(|| target_port(port, None)))
            });
            endpoints::of_workload_entry(
                &entry.spec,
                entry.namespace(),
                entry.name(),
                ports.collect(),
            )
        }));
    }
    found
}

fn from_slices(object: &Object<model::Service>, resources: &Resources) -> Option<Vec<Endpoint>> {
    let mut slices = resources
        .endpoint_slices
        .iter()
        .filter(|slice| {
            slice.namespace() == object.namespace()
                && slice
                    .metadata
                    .labels
                    .get(SERVICE_NAME_LABEL)
                    .map(String::as_str)
                    == Some(object.name())
        })
        .peekable();
    slices.peek()?;
    let mut found = Vec::new();
    for slice in slices {
        let ports = ports_by_name(
            object,
            slice.spec.ports.iter().map(|p| (p.name.as_str(), p.port)),
        );
        for endpoint in &slice.spec.endpoints {
            let ready = endpoint.conditions.ready.unwrap_or(true);
            if !ready && !object.spec.publish_not_ready_addresses {
                continue;
            }
            let pod = endpoint
                .target_ref
                .as_ref()
                .map(|target| target.name.as_str());
            found.extend(endpoint.addresses.iter().map(|address| {
                let mut built = endpoints::of_address(
                    address,
                    object.namespace(),
                    pod,
                    ports.clone(),
                    resources,
                );
                if built.locality.zone.is_empty() {
                    built.locality.zone = endpoint.zone.clone().unwrap_or_default();
                }
                built
            }));
        }
    }
    Some(found)
}

fn from_endpoints(object: &Object<model::Service>, resources: &Resources) -> Option<Vec<Endpoint>> {
    let declared = resources.endpoints.iter().find(|endpoints| {
        endpoints.namespace() == object.namespace() && endpoints.name() == object.name()
    })?;
    let mut found = Vec::new();
    for subset in &declared.spec.subsets {
        let ports = ports_by_name(
            object,
            subset.ports.iter().map(|p| (p.name.as_str(), p.port)),
        );
        found.extend(subset.addresses.iter().map(|address| {
            let pod = address
                .target_ref
                .as_ref()
                .map(|target| target.name.as_str());
            endpoints::of_address(
                &address.ip,
                object.namespace(),
                pod,
                ports.clone(),
                resources,
            )
        }));
    }
    Some(found)
}

fn from_pods(object: &Object<model::Service>, resources: &Resources) -> Vec<Endpoint> {
    let spec = &object.spec;
    if spec.selector.is_empty() {
        return Vec::new();
    }
    resources
        .pods
        .iter()
        .filter(|pod| {
            pod.namespace() == object.namespace()
                && selects(&spec.selector, &pod.metadata.labels)
                && (endpoints::is_ready(pod) || spec.publish_not_ready_addresses)
                && !pod.spec.status.pod_ip.is_empty()
        })
        .map(|pod| {
            let ports = spec
                .ports
                .iter()
                .map(|port| (port.port, target_port(port, Some(&pod.spec))));
            endpoints::of_pod(pod, &pod.spec.status.pod_ip, ports.collect(), resources)
        })
        .collect()
}

/// Slices and Endpoints name the ports of the service.
fn ports_by_name<'a>(
    object: &Object<model::Service>,
    ports: impl Iterator<Item = (&'a str, u16)>,
) -> BTreeMap<u16, u16> {
    let ports: BTreeMap<&str, u16> = ports.collect();
    object
        .spec
        .ports
        .iter()
        .filter_map(|port| Some((port.port, *ports.get(port.name.as_str())?)))
        .collect()
}

/// The workload's port: `targetPort`, which may be the name of a container's port.
fn target_port(port: &model::ServicePort, pod: Option<&model::Pod>) -> u16 {
    match &port.target_port {
        None => port.port,
        Some(PortRef::Number(number)) => *number,
        Some(PortRef::Name(name)) => pod
            .into_iter()
            .flat_map(|pod| &pod.spec.containers)
            .flat_map(|container| &container.ports)
            .find(|container_port| container_port.name == *name)
            .map_or(port.port, |container_port| container_port.container_port),
    }
}
