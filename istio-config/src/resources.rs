//! All resources of one folder.

use ithildin_proto::nds::NameTable;
use ithildin_xds::ResourceSet;

use crate::{
    error::ConfigError,
    model::{
        DestinationRule, EndpointSlice, Endpoints, Gateway, KubeNode, MeshConfig, Object,
        PeerAuthentication, Pod, Service, ServiceEntry, VirtualService, WorkloadEntry,
    },
};

/// Everything that was read from one folder, each resource valid by itself. Lists are in Istio's
/// order: oldest first, then by name and namespace.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub(crate) mesh: MeshConfig,
    pub(crate) gateways: Vec<Object<Gateway>>,
    pub(crate) virtual_services: Vec<Object<VirtualService>>,
    pub(crate) destination_rules: Vec<Object<DestinationRule>>,
    pub(crate) service_entries: Vec<Object<ServiceEntry>>,
    pub(crate) workload_entries: Vec<Object<WorkloadEntry>>,
    pub(crate) peer_authentications: Vec<Object<PeerAuthentication>>,
    pub(crate) services: Vec<Object<Service>>,
    pub(crate) pods: Vec<Object<Pod>>,
    pub(crate) endpoints: Vec<Object<Endpoints>>,
    pub(crate) endpoint_slices: Vec<Object<EndpointSlice>>,
    pub(crate) nodes: Vec<Object<KubeNode>>,
}

impl Resources {
    pub(crate) fn sort(&mut self) {
        sort(&mut self.gateways);
        sort(&mut self.virtual_services);
        sort(&mut self.destination_rules);
        sort(&mut self.service_entries);
        sort(&mut self.workload_entries);
        sort(&mut self.peer_authentications);
        sort(&mut self.services);
        sort(&mut self.pods);
        sort(&mut self.endpoints);
        sort(&mut self.endpoint_slices);
        sort(&mut self.nodes);
    }
}

fn sort<S>(objects: &mut [Object<S>]) {
    objects.sort_by(|a, b| a.age().cmp(&b.age()));
}

/// The configuration of one proxy.
#[derive(Clone, Debug, Default)]
pub struct Built {
    pub resources: ResourceSet,
    /// For the DNS proxy beside it.
    pub names: NameTable,
    /// What Istio accepts but what is most likely a mistake, such as a route to a host that no
    /// resource declares.
    pub warnings: Vec<ConfigError>,
}
