//! The proxy that configuration is built for.

use std::{collections::BTreeMap, net::IpAddr};

/// DNS suffix of a Kubernetes cluster unless it is set otherwise.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
/// Istio's name for a cluster whose `CLUSTER_ID` is not set.
pub const DEFAULT_CLUSTER_ID: &str = "Kubernetes";
/// Where a bootstrap of the agent finds the workload's secrets.
pub const DEFAULT_SDS_CLUSTER: &str = "sds-grpc";

/// One proxy: what Istio calls a node, as far as it decides which configuration the proxy gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    /// The Pod's name (`POD_NAME`).
    pub name: String,
    /// The Pod's namespace (`POD_NAMESPACE`).
    pub namespace: String,
    /// Own addresses, the primary one first (`INSTANCE_IPS`).
    pub ips: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
    /// Used where the mesh configuration sets no `trustDomain`.
    pub trust_domain: String,
    pub cluster_domain: String,
    pub cluster_id: String,
    /// `None`: taken from the Kubernetes Node of the own Pod, if the resources have both.
    pub locality: Option<Locality>,
    pub interception: Interception,
    pub data_plane: DataPlane,
    pub ports: NodePorts,
    /// Cluster of the bootstrap that serves `default`, `ROOTCA` and file secrets.
    pub sds_cluster: String,
    /// Whether ports below 1024 cannot be bound (`UNPRIVILEGED_POD`).
    pub unprivileged: bool,
}

impl Node {
    /// A node with Istio's defaults for everything that is not an argument.
    pub fn new(kind: NodeKind, name: &str, namespace: &str, trust_domain: &str) -> Self {
        Self {
            kind,
            name: name.into(),
            namespace: namespace.into(),
            ips: Vec::new(),
            labels: BTreeMap::new(),
            trust_domain: trust_domain.into(),
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.into(),
            cluster_id: DEFAULT_CLUSTER_ID.into(),
            locality: None,
            interception: Interception::Redirect,
            data_plane: DataPlane::Builtin,
            ports: NodePorts::default(),
            sds_cluster: DEFAULT_SDS_CLUSTER.into(),
            unprivileged: false,
        }
    }

    /// Whether connections reach the proxy by traffic capture.
    pub fn captures(&self) -> bool {
        self.kind == NodeKind::Sidecar && self.interception != Interception::None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A gateway: serves the Gateways that select its labels.
    Router,
    /// Serves one workload, in both directions.
    Sidecar,
}

/// How connections reach a sidecar (`ISTIO_META_INTERCEPTION_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    Redirect,
    Tproxy,
    /// No capture: every listener is bound to its own port.
    None,
}

/// Who executes the configuration; decides which fields can be honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    Builtin,
    /// A stock Envoy, without Istio's own extensions.
    Envoy,
}

/// Ports that the proxy and its agent use themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// Captured outbound connections (15001).
    pub outbound: u16,
    /// Captured inbound connections (15006).
    pub inbound: u16,
    /// An HTTP proxy port for the workload (`HTTP_PROXY_PORT`), on loopback.
    pub http_proxy: Option<u16>,
    /// Ports that belong to the agent: no listener is generated on them.
    pub reserved: Vec<u16>,
}

impl Default for NodePorts {
    fn default() -> Self {
        Self {
            outbound: 15001,
            inbound: 15006,
            http_proxy: None,
            reserved: vec![15000, 15020, 15021, 15090],
        }
    }
}

/// Where an endpoint or a proxy is; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

impl Locality {
    /// Reads Istio's `region/zone/subzone`; later parts may be absent, and more than three are left out.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(str::to_owned);
        Self {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_has_up_to_three_parts() {
        for (text, parts) in [
            ("", ["", "", ""]),
            ("r", ["r", "", ""]),
            ("r/z", ["r", "z", ""]),
            ("r/z/s.1", ["r", "z", "s.1"]),
            ("r/z/s/more", ["r", "z", "s"]),
        ] {
            let found = Locality::parse(text);
            assert_eq!([found.region, found.zone, found.sub_zone], parts, "{text}");
        }
    }
}
