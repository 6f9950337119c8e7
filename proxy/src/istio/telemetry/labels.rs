//! The labels of a series: values as the data path has them, and as text.

use std::{borrow::Cow, sync::Arc};

use super::{Dimension, MeshMetric, Reporter, Telemetry};
use crate::{access_log::ResponseFlags, istio::Workload, stats::Tag};

const UNKNOWN: &str = "unknown";

/// What is counted, as the label `request_protocol` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http,
    Grpc,
    /// The messages of a gRPC request. Istio counts them while the request lives, so that they
    /// have no label that only its end tells.
    GrpcMessages,
    Tcp,
}

/// The service that a request is for; texts are empty where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceName<'a> {
    pub host: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
}

/// What is known of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Labels<'a> {
    pub protocol: Protocol,
    /// 0 if there was no response.
    pub code: u16,
    pub grpc_status: Option<u32>,
    pub flags: ResponseFlags,
    /// `None` where this end cannot tell.
    pub mutual_tls: Option<bool>,
    /// The other end.
    pub peer: Option<&'a Arc<Workload>>,
    /// The upstream, where a waypoint reports for it.
    pub upstream: Option<&'a Arc<Workload>>,
    /// SPIFFE IDs; empty without TLS.
    pub peer_principal: &'a str,
    pub own_principal: &'a str,
    pub service: ServiceName<'a>,
    /// Of the expressions.
    pub values: &'a [Box<str>],
}

impl Labels<'_> {
    /// Of what is counted without telling it apart.
    pub(super) fn unknown(protocol: Protocol) -> Self {
        Self {
            protocol,
            code: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            mutual_tls: None,
            peer: None,
            upstream: None,
            peer_principal: "",
            own_principal: "",
            service: ServiceName::default(),
            values: &[],
        }
    }
}

/// [`Labels`] that are kept.
#[derive(Debug)]
pub(super) struct Kept {
    protocol: Protocol,
    code: u16,
    grpc_status: Option<u32>,
    flags: ResponseFlags,
    mutual_tls: Option<bool>,
    peer: Option<Arc<Workload>>,
    upstream: Option<Arc<Workload>>,
    peer_principal: Box<str>,
    own_principal: Box<str>,
    host: Box<str>,
    name: Box<str>,
    namespace: Box<str>,
    values: Box<[Box<str>]>,
}

impl Kept {
    pub(super) fn new(labels: &Labels<'_>) -> Self {
        Self {
            protocol: labels.protocol,
            code: labels.code,
            grpc_status: labels.grpc_status,
            flags: labels.flags,
            mutual_tls: labels.mutual_tls,
            peer: labels.peer.cloned(),
            upstream: labels.upstream.cloned(),
            peer_principal: labels.peer_principal.into(),
            own_principal: labels.own_principal.into(),
            host: labels.service.host.into(),
            name: labels.service.name.into(),
            namespace: labels.service.namespace.into(),
            values: labels.values.into(),
        }
    }

    /// What it keeps, workloads that it shares with others included.
    pub(super) fn bytes(&self) -> usize {
        let workloads = self.peer.iter().chain(&self.upstream);
        let texts = [
            &self.peer_principal,
            &self.own_principal,
            &self.host,
            &self.name,
            &self.namespace,
        ];
        let texts = texts.into_iter().chain(&self.values);
        size_of::<Self>()
            + workloads.map(|it| it.bytes()).sum::<usize>()
            + texts
                .map(|it| size_of::<Box<str>>() + it.len())
                .sum::<usize>()
    }

    pub(super) fn labels(&self) -> Labels<'_> {
        Labels {
            protocol: self.protocol,
            code: self.code,
            grpc_status: self.grpc_status,
            flags: self.flags,
            mutual_tls: self.mutual_tls,
            peer: self.peer.as_ref(),
            upstream: self.upstream.as_ref(),
            peer_principal: &self.peer_principal,
            own_principal: &self.own_principal,
            service: ServiceName {
                host: &self.host,
                name: &self.name,
                namespace: &self.namespace,
            },
            values: &self.values,
        }
    }
}

impl Telemetry {
    /// The labels of one metric, changed as the configuration says.
    pub(super) fn tags(&self, metric: MeshMetric, labels: &Labels<'_>) -> Vec<Tag> {
        let standard = self.standard(labels);
        let value = |dimension: Dimension| match dimension {
            Dimension::Removed => None,
            Dimension::Computed(index) => {
                Some(labels.values.get(index).map_or(UNKNOWN, |value| &**value))
            }
        };
        let mut tags = Vec::with_capacity(standard.len());
        for (key, text) in &standard {
            let text = match self.changes.of(metric, key) {
                None => Some(&**text),
                Some(dimension) => value(dimension),
            };
            tags.extend(text.map(|text| Tag {
                key: Cow::Borrowed(key),
                value: text.into(),
            }));
        }
        for (key, dimension) in self.changes.labels(metric) {
            if standard.iter().any(|(known, _)| *known == key) {
                continue;
            }
            tags.extend(value(dimension).map(|text| Tag {
                key: Cow::Owned(key.to_owned()),
                value: text.into(),
            }));
        }
        tags
    }

