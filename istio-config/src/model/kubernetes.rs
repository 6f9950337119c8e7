//! Kubernetes' own resources, as far as they say which services and workloads exist.
//!
//! Service, Endpoints and EndpointSlice are strict, since each of their fields decides about
//! traffic. Of a Pod and a Node most fields concern the kubelet; those are passed over.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::value::{Ignored, Unsupported};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Service {
    /// `None` when absent, `Some("None")` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub selector: BTreeMap<String, String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub publish_not_ready_addresses: bool,
    pub internal_traffic_policy: Option<String>,
    pub session_affinity: Option<String>,
    #[serde(rename = "externalName")]
    _external_name: Option<Unsupported>,
    #[serde(rename = "trafficDistribution")]
    _traffic_distribution: Option<Unsupported>,
    // How others reach the cluster, not how the mesh reaches the service.
    #[serde(rename = "externalIPs")]
    _external_ips: Ignored,
    #[serde(rename = "externalTrafficPolicy")]
    _external_traffic_policy: Ignored,
    #[serde(rename = "healthCheckNodePort")]
    _health_check_node_port: Ignored,
    #[serde(rename = "loadBalancerIP")]
    _load_balancer_ip: Ignored,
    #[serde(rename = "loadBalancerClass")]
    _load_balancer_class: Ignored,
    #[serde(rename = "loadBalancerSourceRanges")]
    _load_balancer_source_ranges: Ignored,
    #[serde(rename = "allocateLoadBalancerNodePorts")]
    _allocate_load_balancer_node_ports: Ignored,
    #[serde(rename = "sessionAffinityConfig")]
    _session_affinity_config: Ignored,
    #[serde(rename = "ipFamilies")]
    _ip_families: Ignored,
    #[serde(rename = "ipFamilyPolicy")]
    _ip_family_policy: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ServicePort {
    pub name: String,
    pub port: u16,
    pub target_port: Option<PortRef>,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
    #[serde(rename = "nodePort")]
    _node_port: Ignored,
}

/// A port by number, or by the name that a container gives it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub service_account_name: String,
    pub node_name: String,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub name: String,
    pub container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    pub phase: String,
    pub conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

/// A Node: only its labels are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct KubeNode {}

/// `v1` Endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoints {
    pub subsets: Vec<EndpointSubset>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct EndpointSubset {
    pub addresses: Vec<EndpointAddress>,
    pub ports: Vec<EndpointPort>,
    #[serde(rename = "notReadyAddresses")]
    _not_ready_addresses: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct EndpointAddress {
    pub ip: String,
    pub target_ref: Option<TargetRef>,
    #[serde(rename = "hostname")]
    _hostname: Ignored,
    #[serde(rename = "nodeName")]
    _node_name: Ignored,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub address_type: String,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SliceEndpoint {
    pub addresses: Vec<String>,
    pub conditions: SliceConditions,
    pub target_ref: Option<TargetRef>,
    pub zone: Option<String>,
    pub node_name: Option<String>,
    #[serde(rename = "hostname")]
    _hostname: Ignored,
    #[serde(rename = "deprecatedTopology")]
    _deprecated_topology: Ignored,
    #[serde(rename = "hints")]
    _hints: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct SliceConditions {
    /// Absent means ready.
    pub ready: Option<bool>,
    #[serde(rename = "serving")]
    _serving: Ignored,
    #[serde(rename = "terminating")]
    _terminating: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct EndpointPort {
    pub name: String,
    pub port: u16,
    #[serde(rename = "protocol")]
    _protocol: Ignored,
    #[serde(rename = "appProtocol")]
    _app_protocol: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TargetRef {
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigMap {
    pub data: BTreeMap<String, String>,
}
