//! One endpoint, from a Pod, an address or a WorkloadEntry.

use std::collections::BTreeMap;

use super::{Endpoint, TLS_MODE_LABEL};
use crate::{
    model::{Object, Pod, WorkloadEntry},
    node::Locality,
    resources::Resources,
};

/// Label of a Pod that overrides its Node's locality; dots stand for slashes.
const LOCALITY_LABEL: &str = "istio-locality";
/// Label that ends the name of a ReplicaSet.
const POD_HASH_LABEL: &str = "pod-template-hash";

/// Whether traffic may go to `pod`. A Pod of which nothing is known is taken as ready.
pub(super) fn is_ready(pod: &Object<Pod>) -> bool {
    let status = &pod.spec.status;
    let not_ready = status
        .conditions
        .iter()
        .any(|condition| condition.kind == "Ready" && condition.status != "True");
    let over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
    pod.metadata.deletion_timestamp.is_none() && !over && !not_ready
}

pub(super) fn of_pod(
    pod: &Object<Pod>,
    address: &str,
    ports: BTreeMap<u16, u16>,
    resources: &Resources,
) -> Endpoint {
    let labels = pod.metadata.labels.clone();
    let account = pod.spec.spec.service_account_name.as_str();
    Endpoint {
        address: address.to_owned(),
        ports,
        namespace: pod.namespace().to_owned(),
        // Kubernetes fills it in; a Pod written by hand may lack it.
        service_account: if account.is_empty() {
            "default"
        } else {
            account
        }
        .to_owned(),
        workload: workload_name(pod),
        locality: locality(pod, resources),
        weight: 1,
        mesh_tls: labels
            .get(TLS_MODE_LABEL)
            .is_some_and(|mode| mode == "istio"),
        known_healthy: true,
        labels,
    }
}

/// Of an EndpointSlice or Endpoints: its Pod, by name or address, says the rest.
pub(super) fn of_address(
    address: &str,
    namespace: &str,
    pod: Option<&str>,
    ports: BTreeMap<u16, u16>,
    resources: &Resources,
) -> Endpoint {
    let mut pods = resources
        .pods
        .iter()
        .filter(|candidate| candidate.namespace() == namespace);
    let found = pods.find(|candidate| match pod {
        Some(name) => candidate.name() == name,
        None => candidate.spec.status.pod_ip == address,
    });
    if let Some(pod) = found {
        return of_pod(pod, address, ports, resources);
    }
    Endpoint {
        address: address.to_owned(),
        ports,
        labels: BTreeMap::new(),
        namespace: namespace.to_owned(),
        service_account: String::new(),
        workload: String::new(),
        locality: Locality::default(),
        weight: 1,
        mesh_tls: false,
        known_healthy: true,
    }
}

pub(super) fn of_workload_entry(
    entry: &WorkloadEntry,
    namespace: &str,
    name: &str,
    ports: BTreeMap<u16, u16>,
) -> Endpoint {
    let mesh_tls = match entry.labels.get(TLS_MODE_LABEL) {
        Some(mode) => mode == "istio",
        None => !entry.service_account.is_empty(),
    };
    Endpoint {
        address: entry.address.clone(),
        ports,
        labels: entry.labels.clone(),
        namespace: namespace.to_owned(),
        service_account: entry.service_account.clone(),
        workload: name.to_owned(),
        locality: Locality::parse(&entry.locality),
        weight: entry.weight.max(1),
        mesh_tls,
        known_healthy: false,
    }
}

/// Where the Pod's Node is.
pub(crate) fn locality(pod: &Object<Pod>, resources: &Resources) -> Locality {
    if let Some(text) = pod.metadata.labels.get(LOCALITY_LABEL) {
        return Locality::parse(&text.replace('.', "/"));
    }
    let node = resources
        .nodes
        .iter()
        .find(|node| node.name() == pod.spec.spec.node_name);
    let Some(node) = node else {
        return Locality::default();
    };
    let label = |name: &str| node.metadata.labels.get(name).cloned().unwrap_or_default();
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        sub_zone: label("topology.istio.io/subzone"),
    }
}

/// The Deployment behind the Pod's ReplicaSet, another owner, or the Pod itself.
fn workload_name(pod: &Object<Pod>) -> String {
    let Some(owner) = pod.metadata.owner_references.first() else {
        return pod.name().to_owned();
    };
    let deployment = pod
        .metadata
        .labels
        .get(POD_HASH_LABEL)
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .filter(|_| owner.kind == "ReplicaSet");
    deployment.unwrap_or(&owner.name).to_owned()
}
