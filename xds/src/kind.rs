//! The resource types that this crate speaks, and what the protocol says about each.

use ithildin_proto::pb::envoy::{
    config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    extensions::transport_sockets::tls::v3::Secret,
};
use prost::Name;

/// A type of xDS resource. The order is the one in which updates are made (make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    Cluster,
    Endpoints,
    Listener,
    Route,
    Secret,
}

impl ResourceKind {
    /// What an aggregated stream carries, in order.
    pub const AGGREGATED: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The kind with this type URL.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::AGGREGATED
            .into_iter()
            .chain([Self::Secret])
            .find(|kind| kind.url() == url)
    }

    /// The full type URL.
    pub fn url(self) -> String {
        match self {
            Self::Cluster => Cluster::type_url(),
            Self::Endpoints => ClusterLoadAssignment::type_url(),
            Self::Listener => Listener::type_url(),
            Self::Route => RouteConfiguration::type_url(),
            Self::Secret => Secret::type_url(),
        }
    }

    /// The discovery service's name in logs and on admin pages.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::Secret => "SDS",
        }
    }

    /// Whether a state-of-the-world response holds every resource, so that an absent one is deleted.
    /// For the other types absence says nothing (xDS protocol, "Deleting Resources").
    pub fn full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}
