//! Discovery: the aggregated stream to istiod, and what on it is the agent's own.
//!
//! The agent asks for three types besides those of the data plane, after the first request for
//! listeners, since istiod wants to know a proxy before it hears of its health: names for the DNS
//! proxy, extra roots of the mesh, and a message that tells of the workload's health. `istio.io/debug`
//! is istioctl's way to istiod and never an agent's: the tap that the agent once had is gone.
//!
//! Source: Istio's `pkg/istio-agent/xds_proxy*.go`.

mod agent_types;
mod node;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ithildin_xds::ads::{AdsClient, AdsClientOptions, AdsProtocol, ResourceCheck, Upstream};
use tonic::Request;

pub use agent_types::{AgentFeeds, AgentTypes, AgentTypesOptions, HealthReport, WithAgentTypes};
pub use node::node;

use crate::dial::Endpoint;

/// The server of discovery at `endpoint`.
pub fn upstream(endpoint: &Endpoint) -> Upstream {
    let (calls, connections) = (endpoint.clone(), endpoint.clone());
    let prepare = move |call: &mut Request<()>| {
        let prepared = calls.request(()).map_err(|error| error.to_string())?;
        *call = prepared;
        Ok(())
    };
    Upstream {
        name: endpoint.to_string().into(),
        connect: Arc::new(move || connections.channel()),
        prepare: Arc::new(prepare),
    }
}

/// For a data plane in this process: resources decoded and checked.
pub struct ClientOptions {
    pub endpoint: Endpoint,
    pub node: ithildin_proto::pb::envoy::config::core::v3::Node,
    pub protocol: AdsProtocol,
    /// As in [`AdsClientOptions`].
    pub endpoints: Vec<String>,
    pub check: ResourceCheck,
}

/// Follows istiod for a data plane in this process. Must be called inside a tokio runtime.
pub fn client(options: ClientOptions, types: AgentTypes) -> AdsClient {
    let ads = AdsClientOptions {
        server: upstream(&options.endpoint),
        node: options.node,
        protocol: options.protocol,
        endpoints: options.endpoints,
        check: options.check,
    };
    AdsClient::start_with(ads, |follower| WithAgentTypes::new(follower, types))
}
