//! `envoy.data.accesslog.v3.AccessLogCommon`: what is told of requests and of connections.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use ithildin_proto::{
    duration,
    pb::{
        envoy::{
            config::core::v3::{
                Address, Pipe, SocketAddress, address::Address as AddressKind,
                socket_address::PortSpecifier,
            },
            data::accesslog::v3::{
                AccessLogCommon, AccessLogType, ResponseFlags as FlagsProto, TlsProperties,
                response_flags::{Unauthorized, unauthorized::Reason},
                tls_properties::{
                    CertificateProperties, TlsVersion,
                    certificate_properties::{SubjectAltName, subject_alt_name::San},
                },
            },
        },
        google::protobuf::{self, Timestamp},
    },
};

use super::{Peer, metadata, tag_pairs, text};
use crate::{
    access_log::{Downstream, Entry, Needs, Occasion, ResponseFlags, UpstreamHost},
    config::custom_tag::CustomTag,
    tls_session::CertificateText,
};

/// What a logger tells besides what all tell.
#[derive(Debug, Default)]
pub(crate) struct Common {
    /// By the names that filters give them.
    pub(crate) peers: Vec<(Box<str>, Peer)>,
    pub(crate) tags: Box<[CustomTag]>,
}

impl Common {
    pub(super) fn needs(&self, needs: &mut Needs) {
        let templates = self.tags.iter().filter_map(CustomTag::template);
        templates.for_each(|template| template.needs(needs));
    }

    pub(super) fn properties(&self, entry: &Entry<'_>) -> AccessLogCommon {
        let (downstream, upstream) = (&entry.downstream, &entry.upstream);
        let (bytes, times) = (&entry.bytes, &entry.durations);
        let time = |time: Option<Duration>| time.map(duration);
        let words = |words: Option<&str>| words.unwrap_or_default().to_owned();
        AccessLogCommon {
            downstream_remote_address: downstream.remote.map(address),
            downstream_local_address: downstream.local.map(address),
            tls_properties: tls(downstream),
            start_time: timestamp(entry.start),
            time_to_last_rx_byte: time(times.request),
            time_to_first_upstream_tx_byte: time(times.request_sending),
            time_to_last_upstream_tx_byte: time(times.request_sent),
            time_to_first_upstream_rx_byte: time(times.response),
            time_to_last_upstream_rx_byte: time(times.response_received),
            time_to_first_downstream_tx_byte: time(times.response_sending),
            time_to_last_downstream_tx_byte: time(times.response_sent),
            upstream_remote_address: upstream.host.map(|host| match host {
                UpstreamHost::Socket(socket) => address(socket),
                UpstreamHost::Pipe(path) => Address {
                    address: Some(AddressKind::Pipe(Pipe {
                        path: path.to_string_lossy().into_owned(),
                        mode: 0,
                    })),
                },
            }),
            upstream_local_address: upstream.local.map(address),
            // The host's, as in Envoy.
            upstream_cluster: words(upstream.host.and(upstream.cluster)),
            response_flags: flags(entry.flags),
            metadata: entry.metadata.and_then(metadata::message),
            upstream_transport_failure_reason: words(upstream.transport_failure),
            route_name: words(entry.route_name),
            downstream_direct_remote_address: downstream.direct_remote.map(address),
            filter_state_objects: self
                .peers
                .iter()
                .filter_map(|(name, peer)| Some((name.to_string(), peer.message(entry)?)))
                .collect(),
            custom_tags: tag_pairs(&self.tags, entry).collect(),
            duration: time(times.total),
            upstream_request_attempt_count: entry.attempts,
            connection_termination_details: words(entry.connection_termination_details),
            stream_id: stream_id(entry),
            downstream_transport_failure_reason: words(downstream.transport_failure),
            downstream_wire_bytes_sent: bytes.downstream_sent.unwrap_or(0),
            downstream_wire_bytes_received: bytes.downstream_received.unwrap_or(0),
            upstream_wire_bytes_sent: bytes.upstream_sent.unwrap_or(0),
            upstream_wire_bytes_received: bytes.upstream_received.unwrap_or(0),
            access_log_type: match entry.occasion {
                Occasion::Unspecified => AccessLogType::NotSet,
                Occasion::SessionEnd => AccessLogType::TcpConnectionEnd,
                Occasion::RequestEnd => AccessLogType::DownstreamEnd,
            }
            .into(),
            // The share of samples, which Envoy does not tell either, and what is of entries before the end.
            ..AccessLogCommon::default()
        }
    }
}

