//! Resources that Envoy could not even decode.
//!
//! Envoy refuses a whole response for one of them, and after a restart the whole replay. So such a
//! resource stays here, its last good form goes on, and istiod is told which one it is. What Envoy can
//! decode and does not like it refuses itself, one by one.

use ithildin_proto::{
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster, core::v3::TypedExtensionConfig,
                endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
                route::v3::RouteConfiguration,
            },
            extensions::transport_sockets::tls::v3::Secret,
        },
        google::protobuf::Any,
    },
    unpack,
};
use ithildin_xds::{ResourceKind, SecretMessage, TypeUrl};
use prost::{Message, Name};

/// Says why Envoy would refuse every response of this type with `body` in it.
pub(super) fn check(url: &TypeUrl, body: &Any) -> Result<(), String> {
    let checked = match url.kind() {
        Some(ResourceKind::Cluster) => unpack::<Cluster>(body).map(drop),
        Some(ResourceKind::Endpoints) => unpack::<ClusterLoadAssignment>(body).map(drop),
        Some(ResourceKind::Listener) => unpack::<Listener>(body).map(drop),
        Some(ResourceKind::Route) => unpack::<RouteConfiguration>(body).map(drop),
        Some(ResourceKind::Secret) => unpack::<Secret>(body).map(SecretMessage::from).map(drop),
        None if url.as_str() == TypedExtensionConfig::type_url() => {
            unpack::<TypedExtensionConfig>(body).map(drop)
        }
        // We have no definition of it.
        None => Ok(()),
    };
    checked.map_err(|error| error.to_string())
}

/// The name under which a cluster discovers its endpoints, if it does.
pub(super) fn endpoints_of(body: &Any) -> Option<String> {
    /// `envoy.config.cluster.v3.Cluster.DiscoveryType.EDS`.
    const EDS: i32 = 3;
    #[derive(Message)]
    struct Cluster {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(int32, optional, tag = "2")]
        kind: Option<i32>,
        #[prost(message, optional, tag = "3")]
        eds: Option<Eds>,
    }
    #[derive(Message)]
    struct Eds {
        #[prost(string, tag = "2")]
        service_name: String,
    }
    let cluster = Cluster::decode(body.value.as_slice()).ok()?;
    let service = cluster.eds.map(|eds| eds.service_name);
    let service = service.filter(|name| !name.is_empty());
    (cluster.kind == Some(EDS)).then(|| service.unwrap_or(cluster.name))
}
