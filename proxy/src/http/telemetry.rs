//! `istio.stats` on requests: which series each is counted in.

use std::sync::Arc;

use super::{exchange::Exchange, headers::Headers, request::Request};
use crate::{
    config::filters::FilterKind,
    istio::{
        Telemetry, Workload,
        telemetry::{Labels, Protocol, Reporter, Series, ServiceName},
    },
    stats::milliseconds,
    tls_session::TlsSession,
};

/// Routes that istiod makes for what is not in its registry, and what stands for their services.
const OF_ROUTES: [(&str, &str); 2] = [
    ("block_all", "BlackHoleCluster"),
    ("allow_any", "PassthroughCluster"),
];

/// Clusters that stand for their services themselves.
const OF_CLUSTERS: [&str; 5] = [
    "BlackHoleCluster",
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

/// Whether a cluster of this name stands for its service itself.
pub(crate) fn is_service_of_its_own(cluster: &str) -> bool {
    OF_CLUSTERS.contains(&cluster)
}

impl Exchange<'_> {
    /// The request has come to the filter that counts it.
    pub(super) fn begin_telemetry(&self) {
        if self.request.is_grpc() {
            self.meter.count_messages();
        }
    }

    fn telemetry(&self) -> Option<&Arc<Telemetry>> {
        let filter = self.context.manager.filters.get(self.filters.telemetry?)?;
        match &filter.kind {
            FilterKind::Telemetry(telemetry) => Some(telemetry),
            _ => None,
        }
    }

    /// From now on messages are counted as they pass.
    pub(super) fn response_is_known(&self, headers: &Headers) {
        if !self.meter.counts_messages() {
            return;
        }
        if let Some(status) = headers.get("grpc-status") {
            self.meter.grpc_status(status);
        }
        if let Some(telemetry) = self.telemetry() {
            let series = self.series(telemetry, Protocol::GrpcMessages, &[]);
            self.meter.report_messages(series);
        }
    }

    /// Counts the request, which is over.
    pub(super) fn report(&self) {
        let Some(telemetry) = self.telemetry() else {
            return;
        };
        let protocol = match self.meter.counts_messages() {
            true => Protocol::Grpc,
            false => Protocol::Http,
        };
        if protocol == Protocol::Grpc {
            let series = self.series(telemetry, Protocol::GrpcMessages, &[]);
            self.meter.report_messages(series);
        }
        let values = self.label_values(telemetry);
        let series = self.series(telemetry, protocol, &values);
        series.requests.inc();
        series.duration.record(milliseconds(self.meter.started));
        let bytes = self.meter.bytes();
        let received = bytes.downstream_received.unwrap_or(bytes.received);
        let sent = bytes.downstream_sent.unwrap_or(bytes.sent);
        series.request_bytes.record(received);
        series.response_bytes.record(sent);
    }

    fn label_values(&self, telemetry: &Telemetry) -> Vec<Box<str>> {
        if telemetry.expressions.is_empty() {
            return Vec::new();
        }
        let entry = self.entry(Some(&self.outcome.response_headers));
        let expressions = telemetry.expressions.iter();
        expressions
            .map(|it| it.text(&entry).map_or_else(|| "unknown".into(), Into::into))
            .collect()
    }

    fn series(
        &self,
        telemetry: &Arc<Telemetry>,
        protocol: Protocol,
        values: &[Box<str>],
    ) -> Arc<Series> {
        let at_end = protocol != Protocol::GrpcMessages;
        let (peer, session) = match telemetry.reporter {
            Reporter::Source => {
                let link = self.outcome.upstream.as_ref();
                (
                    self.upstream_workload(),
                    link.and_then(|it| it.tls.as_ref()),
                )
            }
            Reporter::Destination | Reporter::Waypoint => (
                self.filters.downstream_peer.as_ref(),
                self.context.connection.tls.as_ref(),
            ),
        };
        let (peer_principal, own_principal) = principals(session);
        let identity = peer.map_or("", |peer| &peer.identity);
        let is_source = telemetry.reporter == Reporter::Source;
        let peer_principal = match peer_principal {
            "" if is_source => identity,
            known => known,
        };
        let labels = Labels {
            protocol,
            code: if at_end { self.outcome.status } else { 0 },
            grpc_status: match protocol {
                Protocol::Grpc => self.grpc_status(),
                _ => None,
            },
            flags: if at_end {
                self.outcome.flags
            } else {
                Default::default()
            },
            mutual_tls: (at_end && !is_source)
                .then_some(!peer_principal.is_empty() && !own_principal.is_empty()),
            peer,
            upstream: match telemetry.reporter {
                Reporter::Waypoint => self.upstream_workload(),
                _ => None,
            },
            peer_principal,
            own_principal,
            service: self.service(telemetry),
            values,
        };
        self.context.worker.mesh.series(telemetry, &labels)
    }

    /// As it tells of itself, else as istiod does.
    fn upstream_workload(&self) -> Option<&Arc<Workload>> {
        let endpoint = self.outcome.endpoint.as_ref();
        let told = self.filters.upstream_peer.as_ref();
        told.or_else(|| endpoint?.workload.as_ref())
    }

    /// By the response, else by what HTTP says.
    fn grpc_status(&self) -> Option<u32> {
        let told = self.meter.told_grpc_status();
        told.or(match self.outcome.status {
            0 => None,
            400 => Some(13),
            401 => Some(16),
            403 => Some(7),
            404 => Some(12),
            429 | 502 | 503 | 504 => Some(14),
            _ => Some(2),
        })
    }

    fn service(&self, telemetry: &Telemetry) -> ServiceName<'_> {
        let asked = match telemetry.host_fallback {
            true => host(&self.request),
            false => "",
        };
        let mut service = ServiceName {
            host: asked,
            name: asked,
            namespace: "",
        };
        let route = self.outcome.route.as_ref().map(|route| &*route.name);
        let of_route = OF_ROUTES.iter().find(|(name, _)| route == Some(name));
        if let Some((_, name)) = of_route {
            service.name = name;
        } else if let Some(cluster) = &self.outcome.target {
            if is_service_of_its_own(&cluster.name) {
                service.name = &cluster.name;
            } else if let Some(known) = &cluster.mesh.service {
                service = ServiceName {
                    host: &known.host,
                    name: &known.name,
                    namespace: &known.namespace,
                };
            }
        }
        service
    }
}

fn host(request: &Request) -> &str {
    std::str::from_utf8(&request.authority).unwrap_or_default()
}

/// The first URI SANs: the peer's, and our own. Empty without TLS, or without a certificate.
pub(crate) fn principals(session: Option<&TlsSession>) -> (&str, &str) {
    let Some(session) = session else {
        return ("", "");
    };
    let peer = session.peer_text().map(|it| &it.description.uri_sans);
    let own = session.own_text().map(|it| &it.description.uri_sans);
    (
        peer.and_then(|sans| sans.first()).map_or("", |it| it),
        own.and_then(|sans| sans.first()).map_or("", |it| it),
    )
}
