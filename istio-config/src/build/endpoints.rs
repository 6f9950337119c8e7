//! The endpoints of one cluster.

use std::collections::{BTreeMap, BTreeSet};

use ithildin_proto::pb::envoy::config::{
    core::v3::{HealthStatus, Locality as EnvoyLocality, Metadata},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{
    Build,
    wire::{address, istio_metadata, number, structure, text},
};
use crate::{
    model::ClientTlsMode,
    mtls::MtlsMode,
    node::Locality,
    registry::{Endpoint, Service},
};

/// Metadata that chooses a transport socket.
const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

impl Build<'_> {
    /// The endpoints of `port` with all of `labels`, by locality. With `failover`, nearer
    /// localities come first.
    pub(super) fn load_assignment(
        &self,
        cluster: &str,
        service: &Service,
        port: u16,
        labels: &BTreeMap<String, String>,
        rule_mode: Option<ClientTlsMode>,
        failover: bool,
    ) -> ClusterLoadAssignment {
        let mut by_locality: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
        for endpoint in service.endpoints.iter().filter(|e| e.matches(labels)) {
            let Some(own_port) = endpoint.ports.get(&port).copied() else {
                continue;
            };
            let built = self.lb_endpoint(service, endpoint, own_port, rule_mode);
            by_locality
                .entry(&endpoint.locality)
                .or_default()
                .push(built);
        }
        let distances: BTreeSet<u32> = by_locality
            .keys()
            .map(|locality| distance(&self.locality, locality))
            .collect();
        let priority = |locality: &Locality| {
            let distance = distance(&self.locality, locality);
            let nearer = distances.iter().take_while(|other| **other < distance);
            u32::try_from(nearer.count()).unwrap_or(u32::MAX)
        };
        let mut endpoints: Vec<_> = by_locality
            .into_iter()
            .map(|(locality, lb_endpoints)| LocalityLbEndpoints {
                locality: Some(EnvoyLocality {
                    region: locality.region.clone(),
                    zone: locality.zone.clone(),
                    sub_zone: locality.sub_zone.clone(),
                }),
                load_balancing_weight: number(total_weight(&lb_endpoints)),
                lb_endpoints,
                priority: if failover { priority(locality) } else { 0 },
                ..LocalityLbEndpoints::default()
            })
            .collect();
        endpoints.sort_by_key(|locality| locality.priority);
        ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints,
            ..ClusterLoadAssignment::default()
        }
    }

    fn lb_endpoint(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        port: u16,
        rule_mode: Option<ClientTlsMode>,
    ) -> LbEndpoint {
        let health = if endpoint.known_healthy {
            HealthStatus::Healthy
        } else {
            HealthStatus::Unknown
        };
        LbEndpoint {
            health_status: health.into(),
            metadata: Some(self.endpoint_metadata(service, endpoint, port, rule_mode)),
            load_balancing_weight: number(endpoint.weight),
            host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
                address: address(&endpoint.address, port),
                ..EnvoyEndpoint::default()
            })),
        }
    }

    fn endpoint_metadata(
        &self,
        service: &Service,
        endpoint: &Endpoint,
        port: u16,
        rule_mode: Option<ClientTlsMode>,
    ) -> Metadata {
        let mut metadata = istio_metadata([("workload", text(self.workload(endpoint)))]);
        let accepts = || {
            let mode = self
                .mtls
                .of_workload(&endpoint.namespace, &endpoint.labels, Some(port));
            mode != MtlsMode::Disable
        };
        let mutual = endpoint.mesh_tls
            && match rule_mode {
                Some(mode) => mode == ClientTlsMode::IstioMutual,
                None => !service.external && accepts(),
            };
        if mutual {
            metadata.filter_metadata.insert(
                TRANSPORT_SOCKET_MATCH.to_owned(),
                structure([("tlsMode", text("istio"))]),
            );
        }
        metadata
    }

    /// `workload;namespace;canonical name;canonical revision;cluster`, for metrics.
    fn workload(&self, endpoint: &Endpoint) -> String {
        let label = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| endpoint.labels.get(*name))
                .map(String::as_str)
        };
        let canonical = label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]);
        let revision = label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]);
        format!(
            "{};{};{};{};{}",
            endpoint.workload,
            endpoint.namespace,
            canonical.unwrap_or(&endpoint.workload),
            revision
                .filter(|revision| *revision != "latest")
                .unwrap_or_default(),
            self.node.cluster_id,
        )
    }
}

/// How far apart two places are: 0 is the same sub-zone.
fn distance(from: &Locality, to: &Locality) -> u32 {
    if from.region != to.region {
        3
    } else if from.zone != to.zone {
        2
    } else if from.sub_zone != to.sub_zone {
        1
    } else {
        0
    }
}

fn total_weight(endpoints: &[LbEndpoint]) -> u32 {
    endpoints
        .iter()
        .filter_map(|endpoint| endpoint.load_balancing_weight.as_ref())
        .fold(0, |total, weight| total.saturating_add(weight.value))
}