    /// Istio's labels, in its order.
    fn standard<'a>(&'a self, labels: &Labels<'a>) -> Vec<(&'static str, Cow<'a, str>)> {
        let mut all = Vec::with_capacity(25);
        all.push(("reporter", Cow::Borrowed(self.reporter.name())));
        match self.reporter {
            Reporter::Source => self.as_source(labels, &mut all),
            Reporter::Destination | Reporter::Waypoint => self.as_destination(labels, &mut all),
        }
        let protocol = match labels.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
            Protocol::GrpcMessages => return all,
        };
        all.push(("request_protocol", protocol.into()));
        if labels.protocol != Protocol::Tcp {
            all.push(("response_code", labels.code.to_string().into()));
            let status = labels.grpc_status.map(|status| status.to_string());
            all.push(("grpc_response_status", status.unwrap_or_default().into()));
        }
        all.push(("response_flags", labels.flags.to_string().into()));
        let policy = match labels.mutual_tls {
            Some(true) => "mutual_tls",
            Some(false) => "none",
            None => UNKNOWN,
        };
        all.push(("connection_security_policy", policy.into()));
        all
    }

    fn as_source<'a>(&'a self, labels: &Labels<'a>, all: &mut Vec<(&'static str, Cow<'a, str>)>) {
        let (own, nobody) = (&self.node.workload, Workload::nobody());
        let peer = labels.peer.map_or(nobody, |peer| &**peer);
        let service = labels.service;
        let namespace = peer_namespace(labels);
        all.extend([
            ("source_workload", own.name.as_ref().into()),
            (
                "source_canonical_service",
                own.canonical_name.as_ref().into(),
            ),
            (
                "source_canonical_revision",
                own.canonical_revision.as_ref().into(),
            ),
            ("source_workload_namespace", own.namespace.as_ref().into()),
            ("source_principal", or_unknown(labels.own_principal)),
            ("source_app", own.app.as_ref().into()),
            ("source_version", own.version.as_ref().into()),
            ("source_cluster", own.cluster.as_ref().into()),
            ("destination_workload", or_unknown(&peer.name)),
            ("destination_workload_namespace", or_unknown(namespace)),
            ("destination_principal", or_unknown(labels.peer_principal)),
            ("destination_app", or_unknown(&peer.app)),
            ("destination_version", or_unknown(&peer.version)),
            ("destination_service", or_unknown(service.host)),
            (
                "destination_canonical_service",
                or_unknown(&peer.canonical_name),
            ),
            (
                "destination_canonical_revision",
                or(&peer.canonical_revision, "latest"),
            ),
            ("destination_service_name", or_unknown(service.name)),
            (
                "destination_service_namespace",
                or_unknown(first(service.namespace, namespace)),
            ),
            ("destination_cluster", or_unknown(&peer.cluster)),
        ]);
    }

    fn as_destination<'a>(
        &'a self,
        labels: &Labels<'a>,
        all: &mut Vec<(&'static str, Cow<'a, str>)>,
    ) {
        let nobody = Workload::nobody();
        let peer = labels.peer.map_or(nobody, |peer| &**peer);
        all.extend([
            ("source_workload", or_unknown(&peer.name)),
            ("source_canonical_service", or_unknown(&peer.canonical_name)),
            (
                "source_canonical_revision",
                or(&peer.canonical_revision, "latest"),
            ),
            (
                "source_workload_namespace",
                or_unknown(peer_namespace(labels)),
            ),
            ("source_principal", or_unknown(labels.peer_principal)),
            ("source_app", or_unknown(&peer.app)),
            ("source_version", or_unknown(&peer.version)),
            ("source_cluster", or_unknown(&peer.cluster)),
        ]);
        let service = labels.service;
        if self.reporter == Reporter::Waypoint {
            let upstream = labels.upstream.map_or(nobody, |upstream| &**upstream);
            all.extend([
                ("destination_workload", or_unknown(&upstream.name)),
                (
                    "destination_workload_namespace",
                    or_unknown(&upstream.namespace),
                ),
                ("destination_principal", or_unknown(&upstream.identity)),
                ("destination_app", or_unknown(&upstream.app)),
                ("destination_version", or_unknown(&upstream.version)),
                ("destination_service", or_unknown(service.host)),
                (
                    "destination_canonical_service",
                    or_unknown(&upstream.canonical_name),
                ),
                (
                    "destination_canonical_revision",
                    or_unknown(&upstream.canonical_revision),
                ),
                ("destination_service_name", or_unknown(service.name)),
                (
                    "destination_service_namespace",
                    or_unknown(service.namespace),
                ),
                ("destination_cluster", or_unknown(&upstream.cluster)),
            ]);
            return;
        }
        let own = &self.node.workload;
        all.extend([
            ("destination_workload", own.name.as_ref().into()),
            (
                "destination_workload_namespace",
                own.namespace.as_ref().into(),
            ),
            ("destination_principal", or_unknown(labels.own_principal)),
            ("destination_app", own.app.as_ref().into()),
            ("destination_version", own.version.as_ref().into()),
            ("destination_service", or(service.host, &own.canonical_name)),
            (
                "destination_canonical_service",
                own.canonical_name.as_ref().into(),
            ),
            (
                "destination_canonical_revision",
                own.canonical_revision.as_ref().into(),
            ),
            (
                "destination_service_name",
                or(service.name, &own.canonical_name),
            ),
            (
                "destination_service_namespace",
                own.namespace.as_ref().into(),
            ),
            ("destination_cluster", own.cluster.as_ref().into()),
        ]);
    }
}

/// By the peer's SPIFFE ID (`.../ns/<namespace>/sa/<account>`), else as the peer says.
fn peer_namespace<'a>(labels: &Labels<'a>) -> &'a str {
    let rest = labels.peer_principal.split_once("/ns/");
    let of_id = rest.and_then(|(_, rest)| rest.split('/').next());
    let told = labels.peer.map_or("", |peer| &peer.namespace);
    first(of_id.unwrap_or_default(), told)
}

fn first<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn or<'a>(text: &'a str, other: &'a str) -> Cow<'a, str> {
    first(text, other).into()
}

fn or_unknown(text: &str) -> Cow<'_, str> {
    or(text, UNKNOWN)
}
