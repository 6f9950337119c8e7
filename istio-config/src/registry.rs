//! The services that the resources declare, and their endpoints, whatever kind declares them.

mod endpoints;
mod kubernetes;
mod service_entries;

#[cfg(test)]
mod tests;

pub(crate) use endpoints::locality;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    error::ConfigError, model::selects, node::Locality, protocol::Protocol, resources::Resources,
};

/// Label of a workload whose proxy accepts Istio's mTLS.
const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// All services, by host name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    services: BTreeMap<String, Service>,
}

/// One host with its ports.
#[derive(Debug)]
pub(crate) struct Service {
    /// Full name.
    pub host: String,
    /// Name of the Kubernetes Service, else the host.
    pub name: String,
    pub namespace: String,
    pub ports: Vec<Port>,
    /// Virtual addresses; none for headless services and most ServiceEntries.
    pub addresses: Vec<IpAddr>,
    pub discovery: Discovery,
    /// Outside the mesh: never mTLS unless a rule says so.
    pub external: bool,
    pub headless: bool,
    /// Namespaces that see the service (`exportTo`); empty: all.
    pub export_to: Vec<String>,
    /// Identities beside those of the endpoints.
    pub subject_alt_names: Vec<String>,
    pub endpoints: Vec<Endpoint>,
    /// Labels of the workloads behind the service; empty: it does not say.
    pub selector: BTreeMap<String, String>,
    /// Port of the service -> port of a workload of which nothing more is known.
    pub target_ports: BTreeMap<u16, u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: String,
    pub number: u16,
    pub protocol: Protocol,
}

/// How the proxy finds the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// They are known.
    Endpoints,
    /// The proxy resolves their names.
    Dns,
    /// Wherever the caller was going.
    OriginalDestination,
}

/// Where a service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// An IP address, a DNS name, or `unix:///path`.
    pub address: String,
    /// Port of the service -> port of the workload.
    pub ports: BTreeMap<u16, u16>,
    pub labels: BTreeMap<String, String>,
    pub namespace: String,
    pub service_account: String,
    pub workload: String,
    pub locality: Locality,
    pub weight: u32,
    /// Whether its proxy accepts Istio's mTLS.
    pub mesh_tls: bool,
    /// Whether Kubernetes says that it is ready; ServiceEntries say nothing.
    pub known_healthy: bool,
}

impl Registry {
    /// Joins Services and ServiceEntries. A host that was declared already is reported and left
    /// out, as the first one wins.
    pub(crate) fn new(
        resources: &Resources,
        cluster_domain: &str,
        warnings: &mut Vec<ConfigError>,
    ) -> Self {
        let mut registry = Self::default();
        for object in &resources.services {
            registry.add(kubernetes::service(object, resources, cluster_domain));
        }
        for object in &resources.service_entries {
            for service in service_entries::services(object, resources, warnings) {
                let host = service.host.clone();
                if !registry.add(service) {
                    let message =
                        format!("another resource declares {host}, and the first one wins");
                    warnings.push(object.error("spec.hosts", message));
                }
            }
        }
        registry
    }

    pub(crate) fn get(&self, host: &str) -> Option<&Service> {
        self.services.get(host)
    }

    /// The services that `namespace` sees, by host name.
    pub(crate) fn visible<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Service> + 'a {
        self.services
            .values()
            .filter(move |service| exported(&service.export_to, &service.namespace, namespace))
    }

    fn add(&mut self, service: Service) -> bool {
        let new = !self.services.contains_key(&service.host);
        if new {
            self.services.insert(service.host.clone(), service);
        }
        new
    }
}

impl Service {
    pub(crate) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The port of the workload with these labels and addresses behind each port of the service;
    /// `None` if the workload is not behind it. Loopback addresses tell workloads apart nowhere,
    /// so they count only together with the labels.
    pub(crate) fn ports_of(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        ips: &[IpAddr],
    ) -> Option<&BTreeMap<u16, u16>> {
        if namespace != self.namespace {
            return None;
        }
        let selected = !self.selector.is_empty() && selects(&self.selector, labels);
        let is_own = |endpoint: &&Endpoint| {
            let address: Option<IpAddr> = endpoint.address.parse().ok();
            address.is_some_and(|ip| ips.contains(&ip) && (selected || !ip.is_loopback()))
        };
        match self.endpoints.iter().find(is_own) {
            Some(endpoint) => Some(&endpoint.ports),
            None => selected.then_some(&self.target_ports),
        }
    }

    /// The SPIFFE IDs that the service may have, in each of `trust_domains`.
    pub(crate) fn identities(&self, trust_domains: &[&str]) -> BTreeSet<String> {
        let accounts = self
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.service_account.is_empty())
            .map(|endpoint| (&endpoint.namespace, &endpoint.service_account));
        let mut identities: BTreeSet<String> = self.subject_alt_names.iter().cloned().collect();
        for (namespace, account) in accounts {
            identities.extend(
                trust_domains
                    .iter()
                    .map(|domain| format!("spiffe://{domain}/ns/{namespace}/sa/{account}")),
            );
        }
        identities
    }
}

impl Endpoint {
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        selects(labels, &self.labels)
    }
}

/// Whether a resource of `owner` with this `exportTo` is visible in `namespace`.
pub(crate) fn exported(export_to: &[String], owner: &str, namespace: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|value| match value.as_str() {
            "*" => true,
            "." => owner == namespace,
            "~" => false,
            other => other == namespace,
        })
}
