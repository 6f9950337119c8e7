//! The node that this proxy is.

use std::sync::Arc;

use ithildin_proto::pb::{
    envoy::config::core::v3::{Locality, Node as NodeProto},
    google::protobuf::{Struct, value::Kind},
};

use super::Workload;

/// What a bootstrap says of its node.
#[derive(Debug, Default)]
pub struct Node {
    pub id: Arc<str>,
    /// The cluster that it belongs to.
    pub cluster: Arc<str>,
    metadata: Struct,
    locality: Option<Locality>,
    /// The usual labels only, without locality.
    pub workload: Workload,
    /// Of the agent; empty if unknown.
    pub istio_version: Arc<str>,
}

impl Node {
    pub fn new(config: Option<&NodeProto>) -> Self {
        let Some(config) = config else {
            return Self::default();
        };
        let metadata = config.metadata.clone().unwrap_or_default();
        let version = metadata.fields.get("ISTIO_VERSION");
        let version = match version.map(|value| &value.kind) {
            Some(Some(Kind::StringValue(version))) => version.as_str(),
            _ => "",
        };
        Self {
            id: config.id.as_str().into(),
            cluster: config.cluster.as_str().into(),
            workload: Workload::from_metadata(&metadata, &[]),
            istio_version: version.into(),
            locality: config.locality.clone(),
            metadata,
        }
    }

    /// Where it runs, as far as the bootstrap says.
    pub fn locality(&self) -> Option<&Locality> {
        self.locality.as_ref()
    }

    /// What we tell HTTP peers of ourselves, with `labels` besides the usual ones.
    pub fn for_http_peers(&self, labels: &[String]) -> Workload {
        self.for_tcp_peers(labels).located(self.locality.as_ref())
    }

    /// What we tell TCP peers; they do not learn where we run.
    pub fn for_tcp_peers(&self, labels: &[String]) -> Workload {
        Workload::from_metadata(&self.metadata, labels)
    }
}