/// A request has the one that its header tells.
fn stream_id(entry: &Entry<'_>) -> String {
    if let Some(id) = entry.session_id {
        return id.hyphenated().to_string();
    }
    let headers = entry.request_headers;
    let id = headers.and_then(|headers| headers.get("x-request-id"));
    text(id.unwrap_or_default())
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let protobuf::Duration { seconds, nanos } = duration(since);
    Some(Timestamp { seconds, nanos })
}

fn tls(downstream: &Downstream<'_>) -> Option<TlsProperties> {
    let Some(session) = downstream.tls else {
        return Some(TlsProperties {
            tls_sni_hostname: downstream.server_name?.to_owned(),
            ..TlsProperties::default()
        });
    };
    let version = match session.version {
        "TLSv1.3" => TlsVersion::TlSv13,
        "TLSv1.2" => TlsVersion::TlSv12,
        _ => TlsVersion::VersionUnspecified,
    };
    let peer = session.peer_text();
    Some(TlsProperties {
        tls_version: version.into(),
        tls_cipher_suite: session.cipher_number.map(|number| protobuf::UInt32Value {
            value: number.into(),
        }),
        tls_sni_hostname: downstream.server_name.unwrap_or_default().to_owned(),
        local_certificate_properties: Some(certificate(session.own_text())),
        // Of the peer's the issuer is told, too.
        peer_certificate_properties: Some(CertificateProperties {
            issuer: peer.map_or_else(String::new, |it| it.description.issuer.clone()),
            ..certificate(peer)
        }),
        // What would resume the session is not told.
        tls_session_id: String::new(),
        ja3_fingerprint: String::new(),
    })
}

fn certificate(known: Option<&CertificateText>) -> CertificateProperties {
    let Some(CertificateText { description, .. }) = known else {
        return CertificateProperties::default();
    };
    let sans = description.uri_sans.iter();
    CertificateProperties {
        subject_alt_name: sans
            .map(|uri| SubjectAltName {
                san: Some(San::Uri(uri.clone())),
            })
            .collect(),
        subject: description.subject.clone(),
        issuer: String::new(),
    }
}

/// Each flag to its field; a few have none.
fn flags(set: ResponseFlags) -> Option<FlagsProto> {
    use ResponseFlags as Flag;
    let has = |flag| set.contains(flag);
    let told = FlagsProto {
        failed_local_healthcheck: has(Flag::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: has(Flag::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(Flag::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(Flag::LOCAL_RESET),
        upstream_remote_reset: has(Flag::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(Flag::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(Flag::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(Flag::UPSTREAM_OVERFLOW),
        no_route_found: has(Flag::NO_ROUTE_FOUND),
        delay_injected: has(Flag::DELAY_INJECTED),
        fault_injected: has(Flag::FAULT_INJECTED),
        rate_limited: has(Flag::RATE_LIMITED),
        unauthorized_details: has(Flag::UNAUTHORIZED_EXTERNAL_SERVICE).then(|| Unauthorized {
            reason: Reason::ExternalService.into(),
        }),
        rate_limit_service_error: has(Flag::RATE_LIMIT_SERVICE_ERROR),
        downstream_connection_termination: has(Flag::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(Flag::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(Flag::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(Flag::INVALID_ENVOY_REQUEST_HEADERS),
        downstream_protocol_error: has(Flag::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: has(Flag::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        response_from_cache_filter: has(Flag::RESPONSE_FROM_CACHE_FILTER),
        no_filter_config_found: has(Flag::NO_FILTER_CONFIG_FOUND),
        duration_timeout: has(Flag::DURATION_TIMEOUT),
        upstream_protocol_error: has(Flag::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(Flag::NO_CLUSTER_FOUND),
        overload_manager: has(Flag::OVERLOAD_MANAGER),
        dns_resolution_failure: has(Flag::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: has(Flag::DOWNSTREAM_REMOTE_RESET),
    };
    (told != FlagsProto::default()).then_some(told)
}
