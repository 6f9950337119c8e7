//! The node that this proxy is.

use std::sync::Arc;

use ithildin_proto::pb::{
    envoy::config::core::v3::{Locality, Node as NodeProto},
    google::protobuf::value::Kind,
};

use super::Workload;

/// What a node is told to run where the bootstrap does not say.
const USER_AGENT: &str = "ithildin";

/// What a bootstrap says of its node.
#[derive(Debug, Default)]
pub struct Node {
    pub id: Arc<str>,
    /// The cluster that it belongs to.
    pub cluster: Arc<str>,
    /// As services learn of it that are told what passed.
    pub told: NodeProto,
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
        let mut told = config.clone();
        if told.user_agent_name.is_empty() {
            told.user_agent_name = USER_AGENT.to_owned();
        }
        let metadata = told.metadata.get_or_insert_default();
        let version = metadata.fields.get("ISTIO_VERSION");
        let version = match version.map(|value| &value.kind) {
            Some(Some(Kind::StringValue(version))) => version.as_str(),
            _ => "",
        };
        Self {
            id: config.id.as_str().into(),
            cluster: config.cluster.as_str().into(),
            workload: Workload::from_metadata(metadata, &[]),
            istio_version: version.into(),
            told,
        }
    }

    /// Where it runs, as far as the bootstrap says.
    pub fn locality(&self) -> Option<&Locality> {
        self.told.locality.as_ref()
    }

    /// What we tell HTTP peers of ourselves, with `labels` besides the usual ones.
    pub fn for_http_peers(&self, labels: &[String]) -> Workload {
        self.for_tcp_peers(labels).located(self.locality())
    }

    /// What we tell TCP peers; they do not learn where we run.
    pub fn for_tcp_peers(&self, labels: &[String]) -> Workload {
        let metadata = self.told.metadata.as_ref();
        metadata.map_or_else(Workload::default, |it| Workload::from_metadata(it, labels))
    }
}
