//! The resources as users write them.
//!
//! The types are strict: a field that Istio has and we lack is an [`Unsupported`], a field that
//! nobody knows is refused by serde, and a field without any bearing on a proxy is an [`Ignored`].
//! What is absent reads as its default; which fields must be there is for `validate` to say.

mod destination_rule;
mod gateway;
mod kubernetes;
mod mesh;
mod peer_authentication;
mod service_entry;
mod value;
mod virtual_service;

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

pub(crate) use destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPool, DestinationRule, H2Upgrade, LoadBalancer,
    OutlierDetection, SimpleLb, Subset, TrafficPolicy,
};
pub(crate) use gateway::{Gateway, Server, ServerTls, ServerTlsMode, TlsProtocol};
pub(crate) use kubernetes::{
    ConfigMap, EndpointSlice, Endpoints, KubeNode, Pod, PortRef, Service, ServicePort,
};
pub(crate) use mesh::{AccessLogEncoding, MeshConfig, OutboundMode};
pub(crate) use peer_authentication::{MutualTlsMode, PeerAuthentication};
pub(crate) use service_entry::{
    Location, Resolution, ServiceEntry, ServiceEntryPort, WorkloadEntry,
};
pub(crate) use value::{Ignored, Interval, StringMatch};
pub(crate) use virtual_service::{
    DerivePort, Destination, DirectBody, DirectResponse, HeaderOperations, Headers, HttpMatch,
    HttpRedirect, HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, VirtualService,
};

use crate::error::{ConfigError, ObjectId};

/// One resource and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Object<S> {
    pub kind: &'static str,
    pub file: PathBuf,
    pub metadata: Metadata,
    pub spec: S,
}

impl<S> Object<S> {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    pub(crate) fn error(
        &self,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: Some(self.file.clone()),
            object: Some(ObjectId {
                kind: self.kind.into(),
                namespace: self.metadata.namespace.clone(),
                name: self.metadata.name.clone(),
            }),
            field: field.into(),
            message: message.into(),
        }
    }

    pub(crate) fn map<T>(self, into: impl FnOnce(S) -> T) -> Object<T> {
        Object {
            kind: self.kind,
            file: self.file,
            metadata: self.metadata,
            spec: into(self.spec),
        }
    }

    /// Order in which Istio looks at resources of one kind: oldest first.
    pub(crate) fn age(&self) -> (&str, &str, &str) {
        (
            &self.metadata.creation_timestamp,
            &self.metadata.name,
            &self.metadata.namespace,
        )
    }
}

/// `ObjectMeta` of Kubernetes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Metadata {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC, so that the order of texts is the order of times; empty when absent.
    pub creation_timestamp: String,
    pub deletion_timestamp: Option<String>,
    pub owner_references: Vec<OwnerReference>,
    #[serde(rename = "generateName")]
    _generate_name: Ignored,
    #[serde(rename = "uid")]
    _uid: Ignored,
    #[serde(rename = "resourceVersion")]
    _resource_version: Ignored,
    #[serde(rename = "generation")]
    _generation: Ignored,
    #[serde(rename = "selfLink")]
    _self_link: Ignored,
    #[serde(rename = "finalizers")]
    _finalizers: Ignored,
    #[serde(rename = "managedFields")]
    _managed_fields: Ignored,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Ignored,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OwnerReference {
    pub kind: String,
    pub name: String,
}

/// `selector.matchLabels` of Istio's security policies and of `workloadSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
}

/// Whether `labels` has every label of `selector`.
pub(crate) fn selects(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
