//! ServiceEntries: one service for each host.

use std::collections::BTreeMap;

use super::{Discovery, Endpoint, Port, Service, endpoints};
use crate::{
    error::ConfigError,
    model::{Location, Object, Resolution, ServiceEntry, ServiceEntryPort, WorkloadEntry, selects},
    protocol::Protocol,
    resources::Resources,
};

pub(super) fn services(
    object: &Object<ServiceEntry>,
    resources: &Resources,
    warnings: &mut Vec<ConfigError>,
) -> Vec<Service> {
    let spec = &object.spec;
    let selected = spec.workload_selector.is_some();
    let endpoints = selected_endpoints(object, resources);
    if selected && endpoints.is_empty() {
        let message = "selects no WorkloadEntry and no Pod";
        warnings.push(object.error("spec.workloadSelector", message));
    }
    let service = |host: &String| Service {
        host: host.to_ascii_lowercase(),
        name: host.to_ascii_lowercase(),
        namespace: object.namespace().to_owned(),
        ports: spec.ports.iter().map(port).collect(),
        addresses: spec
            .addresses
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        discovery: match spec.resolution {
            Resolution::Static => Discovery::Endpoints,
            Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => Discovery::Dns,
            Resolution::None => Discovery::OriginalDestination,
        },
        external: spec.location == Location::MeshExternal,
        headless: false,
        export_to: spec.export_to.clone(),
        subject_alt_names: spec.subject_alt_names.clone(),
        endpoints: if spec.resolution == Resolution::Dns && spec.endpoints.is_empty() {
            vec![host_itself(object, host)]
        } else {
            endpoints.clone()
        },
        selector: spec
            .workload_selector
            .as_ref()
            .map(|selector| selector.labels.clone())
            .unwrap_or_default(),
        target_ports: entry_ports(spec, &WorkloadEntry::default()),
    };
    spec.hosts.iter().map(service).collect()
}

fn port(port: &ServiceEntryPort) -> Port {
    Port {
        name: port.name.clone(),
        number: port.number,
        protocol: if port.protocol.is_empty() {
            Protocol::of_service_port(None, None, &port.name, port.number)
        } else {
            Protocol::parse(&port.protocol).unwrap_or(Protocol::Unknown)
        },
    }
}

fn selected_endpoints(object: &Object<ServiceEntry>, resources: &Resources) -> Vec<Endpoint> {
    let spec = &object.spec;
    let Some(selector) = &spec.workload_selector else {
        let inline = spec.endpoints.iter().enumerate();
        return inline
            .map(|(index, entry)| {
                let name = format!("{}-{index}", object.name());
                let ports = entry_ports(spec, entry);
                endpoints::of_workload_entry(entry, object.namespace(), &name, ports)
            })
            .collect();
    };
    let own = |namespace: &str| namespace == object.namespace();
    let entries = resources
        .workload_entries
        .iter()
        .filter(|entry| own(entry.namespace()) && selects(&selector.labels, &entry.spec.labels))
        .map(|entry| {
            let ports = entry_ports(spec, &entry.spec);
            endpoints::of_workload_entry(&entry.spec, entry.namespace(), entry.name(), ports)
        });
    let pods = resources
        .pods
        .iter()
        .filter(|pod| {
            own(pod.namespace())
                && selects(&selector.labels, &pod.metadata.labels)
                && endpoints::is_ready(pod)
                && !pod.spec.status.pod_ip.is_empty()
        })
        .map(|pod| {
            let ports = entry_ports(spec, &WorkloadEntry::default());
            endpoints::of_pod(pod, &pod.spec.status.pod_ip, ports, resources)
        });
    entries.chain(pods).collect()
}

/// Resolution DNS without endpoints: the host's own addresses.
fn host_itself(object: &Object<ServiceEntry>, host: &str) -> Endpoint {
    let entry = WorkloadEntry::default();
    let ports = entry_ports(&object.spec, &entry);
    let itself = endpoints::of_workload_entry(&entry, object.namespace(), object.name(), ports);
    Endpoint {
        address: host.to_ascii_lowercase(),
        ..itself
    }
}

/// The endpoint's own port, else the service's `targetPort`, else its number.
fn entry_ports(spec: &ServiceEntry, entry: &WorkloadEntry) -> BTreeMap<u16, u16> {
    spec.ports
        .iter()
        .map(|port| {
            let own = entry.ports.get(&port.name).copied();
            (port.number, own.or(port.target_port).unwrap_or(port.number))
        })
        .collect()
}
